//! Sums that span processes.

use crate::error::Result;

/// The ranks that take part in one optimizer step.
pub trait Collective: std::fmt::Debug {
    /// Replaces every value by its sum over all ranks. Every rank must call it
    /// with the same number of values, and receives the same bits.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    fn sum(&self, values: &mut [f64]) -> Result<()>;

    /// How many ranks there are.
    fn ranks(&self) -> usize;

    /// Which of them this is, counted from 0.
    fn rank(&self) -> usize;
}

/// The values of every rank, in the order of ranks. Each may bring another number of them.
///
/// ```
/// use candlewick_losses::{Solo, gather};
/// assert_eq!(gather(&Solo, &[1.0, 2.0])?, [[1.0, 2.0]]);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
///
/// # Errors
/// If a rank cannot be reached.
pub fn gather(collective: &dyn Collective, own: &[f64]) -> Result<Vec<Vec<f64>>> {
    let (ranks, rank) = (collective.ranks().max(1), collective.rank());
    let mut counts = vec![0.0; ranks];
    counts[rank] = own.len() as f64;
    collective.sum(&mut counts)?;
    let counts: Vec<usize> = counts.into_iter().map(|count| count as usize).collect();
    let before: usize = counts[..rank].iter().sum();
    let mut all = vec![0.0; counts.iter().sum()];
    all[before..before + own.len()].copy_from_slice(own);
    collective.sum(&mut all)?;
    let mut rest = all.as_slice();
    Ok(counts
        .into_iter()
        .map(|count| {
            let (head, tail) = rest.split_at(count);
            rest = tail;
            head.to_vec()
        })
        .collect())
}

/// One process on its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

impl Collective for Solo {
    fn sum(&self, _values: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn ranks(&self) -> usize {
        1
    }

    fn rank(&self) -> usize {
        0
    }
}
