//! What a run checks before it changes anything.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod support;

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use candlewick_losses::{
    AnchoredPair, Bco, Context, Dpo, Kto, Loss, LossTerms, Mix, Objective, Outputs, Pair, Part, Recipe, Reduction,
    ReferenceUpdate, Sft, Term, TokenScores, TrDpo,
};
use candlewick_model::{Packed, Parameters, Recompute, Saved};
use candlewick_train::{
    CausalPolicy, Checkpoint, Copied, Cotangents, Error, Fault, FrozenPolicy, MovingReference, Policy, Queued,
    Reference, Schedule, Trainable, Trainer, TrainerOptions, Tuning,
};
use support::{Threads, batches, bits, lora_model, model, options, pairs, trainer};

/// `−(log p_w − log p_l)`, or NaN when told so.
#[derive(Debug)]
struct Poisoned(Rc<Cell<bool>>);

impl Loss for Poisoned {
    type Input = Pair;

    fn terms(&self, input: &Pair, _: &Context) -> candlewick_losses::Result<LossTerms> {
        let margins = input.log_probs(Reduction::Sum)?.margins()?;
        let factor = if self.0.get() { f64::NAN } else { -1.0 };
        Ok(LossTerms::new([Term::per_item("poisoned", (margins * factor)?)]))
    }
}

#[test]
fn a_loss_that_is_not_finite_changes_nothing_and_names_step_and_rows() {
    let poison = Rc::new(Cell::new(false));
    let mut trainer = trainer(model::<f32>(1), Poisoned(poison.clone()), options(1e-2));
    trainer.step(&batches(&pairs(4, 1), 2)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("good");
    trainer.save(&path, &serde_json::Value::Null, &[]).unwrap();
    let before = bits(&trainer);

    poison.set(true);
    let error = trainer.step(&batches(&pairs(4, 2), 2)).unwrap_err();
    assert_eq!(error.fault(), Fault::Stopped);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "step 2: the loss is NaN on made-up:1, made-up:2, made-up:3, made-up:4; no parameter was changed"
        ),
        "{text}"
    );
    assert_eq!(bits(&trainer), before);
    assert_eq!(trainer.steps_done(), 1);
    Checkpoint::open(&path).unwrap();

    poison.set(false);
    trainer.step(&batches(&pairs(4, 2), 2)).unwrap();
    assert_ne!(bits(&trainer), before);
}

#[test]
fn a_rank_names_its_own_rows_only() {
    let ranks = Threads::new(2).into_iter().enumerate().map(|(rank, collective)| {
        std::thread::spawn(move || {
            let poisoned = Poisoned(Rc::new(Cell::new(rank == 1)));
            let mut trainer = trainer(model::<f32>(1), poisoned, options(1e-2)).with_collective(Box::new(collective));
            trainer.step(&batches(&pairs(4, 1), 2)[rank..=rank]).unwrap_err().to_string()
        })
    });
    let texts: Vec<String> = ranks.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect();
    assert!(texts[0].contains("the loss is NaN on rows of another rank;"), "{}", texts[0]);
    assert!(texts[1].contains("the loss is NaN on made-up:3, made-up:4;"), "{}", texts[1]);
}

#[test]
fn weights_that_are_not_finite_are_found_in_the_rows_they_touch() {
    let mut trainer = trainer(model::<f32>(1), Sft {}, options(1e-2));
    let Tuning { parameters, .. } = trainer.policy_mut().tuning();
    parameters.data_mut()[0] = f32::NAN;
    assert!(matches!(trainer.step(&batches(&pairs(4, 1), 2)), Err(Error::NotFinite { step: 1, .. })));
}

#[test]
fn another_reference_is_noticed_at_the_first_step() {
    let make = |starts_at_reference| {
        let reference = Reference::Frozen(Box::new(FrozenPolicy::new(model::<f32>(2), 1)));
        let policy = CausalPolicy::new(model::<f32>(1), Recompute::Nothing, 1);
        let options = TrainerOptions { starts_at_reference, ..options(1e-2) };
        Trainer::new(policy, reference, Box::new(Dpo::default()), options).unwrap()
    };
    let mut checked = make(true);
    let before = bits(&checked);
    let text = checked.step(&batches(&pairs(4, 1), 2)).unwrap_err().to_string();
    assert!(text.starts_with("step 1: on made-up:") && text.contains("the reference has other weights"), "{text}");
    assert_eq!(bits(&checked), before);
    make(false).step(&batches(&pairs(4, 1), 2)).unwrap();
}

#[test]
fn a_reference_moves_where_the_objective_says_so_and_only_there() {
    let make = |objective: Box<dyn Objective>| {
        let reference = Reference::Frozen(Box::new(FrozenPolicy::new(model::<f32>(1), 1)));
        let policy = CausalPolicy::new(model::<f32>(1), Recompute::Nothing, 1);
        Trainer::new(policy, reference, objective, options(1e-2)).unwrap()
    };
    let nested = Mix { parts: vec![Part { weight: 1.0, loss: Recipe::from_name("tr_dpo").unwrap() }] };
    for objective in [Box::<TrDpo>::default() as Box<dyn Objective>, Box::new(nested)] {
        let mut trainer = make(objective);
        let error = trainer.step(&batches(&pairs(1, 1), 1)).unwrap_err();
        assert_eq!(error.fault(), Fault::Configuration);
        let text = error.to_string();
        assert!(text.contains("moves its reference") && text.contains("Reference::Moving"), "{text}");
        assert_eq!(trainer.steps_done(), 0);
    }
    let still = || Box::new(TrDpo { update: ReferenceUpdate::Frozen, ..TrDpo::default() });
    make(still()).step(&batches(&pairs(1, 1), 1)).unwrap();
    let policy = CausalPolicy::new(model::<f32>(1), Recompute::Nothing, 1);
    let moving = Reference::Moving(MovingReference::of(&policy).unwrap());
    let error = Trainer::new(policy, moving, still(), options(1e-2)).unwrap_err();
    assert!(error.to_string().contains("leaves it where it is"), "{error}");
}

#[test]
fn another_reference_is_noticed_whatever_the_objective() {
    let mix = Mix {
        parts: vec![
            Part { weight: 1.0, loss: Recipe::from_name("dpo").unwrap() },
            Part { weight: 0.5, loss: Recipe::from_name("sft").unwrap() },
        ],
    };
    assert_eq!(mix.loss_at_zero_margin(), None);
    let make = |reference| {
        let reference = Reference::Frozen(Box::new(FrozenPolicy::new(model::<f32>(reference), 1)));
        let policy = CausalPolicy::new(model::<f32>(1), Recompute::Nothing, 1);
        Trainer::new(policy, reference, Box::new(mix.clone()), options(1e-2)).unwrap()
    };
    let mut checked = make(2);
    let before = bits(&checked);
    let error = checked.step(&batches(&pairs(4, 1), 2)).unwrap_err();
    assert_eq!(error.fault(), Fault::Model);
    let text = error.to_string();
    assert!(text.starts_with("step 1: on made-up:") && text.contains("the reference has other weights"), "{text}");
    assert_eq!(bits(&checked), before);
    make(1).step(&batches(&pairs(4, 1), 2)).unwrap();
}

#[test]
fn a_resumed_run_still_looks_for_parameters_without_a_gradient() {
    let make = |forgotten| {
        let inner = CausalPolicy::new(lora_model::<f64>(1), Recompute::Nothing, 1);
        let policy = Forgetful { inner, forgotten, unreadable: false };
        Trainer::new(policy, Reference::None, Box::new(Sft {}), options(1e-2)).unwrap()
    };
    let names = lora_model::<f64>(1);
    let forgotten = (0..names.trainable().len()).find(|i| names.trainable().name(*i).contains("lora_A")).unwrap();
    let mut first = make(forgotten);
    first.step(&batches(&pairs(4, 1), 2)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one");
    first.save(&path, &serde_json::Value::Null, &[]).unwrap();
    let mut resumed = make(forgotten);
    resumed.restore(&Checkpoint::open(&path).unwrap()).unwrap();
    assert!(matches!(resumed.step(&batches(&pairs(4, 1), 2)), Err(Error::NoGradient { step: 2, .. })));
}

#[test]
fn what_a_trainer_cannot_use_is_refused() {
    let policy = || CausalPolicy::new(model::<f32>(1), Recompute::Nothing, 1);
    let refused = |reference, objective: Box<dyn Objective>| {
        Trainer::new(policy(), reference, objective, options(1.0)).unwrap_err().to_string()
    };
    assert!(refused(Reference::None, Box::<Dpo>::default()).contains("compares with a reference, and there is none"));
    let frozen = Reference::Frozen(Box::new(FrozenPolicy::new(model::<f32>(1), 1)));
    assert!(refused(frozen, Box::new(Sft {})).contains("no use for a reference"));
    let limit = TrainerOptions { max_grad_norm: -1.0, ..options(1.0) };
    let refused = Trainer::new(policy(), Reference::None, Box::new(Sft {}), limit).unwrap_err().to_string();
    assert!(refused.contains("max_grad_norm"), "{refused}");
    let mut no_adapter = Trainer::new(policy(), Reference::AdapterOff, Box::new(Dpo::default()), options(1.0)).unwrap();
    assert!(no_adapter.step(&batches(&pairs(2, 1), 2)).unwrap_err().to_string().contains("without its adapter"));
}

/// A policy whose backward forgets one parameter, and whose weights may be out of reach.
#[derive(Debug)]
struct Forgetful {
    inner: CausalPolicy<f64>,
    forgotten: usize,
    unreadable: bool,
}

impl Policy for Forgetful {
    fn score(&mut self, batch: &Packed, want: Outputs) -> candlewick_train::Result<TokenScores> {
        self.inner.score(batch, want)
    }
}

impl Trainable for Forgetful {
    type Element = f64;
    type Saved = Saved<f64>;

    fn forward(&mut self, batch: &Packed, want: Outputs) -> candlewick_train::Result<(TokenScores, Saved<f64>)> {
        self.inner.forward(batch, want)
    }

    fn backward(&mut self, batch: &Packed, saved: Saved<f64>, cotangents: &Cotangents) -> candlewick_train::Result<()> {
        self.inner.backward(batch, saved, cotangents)?;
        self.inner.tuning().gradients.tensor_mut(self.forgotten).fill(0.0);
        Ok(())
    }

    fn queue_without_adapter<'a>(&mut self, batch: &'a Packed, want: Outputs) -> candlewick_train::Result<Queued<'a>> {
        self.inner.queue_without_adapter(batch, want)
    }

    fn parameters(&self) -> &Parameters<f64> {
        self.inner.parameters()
    }

    fn tuning(&mut self) -> Tuning<'_, f64> {
        self.inner.tuning()
    }

    fn gradients_may_be_zero(&self, of: &[usize]) -> candlewick_train::Result<Vec<bool>> {
        if self.unreadable {
            return Err(Error::Mismatch("the device is gone".into()));
        }
        self.inner.gradients_may_be_zero(of)
    }

    fn digest(&self) -> candlewick_train::Result<String> {
        self.inner.digest()
    }

    fn save(&self, directory: &Path) -> candlewick_train::Result<()> {
        self.inner.save(directory)
    }

    fn copied(&self) -> candlewick_train::Result<Box<dyn Copied>> {
        self.inner.copied()
    }

    fn restore(&mut self, directory: &Path) -> candlewick_train::Result<()> {
        self.inner.restore(directory)
    }
}

#[test]
fn a_parameter_that_no_gradient_reaches_is_named_whichever_it_is() {
    for make in [model::<f64>, lora_model::<f64>] {
        for forgotten in 0..make(1).trainable().len() {
            let inner = CausalPolicy::new(make(1), Recompute::Nothing, 1);
            let name = inner.parameters().name(forgotten).to_owned();
            let policy = Forgetful { inner, forgotten, unreadable: false };
            let mut trainer = Trainer::new(policy, Reference::None, Box::new(Sft {}), options(1e-2)).unwrap();
            let step = |trainer: &mut Trainer<Forgetful>| trainer.step(&batches(&pairs(4, 1), 2));
            // A is due once B has moved.
            if name.contains("lora_A") {
                step(&mut trainer).unwrap();
            }
            let text = step(&mut trainer).unwrap_err().to_string();
            assert!(text.contains(&format!("no gradient reaches {name};")), "{text}");
        }
    }
}

#[test]
fn weights_that_cannot_be_looked_at_end_the_step() {
    let inner = CausalPolicy::new(lora_model::<f64>(1), Recompute::Nothing, 1);
    let before = inner.parameters().data().to_vec();
    let policy = Forgetful { inner, forgotten: 0, unreadable: true };
    let mut trainer = Trainer::new(policy, Reference::None, Box::new(Sft {}), options(1e-2)).unwrap();
    let text = trainer.step(&batches(&pairs(4, 1), 2)).unwrap_err().to_string();
    assert!(text.contains("the device is gone"), "{text}");
    assert_eq!(trainer.policy().parameters().data(), before);
}

#[test]
fn a_warm_up_from_rate_zero_only_postpones_the_check_of_lora() {
    let schedule = Schedule::Constant { warmup_steps: 2 };
    let mut trainer = trainer(lora_model::<f64>(1), Sft {}, TrainerOptions { schedule, ..options(1e-2) });
    let rates: Vec<f64> = (0..3).map(|_| trainer.step(&batches(&pairs(4, 1), 2)).unwrap().learning_rate).collect();
    assert_eq!(rates, [0.0, 0.5e-2, 1e-2]);
}

/// `(Δ_w − Δ_l − 2)²`, a loss that no list knows.
#[derive(Debug)]
struct Target;

impl Loss for Target {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> candlewick_losses::Result<LossTerms> {
        let margins = input.log_ratios(Reduction::Sum)?.margins()?;
        Ok(LossTerms::new([Term::per_item("target", (margins - 2.0)?.sqr()?)]).with_rewards(input.rewards(1.0)?))
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Some(4.0)
    }
}

#[test]
fn a_loss_from_elsewhere_trains() {
    let mut trainer = trainer(model::<f32>(1), Target, options(2e-3));
    let step = batches(&pairs(4, 1), 4);
    let first = trainer.step(&step).unwrap();
    assert!((first.loss - 4.0).abs() < 1e-5);
    let last = (0..40).map(|_| trainer.step(&step).unwrap()).last().unwrap();
    assert!(last.loss < 0.1, "{last:?}");
    assert!((last.metrics.value("rewards/margins").unwrap() - 2.0).abs() < 0.5);
}

/// A policy that counts how often it scores.
#[derive(Debug)]
struct Counted(CausalPolicy<f32>, Rc<Cell<u32>>);

impl Policy for Counted {
    fn score(&mut self, batch: &Packed, want: Outputs) -> candlewick_train::Result<TokenScores> {
        self.1.set(self.1.get() + 1);
        self.0.score(batch, want)
    }
}

#[test]
fn a_step_of_one_micro_batch_is_scored_once_for_a_statistic_of_the_step() {
    let steps = |size| {
        let scored = Rc::new(Cell::new(0));
        let policy = |weights| CausalPolicy::new(model::<f32>(weights), Recompute::Nothing, 1);
        let reference = Reference::Frozen(Box::new(Counted(policy(2), scored.clone())));
        let options = TrainerOptions { starts_at_reference: false, ..options(1e-2) };
        let mut trainer = Trainer::new(policy(1), reference, Box::<Bco>::default(), options).unwrap();
        let reports: Vec<_> =
            [3, 4].map(|seed| trainer.step(&batches(&support::labelled(4, seed), size)).unwrap()).into();
        (reports, scored.get())
    };
    let (whole, parts) = (steps(4), steps(2));
    assert_eq!((whole.1, parts.1), (2, 8));
    for (a, b) in whole.0.iter().zip(&parts.0) {
        assert!((a.loss - b.loss).abs() < 1e-5 && (a.grad_norm - b.grad_norm).abs() < 1e-4, "{a:?} and {b:?}");
        let delta = |report: &candlewick_train::StepReport| report.metrics.value("delta").unwrap();
        assert!((delta(a) - delta(b)).abs() < 1e-5 && delta(a) != 0.0, "{a:?} and {b:?}");
    }
}

#[test]
fn an_objective_that_lacks_its_mismatched_rows_says_so() {
    let mut trainer = trainer(model::<f32>(1), Kto::default(), options(1e-2));
    let text = trainer.step(&batches(&support::labelled(4, 1), 2)).unwrap_err().to_string();
    assert!(text.contains("mismatched completions; make the batches with them"), "{text}");
}
