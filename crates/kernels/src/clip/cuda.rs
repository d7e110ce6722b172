//! Launches of the kernels in `clip.cu`.
use crate::cuda::{Call, Cuda, Grid, quads};
use crate::{Float, Result, View, ViewMut, Workspace};

/// Blocks with a partial sum each; a constant, so that sums do not depend on the device.
const MOST_PARTS: usize = 1024;
const THREADS: usize = 256;

pub(super) fn by_norm<T: Float>(
    op: &'static str,
    device: &Cuda,
    grads: View<'_, T>,
    max_norm: f64,
    mut outcome: ViewMut<'_, f64>,
    ws: &mut Workspace,
) -> Result<()> {
    let parts = quads::blocks(grads.len(), THREADS).min(MOST_PARTS);
    let partial = ws.device_scratch.at_least(device, parts * size_of::<f64>())?;
    if parts > 0 {
        let kernel = format!("clip_squares_{}{}", quads::layout(&[quads::begins(grads)]), T::NAME);
        let call = Call::new(op, device).read(grads).word(partial).index(grads.len());
        call.launch(&kernel, Grid::line(parts, THREADS))?;
    }
    let call = Call::new(op, device).word(partial).write(&mut outcome).index(parts).double(max_norm);
    call.launch("clip_finish", Grid::line(1, THREADS))
}
