//! Products of matrices on a device.
use super::{Cuda, Driver, on, own_product};
use crate::float::sealed::Kind;
use crate::matmul::Size;
use crate::{Element, Error, Float, Result, View, ViewMut};

/// A matrix in an operand: rows of `stride` elements, one after the other.
#[derive(Debug)]
pub(crate) struct Factor<'a, T> {
    view: View<'a, T>,
    stride: usize,
    is_transposed: bool,
}

impl<T> Clone for Factor<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Factor<'_, T> {}

impl<'a, T> Factor<'a, T> {
    pub(crate) fn new(view: View<'a, T>, stride: usize) -> Self {
        Self { view, stride, is_transposed: false }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }
}

/// Where a matrix lies on the device: element (r, c), or (c, r) of one that is transposed, is `stride`·r + c elements after `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) address: u64,
    pub(super) stride: usize,
    pub(super) is_transposed: bool,
}

/// c = scale·a·b, plus c where `accumulate`: a `[m, k]`, b `[k, n]`, c `[m, n]`.
///
/// Sums are made in `f32` for factors of `bf16`, else in their type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) size: Size,
    pub(super) a: Place,
    pub(super) b: Place,
    pub(super) c: Place,
    /// The type of `a` and `b`.
    pub(super) factors: Kind,
    /// The type of `c`: that of the factors, or of their sums.
    pub(super) result: Kind,
    pub(super) scale: f64,
    pub(super) accumulate: bool,
}

/// Who multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Multiplier {
    /// cuBLASLt where it is installed, in the emulation the CPU's products; else the kernel of the crate.
    Library,
    /// The kernel of the crate.
    Own,
}

/// into (+)= scale·a·b on `device`, where `into` has rows of `stride` elements.
///
/// The result may have the type of the factors or that of their sums.
#[expect(clippy::too_many_arguments, reason = "operands of one product")]
pub(crate) fn product<T: Element, S: Element<Wide = T::Wide>>(
    op: &'static str,
    device: &Cuda,
    size: Size,
    into: ViewMut<'_, S>,
    stride: usize,
    accumulate: bool,
    a: Factor<'_, T>,
    b: Factor<'_, T>,
    scale: T::Wide,
) -> Result<()> {
    let Size { m, n, k } = size;
    let c = Factor::new(into.as_view(), stride);
    let product = Product {
        size,
        a: place(op, device, a, m, k)?,
        b: place(op, device, b, k, n)?,
        c: place(op, device, c, m, n)?,
        factors: T::KIND,
        result: S::KIND,
        scale: scale.to_f64(),
        accumulate,
    };
    assert!(S::KIND == T::KIND || S::KIND == T::KIND.sums(), "a result is of the factors' type or of their sums'");
    if m == 0 || n == 0 || k == 0 && accumulate {
        return Ok(());
    }
    if k == 0 {
        let row = n * size_of::<S>();
        return (0..m).try_for_each(|r| {
            let address = product.c.address + (r * stride * size_of::<S>()) as u64;
            on!(device.driver, driver => driver.zero(op, address, row))
        });
    }
    match device.multiplier {
        Multiplier::Library if on!(device.driver, driver => driver.multiply(op, &product))? => Ok(()),
        _ => own_product::multiply(op, device, &product),
    }
}

/// Where the matrix `[rows, cols]` lies, which is inside its operand.
fn place<T>(op: &'static str, device: &Cuda, factor: Factor<'_, T>, rows: usize, cols: usize) -> Result<Place> {
    let Factor { view, stride, is_transposed } = factor;
    let (rows, cols) = if is_transposed { (cols, rows) } else { (rows, cols) };
    let reach = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * stride + cols };
    assert!(stride >= cols && reach <= view.len(), "a matrix is inside its operand");
    match view.buffer() {
        Some((buffer, start)) if buffer.device().is(device) => {
            Ok(Place { address: buffer.address(start), stride, is_transposed })
        }
        _ => Err(Error::MixedDevices { op }),
    }
}
