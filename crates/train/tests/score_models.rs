//! Score models in training: steps, checkpoints, runs, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::cell::Cell;
use std::f64::consts::LN_2;
use std::path::Path;
use std::rc::Rc;

use candle_core::Tensor;
use candlewick_data::Batch;
use candlewick_kernels::{Float, Workspace};
use candlewick_losses::{
    BradleyTerry, Context, Dpo, Loss, LossTerms, Needs, Objective, Outputs, Pal, Phase, Rows, Scores, StepScores, Term,
    View,
};
use candlewick_model::{Adapter, CompletionIds, ContextIds, LoraConfig, Packed, Recompute, ScoreModel, ScoredAt};
use candlewick_train::{
    CausalPolicy, Checkpoint, Error, Event, Fault, MemoryPlan, Plan, Policy, Reference, Run, ScorePolicy, Trainable,
    Trainer, TrainerOptions, Words, checkpoints,
};
use support::{Threads, batches, model, options, pairs, worst, write_model, write_pairs};

/// What one head says of both sides of pairs: a window of somebody else's.
struct Values {
    chosen: Tensor,
    rejected: Tensor,
}

impl View for Values {
    const NEEDS: Needs = Needs { outputs: Outputs { values: true, ..Outputs::NONE }, ..Needs::of(Rows::PAIRS) };

    fn view(scores: &Scores) -> Option<Self> {
        let values = scores.policy.values()?.narrow(1, 0, 1).ok()?.contiguous().ok()?.squeeze(1).ok()?;
        let rows = |of: fn(&candlewick_losses::PairRows) -> usize| -> Option<Tensor> {
            let rows: Vec<u32> = scores.groups.pairs.iter().map(|pair| of(pair) as u32).collect();
            values.index_select(&Tensor::new(rows, values.device()).ok()?, 0).ok()
        };
        Some(Self { chosen: rows(|pair| pair.chosen)?, rejected: rows(|pair| pair.rejected)? })
    }
}

/// `log(1 + exp(r_l − r_w))`, by a loss of somebody else's.
#[derive(Debug)]
struct Logistic;

impl Loss for Logistic {
    type Input = Values;

    fn terms(&self, input: &Values, _: &Context) -> candlewick_losses::Result<LossTerms> {
        let margins = (&input.rejected - &input.chosen)?;
        Ok(LossTerms::new([Term::per_item("logistic", (margins.exp()? + 1.0)?.log()?)]))
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(LN_2)
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Fresh heads on the trunk of the small model.
fn fresh(heads: &[&str], lora: bool) -> ScoreModel<f64> {
    let directory = tempfile::tempdir().unwrap();
    model::<f32>(3).save(directory.path()).unwrap();
    let mut model = ScoreModel::from_causal(directory.path(), &names(heads)).unwrap();
    if lora {
        model.add_lora(&LoraConfig { rank: 2, alpha: 4.0, ..LoraConfig::default() }, 5).unwrap();
    }
    model
}

fn trainer(model: ScoreModel<f64>, options: TrainerOptions) -> Trainer<ScorePolicy<f64>> {
    Trainer::new(ScorePolicy::new(model, Recompute::Nothing, 1), Reference::None, Box::new(Logistic), options).unwrap()
}

fn steps_of(size: usize) -> [Vec<Batch>; 3] {
    [1, 2, 3].map(|seed| batches(&pairs(8, seed), size))
}

#[test]
fn fresh_heads_start_at_ln_2_and_learn() {
    for lora in [false, true] {
        let mut trainer = trainer(fresh(&["reward"], lora), options(0.01));
        let step = batches(&pairs(6, 1), 3);
        let losses: Vec<f64> = (0..30).map(|_| trainer.step(&step).unwrap().loss).collect();
        assert!((losses[0] - LN_2).abs() < 1e-15, "the loss of margins that are zero: {losses:?}");
        assert!(losses[29] < 0.1, "{losses:?}");
        let report = trainer.evaluate(step.into_iter().map(Ok::<_, Error>)).unwrap();
        assert!(report.loss < losses[29]);
        assert_eq!(report.metrics.value("logps/chosen"), None, "a score model says nothing of tokens");
    }
}

#[test]
fn heads_that_were_trained_do_not_start_at_zero_margin() {
    let mut model = fresh(&["reward"], false);
    let place = model.head_place();
    model.trainable_mut().tensor_mut(place).fill(0.5);
    let mut stepping = trainer(model.clone(), options(0.01));
    let error = stepping.step(&batches(&pairs(6, 1), 6)).unwrap_err();
    assert!(matches!(error, Error::NotAtReference { .. }), "{error}");
    let mut stepping = trainer(model, TrainerOptions { starts_at_reference: false, ..options(0.01) });
    stepping.step(&batches(&pairs(6, 1), 6)).unwrap();
}

/// The gradients of a step are those of the loss that an evaluation finds.
#[test]
fn a_step_has_the_gradient_of_its_loss() {
    let mut model = fresh(&["reward", "cost"], true);
    for (i, x) in model.trainable_mut().data_mut().iter_mut().enumerate() {
        *x += 0.2 * (i as f64).sin();
    }
    let frozen = TrainerOptions { starts_at_reference: false, max_grad_norm: 0.0, ..options(1e-12) };
    let step = batches(&pairs(5, 4), 2);
    let mut trainer = trainer(model, frozen);
    trainer.step(&step).unwrap();
    let gradients = trainer.policy().gradients().data().to_vec();
    let count = gradients.len();
    for at in (0..12).map(|k| (k * 7919) % count).chain([count - 1, count - 20, count - 40]) {
        let mut loss = |offset: f64| {
            trainer.policy_mut().tuning().parameters.data_mut()[at] += offset;
            let loss = trainer.evaluate(step.iter().cloned().map(Ok::<_, Error>)).unwrap().loss;
            trainer.policy_mut().tuning().parameters.data_mut()[at] -= offset;
            loss
        };
        let numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5;
        assert!((numeric - gradients[at]).abs() < 1e-8, "{at}: {} and {numeric}", gradients[at]);
    }
}

#[test]
fn micro_batches_ranks_and_recomputation_change_nothing() {
    let run = |size: usize| {
        let mut trainer = trainer(fresh(&["reward"], true), options(0.01));
        let reports = steps_of(size).map(|step| trainer.step(&step).unwrap());
        (reports.map(|report| report.loss), trainer.policy().parameters().data().to_vec())
    };
    let (losses, parameters) = run(8);
    for size in [1, 3] {
        let (others, other) = run(size);
        assert!(worst(&others, &losses) < 1e-12 && worst(&other, &parameters) < 1e-11, "micro-batches of {size}");
    }
    let policy = ScorePolicy::new(fresh(&["reward"], true), Recompute::Layers, 2);
    let mut recomputing = Trainer::new(policy, Reference::None, Box::new(Logistic), options(0.01)).unwrap();
    steps_of(8).iter().for_each(|step| drop(recomputing.step(step).unwrap()));
    assert!(worst(recomputing.policy().parameters().data(), &parameters) < 1e-11);
    let of_ranks: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let ranks = Threads::new(2).into_iter().enumerate().map(|(rank, threads)| {
            scope.spawn(move || {
                let mut trainer = trainer(fresh(&["reward"], true), options(0.01)).with_collective(Box::new(threads));
                for step in steps_of(4) {
                    trainer.step(&step[rank..=rank]).unwrap();
                }
                trainer.policy().parameters().data().to_vec()
            })
        });
        ranks.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert!(of_ranks.iter().all(|rank| worst(rank, &parameters) < 1e-11));
}

#[test]
fn checkpoints_go_on_to_the_bit() {
    for lora in [false, true] {
        let make = || trainer(fresh(&["reward", "cost"], lora), options(0.01));
        let bits = |trainer: &Trainer<ScorePolicy<f64>>| -> Vec<u64> {
            trainer.policy().parameters().data().iter().map(|x| x.to_bits()).collect()
        };
        let steps = steps_of(4);
        let mut whole = make();
        steps.iter().for_each(|step| drop(whole.step(step).unwrap()));
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("checkpoint");
        let mut first = make();
        first.step(&steps[0]).unwrap();
        first.save(&place, &serde_json::Value::Null, &[]).unwrap();
        first.snapshot(&serde_json::Value::Null).unwrap().write(&directory.path().join("snapshot"), &[]).unwrap();
        let mut second = make();
        second.restore(&Checkpoint::open(&place).unwrap()).unwrap();
        assert_eq!(second.policy().model().heads(), ["reward", "cost"]);
        steps[1..].iter().for_each(|step| drop(second.step(step).unwrap()));
        assert_eq!(bits(&second), bits(&whole), "lora: {lora}");
        for name in std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()) {
            let read = |directory: &Path| std::fs::read(directory.join(&name)).unwrap();
            assert!(read(&place) == read(&directory.path().join("snapshot")), "{name:?} of the snapshot");
        }
    }
}

#[test]
fn a_policy_says_what_it_has_and_refuses_the_rest_by_name() {
    let packed = Packed::new(&[ContextIds {
        prompt: &[1, 5],
        prompt_scored: &[],
        completions: vec![CompletionIds::all_scored(&[4, 2]), CompletionIds::all_scored(&[8, 9, 2])],
    }])
    .unwrap();
    let mut model = fresh(&["reward", "cost"], false);
    let place = model.head_place();
    model.trainable_mut().tensor_mut(place).iter_mut().enumerate().for_each(|(i, x)| *x = (i as f64).sin());
    let (values, states) =
        model.score_with_states(&packed, ScoredAt::Completions, Adapter::On, &mut Workspace::new(1)).unwrap();
    let mut policy = ScorePolicy::new(model, Recompute::Nothing, 1);
    let want = Outputs { values: true, pooled: true, ..Outputs::NONE };
    let scores = policy.score(&packed, want).unwrap();
    assert_eq!((scores.rows(), scores.lengths()), (2, &[2, 3][..]));
    assert_eq!(scores.values().unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap(), values);
    assert_eq!(scores.pooled().unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap(), states);
    let (again, _) = policy.forward(&packed, want).unwrap();
    assert_eq!(again.pooled().unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap(), states);
    let error = policy.score(&packed, Outputs { entropy: true, ..want }).unwrap_err().to_string();
    assert!(error.contains("entropy of tokens is wanted of a score model"), "{error}");
    let error = policy.queue_without_adapter(&packed, want).unwrap_err().to_string();
    assert!(error.contains("the policy has none"), "{error}");
    let mut causal = CausalPolicy::new(support::model::<f64>(3), Recompute::Nothing, 1);
    let error = causal.score(&packed, want).unwrap_err().to_string();
    assert!(error.contains("a causal language model, which has no score heads"), "{error}");
    // DPO compares with a reference; a trainer of values has none.
    let built = Trainer::new(policy, Reference::None, Box::new(Dpo::default()), options(0.01));
    assert!(built.unwrap_err().to_string().contains("compares with a reference"));
}

/// `pal`, whose loss is NaN when told so, and which cannot be undone when told that; counts how often its whole state is copied.
#[derive(Debug, Clone, Default)]
struct Told {
    pal: Pal,
    nan: Rc<Cell<bool>>,
    stuck: bool,
    copies: Rc<Cell<u32>>,
}

impl Objective for Told {
    fn needs(&self) -> Needs {
        Objective::needs(&self.pal)
    }

    fn validate(&self) -> candlewick_losses::Result<()> {
        Objective::validate(&self.pal)
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> candlewick_losses::Result<Context> {
        Objective::prepare(&mut self.pal, step, phase)
    }

    fn evaluate(&self, scores: &Scores, context: &Context) -> candlewick_losses::Result<LossTerms> {
        let mut terms = self.pal.evaluate(scores, context)?;
        terms.terms[0].weight *= if self.nan.get() { f64::NAN } else { 1.0 };
        Ok(terms)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Objective::loss_at_zero_margin(&self.pal)
    }

    fn state(&self) -> Option<serde_json::Value> {
        self.copies.set(self.copies.get() + 1);
        Objective::state(&self.pal)
    }

    fn restore(&mut self, state: &serde_json::Value) -> candlewick_losses::Result<()> {
        Objective::restore(&mut self.pal, state)
    }

    fn mark(&mut self) -> Option<serde_json::Value> {
        Objective::mark(&mut self.pal)
    }

    fn undo(&mut self, mark: &serde_json::Value) -> candlewick_losses::Result<()> {
        match self.stuck {
            true => Err(candlewick_losses::Error::State("it is stuck".into())),
            false => Objective::undo(&mut self.pal, mark),
        }
    }
}

/// Rows of five people.
fn annotated_steps() -> [Vec<Batch>; 3] {
    steps_of(4).map(|mut step| {
        for (i, example) in step.iter_mut().flat_map(|batch| &mut batch.examples).enumerate() {
            example.numbers.insert("annotator".into(), (i % 5) as f64);
        }
        step
    })
}

#[test]
fn a_failed_step_says_why_though_it_cannot_be_undone() {
    let pal = Pal { dimensions: 2, ..Pal::default() };
    let told = Told { pal, nan: Rc::new(Cell::new(true)), stuck: true, ..Told::default() };
    let policy = ScorePolicy::new(fresh(&["a", "b"], false), Recompute::Nothing, 1);
    let mut trainer = Trainer::new(policy, Reference::None, Box::new(told), options(0.01)).unwrap();
    let error = trainer.step(&annotated_steps()[0]).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
}

#[test]
fn a_failed_step_takes_back_what_was_learned_of_people_without_a_copy_of_it() {
    let steps = annotated_steps();
    let told = Told { pal: Pal { dimensions: 2, ..Pal::default() }, ..Told::default() };
    let run = |failing: bool| {
        let told = Told { nan: Rc::default(), copies: Rc::default(), ..told.clone() };
        let (nan, copies) = (told.nan.clone(), told.copies.clone());
        let policy = ScorePolicy::new(fresh(&["a", "b"], false), Recompute::Nothing, 1);
        let mut trainer = Trainer::new(policy, Reference::None, Box::new(told), options(0.01)).unwrap();
        for step in &steps {
            nan.set(failing);
            if failing {
                assert!(matches!(trainer.step(step), Err(Error::NotFinite { .. })));
            }
            nan.set(false);
            trainer.step(step).unwrap();
        }
        assert_eq!(copies.get(), 0, "copies of the whole state");
        let directory = tempfile::tempdir().unwrap();
        trainer.save(&directory.path().join("end"), &serde_json::Value::Null, &[]).unwrap();
        Checkpoint::open(&directory.path().join("end")).unwrap().state.objective
    };
    let learned = run(false);
    assert!(learned.is_some());
    assert_eq!(run(true), learned);
}

/// A directory with a causal model and pairs, and runs of reward models in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        write_model(&folder.0.path().join("model"), 1);
        write_pairs(&folder.0.path().join("pairs.jsonl"), 14, 1);
        folder
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn try_plan(&self, output: &str, assignments: &[&str]) -> Result<Plan, Error> {
        let mut words = Words::default();
        for (key, name) in [("model.path", "model"), ("data.path", "pairs.jsonl"), ("output.dir", output)] {
            words.put(key, &self.at(name))?;
        }
        let ours = [
            "objective.type=bradley_terry",
            "data.rows=..10",
            "evaluation.rows=10..",
            "evaluation.every=2",
            "train.batch_size=2",
            "train.micro_batches=2",
            "optimizer.learning_rate=0.01",
            "train.steps=6",
            "output.save_every=2",
        ];
        ours.iter().chain(assignments).try_for_each(|assignment| words.set(assignment))?;
        Plan::resolve(words.config()?)
    }

    fn run(&self, output: &str, assignments: &[&str]) -> Vec<Event> {
        finish(Run::start(self.try_plan(output, assignments).unwrap()).unwrap())
    }

    #[track_caller]
    fn refuses(&self, assignments: &[&str], words: &[&str]) -> Error {
        let error = self.try_plan("refused", assignments).and_then(Run::start).unwrap_err();
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} are not all in: {text}");
        error
    }
}

fn finish(mut run: Run) -> Vec<Event> {
    std::iter::from_fn(|| run.advance().unwrap()).collect()
}

fn losses(events: &[Event]) -> (Vec<f64>, Vec<f64>) {
    let steps = events.iter().filter_map(|event| match event {
        Event::Step(report) => Some(report.loss),
        _ => None,
    });
    let evaluations = events.iter().filter_map(|event| match event {
        Event::Evaluated(report) => Some(report.loss),
        _ => None,
    });
    (steps.collect(), evaluations.collect())
}

#[test]
fn runs_end_in_the_same_bits_interrupted_or_not() {
    let folder = Folder::new();
    let variants: [&[&str]; 3] = [
        &["model.heads=[\"reward\"]"],
        &["model.lora={rank = 2}", "model.heads=[\"reward\", \"cost\"]"],
        &["model.lora={rank = 2}", "output.background=false", "output.keep_best=true"],
    ];
    for (i, variant) in variants.into_iter().enumerate() {
        let (whole, parts) = (format!("whole-{i}"), format!("parts-{i}"));
        let events = folder.run(&whole, variant);
        let (steps, evaluations) = losses(&events);
        assert!((steps[0] - LN_2).abs() < 1e-6 && steps.len() == 6 && evaluations.len() == 3, "{steps:?}");
        let Some(Event::Evaluated(report)) = events.iter().rfind(|event| matches!(event, Event::Evaluated(_))) else {
            panic!("no evaluation")
        };
        assert!(report.metrics.value("rewards/accuracies").is_some());
        assert!(report.metrics.value("entropy").is_none() && report.metrics.value("logps/chosen").is_none());
        let mut run = Run::start(folder.try_plan(&parts, variant).unwrap()).unwrap();
        while run.trainer().steps_done() < 5 {
            run.advance().unwrap();
        }
        drop(run);
        let latest = Checkpoint::latest(&checkpoints(Path::new(&folder.at(&parts)))).unwrap().checkpoint.unwrap();
        assert_eq!(latest.state.step, 4);
        finish(Run::resume(folder.try_plan(&parts, variant).unwrap(), &latest.path).unwrap());
        let files = |run: &str| {
            let directory = Path::new(&folder.at(run)).join("final");
            let names = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<_> =
                names.map(|path| (path.file_name().unwrap().to_owned(), std::fs::read(&path).unwrap())).collect();
            files.sort();
            files
        };
        assert_eq!(files(&whole), files(&parts), "{variant:?}");
        let log = |run: &str| std::fs::read(Path::new(&folder.at(run)).join("metrics.jsonl")).unwrap();
        assert!(log(&whole) == log(&parts), "{variant:?}: the logs differ");
        assert!(!Path::new(&folder.at(&whole)).join("held_out").exists(), "log-probabilities of a score model");
    }
    // Words that differ are told when a run goes on.
    let latest = Checkpoint::latest(&checkpoints(Path::new(&folder.at("parts-0")))).unwrap().checkpoint.unwrap();
    let other = folder.try_plan("parts-0", &["model.heads=[\"other\"]"]).unwrap();
    let error = Run::resume(other, &latest.path).unwrap_err().to_string();
    assert!(error.contains("model.heads"), "{error}");
}

#[test]
fn results_are_score_models_to_go_on_with() {
    let folder = Folder::new();
    folder.run("full", &["model.heads=[\"reward\"]", "train.steps=4"]);
    let model = ScoreModel::<f32>::load(Path::new(&folder.at("full/final"))).unwrap();
    assert_eq!(model.heads(), ["reward"]);
    let (last, evaluated) = losses(&folder.run(
        "full-more",
        &[&format!("model.path={:?}", folder.at("full/final")), "evaluation.at_start=true", "train.steps=1"],
    ));
    assert!((last[0] - LN_2).abs() > 1e-3, "it goes on from a trained head: {last:?}");
    // What the run before measured of it at its end.
    let log = std::fs::read_to_string(folder.at("full/metrics.jsonl")).unwrap();
    let line: serde_json::Value =
        serde_json::from_str(log.lines().rfind(|line| line.contains("eval_")).unwrap()).unwrap();
    assert!((evaluated[0] - line["eval_loss"].as_f64().unwrap()).abs() < 1e-6, "{evaluated:?}, {line}");

    folder.run("lora", &["model.lora={rank = 2}", "train.steps=4"]);
    let adapter = format!("model.adapter={:?}", folder.at("lora/final"));
    let (last, _) = losses(&folder.run("lora-more", &[&adapter, "train.steps=1"]));
    assert!((last[0] - LN_2).abs() > 1e-3, "{last:?}");
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.at("lora/final/adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["task_type"], &config["modules_to_save"][0]), (&"SEQ_CLS".into(), &"score".into()));

    // A score model is refused where tokens are needed, and the other way about.
    let score = format!("model.path={:?}", folder.at("full/final"));
    let error =
        folder.refuses(&[&score, "objective.type=dpo"], &["model.path", "is a score model", "log-probabilities"]);
    assert_eq!(error.fault(), Fault::Configuration);
    folder.refuses(&[&score, "model.heads=[\"cost\"]"], &["model.heads", "cost", "has the heads reward"]);
    folder.refuses(&[&adapter, "objective.type=simpo"], &["SEQ_CLS"]);
    folder.refuses(&["model.heads=[\"a\"]", "objective.type=dpo"], &["model.heads", "trains no score heads"]);
    folder.refuses(&["model.heads=[]"], &["model.heads", "empty list"]);
    folder.refuses(&["model.heads=[\"a\", \"a\"]"], &["model.heads", "names that differ"]);
    folder.refuses(&["model.lora={targets = [\"lm_head\"]}"], &["lm_head", "q_proj"]);
    folder.refuses(&["reference.kind=frozen"], &["uses no reference"]);
}

#[test]
fn heads_are_trained_together_by_a_mix() {
    let folder = Folder::new();
    let part = |head: usize| format!("{{weight = 1.0, loss = {{type = \"bradley_terry\", head = {head}}}}}");
    let parts = format!("objective.parts=[{}, {}]", part(0), part(1));
    let heads = "model.heads=[\"reward\", \"cost\"]";
    let (steps, _) = losses(&folder.run("both", &["objective.type=mix", &parts, heads]));
    assert!((steps[0] - 2.0 * LN_2).abs() < 1e-6 && steps[5] < steps[0], "{steps:?}");
    let model = ScoreModel::<f32>::load(Path::new(&folder.at("both/final"))).unwrap();
    let weight = model.parameters().get("score.weight").unwrap();
    let (first, second) = weight.split_at(16);
    assert!(first == second && first.iter().any(|x| *x != 0.0), "two heads of one loss start and stay the same");
    // A head that is not there is named; losses of tokens have no place in it.
    folder.refuses(&["objective.head=1"], &["model.heads", "objective.head", "there are 1 (score)", "reads 2"]);
    let sft = format!("objective.parts=[{}, {{weight = 1.0, loss = {{type = \"sft\"}}}}]", part(0));
    folder.refuses(&["objective.type=mix", &sft], &["objective", "values of a score model", "no model gives both"]);
}

#[test]
fn memory_is_planned_with_the_heads() {
    let folder = Folder::new();
    let plan = |assignments: &[&str]| MemoryPlan::of(&folder.try_plan("planned", assignments).unwrap()).unwrap();
    let (one, three) = (plan(&[]), plan(&["model.heads=[\"a\", \"b\", \"c\"]"]));
    let bytes = |heads: u64| heads * 16 * 4;
    assert_eq!(three.weights - one.weights, bytes(2));
    assert_eq!(three.gradients - one.gradients, bytes(2));
    // The hidden states and their norm, and no logits.
    assert_eq!((one.kept_by_head, one.head_alone), (one.batch.tokens as u64 * (16 + 1) * 4, 0));
    let (one, three) =
        (plan(&["model.lora={rank = 2}"]), plan(&["model.lora={rank = 2}", "model.heads=[\"a\", \"b\", \"c\"]"]));
    assert_eq!(three.adapter - one.adapter, bytes(2));
    let model = ScoreModel::<f32>::from_causal(Path::new(&folder.at("model")), &names(&["score"])).unwrap();
    assert_eq!(plan(&[]).weights, model.parameters().element_count() as u64 * 4);
}

/// The listed loss and the one above are the same function.
#[test]
fn the_listed_loss_trains_to_the_same_numbers() {
    let run = |objective: Box<dyn candlewick_losses::Objective>| {
        let policy = ScorePolicy::new(fresh(&["reward"], false), Recompute::Nothing, 1);
        let options = TrainerOptions { starts_at_reference: false, ..options(0.01) };
        let mut trainer = Trainer::new(policy, Reference::None, objective, options).unwrap();
        let losses = steps_of(4).map(|step| trainer.step(&step).unwrap().loss);
        (losses, trainer.policy().parameters().data().iter().map(|x| Float::to_f64(*x)).collect::<Vec<f64>>())
    };
    let (ours, theirs) = (run(Box::new(Logistic)), run(Box::<BradleyTerry>::default()));
    assert!(worst(&ours.0, &theirs.0) < 1e-12 && worst(&ours.1, &theirs.1) < 1e-10);
}

#[test]
fn fewer_heads_than_the_objective_reads_are_told_before_anything_is_loaded() {
    let folder = Folder::new();
    // Nothing can be loaded from here: the weights are gone.
    std::fs::remove_file(folder.0.path().join("model/model.safetensors")).unwrap();
    let refused: [(&[&str], &str); 4] = [
        (&["objective.head=2", "model.heads=[\"a\", \"b\"]"], "3"),
        (&["objective.head=9223372036854775807", "model.heads=[\"a\"]"], "9223372036854775808"),
        (
            &[
                "objective.type=pal",
                "objective.dimensions=4",
                "objective.head=1",
                "model.heads=[\"a\", \"b\", \"c\", \"d\"]",
            ],
            "5",
        ),
        (
            &[
                "objective.type=mix",
                "objective.parts=[{loss = {type = \"bradley_terry\"}}, {loss = {type = \"bradley_terry\", head = 1}}]",
                "model.heads=[\"a\"]",
            ],
            "2",
        ),
    ];
    for (assignments, count) in refused {
        let error = folder.try_plan("refused", assignments).unwrap_err();
        let text = error.to_string();
        let said = ["model.heads", "objective.head", &format!("reads {count},")];
        assert!(said.iter().all(|said| text.contains(said)), "{text}");
        assert_eq!(error.fault(), Fault::Configuration);
    }
    // One head by default.
    folder.refuses(&["objective.type=dprm"], &["model.heads", "objective.head", "there are 1 (score)", "reads 6"]);
}
