//! Low-rank adapters of linear maps that share their input, after Hu et al., “LoRA” (2021), with a CUDA back end beside the CPU's.
//!
//! The frozen maps themselves are [`linear`](crate::linear)'s; their weights have no gradient here. The first factors of all adapters are
//! rows of one matrix, so that the input is multiplied with all of them at once, forwards and backwards.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Element, Result, View, ViewMut, Workspace, check};

/// The sizes that the adapters of one input share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the input, `[N]`.
    pub rows: usize,
    /// Columns of the input, `[I]`.
    pub in_features: usize,
}

/// The adapter of one map: y += scale·(x·aᵀ)·bᵀ, where `a` are its `rank` rows of the first factors.
#[derive(Debug)]
pub struct Projection<'a, T: Element> {
    /// The second factor, `[O, rank]`.
    pub b: View<'a, T>,
    /// Rows of its first factor.
    pub rank: usize,
    /// Columns of its output, `[O]`.
    pub out_features: usize,
    /// What the product is multiplied with: alpha / rank, or alpha / √rank.
    pub scale: T::Wide,
}

/// The sum of the ranks, `[R]`.
fn ranks<T: Element>(projections: &[Projection<'_, T>]) -> usize {
    projections.iter().map(|projection| projection.rank).sum()
}

/// y(j) += scale(j)·u(j)·b(j)ᵀ with u = x·aᵀ, for each projection j.
///
/// `x` `[N, I]`; `a` `[R, I]`, the first factors one below the other; `u` `[N, R]` is what [`backward`] needs besides the inputs; `y` one
/// `[N, O]` for each projection, which accumulates: the frozen map has written it.
///
/// # Errors
/// A length that is not its shape's, another number of outputs than projections, or operands on different devices.
pub fn forward<T: Element>(
    x: View<'_, T>,
    a: View<'_, T>,
    projections: &[Projection<'_, T>],
    u: ViewMut<'_, T>,
    y: Vec<ViewMut<'_, T>>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "lora::forward";
    check_inputs(OP, x, a, projections, (u.len(), "u"), shape)?;
    check_outputs(OP, "y", y.iter().map(ViewMut::len), projections, shape)?;
    match x.device() {
        Some(device) => cuda::forward(OP, device, x, a, projections, u, y, shape),
        None => cpu::forward(OP, x, a, projections, u, y, shape, ws),
    }
}

/// Gradients of the adapters and of their input; all accumulate.
#[derive(Debug)]
pub struct Gradients<'a, T: Element> {
    /// Of the input, `[N, I]`, where it is wanted.
    pub x: Option<ViewMut<'a, T>>,
    /// Of the first factors, `[R, I]`.
    pub a: ViewMut<'a, T::Wide>,
    /// Of each second factor, `[O, rank]`.
    pub b: Vec<ViewMut<'a, T::Wide>>,
}

/// The gradients of [`forward`]: with du(j) = scale(j)·dy(j)·b(j), db(j) += scale(j)·dy(j)ᵀ·u(j), da += duᵀ·x and dx += du·a.
///
/// `dy` one `[N, O]` for each projection, everything else as for [`forward`].
///
/// # Errors
/// As [`forward`].
#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub fn backward<T: Element>(
    x: View<'_, T>,
    a: View<'_, T>,
    projections: &[Projection<'_, T>],
    u: View<'_, T>,
    dy: &[View<'_, T>],
    d: Gradients<'_, T>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "lora::backward";
    check_inputs(OP, x, a, projections, (u.len(), "u"), shape)?;
    check_outputs(OP, "dy", dy.iter().map(View::len), projections, shape)?;
    if let Some(x) = &d.x {
        check::length(OP, "dx", x.len(), &[shape.rows, shape.in_features], "rows × in_features")?;
    }
    check::length(OP, "da", d.a.len(), &[ranks(projections), shape.in_features], "ranks × in_features")?;
    check::shape(OP, d.b.len() == projections.len(), || {
        format!("{} gradients for {} projections", d.b.len(), projections.len())
    })?;
    for (projection, b) in projections.iter().zip(&d.b) {
        check::length(OP, "db", b.len(), &[projection.out_features, projection.rank], "out_features × rank")?;
    }
    match x.device() {
        Some(device) => cuda::backward(OP, device, x, a, projections, u, dy, d, shape),
        None => cpu::backward(OP, x, a, projections, u, dy, d, shape, ws),
    }
}

fn check_inputs<T: Element>(
    op: &'static str,
    x: View<'_, T>,
    a: View<'_, T>,
    projections: &[Projection<'_, T>],
    (u, u_name): (usize, &'static str),
    shape: Shape,
) -> Result<()> {
    check::length(op, "x", x.len(), &[shape.rows, shape.in_features], "rows × in_features")?;
    check::length(op, "a", a.len(), &[ranks(projections), shape.in_features], "ranks × in_features")?;
    check::length(op, u_name, u, &[shape.rows, ranks(projections)], "rows × ranks")?;
    for projection in projections {
        let expected = [projection.out_features, projection.rank];
        check::length(op, "b", projection.b.len(), &expected, "out_features × rank")?;
    }
    Ok(())
}

fn check_outputs<T: Element>(
    op: &'static str,
    name: &'static str,
    mut lens: impl ExactSizeIterator<Item = usize>,
    projections: &[Projection<'_, T>],
    shape: Shape,
) -> Result<()> {
    check::shape(op, lens.len() == projections.len(), || {
        format!("{name} has {} operands for {} projections", lens.len(), projections.len())
    })?;
    projections.iter().try_for_each(|projection| {
        let expected = [shape.rows, projection.out_features];
        check::length(op, name, lens.next().unwrap_or_default(), &expected, "rows × out_features")
    })
}

/// Each projection with the column of `u` that its part begins at.
fn with_columns<'a, 'b, T: Element>(
    projections: &'b [Projection<'a, T>],
) -> impl Iterator<Item = (usize, &'b Projection<'a, T>)> {
    projections.iter().scan(0, |next, projection| {
        let column = *next;
        *next += projection.rank;
        Some((column, projection))
    })
}
