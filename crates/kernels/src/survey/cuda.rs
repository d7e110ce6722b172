//! Launches of the kernels in `survey.cu`.
use crate::cuda::{Call, Cuda, Grid, quads, zero};
use crate::{Element, Result, View, ViewMut};

const THREADS: usize = 256;
/// Elements of a block.
const SPAN: usize = 1 << 15;

pub(super) fn flags<T: Element>(
    op: &'static str,
    device: &Cuda,
    x: View<'_, T>,
    ends: View<'_, u64>,
    mut flags: ViewMut<'_, u32>,
) -> Result<()> {
    let tensors = ends.len();
    if tensors == 0 {
        return Ok(());
    }
    let kernel = format!("survey_{}{}", quads::layout(&[quads::begins(x)]), T::NAME);
    let call = Call::new(op, device).read(x).read(ends).write(&mut flags).index(tensors).index(x.len());
    call.check()?;
    zero(op, device, &mut flags)?;
    match x.len().div_ceil(SPAN) {
        0 => Ok(()),
        blocks => call.launch(&kernel, Grid::line(blocks, THREADS)),
    }
}
