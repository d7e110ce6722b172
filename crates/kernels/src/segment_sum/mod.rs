//! Sums of consecutive elements, such as the log-probabilities of the tokens of each sequence, with a CUDA back end
//! beside the CPU's.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Float, Result, View, ViewMut, check};

/// `sums[s]` = Σ `weights[i]·values[i]` over i from `starts[s]` to before `starts[s + 1]`.
///
/// `values` `[M]`; `starts` `[S + 1]`, ascending from 0 to M; `weights` `[M]`, or 1 without them; `sums` `[S]` is
/// overwritten. Sums are in `f64`, in an order that the length of a segment alone decides, and are rounded once. An
/// element of weight 0 does not count, whatever its value: −∞ at a masked token does no harm. On a device `starts`
/// are not looked at before they are used.
///
/// ```
/// use candlewick_kernels::segment_sum;
/// # fn main() -> Result<(), candlewick_kernels::Error> {
/// let (log_probs, mask) = ([-1.0f32, -2.0, f32::NEG_INFINITY, -4.0], [1.0, 1.0, 0.0, 1.0]); let mut sums = [0.0; 3];
/// let starts = [0u32, 2, 2, 4]; segment_sum::forward((&log_probs[..]).into(), (&starts[..]).into(),
/// Some((&mask[..]).into()), (&mut sums[..]).into())?; assert_eq!(sums, [-3.0, 0.0, -4.0]);
/// # Ok(()) }
/// ```
///
/// # Errors
/// A length that is not its shape's; on the CPU, `starts` that fall, do not begin at 0 or do not end at M; operands
/// on different devices.
pub fn forward<T: Float>(
    values: View<'_, T>,
    starts: View<'_, u32>,
    weights: Option<View<'_, T>>,
    sums: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "segment_sum::forward";
    check_lengths(OP, values.len(), starts, weights, sums.len())?;
    if let Some(device) = values.device() {
        return cuda::forward(OP, device, values, starts, weights, sums);
    }
    let weights = weights.map(|weights| weights.cpu(OP)).transpose()?;
    cpu::forward(values.cpu(OP)?, checked_starts(OP, starts, values.len())?, weights, sums.cpu(OP)?);
    Ok(())
}

/// The gradient of [`forward`]: `dvalues[i]` = `weights[i]·dsums[s]` for every i of segment s.
///
/// `dsums` `[S]`; `starts` `[S + 1]` and `weights` `[M]` as there; `dvalues` `[M]` is overwritten. It is 0 where the
/// weight is, whatever `dsums` has.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Float>(
    dsums: View<'_, T>,
    starts: View<'_, u32>,
    weights: Option<View<'_, T>>,
    dvalues: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "segment_sum::backward";
    check_lengths(OP, dvalues.len(), starts, weights, dsums.len())?;
    if let Some(device) = dsums.device() {
        return cuda::backward(OP, device, dsums, starts, weights, dvalues);
    }
    let weights = weights.map(|weights| weights.cpu(OP)).transpose()?;
    cpu::backward(dsums.cpu(OP)?, checked_starts(OP, starts, dvalues.len())?, weights, dvalues.cpu(OP)?);
    Ok(())
}

fn check_lengths<T: Float>(
    op: &'static str,
    elements: usize,
    starts: View<'_, u32>,
    weights: Option<View<'_, T>>,
    segments: usize,
) -> Result<()> {
    check::length(op, "starts", starts.len(), &[segments + 1], "segments + 1")?;
    check::length(op, "weights", weights.map_or(elements, |weights| weights.len()), &[elements], "as many as values")
}

/// `starts` on the CPU, at least one, that cut all of `elements` into segments.
fn checked_starts<'a>(op: &'static str, starts: View<'a, u32>, elements: usize) -> Result<&'a [u32]> {
    let starts = starts.host(op)?;
    let (first, last) = (starts[0], starts[starts.len() - 1]);
    check::shape(op, first == 0 && last as usize == elements, || {
        format!("starts go from {first} to {last}, expected from 0 to the {elements} values")
    })?;
    check::shape(op, starts.is_sorted(), || "starts fall, expected an ascending order".into())?;
    Ok(starts)
}
