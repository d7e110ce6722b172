//! Launches of the kernels in `schedule_free.cu`.
use super::{Hyper, root_correction};
use crate::cuda::{Call, Cuda, quads};
use crate::groups::{self, Groups};
use crate::{Float, Result, View, ViewMut};

const THREADS: usize = 256;

pub(super) fn begin<T: Float>(
    op: &'static str,
    device: &Cuda,
    mut params: ViewMut<'_, T>,
    mut kept: ViewMut<'_, T>,
    z: View<'_, T>,
    beta1: f64,
) -> Result<()> {
    let layout = quads::layout(&[quads::begins(params.as_view()), quads::begins(kept.as_view()), quads::begins(z)]);
    let call = Call::new(op, device).write(&mut params).write(&mut kept).read(z);
    let call = call.rounded::<T>(1.0 - beta1).index(z.len());
    quads::launch(call, &format!("schedule_free_begin_{layout}{}", T::NAME), z.len(), THREADS)
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn step<T: Float>(
    op: &'static str,
    device: &Cuda,
    mut params: ViewMut<'_, T>,
    grads: View<'_, T>,
    kept: View<'_, T>,
    mut z: ViewMut<'_, T>,
    mut v: ViewMut<'_, T>,
    step: u64,
    grad_scale: f64,
    hyper: Hyper,
    groups: Option<Groups<'_>>,
) -> Result<()> {
    let layout = quads::layout(&[
        quads::begins(params.as_view()),
        quads::begins(grads),
        quads::begins(kept),
        quads::begins(z.as_view()),
        quads::begins(v.as_view()),
    ]);
    let call = Call::new(op, device).write(&mut params).read(grads).read(kept).write(&mut z).write(&mut v);
    let call = groups::arguments(call, groups)
        .double(hyper.lr)
        .double(hyper.weight_decay)
        .rounded::<T>(grad_scale)
        .rounded::<T>(hyper.beta2)
        .rounded::<T>(1.0 - hyper.beta2)
        .rounded::<T>(root_correction(hyper.beta2, step))
        .rounded::<T>(hyper.eps)
        .rounded::<T>(hyper.share)
        .index(grads.len());
    quads::launch(call, &format!("schedule_free_step_{layout}{}", T::NAME), grads.len(), THREADS)
}
