//! Where reference log-probabilities come from.
mod adapter;
mod cache;
mod moving;
mod precomputed;

use candlewick_losses::{Outputs, TokenScores};

pub use self::adapter::AdapterReference;
pub use self::moving::MovingReference;
pub(crate) use self::precomputed::IN_BF16;
pub use self::precomputed::{PrecomputedReference, reference_digest};
use crate::error::Result;
use crate::pack::PackedRows;
use crate::policy::{Policy, Trainable};
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
    /// Scores the rows; the one place where references are detached.
    pub(crate) fn score<P>(&mut self, policy: &mut P, rows: &PackedRows) -> Result<Option<TokenScores>>
    where
        P: Trainable<Element = T>,
    {
        let scores = match self {
            Self::None => return Ok(None),
            Self::Frozen(reference) => reference.score(&rows.packed, Outputs::default())?,
            Self::AdapterOff => policy.score_without_adapter(&rows.packed, Outputs::default())?,
            Self::Adapter(adapter) => policy.score_with(adapter.parameters_mut(), &rows.packed, Outputs::default())?,
            Self::Precomputed(table) => table.score::<P::Element>(rows)?,
            Self::Moving(moving) => policy.score_with(moving.parameters_mut(), &rows.packed, Outputs::default())?,
        };
        Ok(Some(scores.detach()))
    }
}
