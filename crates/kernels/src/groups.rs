//! Parameters of one flat buffer that an optimizer treats in several ways, in one pass.
use std::ops::Range;

use crate::cuda::Call;
use crate::{Result, View, check};

/// Consecutive parameters that learn at rates of their own, or do not decay. The norms of a model lie between its
/// matrices, so that the groups are many and most of them small; all are done in one pass.
#[derive(Debug, Clone, Copy)]
pub struct Groups<'a> {
    /// Where each group ends, ascending, the last at the number of parameters, `[G]`.
    pub ends: View<'a, u64>,
    /// What the learning rate is multiplied by in each group, `[G]`.
    pub lr: View<'a, f64>,
    /// What the weight decay is multiplied by in each group, `[G]`: 0 for norms and biases.
    pub weight_decay: View<'a, f64>,
}

impl Groups<'_> {
    pub(crate) fn check(self, op: &'static str) -> Result<()> {
        let Self { ends, lr, weight_decay } = self;
        check::shape(op, !ends.is_empty(), || "there are no groups, expected at least 1, or None".into())?;
        check::length(op, "groups.lr", lr.len(), &[ends.len()], "groups")?;
        check::length(op, "groups.weight_decay", weight_decay.len(), &[ends.len()], "groups")
    }
}

/// The first four of `GROUP_PARAMETERS` (`groups.cuh`); the rate and the decay of the step follow.
pub(crate) fn arguments<'a>(call: Call<'a>, groups: Option<Groups<'_>>) -> Call<'a> {
    call.read_if(groups.map(|groups| groups.ends))
        .read_if(groups.map(|groups| groups.lr))
        .read_if(groups.map(|groups| groups.weight_decay))
        .index(groups.map_or(0, |groups| groups.ends.len()))
}

/// [`Groups`] on the host that fit, or one of all parameters.
#[derive(Debug)]
pub(crate) struct OnHost<'a> {
    ends: Option<&'a [u64]>,
    lr: &'a [f64],
    weight_decay: &'a [f64],
}

impl<'a> OnHost<'a> {
    pub(crate) fn one() -> Self {
        Self { ends: None, lr: &[1.0], weight_decay: &[1.0] }
    }

    pub(crate) fn of(op: &'static str, groups: Option<Groups<'a>>, len: usize) -> Result<Self> {
        let Some(groups) = groups else { return Ok(Self::one()) };
        let (ends, lr, weight_decay) = (groups.ends.host(op)?, groups.lr.cpu(op)?, groups.weight_decay.cpu(op)?);
        check::shape(op, ends.is_sorted() && ends.last() == Some(&(len as u64)), || {
            format!("groups end at {ends:?}, expected ascending ends up to the {len} parameters")
        })?;
        Ok(Self { ends: Some(ends), lr, weight_decay })
    }

    /// Calls `work` for the parameters of each group of `len`, with its factors of learning rate and weight decay.
    pub(crate) fn each(&self, len: usize, work: impl Fn(Range<usize>, f64, f64)) {
        let mut start = 0;
        for (group, (&lr, &weight_decay)) in self.lr.iter().zip(self.weight_decay).enumerate() {
            let end = self.ends.map_or(len, |ends| ends[group] as usize);
            work(start..end, lr, weight_decay);
            start = end;
        }
    }
}
