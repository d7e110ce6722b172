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
}
