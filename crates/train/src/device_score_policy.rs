//! A score model in training on a device.
use std::path::Path;

use candlewick_kernels::{self as kernels, Cuda, Float, Workspace};
use candlewick_losses::{Outputs, TokenScores};
use candlewick_model::{Adapter, Gradients, Packed, Parameters, Recompute, ScoreModel, ScoreSaved, ScoredAt, Trained};

use crate::error::Result;
use crate::masters::Masters;
use crate::policy::{
    Copied, Cotangents, Digest, Policy, Queued, Trainable, Tuning, no_adapter, not_written, of_same_scales,
};
use crate::score_policy::{refuse_statistics, row_scores};
use crate::tensor_file::Element;

/// A [`ScoreModel`] in training on a device: its adapter and heads if it has an adapter, else all its weights.
///
/// It computes in `T` with master weights beside, as a [`DevicePolicy`](crate::DevicePolicy) does, and says what a
/// [`ScorePolicy`](crate::ScorePolicy) says; values are of the type of sums, `f32` of a model in `bf16`.
#[derive(Debug)]
pub struct DeviceScorePolicy<T: kernels::Element>
where
    T::Wide: Element,
{
    model: ScoreModel<T>,
    masters: Masters<T>,
    recompute: Recompute,
    base_name: String,
}

impl<T: kernels::Element> DeviceScorePolicy<T>
where
    T::Wide: Element,
{
    /// Copies `model` to `device`, to train what [`ScoreModel::trainable`] says there.
    ///
    /// # Errors
    /// The device has no memory left, or its driver reports an error.
    pub fn new(model: &ScoreModel<T::Wide>, device: &Cuda, recompute: Recompute) -> Result<Self> {
        let mut workspace = Workspace::new(1).on(device);
        let masters = model.trainable().to_device(device, &mut workspace)?;
        let model = model.to_device::<T>(device, &mut workspace)?;
        Ok(Self { model, masters: Masters::new(masters, workspace)?, recompute, base_name: String::new() })
    }

    /// Names the base model in the adapters that are saved.
    #[must_use]
    pub fn with_base_name(mut self, name: impl Into<String>) -> Self {
        self.base_name = name.into();
        self
    }

    /// The model with the weights of now, and scratch memory.
    ///
    /// # Errors
    /// The driver of the device reports an error.
    pub fn model_and_workspace(&mut self) -> Result<(&ScoreModel<T>, &mut Workspace)> {
        self.refresh()?;
        Ok((&self.model, &mut self.masters.workspace))
    }

    /// The gradients of the last step, before clipping, on the device.
    pub fn gradients(&self) -> &Gradients<T::Wide> {
        self.masters.gradients()
    }

    /// Whether every head still says 0 of every text.
    ///
    /// # Errors
    /// The driver of the device reports an error.
    pub fn starts_at_zero(&self) -> Result<bool> {
        self.masters.is_zero(self.model.head_place())
    }

    /// Makes the weights of the passes of the masters.
    fn refresh(&mut self) -> Result<()> {
        self.masters.refresh(self.model.trainable_mut().all_mut())
    }

    fn score_by(&mut self, adapter: Adapter, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        refuse_statistics(want)?;
        self.refresh()?;
        let (at, workspace) = (ScoredAt::Completions, &mut self.masters.workspace);
        let (values, states) = match want.pooled {
            true => {
                let (values, states) = self.model.score_with_states(batch, at, adapter, workspace)?;
                (values, Some(states))
            }
            false => (self.model.score(batch, at, adapter, workspace)?, None),
        };
        self.scores(batch, values, states)
    }

    fn scores(&self, batch: &Packed, values: Vec<T::Wide>, states: Option<Vec<T::Wide>>) -> Result<TokenScores> {
        row_scores(batch, values, states, [self.model.heads().len(), self.model.config().hidden_size])
    }

    /// Copies of the masters, to be written.
    fn trained(&self) -> Result<Trained<T::Wide>> {
        let masters = self.masters.weights().to_host()?;
        Ok(self.model.trained_with(masters, &self.base_name)?)
    }
}

impl<T: kernels::Element> Policy for DeviceScorePolicy<T>
where
    T::Wide: Element,
{
    fn score(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        self.score_by(Adapter::On, batch, want)
    }
}

impl<T: kernels::Element> Trainable for DeviceScorePolicy<T>
where
    T::Wide: Element,
{
    type Element = T::Wide;
    type Saved = ScoreSaved<T>;

    fn forward(&mut self, batch: &Packed, want: Outputs) -> Result<(TokenScores, ScoreSaved<T>)> {
        refuse_statistics(want)?;
        self.refresh()?;
        let workspace = &mut self.masters.workspace;
        let (values, saved) = self.model.forward(batch, ScoredAt::Completions, self.recompute, workspace)?;
        let states = want.pooled.then(|| saved.states()).transpose()?;
        Ok((self.scores(batch, values, states)?, saved))
    }

    fn backward(&mut self, batch: &Packed, saved: ScoreSaved<T>, cotangents: &Cotangents) -> Result<()> {
        let values = match &cotangents.values {
            Some(values) => values.flatten_all()?.to_vec1::<T::Wide>()?,
            None => vec![T::Wide::ZERO; batch.completions() * self.model.heads().len()],
        };
        let (gradients, workspace) = self.masters.backward();
        Ok(self.model.backward(batch, saved, &values, gradients, workspace)?)
    }

    fn queue_without_adapter<'a>(&mut self, batch: &'a Packed, want: Outputs) -> Result<Queued<'a>> {
        if !self.model.has_adapter() {
            return Err(no_adapter());
        }
        Ok(Queued::ready(self.score_by(Adapter::Off, batch, want)?))
    }

    fn parameters(&self) -> &Parameters<T::Wide> {
        self.masters.weights()
    }

    fn tuning(&mut self) -> Tuning<'_, T::Wide> {
        self.masters.tuning()
    }

    fn workspace(&mut self) -> &mut Workspace {
        &mut self.masters.workspace
    }

    /// Beside those of LoRA everything below the heads, while one of them is zero: nothing comes through it.
    fn gradients_may_be_zero(&self, of: &[usize]) -> Result<Vec<bool>> {
        let (head, size) = (self.model.head_place(), self.model.config().hidden_size);
        let heads = self.masters.weights().view(head).download()?;
        let some_is_zero = heads.chunks_exact(size).any(|head| head.iter().all(|x| *x == T::Wide::ZERO));
        let may_be_zero = |&place: &usize| Ok((place != head && some_is_zero) || self.masters.is_behind_zero(place)?);
        of.iter().map(may_be_zero).collect()
    }

    fn digest(&self) -> Result<String> {
        let mut digest = Digest::default();
        if self.model.has_adapter() {
            digest.add(self.model.parameters())?;
        }
        digest.add(self.masters.weights())?;
        Ok(digest.finish())
    }

    fn save(&self, directory: &Path) -> Result<()> {
        self.trained()?.save(directory).map_err(|e| not_written(directory, e))
    }

    fn copied(&self) -> Result<Box<dyn Copied>> {
        Ok(Box::new(self.trained()?))
    }

    fn restore(&mut self, directory: &Path) -> Result<()> {
        let stored = match self.model.has_adapter() {
            true => {
                let stored = self.model.read_adapter(directory)?;
                of_same_scales(stored, &self.model.adapter_scales(), directory)?
            }
            false => ScoreModel::<T::Wide>::load(directory)?.into_parameters(),
        };
        self.masters.restore(&stored)
    }
}
