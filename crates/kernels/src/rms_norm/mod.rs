//! Root-mean-square normalisation, with a CUDA back end beside the CPU's.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Element, Result, View, ViewMut, Workspace, check, elementwise};

/// The sizes of a normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows, `[N]`.
    pub rows: usize,
    /// Columns, `[H]`; each row is normalised over them.
    pub hidden: usize,
}

/// The most bytes of a device that [`backward`] works in, where the weight has a gradient.
pub fn device_scratch<T: Element>(shape: Shape) -> usize {
    cuda::scratch::<T>(shape)
}

/// y = x·rstd·weight with rstd = 1/√(mean(x²) + eps), row by row.
///
/// `x` `[N, H]`, `weight` `[H]`, `y` `[N, H]`; `rstd` `[N]` is what [`backward`] needs besides the inputs. After Zhang
/// and Sennrich, “Root Mean Square Layer Normalization” (2019). Sums run in blocks
/// of 512 elements, which are added in `f64`.
///
/// # Errors
/// A length that is not its shape's; operands on different devices.
pub fn forward<T: Element>(
    x: View<'_, T>,
    weight: View<'_, T>,
    y: ViewMut<'_, T>,
    rstd: ViewMut<'_, T::Wide>,
    shape: Shape,
    eps: f64,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "rms_norm::forward";
    check_forward(OP, x, weight, &y, &rstd, shape)?;
    if let Some(device) = x.device() {
        return cuda::forward(OP, device, x, None, weight, y, rstd, shape, eps);
    }
    cpu::forward(x.cpu(OP)?, weight.cpu(OP)?, y.cpu(OP)?, rstd.cpu(OP)?, shape, eps, &ws.crew());
    Ok(())
}

/// sum = x + residual and y = [`forward`] of sum, in one pass over memory on a device.
///
/// `x`, `residual`, `sum`, `y` `[N, H]`, `weight` `[H]`, `rstd` `[N]`. `sum` is what goes on as the residual, and what [`backward`] takes
/// for `x`: with `accumulate_dx` it adds to the gradient of the residual that came from behind, and the result is the gradient of `x` and
/// of `residual` alike.
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn forward_residual<T: Element>(
    x: View<'_, T>,
    residual: View<'_, T>,
    weight: View<'_, T>,
    mut sum: ViewMut<'_, T>,
    y: ViewMut<'_, T>,
    rstd: ViewMut<'_, T::Wide>,
    shape: Shape,
    eps: f64,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "rms_norm::forward_residual";
    check_forward(OP, x, weight, &y, &rstd, shape)?;
    check::length(OP, "residual", residual.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    check::length(OP, "sum", sum.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    if let Some(device) = x.device() {
        return cuda::forward(OP, device, x, Some(cuda::Residual { residual, sum }), weight, y, rstd, shape, eps);
    }
    sum.reborrow().cpu(OP)?.copy_from_slice(residual.cpu(OP)?);
    let sum = sum.cpu(OP)?;
    elementwise::add_assign((&mut *sum).into(), x.cpu(OP)?.into(), ws)?;
    cpu::forward(sum, weight.cpu(OP)?, y.cpu(OP)?, rstd.cpu(OP)?, shape, eps, &ws.crew());
    Ok(())
}

fn check_forward<T: Element>(
    op: &'static str,
    x: View<'_, T>,
    weight: View<'_, T>,
    y: &ViewMut<'_, T>,
    rstd: &ViewMut<'_, T::Wide>,
    shape: Shape,
) -> Result<()> {
    check::shape(op, shape.hidden > 0, || "hidden is 0, expected at least 1".into())?;
    check::length(op, "x", x.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    check::length(op, "weight", weight.len(), &[shape.hidden], "hidden")?;
    check::length(op, "y", y.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    check::length(op, "rstd", rstd.len(), &[shape.rows], "rows")
}

/// The gradients of [`forward`]: with x̂ = x·rstd and g = dy·weight,
/// dx (+)= rstd·(g − x̂·mean(g·x̂)) and dw += Σ over rows of dy·x̂.
///
/// `x`, `dy`, `dx` `[N, H]`; `weight`, `dw` `[H]`; `rstd` `[N]`. `dw` always accumulates, `dx` where asked; without `dw`
/// (a frozen weight) that half of the work is not done.
///
/// # Errors
/// A length that is not its shape's; operands on different devices.
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn backward<T: Element>(
    x: View<'_, T>,
    weight: View<'_, T>,
    rstd: View<'_, T::Wide>,
    dy: View<'_, T>,
    dx: ViewMut<'_, T>,
    accumulate_dx: bool,
    dw: Option<ViewMut<'_, T::Wide>>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "rms_norm::backward";
    check::shape(OP, shape.hidden > 0, || "hidden is 0, expected at least 1".into())?;
    check::length(OP, "x", x.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    check::length(OP, "weight", weight.len(), &[shape.hidden], "hidden")?;
    check::length(OP, "rstd", rstd.len(), &[shape.rows], "rows")?;
    check::length(OP, "dy", dy.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    check::length(OP, "dx", dx.len(), &[shape.rows, shape.hidden], "rows × hidden")?;
    if let Some(dw) = &dw {
        check::length(OP, "dw", dw.len(), &[shape.hidden], "hidden")?;
    }
    if let Some(device) = x.device() {
        return cuda::backward(OP, device, x, weight, rstd, dy, dx, accumulate_dx, dw, shape, ws);
    }
    let dw = dw.map(|dw| dw.cpu(OP)).transpose()?;
    let inputs = cpu::Inputs { x: x.cpu(OP)?, weight: weight.cpu(OP)?, rstd: rstd.cpu(OP)?, dy: dy.cpu(OP)? };
    cpu::backward(inputs, dx.cpu(OP)?, accumulate_dx, dw, shape, ws);
    Ok(())
}
