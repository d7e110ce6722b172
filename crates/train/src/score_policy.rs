//! A score model in training.
use std::path::Path;

use candle_core::{Device, Tensor};
use candlewick_kernels::Workspace;
use candlewick_losses::{Needs, Objective, Outputs, TokenScores};
use candlewick_model::{Adapter, Config, Gradients, Packed, Parameters, Recompute, ScoreModel, ScoreSaved, ScoredAt};

use crate::error::{Error, Result};
use crate::plan::{Plan, TuningPlan};
use crate::policy::{
    Copied, Cotangents, Policy, Queued, Trainable, Tuning, digest_of, grid, may_be_zero_in_lora, no_adapter,
    not_written,
};
use crate::tensor_file::Element;

/// The name of the one head that a score model has unless `model.heads` names others.
pub const DEFAULT_HEAD: &str = "score";

/// A [`ScoreModel`] in training: its adapter and heads if it has an adapter, else all its weights.
///
/// Its scores hold [`values`](TokenScores::values) `[N,K]`, one of each head for the last token of every completion, and where it
/// is wanted what the heads read of it ([`pooled`](TokenScores::pooled)). It says nothing of tokens: their log-probabilities are
/// 0, and statistics of them are refused.
#[derive(Debug)]
pub struct ScorePolicy<T: Element = f32> {
    model: ScoreModel<T>,
    gradients: Gradients<T>,
    recompute: Recompute,
    workspace: Workspace,
    base_name: String,
}

impl<T: Element> ScorePolicy<T> {
    /// Trains what [`ScoreModel::trainable`] says, on `threads` threads.
    pub fn new(model: ScoreModel<T>, recompute: Recompute, threads: usize) -> Self {
        let gradients = Gradients::zeros(model.trainable());
        Self { model, gradients, recompute, workspace: Workspace::new(threads), base_name: String::new() }
    }

    /// Names the base model in the adapters that are saved.
    #[must_use]
    pub fn with_base_name(mut self, name: impl Into<String>) -> Self {
        self.base_name = name.into();
        self
    }

    /// The model that a plan starts from: of a causal language model its trunk with fresh heads.
    ///
    /// # Errors
    /// Files that are missing or do not fit; an objective that trains no heads; other heads than those that the plan names.
    pub fn of_plan(plan: &Plan, threads: usize) -> Result<Self> {
        let path = &plan.model.path;
        let Some(heads) = score_heads(plan)? else {
            return Err(Error::config("objective", "it trains no score heads; give the model as a CausalPolicy"));
        };
        let mut model = match heads {
            StoredHeads::OfModel(_) => ScoreModel::load(path)?,
            StoredHeads::Fresh(names) => ScoreModel::from_causal(path, &names)?,
        };
        match &plan.model.tuning {
            TuningPlan::Full => {}
            TuningPlan::Lora(lora) => model.add_lora(lora, plan.train.seed)?,
            TuningPlan::Adapter(directory) => model.load_adapter(directory)?,
        }
        Ok(Self::new(model, plan.train.recompute, threads).with_base_name(path.to_string_lossy()))
    }

    pub(crate) fn base_name(&self) -> &str {
        &self.base_name
    }

    /// The model.
    pub fn model(&self) -> &ScoreModel<T> {
        &self.model
    }

    /// The model, giving up the gradients.
    pub fn into_model(self) -> ScoreModel<T> {
        self.model
    }

    /// The gradients of the last step, before clipping.
    pub fn gradients(&self) -> &Gradients<T> {
        &self.gradients
    }

    /// Whether every head still says 0 of every text.
    pub fn starts_at_zero(&self) -> bool {
        self.head_weight().iter().all(|x| *x == T::ZERO)
    }

    fn head_weight(&self) -> &[T] {
        self.model.trainable().tensor(self.model.head_place())
    }

    fn score_at_ends(&mut self, batch: &Packed, want: Outputs, adapter: Adapter) -> Result<TokenScores> {
        refuse_statistics(want)?;
        let at = ScoredAt::Completions;
        let (values, states) = self.model.score_with_states(batch, at, adapter, &mut self.workspace)?;
        self.scores(batch, values, want.pooled.then_some(states))
    }

    fn scores(&self, batch: &Packed, values: Vec<T>, states: Option<Vec<T>>) -> Result<TokenScores> {
        row_scores(batch, values, states, [self.model.heads().len(), self.model.config().hidden_size])
    }
}

impl<T: Element> Policy for ScorePolicy<T> {
    fn score(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        self.score_at_ends(batch, want, Adapter::On)
    }
}

impl<T: Element> Trainable for ScorePolicy<T> {
    type Element = T;
    type Saved = ScoreSaved<T>;

    fn forward(&mut self, batch: &Packed, want: Outputs) -> Result<(TokenScores, ScoreSaved<T>)> {
        refuse_statistics(want)?;
        let (values, saved) = self.model.forward(batch, ScoredAt::Completions, self.recompute, &mut self.workspace)?;
        let states = want.pooled.then(|| saved.states()).transpose()?;
        Ok((self.scores(batch, values, states)?, saved))
    }

    fn backward(&mut self, batch: &Packed, saved: ScoreSaved<T>, cotangents: &Cotangents) -> Result<()> {
        let values = match &cotangents.values {
            Some(values) => values.flatten_all()?.to_vec1::<T>()?,
            None => vec![T::ZERO; batch.completions() * self.model.heads().len()],
        };
        Ok(self.model.backward(batch, saved, &values, &mut self.gradients, &mut self.workspace)?)
    }

    fn queue_without_adapter<'a>(&mut self, batch: &'a Packed, want: Outputs) -> Result<Queued<'a>> {
        if !self.model.has_adapter() {
            return Err(no_adapter());
        }
        Ok(Queued::ready(self.score_at_ends(batch, want, Adapter::Off)?))
    }

    fn parameters(&self) -> &Parameters<T> {
        self.model.trainable()
    }

    fn tuning(&mut self) -> Tuning<'_, T> {
        Tuning {
            parameters: self.model.trainable_mut(),
            gradients: &mut self.gradients,
            workspace: &mut self.workspace,
        }
    }

    /// Beside those of LoRA everything below the heads, while one of them is zero: nothing comes through it.
    fn gradients_may_be_zero(&self, of: &[usize]) -> Result<Vec<bool>> {
        let (head, size) = (self.model.head_place(), self.model.config().hidden_size);
        let is_zero = |head: &[T]| head.iter().all(|x| *x == T::ZERO);
        let some_is_zero = self.head_weight().chunks_exact(size).any(is_zero);
        Ok(of.iter().map(|&i| i != head && some_is_zero || may_be_zero_in_lora(self.parameters(), i)).collect())
    }

    fn digest(&self) -> Result<String> {
        digest_of([Some(self.model.parameters()), self.model.adapter()])
    }

    fn save(&self, directory: &Path) -> Result<()> {
        let saved = match self.model.has_adapter() {
            true => self.model.save_adapter(directory, &self.base_name),
            false => self.model.save(directory),
        };
        saved.map_err(|e| not_written(directory, e))
    }

    fn copied(&self) -> Result<Box<dyn Copied>> {
        Ok(Box::new(self.model.trained(&self.base_name)))
    }

    fn restore(&mut self, directory: &Path) -> Result<()> {
        if self.model.has_adapter() {
            self.model.remove_adapter();
            return Ok(self.model.load_adapter(directory)?);
        }
        self.model = ScoreModel::load(directory)?;
        Ok(())
    }
}

/// Values of completions `[N,K]` and what heads read of them `[N,H]`, with `widths` K and H; of tokens that they are scored, and no
/// more.
pub(crate) fn row_scores<T: Element>(
    batch: &Packed,
    values: Vec<T>,
    states: Option<Vec<T>>,
    widths: [usize; 2],
) -> Result<TokenScores> {
    let ones = vec![T::ONE; batch.targets().len()];
    let scores = TokenScores::new(grid::<T>(batch, &[])?, grid(batch, &ones)?)?;
    let of_rows = |numbers, width| Tensor::from_vec(numbers, (batch.completions(), width), &Device::Cpu);
    let scores = scores.with_values(of_rows(values, widths[0])?)?;
    match states {
        Some(states) => Ok(scores.with_pooled(of_rows(states, widths[1])?)?),
        None => Ok(scores),
    }
}

/// Where the heads of a run come from, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoredHeads {
    /// The directory is that of a score model.
    OfModel(Vec<String>),
    /// It is that of a causal language model.
    Fresh(Vec<String>),
}

/// The heads that a plan trains, as its words and `config.json` say; None where its objective reads log-probabilities of tokens.
pub(crate) fn score_heads(plan: &Plan) -> Result<Option<StoredHeads>> {
    let path = &plan.model.path;
    let stored = if path.is_dir() { Config::from_dir(path)?.score_heads()? } else { None };
    let needs = plan.objective.needs();
    match (needs.outputs.values, stored, &plan.model.heads) {
        (false, None, _) => Ok(None),
        (false, Some(_), _) => {
            let reason = format!(
                "{} is a score model, and the objective reads log-probabilities of tokens, which it does not give; name a causal \
                 language model, or choose an objective of score heads",
                path.display()
            );
            Err(Error::config("model.path", reason))
        }
        (true, Some(stored), Some(named)) if stored != *named => {
            let reason = format!(
                "{}, and {} has the heads {}; leave the key out",
                named.join(", "),
                path.display(),
                stored.join(", ")
            );
            Err(Error::config("model.heads", reason))
        }
        (true, Some(stored), _) => {
            check_head_count(&stored, &needs)?;
            Ok(Some(StoredHeads::OfModel(stored)))
        }
        (true, None, named) => {
            let named = named.clone().unwrap_or_else(|| vec![DEFAULT_HEAD.to_owned()]);
            check_head_count(&named, &needs)?;
            Ok(Some(StoredHeads::Fresh(named)))
        }
    }
}

/// Refuses fewer heads than the objective reads.
pub(crate) fn check_head_count(heads: &[String], needs: &Needs) -> Result<()> {
    if heads.len() >= needs.heads {
        return Ok(());
    }
    let reason = format!(
        "there are {} ({}), and the objective reads {}, as objective.head, counted from 0, and how many it reads from there on say \
         (objective.dimensions, of pal); name as many heads, or have the objective read others",
        heads.len(),
        heads.join(", "),
        needs.heads
    );
    Err(Error::config("model.heads", reason))
}

impl StoredHeads {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::OfModel(names) | Self::Fresh(names) => names.len(),
        }
    }
}

/// Refuses by name what a score model does not say.
pub(crate) fn refuse_statistics(want: Outputs) -> Result<()> {
    let Outputs { mean_log_probs, log_sum_sq_probs, entropy, is_top1, given, values: _, pooled: _ } = want;
    let asked = [
        ("mean_log_probs", mean_log_probs),
        ("log_sum_sq_probs", log_sum_sq_probs),
        ("entropy", entropy),
        ("is_top1", is_top1),
        ("given", given),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((name, _)) => Err(Error::Mismatch(format!(
            "{name} of tokens is wanted of a score model, which gives completions values and tokens nothing; give a causal language \
             model, or leave it out"
        ))),
        None => Ok(()),
    }
}
