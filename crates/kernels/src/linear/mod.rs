//! Products with a weight matrix, `y = x·wᵀ`, and their two gradients, with a CUDA back end beside the CPU's.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Element, Float, Result, View, ViewMut, Workspace, check};

/// The sizes of a linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of `x` and `y`, `[N]`.
    pub rows: usize,
    /// Columns of `x` and of the weight, `[I]`.
    pub in_features: usize,
    /// Columns of `y`, rows of the weight, `[O]`.
    pub out_features: usize,
}

impl Shape {
    fn check(&self, op: &'static str, (x, x_name): Operand, (w, w_name): Operand, (y, y_name): Operand) -> Result<()> {
        check::length(op, x_name, x, &[self.rows, self.in_features], "rows × in_features")?;
        check::length(op, w_name, w, &[self.out_features, self.in_features], "out_features × in_features")?;
        check::length(op, y_name, y, &[self.rows, self.out_features], "rows × out_features")
    }
}

type Operand = (usize, &'static str);

/// y = scale·x·wᵀ, or y += … where `accumulate`.
///
/// `x` `[N, I]`, `w` `[O, I]`, `y` `[N, O]`.
///
/// # Errors
/// A length that is not its shape's; operands on different devices.
pub fn forward<T: Element>(
    x: View<'_, T>,
    w: View<'_, T>,
    y: ViewMut<'_, T>,
    shape: Shape,
    scale: T::Wide,
    accumulate: bool,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "linear::forward";
    shape.check(OP, (x.len(), "x"), (w.len(), "w"), (y.len(), "y"))?;
    if let Some(device) = x.device() {
        return cuda::forward(OP, device, x, w, y, shape, scale, accumulate);
    }
    cpu::forward(x.cpu(OP)?, w.cpu(OP)?, y.cpu(OP)?, shape, scale, accumulate, ws);
    Ok(())
}

/// Elements that the factors of [`forward`] are packed into while it runs, where `trains` those of the gradients too, for a plan of
/// memory.
pub fn most_packed<T: Float>(shape: Shape, trains: bool, threads: usize) -> usize {
    cpu::most_packed::<T>(shape, trains, threads)
}

/// dx = scale·dy·w, or dx += … where `accumulate`.
///
/// `dy` `[N, O]`, `w` `[O, I]`, `dx` `[N, I]`.
///
/// # Errors
/// A length that is not its shape's; operands on different devices.
pub fn backward_input<T: Element>(
    dy: View<'_, T>,
    w: View<'_, T>,
    dx: ViewMut<'_, T>,
    shape: Shape,
    scale: T::Wide,
    accumulate: bool,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "linear::backward_input";
    shape.check(OP, (dx.len(), "dx"), (w.len(), "w"), (dy.len(), "dy"))?;
    if let Some(device) = dy.device() {
        return cuda::backward_input(OP, device, dy, w, dx, shape, scale, accumulate);
    }
    cpu::backward_input(dy.cpu(OP)?, w.cpu(OP)?, dx.cpu(OP)?, shape, scale, accumulate, ws);
    Ok(())
}

/// dw = scale·dyᵀ·x, or dw += … where `accumulate`.
///
/// `x` `[N, I]`, `dy` `[N, O]`, `dw` `[O, I]`, which has the type of the sums.
///
/// # Errors
/// A length that is not its shape's; operands on different devices.
pub fn backward_weight<T: Element>(
    x: View<'_, T>,
    dy: View<'_, T>,
    dw: ViewMut<'_, T::Wide>,
    shape: Shape,
    scale: T::Wide,
    accumulate: bool,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "linear::backward_weight";
    shape.check(OP, (x.len(), "x"), (dw.len(), "dw"), (dy.len(), "dy"))?;
    if let Some(device) = x.device() {
        return cuda::backward_weight(OP, device, x, dy, dw, shape, scale, accumulate);
    }
    cpu::backward_weight(x.cpu(OP)?, dy.cpu(OP)?, dw.cpu(OP)?, shape, scale, accumulate, ws);
    Ok(())
}
