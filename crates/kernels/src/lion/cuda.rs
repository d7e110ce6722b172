//! Launches of the kernels in `lion.cu`.
use super::Hyper;
use crate::cuda::{Call, Cuda, quads};
use crate::groups::{self, Groups};
use crate::{Float, Result, View, ViewMut};

const THREADS: usize = 256;

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn step<T: Float>(
    op: &'static str,
    device: &Cuda,
    mut params: ViewMut<'_, T>,
    grads: View<'_, T>,
    mut m: ViewMut<'_, T>,
    grad_scale: f64,
    hyper: Hyper,
    groups: Option<Groups<'_>>,
) -> Result<()> {
    let layout = quads::layout(&[quads::begins(params.as_view()), quads::begins(grads), quads::begins(m.as_view())]);
    let call = Call::new(op, device).write(&mut params).read(grads).write(&mut m);
    let call = groups::arguments(call, groups)
        .double(hyper.lr)
        .double(hyper.weight_decay)
        .rounded::<T>(grad_scale)
        .rounded::<T>(hyper.beta1)
        .rounded::<T>(1.0 - hyper.beta1)
        .rounded::<T>(hyper.beta2)
        .rounded::<T>(1.0 - hyper.beta2)
        .index(grads.len());
    quads::launch(call, &format!("lion_{layout}{}", T::NAME), grads.len(), THREADS)
}
