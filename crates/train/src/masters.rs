//! What a policy on a device keeps beside its model.
use candlewick_kernels::{self as kernels, Float, ViewMut, Workspace, elementwise};
use candlewick_model::{Gradients, Parameters};

use crate::error::Result;
use crate::policy::{Tuning, b_of};
use crate::tensor_file::Element;

/// The master weights of what is trained, in the wider type of a model in `T`, their gradients, and scratch memory for both.
#[derive(Debug)]
pub(crate) struct Masters<T: kernels::Element>
where
    T::Wide: Element,
{
    weights: Parameters<T::Wide>,
    /// Whether they may have changed since the model was made of them.
    are_newer: bool,
    gradients: Gradients<T::Wide>,
    /// Where passes work.
    pub(crate) workspace: Workspace,
}

impl<T: kernels::Element> Masters<T>
where
    T::Wide: Element,
{
    /// Of weights on a device that the model is made of.
    pub(crate) fn new(weights: Parameters<T::Wide>, workspace: Workspace) -> Result<Self> {
        Ok(Self { gradients: Gradients::beside(&weights)?, weights, are_newer: false, workspace })
    }

    pub(crate) fn weights(&self) -> &Parameters<T::Wide> {
        &self.weights
    }

    pub(crate) fn gradients(&self) -> &Gradients<T::Wide> {
        &self.gradients
    }

    /// Gradients to add to, and scratch memory.
    pub(crate) fn backward(&mut self) -> (&mut Gradients<T::Wide>, &mut Workspace) {
        (&mut self.gradients, &mut self.workspace)
    }

    /// Makes the weights of the passes where the masters may have changed.
    pub(crate) fn refresh(&mut self, model: ViewMut<'_, T>) -> Result<()> {
        if self.are_newer {
            elementwise::narrow::<T>(model, self.weights.all(), &mut self.workspace)?;
            self.are_newer = false;
        }
        Ok(())
    }

    /// What the optimizer changes.
    pub(crate) fn tuning(&mut self) -> Tuning<'_, T::Wide> {
        self.are_newer = true;
        Tuning { parameters: &mut self.weights, gradients: &mut self.gradients, workspace: &mut self.workspace }
    }

    /// Takes stored weights of the same names and shapes.
    pub(crate) fn restore(&mut self, stored: &Parameters<T::Wide>) -> Result<()> {
        self.weights.check_same_layout(stored)?;
        self.weights.all_mut().write(stored.data())?;
        self.are_newer = true;
        Ok(())
    }

    /// Whether tensor `place` is all zero now.
    pub(crate) fn is_zero(&self, place: usize) -> Result<bool> {
        Ok(self.weights.view(place).download()?.iter().all(|x| *x == T::Wide::ZERO))
    }

    /// Whether tensor `place` is the A of a LoRA whose B is still zero, so that nothing comes through to it.
    pub(crate) fn is_behind_zero(&self, place: usize) -> Result<bool> {
        b_of(&self.weights, place).map_or(Ok(false), |b| self.is_zero(b))
    }
}
