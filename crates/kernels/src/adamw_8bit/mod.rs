//! AdamW of one tensor whose moments are kept in eight bits each.
mod cpu;
mod map;
#[cfg(test)]
mod tests;

use crate::adamw::Hyper;
use crate::{Float, Result, View, ViewMut, Workspace, check};

/// Elements that share a scale.
pub const BLOCK: usize = 256;

/// The moments of a tensor, as codes of a map of 256 values in [−1, 1] or [0, 1], and the largest magnitude of each block of
/// [`BLOCK`] elements, by which they are multiplied. [`zero`] makes those of a new tensor.
#[derive(Debug)]
pub struct Moments<'a, T> {
    /// Codes of the mean, one an element.
    pub mean: ViewMut<'a, u8>,
    /// Codes of the mean square, one an element.
    pub mean_square: ViewMut<'a, u8>,
    /// Scales of the mean, one a block.
    pub mean_scales: ViewMut<'a, T>,
    /// Scales of the mean square, one a block.
    pub mean_square_scales: ViewMut<'a, T>,
}

/// The codes of a mean of 0 and of a mean square of 0.
pub fn zero() -> [u8; 2] {
    [map::signed().code(0.0), map::unsigned().code(0.0)]
}

/// One step as [`adamw::step`](crate::adamw::step), whose moments are read from eight bits before it and written to them after it:
/// block-wise dynamic quantisation (Dettmers et al. 2022, *8-bit Optimizers via Block-wise Quantization*, sections 2 and 3,
/// [arXiv 2110.02861](https://arxiv.org/abs/2110.02861)). The update itself uses the moments before they are rounded.
///
/// # The map
/// A value is divided by the largest magnitude of its block and becomes the code of the nearest of 256 numbers, sorted: 0, 1, and for
/// each power 10⁻⁶ … 10⁰ the middles of equal parts of (0.1, 1) times it: 1, 2, 4, … 64 parts with either sign for the mean, 2, 4, …
/// 128 parts for the mean square, which is never negative. These are the maps of bitsandbytes' `create_dynamic_map`.
///
/// # Errors
/// Lengths that differ; a step of 0; a β outside of [0, 1); operands that are not on the CPU.
pub fn step<T: Float>(
    params: ViewMut<'_, T>,
    grads: View<'_, T>,
    moments: Moments<'_, T>,
    step: u64,
    grad_scale: f64,
    hyper: Hyper,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "adamw_8bit::step";
    let Moments { mean, mean_square, mean_scales, mean_square_scales } = moments;
    let len = params.len();
    for (name, got) in [("grads", grads.len()), ("mean", mean.len()), ("mean_square", mean_square.len())] {
        check::length(OP, name, got, &[len], "as many as params")?;
    }
    for (name, got) in [("mean_scales", mean_scales.len()), ("mean_square_scales", mean_square_scales.len())] {
        check::length(OP, name, got, &[len.div_ceil(BLOCK)], "one a block of 256")?;
    }
    check::counted(OP, step)?;
    check::fraction(OP, "beta1", hyper.beta1)?;
    check::fraction(OP, "beta2", hyper.beta2)?;
    let moments = cpu::Moments {
        mean: mean.host(OP)?,
        mean_square: mean_square.host(OP)?,
        mean_scales: mean_scales.cpu(OP)?,
        mean_square_scales: mean_square_scales.cpu(OP)?,
    };
    cpu::step(params.cpu(OP)?, grads.cpu(OP)?, moments, step, grad_scale, hyper, &ws.crew());
    Ok(())
}
