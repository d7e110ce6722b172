//! Where reference log-probabilities come from.
mod adapter;
mod cache;
mod moving;
mod precomputed;

use candlewick_losses::Outputs;

pub use self::adapter::AdapterReference;
pub use self::moving::MovingReference;
pub(crate) use self::precomputed::IN_BF16;
pub use self::precomputed::{PrecomputedReference, reference_digest};
use crate::error::Result;
use crate::pack::PackedRows;
use crate::policy::{Policy, Queued, Trainable};
use crate::tensor_file::Element;

/// The policy that an objective compares with. Its scores carry no gradient.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reference<T: Element = f32> {
    /// There is none.
    None,
    /// A policy that nothing changes: a copy of the starting one, or another model.
    Frozen(Box<dyn Policy>),
    /// The policy without its adapter.
    AdapterOff,
    /// The policy with another adapter, or with its own as it started.
    Adapter(AdapterReference<T>),
    /// Log-probabilities computed before.
    Precomputed(PrecomputedReference),
    /// The policy with other values of what is trained, which follow it as the objective's
    /// [`ReferenceUpdate`](candlewick_losses::ReferenceUpdate) says.
    Moving(MovingReference<T>),
}

impl<T: Element> Reference<T> {
    /// Scores the rows, where there is one, in the policy's scratch memory; the one place where references are detached.
    pub(crate) fn queue<'a, P>(&mut self, policy: &mut P, rows: &'a PackedRows) -> Result<Option<Queued<'a>>>
    where
        P: Trainable<Element = T>,
    {
        let (batch, want) = (&rows.packed, Outputs::default());
        let scores = match self {
            Self::None => return Ok(None),
            Self::Frozen(reference) => reference.queue(batch, want, Some(policy.workspace()))?,
            Self::AdapterOff => policy.queue_without_adapter(batch, want)?,
            Self::Adapter(adapter) => policy.queue_with(adapter.parameters_mut(), batch, want)?,
            Self::Precomputed(table) => Queued::ready(table.score::<P::Element>(rows)?),
            Self::Moving(moving) => policy.queue_with(moving.parameters_mut(), batch, want)?,
        };
        Ok(Some(Queued::new(|| Ok(scores.read()?.detach()))))
    }
}
