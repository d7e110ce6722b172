//! Launches of the kernels in `rms_norm.cu`.
use cudarc::driver::{LaunchConfig, PushKernelArg};

use super::Shape;
use crate::cuda::{Bytes, Device, refused};
use crate::{Error, Float, Result, View, ViewMut, Workspace};

/// Blocks of the backward kernel, each with a part of the weight's gradient; a constant, so that sums do not depend on the
/// device.
const MOST_PARTS: usize = 256;
const MOST_BLOCKS: usize = 1 << 20;
const MOST_THREADS: usize = 256;
const WARP: usize = 32;

pub(super) fn forward<T: Float>(
    op: &'static str,
    x: View<'_, T>,
    weight: View<'_, T>,
    y: ViewMut<'_, T>,
    rstd: ViewMut<'_, T>,
    shape: Shape,
    eps: f64,
) -> Result<()> {
    let (x, x_range) = x.cuda(op)?;
    let (weight, weight_range) = weight.cuda(op)?;
    let (y, y_range) = y.cuda(op)?;
    let (rstd, rstd_range) = rstd.cuda(op)?;
    let device = x.back().device().clone();
    one_device(op, &device, &[weight.back().device(), y.back().device(), rstd.back().device()])?;
    if shape.rows == 0 {
        return Ok(());
    }
    let (rows, hidden) = (shape.rows as u64, shape.hidden as u64);
    let (x, weight) = (x.back().slice().slice(x_range), weight.back().slice().slice(weight_range));
    let mut y = y.back_mut().slice_mut().slice_mut(y_range);
    let mut rstd = rstd.back_mut().slice_mut().slice_mut(rstd_range);
    let mut launch = device.stream().launch_builder(device.function::<T>("rms_norm_forward"));
    launch.arg(&x).arg(&weight).arg(&mut y).arg(&mut rstd).arg(&rows).arg(&hidden).arg(&eps);
    // SAFETY: the arguments are those of the kernel, and every range has the length that `shape` says.
    unsafe { launch.launch(by_rows(shape, MOST_BLOCKS)) }.map_err(refused(op))?;
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn backward<T: Float>(
    op: &'static str,
    x: View<'_, T>,
    weight: View<'_, T>,
    rstd: View<'_, T>,
    dy: View<'_, T>,
    dx: ViewMut<'_, T>,
    accumulate_dx: bool,
    dw: Option<ViewMut<'_, T>>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    let (x, x_range) = x.cuda(op)?;
    let (weight, weight_range) = weight.cuda(op)?;
    let (rstd, rstd_range) = rstd.cuda(op)?;
    let (dy, dy_range) = dy.cuda(op)?;
    let (dx, dx_range) = dx.cuda(op)?;
    let dw = dw.map(|dw| dw.cuda(op)).transpose()?;
    let device = x.back().device().clone();
    let others = [weight.back().device(), rstd.back().device(), dy.back().device(), dx.back().device()];
    one_device(op, &device, &others)?;
    if let Some((dw, _)) = &dw {
        one_device(op, &device, &[dw.back().device()])?;
    }
    if shape.rows == 0 {
        return Ok(());
    }
    let config = by_rows(shape, MOST_PARTS);
    let parts = u64::from(config.grid_dim.0);
    let part_len = config.grid_dim.0 as usize * shape.hidden;
    let (rows, hidden, accumulate) = (shape.rows as u64, shape.hidden as u64, i32::from(accumulate_dx));
    let x = x.back().slice().slice(x_range);
    let weight = weight.back().slice().slice(weight_range);
    let rstd = rstd.back().slice().slice(rstd_range);
    let dy = dy.back().slice().slice(dy_range);
    let mut dx = dx.back_mut().slice_mut().slice_mut(dx_range);
    let mut launch = device.stream().launch_builder(device.function::<T>("rms_norm_backward"));
    launch.arg(&x).arg(&weight).arg(&rstd).arg(&dy).arg(&mut dx).arg(&accumulate);
    let Some((dw, dw_range)) = dw else {
        let none = 0u64;
        launch.arg(&none).arg(&rows).arg(&hidden);
        // SAFETY: as in `forward`; the kernel takes a null pointer for parts that are not wanted.
        unsafe { launch.launch(config) }.map_err(refused(op))?;
        return Ok(());
    };
    let bytes = Bytes::at_least(&mut ws.device_scratch, op, &device, part_len * size_of::<T>())?;
    // SAFETY: any bytes are a float, and scratch is aligned as the driver aligns every buffer.
    let mut partial = unsafe { bytes.transmute_mut::<T>(part_len) }.expect("scratch is large enough");
    launch.arg(&mut partial).arg(&rows).arg(&hidden);
    // SAFETY: as in `forward`; there is a part for each block.
    unsafe { launch.launch(config) }.map_err(refused(op))?;
    let mut dw = dw.back_mut().slice_mut().slice_mut(dw_range);
    let mut launch = device.stream().launch_builder(device.function::<T>("rms_norm_sum_parts"));
    launch.arg(&mut partial).arg(&mut dw).arg(&parts).arg(&hidden);
    let (across, along) = (WARP as u32, 8);
    let config = LaunchConfig {
        grid_dim: (shape.hidden.div_ceil(WARP) as u32, 1, 1),
        block_dim: (across, along, 1),
        shared_mem_bytes: across * along * size_of::<T>() as u32,
    };
    // SAFETY: as in `forward`; the dynamic shared memory is one element for each thread.
    unsafe { launch.launch(config) }.map_err(refused(op))?;
    Ok(())
}

/// One block of threads a row, up to `most`, and a thread a column, up to [`MOST_THREADS`], in whole warps.
fn by_rows(shape: Shape, most: usize) -> LaunchConfig {
    let threads = shape.hidden.next_multiple_of(WARP).min(MOST_THREADS) as u32;
    LaunchConfig { grid_dim: (shape.rows.min(most) as u32, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

fn one_device(op: &'static str, device: &Device, others: &[&Device]) -> Result<()> {
    if others.iter().all(|other| other.is(device)) { Ok(()) } else { Err(Error::MixedDevices { op }) }
}
