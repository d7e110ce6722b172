//! `rms_norm.cu`
use candlewick_kernels::rms_norm::{self, Shape};
use candlewick_kernels::{Cuda, Result, Workspace};

use super::{Case, Sample, Written, numbers, wide};
use crate::harness::{check, check_barriers, sizes};

const EPS: f64 = 1e-5;

fn case<T: Sample<Wide: Sample>>(rows: usize, hidden: usize, accumulate: bool, with_dw: bool) -> Case {
    let shape = Shape { rows, hidden };
    let [x, dy, dx] = [1, 2, 3].map(|seed| numbers::<T>(seed, rows * hidden));
    let (weight, dw) = (numbers::<T>(4, hidden), numbers::<T::Wide>(5, hidden));
    let expected =
        expected(shape, [&x, &dy, &dx].map(|values| wide(values)), &wide(&weight), wide(&dw), accumulate, with_dw);
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let mut ws = Workspace::new(1);
        let (on_x, on_w, on_dy) = (cuda.upload(&x)?, cuda.upload(&weight)?, cuda.upload(&dy)?);
        let (mut y, mut rstd) = (cuda.unwritten::<T>(x.len())?, cuda.unwritten::<T::Wide>(rows)?);
        rms_norm::forward(on_x.view(), on_w.view(), y.view_mut(), rstd.view_mut(), shape, EPS, &mut ws)?;
        let (mut on_dx, mut on_dw) = (cuda.upload(&dx)?, cuda.upload(&dw)?);
        let into_w = with_dw.then(|| on_dw.view_mut());
        let (x, w, rstd_view, dy) = (on_x.view(), on_w.view(), rstd.view(), on_dy.view());
        rms_norm::backward(x, w, rstd_view, dy, on_dx.view_mut(), accumulate, into_w, shape, &mut ws)?;
        Ok(vec![
            Written::new("y", &y.download()?),
            Written::new("rstd", &rstd.download()?),
            Written::new("dx", &on_dx.download()?),
            // Of normalised values that are rounded to the type.
            Written { bound: T::BOUND, ..Written::new("dw", &on_dw.download()?) },
        ])
    };
    let name = format!("rms_norm of {rows} × {hidden} {}, accumulate {accumulate}, dw {with_dw}", T::NAME);
    Case { name, run: Box::new(run), expected }
}

/// The CPU's op in `f64`.
fn expected(
    shape: Shape,
    [x, dy, mut dx]: [Vec<f64>; 3],
    weight: &[f64],
    mut dw: Vec<f64>,
    accumulate: bool,
    with_dw: bool,
) -> Vec<Vec<f64>> {
    let mut ws = Workspace::new(1);
    let (mut y, mut rstd) = (vec![0.0; x.len()], vec![0.0; shape.rows]);
    let weight = weight.into();
    rms_norm::forward((&x).into(), weight, (&mut y).into(), (&mut rstd).into(), shape, EPS, &mut ws).unwrap();
    let into_w = with_dw.then(|| (&mut dw).into());
    rms_norm::backward(
        (&x).into(),
        weight,
        (&rstd).into(),
        (&dy).into(),
        (&mut dx).into(),
        accumulate,
        into_w,
        shape,
        &mut ws,
    )
    .unwrap();
    vec![y, rstd, dx, dw]
}

fn with_residual<T: Sample<Wide: Sample>>(rows: usize, hidden: usize) -> Case {
    let shape = Shape { rows, hidden };
    let (x, residual, weight) =
        (numbers::<T>(1, rows * hidden), numbers::<T>(2, rows * hidden), numbers::<T>(3, hidden));
    let (mut sum, mut y, mut rstd) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; rows]);
    let (wide_x, wide_r, wide_w, ws) = (wide(&x), wide(&residual), wide(&weight), &mut Workspace::new(1));
    let (into_sum, into_y, into_rstd) = ((&mut sum).into(), (&mut y).into(), (&mut rstd).into());
    let (of_x, of_r, of_w) = ((&wide_x).into(), (&wide_r).into(), (&wide_w).into());
    rms_norm::forward_residual(of_x, of_r, of_w, into_sum, into_y, into_rstd, shape, EPS, ws).unwrap();
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let (x, residual, weight) = (cuda.upload(&x)?, cuda.upload(&residual)?, cuda.upload(&weight)?);
        let (mut sum, mut y) = (cuda.unwritten::<T>(rows * hidden)?, cuda.unwritten::<T>(rows * hidden)?);
        let (mut rstd, ws) = (cuda.unwritten::<T::Wide>(rows)?, &mut Workspace::new(1));
        let (into_sum, into_y, into_rstd) = (sum.view_mut(), y.view_mut(), rstd.view_mut());
        let (x, residual, weight) = (x.view(), residual.view(), weight.view());
        rms_norm::forward_residual(x, residual, weight, into_sum, into_y, into_rstd, shape, EPS, ws)?;
        let rstd = Written { bound: T::BOUND, ..Written::new("rstd", &rstd.download()?) };
        // The sum is rounded to the type, and so is what is normalised.
        let y = Written { bound: 2.0 * T::BOUND, ..Written::new("y", &y.download()?) };
        Ok(vec![Written::new("sum", &sum.download()?), y, rstd])
    };
    Case {
        name: format!("rms_norm of {rows} × {hidden} {} with a residual", T::NAME),
        run: Box::new(run),
        expected: vec![sum, y, rstd],
    }
}

#[test]
fn agrees_with_the_cpu() {
    // One at a time: the large ones are some gigabytes each.
    let check = |case: Case| check(&[case]);
    for (rows, hidden) in
        sizes(&[(1, 3), (7, 33), (10, 200), (3, 2088), (9, 4104)], &[(300, 577), (1000, 4096), (5000, 12_288)])
    {
        check(with_residual::<f32>(rows, hidden));
        check(with_residual::<f64>(rows, hidden));
        check(with_residual::<half::bf16>(rows, hidden));
        for (accumulate, with_dw) in [(true, true), (false, true), (true, false)] {
            check(case::<f32>(rows, hidden, accumulate, with_dw));
            check(case::<f64>(rows, hidden, accumulate, with_dw));
            check(case::<half::bf16>(rows, hidden, accumulate, with_dw));
        }
    }
}

#[test]
fn every_barrier_is_missed() {
    // More rows than blocks, so that a block has several, one after the other.
    let cases = [case::<f32>(10, 577, true, true), case::<f32>(10, 576, true, true), case::<f32>(300, 200, true, true)];
    check_barriers("rms_norm", &cases);
}
