//! A running mean of numbers, summed up in f64 whatever they are stored in, with a CUDA back end beside the CPU's, whose bits it has.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, Workspace, check};

/// The way that `x` has come since `start`, added to what is read off the mean.
#[derive(Debug)]
pub struct Correction<'a, T> {
    /// Where `x` began.
    pub start: View<'a, T>,
    /// The factor of the way.
    pub weight: f64,
}

/// mean ← x in f64, element by element: the mean of one.
///
/// # Errors
/// Lengths that differ; operands on different devices.
pub fn begin<T: Float>(mean: ViewMut<'_, f64>, x: View<'_, T>, ws: &mut Workspace) -> Result<()> {
    const OP: &str = "running_mean::begin";
    check::length(OP, "x", x.len(), &[mean.len()], "as many as mean")?;
    if let Some(device) = x.device() {
        return cuda::begin(OP, device, mean, x);
    }
    cpu::begin(mean.cpu(OP)?, x.cpu(OP)?, &ws.crew());
    Ok(())
}

/// mean ← (1 − weight)·mean + weight·x in f64, element by element; then y ← mean, or with a correction
/// y ← mean + correction.weight·(x − start). y is overwritten, and rounded once.
///
/// An f32 that is mixed with a weight of 1e-4 in its own place stands still where x is nearer than 3e-4 of its size, since the addend
/// rounds to nothing; the mean does not.
///
/// # Errors
/// Lengths that differ; a weight outside of [0, 1]; operands on different devices.
pub fn step<T: Float>(
    y: ViewMut<'_, T>,
    mean: ViewMut<'_, f64>,
    x: View<'_, T>,
    weight: f64,
    correction: Option<Correction<'_, T>>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "running_mean::step";
    check::length(OP, "mean", mean.len(), &[y.len()], "as many as y")?;
    check::length(OP, "x", x.len(), &[y.len()], "as many as y")?;
    check::shape(OP, (0.0..=1.0).contains(&weight), || {
        format!("weight is {weight}, expected at least 0 and at most 1")
    })?;
    if let Some(Correction { start, .. }) = &correction {
        check::length(OP, "start", start.len(), &[y.len()], "as many as y")?;
    }
    if let Some(device) = x.device() {
        return cuda::step(OP, device, y, mean, x, weight, correction);
    }
    let correction = match correction {
        None => None,
        Some(Correction { start, weight }) => Some((start.cpu(OP)?, weight)),
    };
    cpu::step(y.cpu(OP)?, mean.cpu(OP)?, x.cpu(OP)?, weight, correction, &ws.crew());
    Ok(())
}
