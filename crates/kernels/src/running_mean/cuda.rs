//! Launches of the kernels in `running_mean.cu`.
use super::Correction;
use crate::cuda::{Call, Cuda, quads};
use crate::{Float, Result, View, ViewMut};

const THREADS: usize = 256;

pub(super) fn begin<T: Float>(
    op: &'static str,
    device: &Cuda,
    mut mean: ViewMut<'_, f64>,
    x: View<'_, T>,
) -> Result<()> {
    let layout = quads::layout(&[quads::begins(mean.as_view()), quads::begins(x)]);
    let call = Call::new(op, device).write(&mut mean).read(x).index(x.len());
    quads::launch(call, &format!("running_mean_begin_{layout}{}", T::NAME), x.len(), THREADS)
}

pub(super) fn step<T: Float>(
    op: &'static str,
    device: &Cuda,
    mut y: ViewMut<'_, T>,
    mut mean: ViewMut<'_, f64>,
    x: View<'_, T>,
    weight: f64,
    correction: Option<Correction<'_, T>>,
) -> Result<()> {
    let (start, way) = correction.map_or((None, 0.0), |Correction { start, weight }| (Some(start), weight));
    let layout = quads::layout(&[
        quads::begins(y.as_view()),
        quads::begins(mean.as_view()),
        quads::begins(x),
        start.is_none_or(quads::begins),
    ]);
    let call = Call::new(op, device).write(&mut y).write(&mut mean).read(x).read_if(start);
    let call = call.double(1.0 - weight).double(weight).double(way).index(x.len());
    quads::launch(call, &format!("running_mean_step_{layout}{}", T::NAME), x.len(), THREADS)
}
