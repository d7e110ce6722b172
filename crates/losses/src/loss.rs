//! The two faces of a loss: typed for who writes it, uniform for who trains with it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::collective::Collective;
use crate::dual::{Constraint, Observed};
use crate::error::{Error, Result};
use crate::groups::Scores;
use crate::numbers::Numbers;
use crate::recipe::Recipe;
use crate::reference_update::ReferenceUpdate;
use crate::terms::LossTerms;
use crate::view::{Needs, Rows, StepWide, View};

/// A loss as its author writes it: its fields are its hyperparameters, its
/// input type is what it needs.
///
/// Every `Loss` is an [`Objective`], so one defined in another crate trains as
/// `Box<dyn Objective>` without being listed anywhere:
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{
///     AnchoredPair, Context, Loss, LossTerms, Objective, Reduction, Result, Scores, Term, TokenScores,
/// };
///
/// /// `(Δ_w − Δ_l − target)²`
/// #[derive(Debug)]
/// struct Target { margin: f64 }
///
/// impl Loss for Target {
///     type Input = AnchoredPair;
///     fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
///         let margins = input.log_ratios(Reduction::Sum)?.margins()?;
///         Ok(LossTerms::new([Term::per_item("target", (margins - self.margin)?.sqr()?)]))
///     }
/// }
///
/// let objective: Box<dyn Objective> = Box::new(Target { margin: 1.0 });
/// assert!(objective.needs().reference);
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-4.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let scores = Scores::of_pairs(policy, Some(reference));
/// let loss = objective.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// assert_eq!(loss.to_scalar::<f64>()?, 4.0);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
pub trait Loss: Debug {
    /// What it needs.
    type Input: View;

    /// One value an item, before any division.
    ///
    /// # Errors
    /// If the context lacks a number that [`prepare`](Loss::prepare) makes, or a tensor operation fails.
    fn terms(&self, input: &Self::Input, context: &Context) -> Result<LossTerms>;

    /// Checks the ranges of the hyperparameters.
    ///
    /// # Errors
    /// Names the hyperparameter, its value and its range.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Computes what depends on the whole step. All scores are detached.
    ///
    /// # Errors
    /// If the step lacks what the statistic is made of.
    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        let _ = (step, phase);
        Ok(Context::default())
    }

    /// What [`prepare`](Loss::prepare) must see.
    fn step_wide(&self) -> StepWide {
        Self::Input::NEEDS.step_wide
    }

    /// The numbers that every item must bring.
    fn numbers(&self) -> Numbers {
        Self::Input::NEEDS.numbers
    }

    /// How many heads a score model must have: one more than the place of the last that is read.
    fn heads(&self) -> usize {
        Self::Input::NEEDS.heads
    }

    /// Whether and how the reference follows the policy.
    fn reference_update(&self) -> ReferenceUpdate {
        ReferenceUpdate::Frozen
    }

    /// The loss where policy and reference agree, if no data can change it.
    fn loss_at_zero_margin(&self) -> Option<f64> {
        None
    }

    /// The constraints whose multipliers follow costs of fresh completions of the policy while it is trained, in the order
    /// of those costs; none unless it reads such costs.
    fn constraints(&self) -> Vec<Constraint> {
        Vec::new()
    }

    /// Takes such costs. The next [`prepare`](Loss::prepare) of a step that trains acts on them, once.
    ///
    /// # Errors
    /// If the loss reads none, or they are not those it expects; then nothing changes.
    fn observe(&mut self, observed: &Observed) -> Result<()> {
        let _ = observed;
        Err(Error::ReadsNoCosts { objective: short_name::<Self>() })
    }

    /// State that training changes and a checkpoint must hold, if there is any.
    fn state(&self) -> Option<serde_json::Value> {
        None
    }

    /// Takes up saved state.
    ///
    /// # Errors
    /// If the state is not one that [`state`](Loss::state) returned.
    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        Err(Error::State(format!("{} holds none, and the checkpoint has {state}", short_name::<Self>())))
    }

    /// Begins a step that may fail; see [`Objective::mark`].
    fn mark(&mut self) -> Option<serde_json::Value> {
        self.state()
    }

    /// Takes back what changed since the last mark.
    ///
    /// # Errors
    /// If the mark is not one that [`mark`](Loss::mark) returned.
    fn undo(&mut self, mark: &serde_json::Value) -> Result<()> {
        self.restore(mark)
    }
}

/// A loss as a trainer sees it. Made for every [`Loss`]; also implemented by
/// [`Builtin`](crate::Builtin), [`Mix`](crate::Mix), [`Recipe`](crate::Recipe) and
/// boxes.
pub trait Objective: Debug {
    /// What messages call it: the type's name, of a loss.
    fn name(&self) -> &'static str {
        short_name::<Self>()
    }

    /// What it needs of data, reference and model.
    fn needs(&self) -> Needs;

    /// Checks the ranges of the hyperparameters.
    ///
    /// # Errors
    /// Names the hyperparameter, its value and its range.
    fn validate(&self) -> Result<()>;

    /// Begins a step: of training, by the run's seed and the number of the step, or a measurement (`None`). Returns the
    /// preference vector that the policy is to be told before it is scored, of an objective that has one, and weights by the
    /// same one until the next call.
    fn begin(&mut self, seed: u64, step: Option<u64>) -> Option<Vec<f64>> {
        let _ = (seed, step);
        None
    }

    /// Computes what depends on the whole step. It may always be called; it must
    /// be where [`Needs::step_wide`] is not [`StepWide::Nothing`].
    ///
    /// # Errors
    /// If the step lacks what the statistic is made of.
    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context>;

    /// The terms of one micro-batch, given [`Context::micro`] of it.
    ///
    /// # Errors
    /// If the scores lack what is needed, or the context what `prepare` makes.
    fn evaluate(&self, scores: &Scores, context: &Context) -> Result<LossTerms>;

    /// Whether and how the reference follows the policy; whoever trains must carry it out, or refuse.
    fn reference_update(&self) -> ReferenceUpdate {
        ReferenceUpdate::Frozen
    }

    /// The loss where policy and reference agree, if no data can change it: `ln 2`
    /// for DPO, nothing for imitation.
    fn loss_at_zero_margin(&self) -> Option<f64>;

    /// The constraints whose multipliers follow costs of fresh completions of the policy while it is trained, in the order
    /// of those costs; none unless it reads such costs.
    fn constraints(&self) -> Vec<Constraint> {
        Vec::new()
    }

    /// Whether it reads costs of fresh completions of the policy while it is trained.
    fn observes(&self) -> bool {
        !self.constraints().is_empty()
    }

    /// Takes such costs, for every constraint. Whoever trains gives those of all ranks to every rank, between two steps and
    /// as often as there are new ones; the next [`prepare`](Objective::prepare) of a step that trains acts on them, once.
    ///
    /// # Errors
    /// If the objective reads none, or they are not those it expects; then nothing changes.
    fn observe(&mut self, observed: &Observed) -> Result<()> {
        let _ = observed;
        Err(Error::ReadsNoCosts { objective: self.name() })
    }

    /// State that training changes and a checkpoint must hold, if there is any.
    fn state(&self) -> Option<serde_json::Value>;

    /// Takes up saved state.
    ///
    /// # Errors
    /// If the state is not one that [`state`](Objective::state) returned.
    fn restore(&mut self, state: &serde_json::Value) -> Result<()>;

    /// Begins a step that may fail: what [`undo`](Objective::undo) wants to come back to here, if there is any state. By default
    /// all of it; an objective with more state than a step changes keeps what the step changes itself. One mark counts, the last.
    fn mark(&mut self) -> Option<serde_json::Value> {
        self.state()
    }

    /// Takes back what changed since the last mark.
    ///
    /// # Errors
    /// If the mark is not one that [`mark`](Objective::mark) returned.
    fn undo(&mut self, mark: &serde_json::Value) -> Result<()> {
        self.restore(mark)
    }
}

/// Whether a step trains or only measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// State may move.
    Train,
    /// State must not move.
    Evaluate,
}

/// The detached scores of one optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct StepScores<'a> {
    /// The micro-batches of this rank.
    pub micro: &'a [Scores],
    /// The other ranks.
    pub collective: &'a dyn Collective,
}

/// What [`prepare`](Objective::prepare) found out about a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Context {
    /// Numbers by name; they are logged as metrics.
    pub scalars: BTreeMap<String, f64>,
    /// Lists by name, one map a micro-batch: what belongs to single items, such as the partner that a sort over the step
    /// gave each of them.
    pub vectors: Vec<BTreeMap<String, Vec<f64>>>,
    /// The contexts of the parts of a [`Mix`](crate::Mix), or of the one loss that another wraps, in order.
    pub parts: Vec<Context>,
}

impl Context {
    /// Adds a number.
    #[must_use]
    pub fn with_scalar(mut self, name: &str, value: f64) -> Self {
        self.scalars.insert(name.to_owned(), value);
        self
    }

    /// The context of one micro-batch of the step, counted from 0: what [`evaluate`](Objective::evaluate) takes.
    #[must_use]
    pub fn micro(&self, index: usize) -> Self {
        Self {
            scalars: self.scalars.clone(),
            vectors: self.vectors.get(index).cloned().into_iter().collect(),
            parts: self.parts.iter().map(|part| part.micro(index)).collect(),
        }
    }

    /// The context of part `index` of an objective that is made of others; an empty one where there is none.
    #[must_use]
    pub fn part(&self, index: usize) -> Self {
        self.parts.get(index).cloned().unwrap_or_default()
    }

    /// The context of an objective that wraps the one this belongs to; its numbers are logged.
    pub(crate) fn wrapped(self) -> Self {
        Self { scalars: self.scalars.clone(), vectors: Vec::new(), parts: vec![self] }
    }

    /// A list by name, of the one micro-batch that this context belongs to.
    ///
    /// # Errors
    /// If it is not there, or the context is one of several micro-batches.
    pub fn vector(&self, name: &str) -> Result<&[f64]> {
        match self.vectors.as_slice() {
            [one] => one.get(name).map(Vec::as_slice),
            _ => None,
        }
        .ok_or_else(|| Error::MissingScalar { name: name.to_owned() })
    }

    /// A number by name.
    ///
    /// # Errors
    /// If it is not there.
    pub fn scalar(&self, name: &str) -> Result<f64> {
        self.scalars.get(name).copied().ok_or_else(|| Error::MissingScalar { name: name.to_owned() })
    }
}

impl<L: Loss> Objective for L {
    fn needs(&self) -> Needs {
        Needs { step_wide: self.step_wide(), numbers: Loss::numbers(self), heads: Loss::heads(self), ..L::Input::NEEDS }
    }

    fn validate(&self) -> Result<()> {
        Loss::validate(self)
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        Loss::prepare(self, step, phase)
    }

    fn evaluate(&self, scores: &Scores, context: &Context) -> Result<LossTerms> {
        scores.check()?;
        if !L::Input::NEEDS.rows.intersection(Rows::of(scores)).any() {
            return Err(L::Input::NEEDS.unmet(short_name::<L>(), scores));
        }
        Loss::numbers(self).check(short_name::<L>(), &scores.groups)?;
        let input = L::Input::view(scores).ok_or_else(|| L::Input::NEEDS.unmet(short_name::<L>(), scores))?;
        self.terms(&input, context)
    }

    fn reference_update(&self) -> ReferenceUpdate {
        Loss::reference_update(self)
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        Loss::loss_at_zero_margin(self)
    }

    fn constraints(&self) -> Vec<Constraint> {
        Loss::constraints(self)
    }

    fn observe(&mut self, observed: &Observed) -> Result<()> {
        Loss::observe(self, observed)
    }

    fn state(&self) -> Option<serde_json::Value> {
        Loss::state(self)
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        Loss::restore(self, state)
    }

    fn mark(&mut self) -> Option<serde_json::Value> {
        Loss::mark(self)
    }

    fn undo(&mut self, mark: &serde_json::Value) -> Result<()> {
        Loss::undo(self, mark)
    }
}

/// What an objective around another hands on to it unchanged, within `impl Objective`: costs, state, and how steps are undone.
///
/// Not [`Objective::begin`]: what tells the policy its preference must be the outermost, and the trainer refuses it elsewhere.
macro_rules! forward_state {
    ($inner:ident) => {
        fn constraints(&self) -> Vec<$crate::dual::Constraint> {
            self.$inner.constraints()
        }

        fn observe(&mut self, observed: &$crate::dual::Observed) -> $crate::Result<()> {
            self.$inner.observe(observed)
        }

        fn state(&self) -> Option<serde_json::Value> {
            self.$inner.state()
        }

        fn restore(&mut self, state: &serde_json::Value) -> $crate::Result<()> {
            self.$inner.restore(state)
        }

        fn mark(&mut self) -> Option<serde_json::Value> {
            self.$inner.mark()
        }

        fn undo(&mut self, mark: &serde_json::Value) -> $crate::Result<()> {
            self.$inner.undo(mark)
        }
    };
}
pub(crate) use forward_state;

/// Implements [`Objective`] for types that hold one, by `objective` and `objective_mut`.
macro_rules! forward_objective {
    ($($type:ty),+) => { $(
        impl $crate::Objective for $type {
            fn name(&self) -> &'static str {
                self.objective().name()
            }
            fn needs(&self) -> $crate::Needs {
                self.objective().needs()
            }
            fn validate(&self) -> $crate::Result<()> {
                self.objective().validate()
            }
            fn begin(&mut self, seed: u64, step: Option<u64>) -> Option<Vec<f64>> {
                self.objective_mut().begin(seed, step)
            }
            fn prepare(&mut self, step: &$crate::StepScores<'_>, phase: $crate::Phase) -> $crate::Result<$crate::Context> {
                self.objective_mut().prepare(step, phase)
            }
            fn evaluate(&self, scores: &$crate::Scores, context: &$crate::Context) -> $crate::Result<$crate::LossTerms> {
                self.objective().evaluate(scores, context)
            }
            fn reference_update(&self) -> $crate::ReferenceUpdate {
                self.objective().reference_update()
            }
            fn loss_at_zero_margin(&self) -> Option<f64> {
                self.objective().loss_at_zero_margin()
            }
            fn constraints(&self) -> Vec<$crate::dual::Constraint> {
                self.objective().constraints()
            }
            fn observe(&mut self, observed: &$crate::dual::Observed) -> $crate::Result<()> {
                self.objective_mut().observe(observed)
            }
            fn state(&self) -> Option<serde_json::Value> {
                self.objective().state()
            }
            fn restore(&mut self, state: &serde_json::Value) -> $crate::Result<()> {
                self.objective_mut().restore(state)
            }
            fn mark(&mut self) -> Option<serde_json::Value> {
                self.objective_mut().mark()
            }
            fn undo(&mut self, mark: &serde_json::Value) -> $crate::Result<()> {
                self.objective_mut().undo(mark)
            }
        }
    )+ };
}
pub(crate) use forward_objective;

trait Boxed {
    fn objective(&self) -> &dyn Objective;
    fn objective_mut(&mut self) -> &mut dyn Objective;
}

impl Boxed for Box<dyn Objective> {
    fn objective(&self) -> &dyn Objective {
        &**self
    }

    fn objective_mut(&mut self) -> &mut dyn Objective {
        &mut **self
    }
}

impl Boxed for Box<Recipe> {
    fn objective(&self) -> &dyn Objective {
        &**self
    }

    fn objective_mut(&mut self) -> &mut dyn Objective {
        &mut **self
    }
}

forward_objective!(Box<dyn Objective>, Box<Recipe>);

/// The last segment of a type's path, for messages.
fn short_name<T: ?Sized>() -> &'static str {
    let path = std::any::type_name::<T>();
    path.rsplit("::").next().unwrap_or(path)
}
