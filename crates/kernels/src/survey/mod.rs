//! What is to be known of every tensor of a flat buffer before it is used: which parameter has no gradient, which is not finite.
mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::{Element, Result, View, ViewMut, Workspace, check};

/// The flag of a tensor of which some element is not zero. NaN is not.
pub const NOT_ZERO: u32 = 1;
/// The flag of a tensor of which some element is infinite or NaN.
pub const NOT_FINITE: u32 = 2;

/// Flags of the consecutive tensors of a buffer, in one pass: [`NOT_ZERO`] and [`NOT_FINITE`], added. A tensor of no elements has none.
///
/// `x` any length; `ends` `[G]`, where each tensor ends, ascending, the last at the length of `x`; `flags` `[G]` is overwritten.
/// On a device ends are not looked at before they are used: where they are wrong, so are flags, but nothing else is read or written.
///
/// # Errors
/// Lengths that differ; tensors that do not end where the buffer does, on the CPU; operands on different devices.
pub fn flags<T: Element>(
    x: View<'_, T>,
    ends: View<'_, u64>,
    flags: ViewMut<'_, u32>,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "survey::flags";
    check::length(OP, "flags", flags.len(), &[ends.len()], "tensors")?;
    if let Some(device) = ends.device() {
        return cuda::flags(OP, device, x, ends, flags);
    }
    let (x, ends) = (x.host(OP)?, ends.host(OP)?);
    let end = ends.last().map_or(0, |&end| end as usize);
    check::shape(OP, ends.is_sorted() && end == x.len(), || {
        format!("tensors end at {ends:?}, expected ascending ends up to the {} elements", x.len())
    })?;
    cpu::flags(x, ends, flags.host(OP)?, &ws.crew());
    Ok(())
}
