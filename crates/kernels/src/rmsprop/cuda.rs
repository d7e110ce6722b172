//! Launches of the kernels in `rmsprop.cu`.
use super::{Hyper, State};
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
    state: State<'_, T>,
    grad_scale: f64,
    hyper: Hyper,
    groups: Option<Groups<'_>>,
) -> Result<()> {
    let State { mut mean_square, mut mean, mut velocity } = state;
    let begins = |buffer: &Option<ViewMut<'_, T>>| buffer.as_ref().is_none_or(|buffer| quads::begins(buffer.as_view()));
    let layout = quads::layout(&[
        quads::begins(params.as_view()),
        quads::begins(grads),
        quads::begins(mean_square.as_view()),
        begins(&mean),
        begins(&velocity),
    ]);
    let call = Call::new(op, device).write(&mut params).read(grads).write(&mut mean_square);
    let call = groups::arguments(call.write_if(mean.as_mut()).write_if(velocity.as_mut()), groups)
        .double(hyper.lr)
        .double(hyper.weight_decay)
        .rounded::<T>(grad_scale)
        .rounded::<T>(hyper.alpha)
        .rounded::<T>(1.0 - hyper.alpha)
        .rounded::<T>(hyper.eps)
        .rounded::<T>(hyper.momentum)
        .index(grads.len());
    quads::launch(call, &format!("rmsprop_{layout}{}", T::NAME), grads.len(), THREADS)
}
