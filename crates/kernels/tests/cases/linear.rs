//! Products on a device: their layouts and types.
use candlewick_kernels::linear::{self, Shape};
use candlewick_kernels::{Cuda, Float, Result, Workspace};

use super::{Case, Sample, Written, numbers, wide};
use crate::harness::{check, sizes};

/// With the crate's own products, or as they come.
fn case<T: Sample<Wide: Sample>>(shape: Shape, accumulate: bool, are_own: bool) -> Case {
    let Shape { rows, in_features, out_features } = shape;
    let (x, w) = (numbers::<T>(1, rows * in_features), numbers::<T>(2, out_features * in_features));
    let dy = numbers::<T>(3, rows * out_features);
    let (y, dx) = (numbers::<T>(4, rows * out_features), numbers::<T>(5, rows * in_features));
    let dw = numbers::<T::Wide>(6, out_features * in_features);
    let (mut on_y, mut on_dx, mut on_dw) = (wide(&y), wide(&dx), wide(&dw));
    let (of_x, of_w, of_dy) = (wide(&x), wide(&w), wide(&dy));
    let mut ws = Workspace::new(1);
    linear::forward((&of_x).into(), (&of_w).into(), (&mut on_y).into(), shape, 0.5, accumulate, &mut ws).unwrap();
    linear::backward_input((&of_dy).into(), (&of_w).into(), (&mut on_dx).into(), shape, 0.5, accumulate, &mut ws)
        .unwrap();
    linear::backward_weight((&of_x).into(), (&of_dy).into(), (&mut on_dw).into(), shape, 0.5, accumulate, &mut ws)
        .unwrap();
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let cuda = if are_own { cuda.with_own_products() } else { cuda.clone() };
        let mut ws = Workspace::new(1);
        let (x, w, dy) = (cuda.upload(&x)?, cuda.upload(&w)?, cuda.upload(&dy)?);
        let (mut y, mut dx, mut dw) = (cuda.upload(&y)?, cuda.upload(&dx)?, cuda.upload(&dw)?);
        let half = <T::Wide as Float>::from_f64(0.5);
        linear::forward(x.view(), w.view(), y.view_mut(), shape, half, accumulate, &mut ws)?;
        linear::backward_input(dy.view(), w.view(), dx.view_mut(), shape, half, accumulate, &mut ws)?;
        linear::backward_weight(x.view(), dy.view(), dw.view_mut(), shape, half, accumulate, &mut ws)?;
        Ok(vec![
            Written::new("y", &y.download()?),
            Written::new("dx", &dx.download()?),
            Written::new("dw", &dw.download()?),
        ])
    };
    Case {
        name: format!("linear of {shape:?} {}, accumulate {accumulate}, own {are_own}", T::NAME),
        run: Box::new(run),
        expected: vec![on_y, on_dx, on_dw],
    }
}

#[test]
fn products_agree_with_the_cpu() {
    for (rows, in_features, out_features) in
        sizes(&[(1, 1, 1), (7, 33, 5), (16, 64, 40), (0, 3, 2), (5, 0, 3)], &[(300, 1000, 129), (512, 896, 1024)])
    {
        let shape = Shape { rows, in_features, out_features };
        for (accumulate, are_own) in [(false, false), (true, false), (false, true), (true, true)] {
            check(&[
                case::<f32>(shape, accumulate, are_own),
                case::<f64>(shape, accumulate, are_own),
                case::<half::bf16>(shape, accumulate, are_own),
            ]);
        }
    }
}
