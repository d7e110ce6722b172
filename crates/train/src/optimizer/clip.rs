//! The norm of a step's gradients, and what follows from it.
use std::cell::OnceCell;

use candlewick_kernels::clip::{self, OUTCOME};
use candlewick_kernels::{Buffer, View, Workspace};
use candlewick_model::Gradients;

use crate::error::Result;
use crate::tensor_file::Element;

/// The norm of gradients and the factor that clips them ([`OUTCOME`]). They are found where the gradients are, and the host waits for them
/// only when it asks.
#[derive(Debug)]
pub(crate) struct Clip {
    outcome: Buffer<f64>,
    read: OnceCell<[f64; OUTCOME]>,
}

impl Clip {
    /// Of gradients that are scaled down to `max_norm`; 0 for never.
    pub(crate) fn of<T: Element>(gradients: &Gradients<T>, max_norm: f64, workspace: &mut Workspace) -> Result<Self> {
        let mut outcome = Buffer::zeros(OUTCOME, workspace.device())?;
        clip::by_norm(gradients.all(), max_norm, outcome.view_mut(), workspace)?;
        Ok(Self { outcome, read: OnceCell::new() })
    }

    /// The Euclidean norm.
    pub(crate) fn norm(&self) -> Result<f64> {
        Ok(self.read()?[0])
    }

    /// What gradients are to be multiplied by.
    pub(super) fn factor(&self) -> Result<f64> {
        Ok(self.read()?[1])
    }

    /// The numbers where they were found.
    pub(super) fn outcome(&self) -> View<'_, f64> {
        self.outcome.view()
    }

    fn read(&self) -> Result<[f64; OUTCOME]> {
        if let Some(read) = self.read.get() {
            return Ok(*read);
        }
        let mut read = [0.0; OUTCOME];
        read.copy_from_slice(&self.outcome.to_host()?);
        Ok(*self.read.get_or_init(|| read))
    }

    /// By a factor that is known.
    #[cfg(test)]
    pub(super) fn by(factor: f64) -> Self {
        Self { outcome: Buffer::Host(vec![1.0, factor, 1.0]), read: OnceCell::new() }
    }
}
