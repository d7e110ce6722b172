//! Launches of the kernels in `adamw.cu`.
use half::bf16;

use super::{Groups, Numbers};
use crate::cuda::{Call, Cuda, quads};
use crate::groups;
use crate::stochastic::Draws;
use crate::{Float, Result, View, ViewMut};

const THREADS: usize = 256;

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn step_clipped<T: Float>(
    op: &'static str,
    device: &Cuda,
    mut params: ViewMut<'_, T>,
    grads: View<'_, T>,
    mut m: ViewMut<'_, T>,
    mut v: ViewMut<'_, T>,
    mut copy: Option<ViewMut<'_, bf16>>,
    clip: View<'_, f64>,
    numbers: &Numbers,
    groups: Option<Groups<'_>>,
) -> Result<()> {
    let len = grads.len();
    let layout = quads::layout(&[
        quads::begins(params.as_view()),
        quads::begins(grads),
        quads::begins(m.as_view()),
        quads::begins(v.as_view()),
        copy.as_ref().is_none_or(|copy| quads::begins(copy.as_view())),
    ]);
    let call = Call::new(op, device).write(&mut params).read(grads).write(&mut m).write(&mut v).write_if(copy.as_mut());
    let call = shared::<T>(call, clip, numbers, groups).index(len);
    quads::launch(call, &format!("adamw_{layout}{}", T::NAME), len, THREADS)
}

#[expect(clippy::too_many_arguments, reason = "operands of one op")]
pub(super) fn step_bf16(
    op: &'static str,
    device: &Cuda,
    mut params: ViewMut<'_, bf16>,
    grads: View<'_, f32>,
    mut m: ViewMut<'_, f32>,
    mut v: ViewMut<'_, f32>,
    clip: View<'_, f64>,
    numbers: &Numbers,
    groups: Option<Groups<'_>>,
    draws: Draws,
) -> Result<()> {
    let len = grads.len();
    let layout = quads::layout(&[
        quads::begins(params.as_view()),
        quads::begins(grads),
        quads::begins(m.as_view()),
        quads::begins(v.as_view()),
    ]);
    let call = Call::new(op, device).write(&mut params).read(grads).write(&mut m).write(&mut v);
    let call = shared::<f32>(call, clip, numbers, groups).word(draws.seed).word(draws.step).index(len);
    quads::launch(call, &format!("adamw_{layout}bf16"), len, THREADS)
}

/// The parameters that both kernels have.
fn shared<'a, T: Float>(
    call: Call<'a>,
    clip: View<'_, f64>,
    numbers: &Numbers,
    groups: Option<Groups<'_>>,
) -> Call<'a> {
    groups::arguments(call.read(clip), groups)
        .double(numbers.lr)
        .double(numbers.weight_decay)
        .double(numbers.step_size)
        .rounded::<T>(1.0 - numbers.lr * numbers.weight_decay)
        .rounded::<T>(numbers.step_size)
        .rounded::<T>(numbers.beta1)
        .rounded::<T>(numbers.one_minus_beta1)
        .rounded::<T>(numbers.beta2)
        .rounded::<T>(numbers.one_minus_beta2)
        .rounded::<T>(numbers.root_correction2)
        .rounded::<T>(numbers.eps)
}
