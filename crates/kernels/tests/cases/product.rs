//! `product.cu`: the crate's own products, tile by tile.
use candlewick_kernels::linear::{self, Shape};
use candlewick_kernels::{Cuda, Float, Result, Workspace};
use half::bf16;

use super::{Case, Sample, Written, numbers, wide};
use crate::harness::{check, check_barriers, sizes};

/// The three products of a linear layer, of operands that begin `first` elements after their buffers.
fn case<T: Sample<Wide: Sample>>(rows: usize, in_features: usize, out_features: usize, first: usize) -> Case {
    let shape = Shape { rows, in_features, out_features };
    let [x_len, w_len, y_len] = [rows * in_features, out_features * in_features, rows * out_features];
    let [x, w, dy] = [(1, x_len), (2, w_len), (3, y_len)].map(|(seed, len)| numbers::<T>(seed, first + len));
    let (y, dx) = (numbers::<T>(4, first + y_len), numbers::<T>(5, first + x_len));
    let dw = numbers::<T::Wide>(6, first + w_len);
    let [of_x, of_w, of_dy] = [&x, &w, &dy].map(|values| wide(&values[first..]));
    let [mut on_y, mut on_dx] = [&y, &dx].map(|values| wide(values));
    let mut on_dw = wide(&dw);
    for (i, accumulate) in [false, true].into_iter().enumerate() {
        let (x, w, dy) = (&of_x, &of_w, &of_dy);
        let scale = [1.0, -0.5][i];
        let ws = &mut Workspace::new(1);
        let (y, dx, dw) = (&mut on_y[first..], &mut on_dx[first..], &mut on_dw[first..]);
        linear::forward(x.into(), w.into(), y.into(), shape, scale, accumulate, ws).unwrap();
        linear::backward_input(dy.into(), w.into(), dx.into(), shape, scale, accumulate, ws).unwrap();
        linear::backward_weight(x.into(), dy.into(), dw.into(), shape, scale, accumulate, ws).unwrap();
    }
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let cuda = cuda.with_own_products();
        let ws = &mut Workspace::new(1);
        let (x, w, dy) = (cuda.upload(&x)?, cuda.upload(&w)?, cuda.upload(&dy)?);
        let (x, w, dy) = (x.view(), w.view(), dy.view());
        let [x, w, dy] = [x, w, dy].map(|all| all.part(first..all.len()).unwrap());
        let (mut y, mut dx, mut dw) = (cuda.upload(&y)?, cuda.upload(&dx)?, cuda.upload(&dw)?);
        for (i, accumulate) in [false, true].into_iter().enumerate() {
            let scale = <T::Wide as Float>::from_f64([1.0, -0.5][i]);
            let into = y.view_mut().part(first..first + y_len)?;
            linear::forward(x, w, into, shape, scale, accumulate, ws)?;
            let into = dx.view_mut().part(first..first + x_len)?;
            linear::backward_input(dy, w, into, shape, scale, accumulate, ws)?;
            let into = dw.view_mut().part(first..first + w_len)?;
            linear::backward_weight(x, dy, into, shape, scale, accumulate, ws)?;
        }
        Ok(vec![
            Written::new("y", &y.download()?),
            Written::new("dx", &dx.download()?),
            Written::new("dw", &dw.download()?),
        ])
    };
    let name = format!("own products of {shape:?} {}, {first} elements on", T::NAME);
    Case { name, run: Box::new(run), expected: vec![on_y, on_dx, on_dw] }
}

#[test]
fn agree_with_the_cpu() {
    // Less than a tile; ragged and whole packs in more than one tile; a depth that several blocks share. Large ones in large tiles.
    for (rows, in_features, out_features) in sizes(
        &[(1, 1, 1), (7, 33, 5), (70, 97, 67), (72, 104, 136), (520, 40, 24), (24, 520, 40)],
        &[(1409, 105, 1537), (1408, 104, 1536)],
    ) {
        for first in [0, 3] {
            check(&[
                case::<f32>(rows, in_features, out_features, first),
                case::<f64>(rows, in_features, out_features, first),
                case::<bf16>(rows, in_features, out_features, first),
            ]);
        }
    }
}

#[test]
fn every_barrier_and_wait_is_missed() {
    // One step, whose stage the sums overwrite, and as many that stages are used again.
    let cases = [case::<bf16>(64, 32, 64, 0), case::<bf16>(64, 160, 16, 0), case::<f32>(16, 40, 16, 0)];
    check_barriers("product.cu", &cases);
}
