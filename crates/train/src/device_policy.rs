//! A causal language model in training on a device.
use std::path::Path;

use candlewick_kernels::{self as kernels, Cuda, Workspace};
use candlewick_losses::{Outputs, TokenScores};
use candlewick_model::{Adapter, CausalLm, Gradients, Packed, Parameters, Recompute, Saved, Trained};

use crate::error::Result;
use crate::masters::Masters;
use crate::policy::{
    Copied, Cotangents, Digest, Policy, Queued, Trainable, Tuning, head_cotangents, no_adapter, not_written,
    of_same_scales, queue, scatter, token_statistics,
};
use crate::tensor_file::Element;

/// A [`CausalLm`] in training on a device: its adapter if it has one, else all its weights.
///
/// It computes in `T`: `bf16`, or `f32` and `f64` for checking. What is trained exists twice, in `T` for the passes and as master weights
/// in the wider type of its sums (`f32` for `bf16`), which the optimizer changes, checkpoints hold and files get. Before a pass the
/// former are made of the latter where they may have changed. A run over an adapter is resumed in the type that it began in: base weights are
/// rounded to it. Activations, gradients and the optimizer's state lie on the device; token
/// ids go there and log-probabilities come back.
#[derive(Debug)]
pub struct DevicePolicy<T: kernels::Element>
where
    T::Wide: Element,
{
    model: CausalLm<T>,
    masters: Masters<T>,
    recompute: Recompute,
    base_name: String,
}

impl<T: kernels::Element> DevicePolicy<T>
where
    T::Wide: Element,
{
    /// Copies `model` to `device`, to train what [`CausalLm::trainable`] says there.
    ///
    /// # Errors
    /// The device has no memory left; an adapter that no device has.
    pub fn new(model: &CausalLm<T::Wide>, device: &Cuda, recompute: Recompute) -> Result<Self> {
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

    /// The model with the weights of now, and scratch memory, as for generation between steps.
    ///
    /// # Errors
    /// The driver of the device reports an error.
    pub fn model_and_workspace(&mut self) -> Result<(&CausalLm<T>, &mut Workspace)> {
        self.refresh()?;
        Ok((&self.model, &mut self.masters.workspace))
    }

    /// The gradients of the last step, before clipping, on the device.
    pub fn gradients(&self) -> &Gradients<T::Wide> {
        self.masters.gradients()
    }

    /// Makes the weights of the passes of the masters.
    fn refresh(&mut self) -> Result<()> {
        self.masters.refresh(self.model.trainable_mut().all_mut())
    }

    fn queue_by<'a>(&mut self, adapter: Adapter, batch: &'a Packed, want: Outputs) -> Result<Queued<'a>> {
        self.refresh()?;
        queue(&self.model, batch, want, adapter, &mut self.masters.workspace)
    }

    /// Copies of the masters, to be written.
    fn trained(&self) -> Result<Trained<T::Wide>> {
        let masters = self.masters.weights().to_host()?;
        Ok(self.model.trained_with(masters, &self.base_name)?)
    }
}

impl<T: kernels::Element> Policy for DevicePolicy<T>
where
    T::Wide: Element,
{
    fn score(&mut self, batch: &Packed, want: Outputs) -> Result<TokenScores> {
        self.queue_by(Adapter::On, batch, want)?.read()
    }

    fn queue<'a>(&mut self, batch: &'a Packed, want: Outputs, _: Option<&mut Workspace>) -> Result<Queued<'a>> {
        self.queue_by(Adapter::On, batch, want)
    }
}

impl<T: kernels::Element> Trainable for DevicePolicy<T>
where
    T::Wide: Element,
{
    type Element = T::Wide;
    type Saved = Saved<T>;

    fn forward(&mut self, batch: &Packed, want: Outputs) -> Result<(TokenScores, Saved<T>)> {
        self.refresh()?;
        let (scores, saved) =
            self.model.forward(batch, token_statistics(want)?, self.recompute, &mut self.masters.workspace)?;
        Ok((scatter(batch, scores)?, saved))
    }

    fn backward(&mut self, batch: &Packed, saved: Saved<T>, cotangents: &Cotangents) -> Result<()> {
        let cotangents = head_cotangents(batch, cotangents)?;
        let (gradients, workspace) = self.masters.backward();
        Ok(self.model.backward(batch, saved, &cotangents, gradients, workspace)?)
    }

    fn queue_without_adapter<'a>(&mut self, batch: &'a Packed, want: Outputs) -> Result<Queued<'a>> {
        if !self.model.has_adapter() {
            return Err(no_adapter());
        }
        self.queue_by(Adapter::Off, batch, want)
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

    fn gradients_may_be_zero(&self, of: &[usize]) -> Result<Vec<bool>> {
        of.iter().map(|&place| self.masters.is_behind_zero(place)).collect()
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
            false => CausalLm::<T::Wide>::load(directory)?.into_parameters(),
        };
        self.masters.restore(&stored)
    }
}
