//! What objectives may ask of rows beside pairs and verdicts: numbers, teachers, rankings, judgments, the whole step.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use candlewick_data::{Annotation, Batch, Context, Example, TeacherToken};
use candlewick_losses::{
    AdvisedPair, AnchoredLabels, AnchoredPair, Judged, Loss, LossTerms, Margin, Objective, Outputs, Pair, Phase,
    Ranked, Reduction, StepScores, StepWide, TaughtPair, TaughtSide, Term, View, With,
};
use candlewick_train::{CausalPolicy, StepReport, Trainer, TrainerOptions};
use support::{Random, Threads, VOCABULARY, batches, completion, labelled, model, options, pairs, trainer, worst};

type Result<T> = candlewick_losses::Result<T>;

/// `(log p_w − log p_l − margin)²`
#[derive(Debug)]
struct ToMargin;

impl Loss for ToMargin {
    type Input = With<Pair, Margin>;

    fn terms(&self, input: &Self::Input, _: &candlewick_losses::Context) -> Result<LossTerms> {
        let margins = input.log_probs(Reduction::Mean)?.margins()?;
        let terms = LossTerms::new([Term::per_item("to_margin", (&margins - input.number())?.sqr()?)]);
        terms.with_optimised_margins(&margins)
    }
}

/// The divergence of the policy from what the teacher says of its tokens, on both sides.
#[derive(Debug)]
struct Distill<V>(std::marker::PhantomData<V>);

impl<V: View + std::fmt::Debug + AsTaught> Loss for Distill<V> {
    type Input = V;

    fn terms(&self, input: &V, _: &candlewick_losses::Context) -> Result<LossTerms> {
        let of = |side: TaughtSide| -> Result<candle_core::Tensor> {
            let there = side.teacher.gt(f64::NEG_INFINITY)?;
            let zeros = side.policy.zeros_like()?;
            let weights = match &side.reference {
                Some(reference) => there.where_cond(&reference.exp()?, &zeros)?,
                None => zeros.ones_like()?,
            };
            let teacher = there.where_cond(&side.teacher, &zeros)?;
            let gaps = there.where_cond(&(teacher.exp()? * (teacher - side.policy)?)?, &zeros)?;
            Ok((gaps * weights)?.sum((1, 2))?)
        };
        let taught = input.taught();
        Ok(LossTerms::new([Term::per_item("distill", (of(taught.chosen()?)? + of(taught.rejected()?)?)?)]))
    }
}

trait AsTaught {
    fn taught(&self) -> &TaughtPair;
}

impl AsTaught for TaughtPair {
    fn taught(&self) -> &TaughtPair {
        self
    }
}

impl AsTaught for AdvisedPair {
    fn taught(&self) -> &TaughtPair {
        self
    }
}

/// How much less likely the best completion is than the others.
#[derive(Debug)]
struct BestFirst;

impl Loss for BestFirst {
    type Input = Ranked;

    fn terms(&self, input: &Ranked, _: &candlewick_losses::Context) -> Result<LossTerms> {
        let ranked = input.log_probs(Reduction::Mean)?;
        let best = ranked.values.narrow(1, 0, 1)?.squeeze(1)?;
        Ok(LossTerms::new([Term::per_item("best_first", (ranked.values.sum(1)? - (best * 3.0)?)?.sqr()?)]))
    }
}

/// How far the judgment moves the log-probabilities, on the tokens themselves.
#[derive(Debug)]
struct Unmoved;

impl Loss for Unmoved {
    type Input = Judged;

    fn terms(&self, input: &Judged, _: &candlewick_losses::Context) -> Result<LossTerms> {
        let gaps = (input.plain()?.log_probs() - input.judged()?.log_probs())?.sqr()?.sum(1)?;
        let positive: Vec<f64> = input.items().iter().map(|item| if item.positive { 1.0 } else { 0.5 }).collect();
        let weights = candle_core::Tensor::new(positive, gaps.device())?.to_dtype(gaps.dtype())?;
        Ok(LossTerms::new([Term::per_item("unmoved", (gaps * weights)?)]))
    }
}

/// `(Δ_w − Δ_l − mean margin of the step − 1 − place of the pair among the step's)²`: a number of the step, and one of each pair.
#[derive(Debug)]
struct Centred;

impl Loss for Centred {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, context: &candlewick_losses::Context) -> Result<LossTerms> {
        let margins = input.log_ratios(Reduction::Sum)?.margins()?;
        let partners =
            candle_core::Tensor::new(context.vector("rank")?, margins.device())?.to_dtype(margins.dtype())?;
        let centred = ((margins - (1.0 + context.scalar("mean")?))? - partners)?;
        Ok(LossTerms::new([Term::per_item("centred", centred.sqr()?)]))
    }

    fn prepare(&mut self, step: &StepScores<'_>, _: Phase) -> Result<candlewick_losses::Context> {
        let margins = step.micro.iter().map(|micro| {
            let pairs = AnchoredPair::view(micro).unwrap().log_ratios(Reduction::Sum)?.margins()?;
            Ok(pairs.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?)
        });
        let margins = margins.collect::<Result<Vec<_>>>()?;
        let all = candlewick_losses::gather(step.collective, &margins.concat())?.concat();
        // Equal ones must not be told apart by rounding.
        let rank = |margin: &f64| all.iter().filter(|other| **other + 1e-9 < *margin).count() as f64;
        let mut context =
            candlewick_losses::Context::default().with_scalar("mean", all.iter().sum::<f64>() / all.len() as f64);
        context.vectors = margins
            .iter()
            .map(|micro| [("rank".to_owned(), micro.iter().map(rank).collect())].into_iter().collect())
            .collect();
        Ok(context)
    }

    fn step_wide(&self) -> StepWide {
        StepWide::AllRows
    }
}

/// Reports a metric of the desirable rows only.
#[derive(Debug)]
struct Reports;

impl Loss for Reports {
    type Input = AnchoredLabels;

    fn terms(&self, input: &AnchoredLabels, _: &candlewick_losses::Context) -> Result<LossTerms> {
        let log_ratios = input.log_ratios(Reduction::Sum)?;
        let terms = LossTerms::new([Term::per_item("reports", (&log_ratios - 1.0)?.sqr()?)]);
        let desirable: Vec<u32> =
            (0..).zip(input.labelled()).filter(|(_, row)| row.desirable).map(|(i, _)| i).collect();
        if desirable.is_empty() {
            return Ok(terms.with_metric("undesirable/only", &log_ratios.zeros_like()?));
        }
        let desirable = candle_core::Tensor::new(desirable, log_ratios.device())?;
        let lengths: Vec<f64> = input.policy()?.lengths().iter().map(|length| *length as f64).collect();
        let lengths = candle_core::Tensor::new(lengths, log_ratios.device())?.index_select(&desirable, 0)?;
        Ok(terms.with_metric("desirable/lengths", &lengths))
    }
}

fn with_margins(mut examples: Vec<Example>) -> Vec<Example> {
    for (i, example) in examples.iter_mut().enumerate() {
        example.numbers.insert("margin".into(), 0.25 * i as f64 - 0.5);
        example.numbers.insert("unread".into(), 7.0);
    }
    examples
}

/// A teacher for every scored token, of one to three tokens each, with a reference where asked.
fn with_teachers(mut examples: Vec<Example>, reference: bool) -> Vec<Example> {
    let mut random = Random(11);
    let completions = examples.iter_mut().flat_map(|example| &mut example.contexts).flat_map(|c| &mut c.completions);
    for completion in completions {
        completion.teacher = (0..completion.scored_tokens())
            .map(|_| {
                let count = 1 + random.below(3) as u32;
                let first = random.below(VOCABULARY as u64 - 3) as u32;
                let log_probs: Vec<f32> = (0..count).map(|i| -1.5 - i as f32).collect();
                let reference_log_probs = if reference { log_probs.iter().map(|x| x - 0.25).collect() } else { vec![] };
                TeacherToken { ids: (first..first + count).collect(), log_probs, reference_log_probs }
            })
            .collect();
    }
    examples
}

fn context(prompt: Vec<u32>, completions: Vec<Vec<u32>>) -> Context {
    let completions = completions.into_iter().map(completion).collect();
    Context { prompt_scored: vec![false; prompt.len()], prompt, completions }
}

/// Two to four rated completions of each prompt.
fn ranked(count: usize, seed: u64) -> Vec<Example> {
    let mut random = Random(seed);
    (0..count)
        .map(|i| {
            let completions: Vec<Vec<u32>> = (0..2 + i % 3).map(|_| random.ids(1, 5)).collect();
            let ratings = completions.iter().map(|_| random.below(5) as f64).collect();
            support::example(i, context(random.ids(1, 4), completions), Annotation::Ranked { ratings })
        })
        .collect()
}

/// Completions under their prompts, and under longer ones.
fn judged(count: usize, seed: u64) -> Vec<Example> {
    let mut random = Random(seed);
    (0..count)
        .map(|i| {
            let (prompt, completion) = (random.ids(1, 4), random.ids(2, 5));
            let longer = [prompt.clone(), random.ids(2, 3)].concat();
            let plain = context(prompt, vec![completion.clone()]);
            let mut example = support::example(i, plain, Annotation::Judged { positive: i % 2 == 0 });
            example.contexts.push(context(longer, vec![completion]));
            example
        })
        .collect()
}

type Make = fn() -> Box<dyn Objective>;
type Rows = fn(usize, u64) -> Vec<Example>;

const OBJECTIVES: [(&str, Make, Rows); 6] = [
    ("numbers", || Box::new(ToMargin), |count, seed| with_margins(pairs(count, seed))),
    (
        "teacher",
        || Box::new(Distill::<TaughtPair>(std::marker::PhantomData)),
        |count, seed| with_teachers(pairs(count, seed), false),
    ),
    (
        "teacher with its reference",
        || Box::new(Distill::<AdvisedPair>(std::marker::PhantomData)),
        |count, seed| with_teachers(pairs(count, seed), true),
    ),
    ("ranked", || Box::new(BestFirst), ranked),
    ("judged", || Box::new(Unmoved), judged),
    ("whole step", || Box::new(Centred), pairs),
];

fn stepped(objective: Box<dyn Objective>, steps: [Vec<Batch>; 3]) -> (Vec<StepReport>, Vec<f64>, Vec<f64>) {
    let mut trainer = trainer(model::<f64>(1), objective, options(1e-2));
    let reports = steps.iter().map(|step| trainer.step(step).unwrap()).collect();
    let policy = trainer.policy();
    (reports, policy.gradients().data().to_vec(), policy.model().trainable().data().to_vec())
}

#[test]
fn one_batch_of_eight_is_eight_batches_of_one() {
    for (name, objective, rows) in OBJECTIVES {
        let run = |size| stepped(objective(), [1, 2, 3].map(|seed| batches(&rows(8, seed), size)));
        let (whole, single) = (run(8), run(1));
        for (a, b) in whole.0.iter().zip(&single.0) {
            assert!(worst(&[a.loss, a.grad_norm], &[b.loss, b.grad_norm]) < 1e-11, "{name}: {a:?} and {b:?}");
            let (a, b) = (a.metrics.values(), b.metrics.values());
            assert!(a.keys().eq(b.keys()), "{name}: {a:?} and {b:?}");
            assert!(a.iter().all(|(key, value)| worst(&[*value], &[b[key]]) < 1e-11), "{name}: {a:?} and {b:?}");
        }
        assert!(worst(&whole.1, &single.1) < 1e-11, "{name}: gradients");
        assert!(worst(&whole.2, &single.2) < 1e-10, "{name}: parameters");
        assert!(whole.0[0].loss > 0.0 && whole.0[0].grad_norm > 1e-6, "{name}: {:?}", whole.0[0]);
    }
}

/// The gradients of a step against central differences of the loss that an evaluation finds.
#[test]
fn gradients_are_those_of_the_loss() {
    for (name, objective, rows) in OBJECTIVES {
        if name == "whole step" {
            // What comes from the whole step is a constant to the gradient.
            continue;
        }
        let data = batches(&rows(3, 5), 2);
        // A rate of next to nothing: the parameters stay where the gradients were taken.
        let mut trainer = trainer(model::<f64>(1), objective(), options(1e-300));
        trainer.step(&data).unwrap();
        let gradients = trainer.policy().gradients().data().to_vec();
        let mut loss_at = |at: usize, offset: f64| {
            use candlewick_train::Trainable;
            let before = trainer.policy().parameters().data()[at];
            trainer.policy_mut().tuning().parameters.data_mut()[at] = before + offset;
            let loss = trainer.evaluate(data.iter().cloned().map(Ok::<_, candlewick_train::Error>)).unwrap().loss;
            trainer.policy_mut().tuning().parameters.data_mut()[at] = before;
            loss
        };
        for k in 0..24 {
            let at = (k * 7919 + 13) % gradients.len();
            let numeric = (loss_at(at, 1e-5) - loss_at(at, -1e-5)) / 2e-5;
            assert!(
                (numeric - gradients[at]).abs() < 1e-6 * numeric.abs().max(1.0),
                "{name}, parameter {at}: backward {}, central difference {numeric}",
                gradients[at]
            );
        }
    }
}

#[test]
fn an_evaluation_over_the_whole_does_not_depend_on_its_batches() {
    for (name, objective, rows) in OBJECTIVES {
        let evaluate = |size| {
            let mut trainer = trainer(
                model::<f64>(6),
                objective(),
                TrainerOptions { monitor: Outputs { entropy: true, given: true, ..Outputs::NONE }, ..options(1e-2) },
            );
            trainer.step(&batches(&rows(7, 9), 7)).unwrap();
            let held_out = batches(&rows(5, 8), size).into_iter().map(Ok::<_, candlewick_train::Error>);
            trainer.evaluate(held_out).unwrap()
        };
        let (whole, single) = (evaluate(5), evaluate(2));
        assert!(worst(&[whole.loss], &[single.loss]) < 1e-11, "{name}: {whole:?} and {single:?}");
        let (a, b) = (whole.metrics.values(), single.metrics.values());
        assert!(a.keys().eq(b.keys()) && a.contains_key("entropy"), "{name}: {a:?} and {b:?}");
        assert!(a.iter().all(|(key, value)| worst(&[*value], &[b[key]]) < 1e-11), "{name}: {a:?} and {b:?}");
    }
}

fn refused(objective: impl Objective + 'static, examples: &[Example]) -> String {
    let mut trainer: Trainer<CausalPolicy<f64>> = trainer(model(1), objective, options(1e-2));
    let before = support::bits(&trainer);
    let error = trainer.step(&batches(examples, 2)).unwrap_err();
    assert_eq!(error.fault(), candlewick_train::Fault::Data, "{error}");
    assert_eq!(support::bits(&trainer), before);
    error.to_string()
}

#[test]
fn a_row_without_its_number_is_named() {
    let mut examples = with_margins(pairs(4, 1));
    examples[2].numbers.remove("margin");
    let text = refused(ToMargin, &examples);
    assert!(text.starts_with("made-up:3: the row has no number `margin` (how much better the chosen"), "{text}");
    examples[2].numbers.insert("margin".into(), f64::NAN);
    let text = refused(ToMargin, &examples);
    assert!(text.contains("made-up:3: `margin` (how much better the chosen completion is) is NaN; expected"), "{text}");
}

#[test]
fn a_row_without_its_teacher_is_named() {
    let taught = || Distill::<TaughtPair>(std::marker::PhantomData);
    let whole = with_teachers(pairs(4, 1), false);
    let change = |change: fn(&mut candlewick_data::Completion)| {
        let mut examples = whole.clone();
        change(&mut examples[3].contexts[0].completions[1]);
        refused(taught(), &examples)
    };
    let text = change(|completion| completion.teacher.clear());
    assert!(text.starts_with("made-up:4: the row has no log-probabilities of a teacher"), "{text}");
    let text = change(|completion| completion.teacher.push(TeacherToken::default()));
    assert!(text.contains("made-up:4: the row has") && text.contains("by another tokenizer or mask?"), "{text}");
    let text = change(|completion| completion.teacher[0].ids.push(3));
    assert!(text.starts_with("made-up:4: at scored token 1 the teacher names"), "{text}");
    let text = refused(Distill::<AdvisedPair>(std::marker::PhantomData), &whole);
    assert!(text.starts_with("made-up:1: the row has no log-probabilities of the teacher's reference"), "{text}");
}

#[test]
fn rankings_and_judgments_count_as_chosen_and_rejected() {
    let mut trainer = trainer(model::<f64>(1), BestFirst, options(1e-2));
    let examples = ranked(4, 3);
    let report = trainer.step(&batches(&examples, 3)).unwrap();
    let completions: usize = examples.iter().map(|example| example.contexts[0].completions.len()).sum();
    assert_eq!(report.rows, completions as u64);
    let count = |name: &str| report.metrics.mean(name).unwrap().count as usize;
    assert_eq!((count("logps/chosen"), count("logps/rejected")), (4, completions - 4));

    let mut trainer = support::trainer(model::<f64>(1), Unmoved, options(1e-2));
    let report = trainer.step(&batches(&judged(5, 3), 2)).unwrap();
    assert_eq!(report.rows, 10);
    let count = |name: &str| report.metrics.mean(name).unwrap().count as usize;
    assert_eq!((count("logps/chosen"), count("logps/rejected")), (3, 2));
}

#[test]
fn kinds_that_do_not_fit_are_refused_by_place() {
    let text = refused(BestFirst, &judged(1, 1));
    assert!(text.starts_with("made-up:1: the row is a judged completion, and the objective uses ranked"), "{text}");
    let mut examples = judged(2, 1);
    examples[1].contexts.pop();
    let text = refused(Unmoved, &examples);
    assert!(text.contains("made-up:2: the row is a judged completion with 1 completions; expected 2"), "{text}");
}

#[test]
fn what_a_loss_reports_is_a_mean_over_its_values() {
    let mut trainer = trainer(model::<f64>(1), ToMargin, options(1e-2));
    let examples = with_margins(pairs(5, 4));
    let report = trainer.step(&batches(&examples, 2)).unwrap();
    let margins = report.metrics.mean("margins/optimised").unwrap();
    let accuracies = report.metrics.mean("accuracies/optimised").unwrap();
    assert_eq!((margins.count as usize, accuracies.count as usize), (5, 5));
    // The loss is the mean of (margin − number)².
    let whole = support::trainer(model::<f64>(1), ToMargin, options(1e-2)).step(&batches(&examples, 5)).unwrap();
    assert!(worst(&[margins.sum], &[whole.metrics.mean("margins/optimised").unwrap().sum]) < 1e-12);
    assert!(accuracies.value().unwrap() <= 1.0);
}

#[test]
fn ranks_agree_on_metrics_that_not_all_of_them_have() {
    // All rows of the first rank are desirable, none of the second's.
    let data = || {
        let mut examples = labelled(6, 1);
        for (i, example) in examples.iter_mut().enumerate() {
            example.annotation = Annotation::Labelled { desirable: i < 3 };
        }
        batches(&examples, 3)
    };
    let alone = trainer(model::<f64>(5), Reports, options(1e-2)).step(&data()).unwrap();
    let ranks = Threads::new(2).into_iter().enumerate().map(|(rank, collective)| {
        std::thread::spawn(move || {
            let mut trainer = trainer(model::<f64>(5), Reports, options(1e-2)).with_collective(Box::new(collective));
            trainer.step(&data()[rank..=rank]).unwrap()
        })
    });
    for report in ranks.collect::<Vec<_>>() {
        let report = report.join().unwrap();
        let (a, b) = (report.metrics.values(), alone.metrics.values());
        assert!(a.keys().eq(b.keys()), "{a:?} and {b:?}");
        assert!(a.iter().all(|(key, value)| worst(&[*value], &[b[key]]) < 1e-12), "{a:?} and {b:?}");
        for name in ["desirable/lengths", "undesirable/only", "logps/chosen", "logps/rejected"] {
            assert_eq!(report.metrics.mean(name).unwrap().count as usize, 3, "{name}");
        }
    }
}

#[test]
fn a_statistic_of_the_whole_step_spans_ranks() {
    let alone = trainer(model::<f64>(5), Centred, options(1e-2)).step(&batches(&pairs(6, 2), 3)).unwrap();
    let ranks = Threads::new(2).into_iter().enumerate().map(|(rank, collective)| {
        std::thread::spawn(move || {
            let mut trainer = trainer(model::<f64>(5), Centred, options(1e-2)).with_collective(Box::new(collective));
            trainer.step(&batches(&pairs(6, 2), 3)[rank..=rank]).unwrap()
        })
    });
    for report in ranks.collect::<Vec<_>>() {
        let report = report.join().unwrap();
        assert!(worst(&[report.loss, report.grad_norm], &[alone.loss, alone.grad_norm]) < 1e-12);
    }
}
