//! Several rated completions of one prompt.

use candle_core::{DType, Tensor};

use super::{Needs, Rows, View};
use crate::error::Result;
use crate::groups::{RankedRows, Scores};
use crate::reduction::Reduction;
use crate::scores::{TokenScores, select_rows};

/// Several rated completions of each prompt, scored by the policy alone.
#[derive(Debug, Clone)]
pub struct Ranked {
    scores: TokenScores,
    groups: Vec<RankedRows>,
}

/// Several rated completions of each prompt, scored by the policy and by a reference, which is detached.
#[derive(Debug, Clone)]
pub struct AnchoredRanked {
    policy: Ranked,
    reference: Ranked,
}

/// Numbers of ranked completions, best first, `[G, K]` with `K` the largest group.
#[derive(Debug, Clone)]
pub struct RankedValues {
    /// The numbers; 0 where a group has fewer than `K` completions.
    pub values: Tensor,
    /// 1 where there is a completion and 0 elsewhere.
    pub mask: Tensor,
}

/// Every ranked completion against every other one of its group, best first.
#[derive(Debug, Clone)]
pub struct Comparisons {
    /// The number of completion `k` less that of completion `j`, `[G, K, K]`.
    pub gaps: Tensor,
    /// 1 where completion `k` is rated higher than completion `j` and 0 elsewhere, `[G, K, K]`: equal ratings are in
    /// no order.
    pub better: Tensor,
}

impl View for Ranked {
    const NEEDS: Needs = Needs::of(Rows::RANKED);

    fn view(scores: &Scores) -> Option<Self> {
        let groups = scores.groups.ranked.clone();
        (!groups.is_empty()).then(|| Self { scores: scores.policy.clone(), groups })
    }
}

impl Ranked {
    /// Rows and ratings of every group.
    pub fn groups(&self) -> &[RankedRows] {
        &self.groups
    }

    /// Log-probabilities of the completions, best first; differentiable. The length-desensitized reductions compare
    /// every completion with the shortest of its group.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn log_probs(&self, reduction: Reduction) -> Result<RankedValues> {
        let lengths = self.scores.lengths();
        let mut shared = lengths.to_vec();
        for group in &self.groups {
            let shortest = group.rows.iter().map(|&row| lengths[row]).min().unwrap_or(0);
            group.rows.iter().for_each(|&row| shared[row] = shared[row].min(shortest));
        }
        self.arrange(&reduction.reduce_beyond(&self.scores, &shared)?)
    }

    /// The ratings, best first; detached.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn ratings(&self) -> Result<RankedValues> {
        let width = self.width();
        let ratings = self.groups.iter().flat_map(|group| {
            let order = group.order();
            (0..width).map(move |place| order.get(place).map_or(0.0, |&index| group.ratings[index]))
        });
        let like = self.scores.log_probs();
        let values = Tensor::from_iter(ratings, like.device())?.to_dtype(like.dtype())?;
        Ok(RankedValues { values: values.reshape((self.groups.len(), width))?, mask: self.mask(width)? })
    }

    /// Numbers of the completions, `[G, K]`, against each other; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails, or the numbers are not of these groups.
    pub fn comparisons(&self, values: &Tensor) -> Result<Comparisons> {
        let gaps = values.unsqueeze(2)?.broadcast_sub(&values.unsqueeze(1)?)?;
        let width = values.dim(1)?;
        let mut better = Vec::with_capacity(self.groups.len() * width * width);
        for group in &self.groups {
            let order = group.order();
            let ratings: Vec<Option<f64>> =
                (0..width).map(|place| order.get(place).map(|&at| group.ratings[at])).collect();
            for own in &ratings {
                let is_better = |other: &Option<f64>| matches!((own, other), (Some(own), Some(other)) if own > other);
                better.extend(ratings.iter().map(|other| f64::from(u8::from(is_better(other)))));
            }
        }
        let better = Tensor::from_vec(better, gaps.dims(), values.device())?.to_dtype(values.dtype())?;
        Ok(Comparisons { gaps, better })
    }

    /// Completions of the largest group, `K`.
    fn width(&self) -> usize {
        self.groups.iter().map(|group| group.rows.len()).max().unwrap_or(0)
    }

    /// 1 where a group has a completion and 0 elsewhere, `[G, K]`.
    fn mask(&self, width: usize) -> Result<Tensor> {
        let like = self.scores.log_probs();
        let there =
            self.groups.iter().flat_map(|group| (0..width).map(|place| f64::from(u8::from(place < group.rows.len()))));
        let there = Tensor::from_iter(there, like.device())?.to_dtype(like.dtype())?;
        Ok(there.reshape((self.groups.len(), width))?)
    }

    /// Numbers of rows, `[N]`, as groups from the best completion to the worst, `[G, K]`.
    fn arrange(&self, rows: &Tensor) -> Result<RankedValues> {
        let width = self.width();
        let mut picks = Vec::with_capacity(self.groups.len() * width);
        for group in &self.groups {
            let order = group.order();
            // A place without a completion holds that of the first row; the mask takes it out.
            picks.extend((0..width).map(|place| order.get(place).map_or(0, |&index| group.rows[index])));
        }
        let mask = self.mask(width)?;
        let values = select_rows(rows, &picks)?.reshape((self.groups.len(), width))?;
        let zeros = values.detach().zeros_like()?;
        Ok(RankedValues { values: mask.gt(0.5)?.where_cond(&values, &zeros)?, mask })
    }
}

impl RankedValues {
    /// The number of the best completion of every group, `[G]`; differentiable.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn best(&self) -> Result<Tensor> {
        Ok(self.values.narrow(1, 0, 1)?.squeeze(1)?)
    }
}

impl Comparisons {
    /// The gaps of a better completion to a worse one, `[M]` with `M` their number; detached.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn margins(&self) -> Result<Tensor> {
        let on_host = |values: &Tensor| -> Result<Vec<f64>> {
            Ok(values.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
        };
        let (gaps, better) = (on_host(&self.gaps)?, on_host(&self.better)?);
        let margins: Vec<f64> = gaps.into_iter().zip(better).filter(|(_, is)| *is > 0.5).map(|(gap, _)| gap).collect();
        let count = margins.len();
        Ok(Tensor::from_vec(margins, count, self.gaps.device())?.to_dtype(self.gaps.dtype())?)
    }
}

impl View for AnchoredRanked {
    const NEEDS: Needs = Needs { reference: true, ..Ranked::NEEDS };

    fn view(scores: &Scores) -> Option<Self> {
        let policy = Ranked::view(scores)?;
        let reference = Ranked { scores: scores.reference.as_ref()?.detach(), groups: policy.groups.clone() };
        Some(Self { policy, reference })
    }
}

impl AnchoredRanked {
    /// The completions as the policy scores them.
    pub fn policy(&self) -> &Ranked {
        &self.policy
    }

    /// `Δ = log π − log π_ref` of the completions, best first; differentiable with respect to the policy.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn log_ratios(&self, reduction: Reduction) -> Result<RankedValues> {
        let RankedValues { values, mask } = self.policy.log_probs(reduction)?;
        Ok(RankedValues { values: (values - self.reference.log_probs(reduction)?.values)?, mask })
    }
}
