//! Runs the CUDA kernels on a device and compares them with the CPU's. Without the feature `cuda`, or without a device, the
//! tests say so and pass.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use candlewick_kernels::{Cuda, Float, View, Workspace, linear, rms_norm};

fn device() -> Option<Cuda> {
    match Cuda::new(0) {
        Ok(cuda) => Some(cuda),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn numbers<T: Float>(seed: u64, n: usize) -> Vec<T> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::from_f64((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    };
    (0..n).map(|_| next()).collect()
}

#[track_caller]
fn assert_near<T: Float>(a: &[T], b: &[T], bound: f64, what: &str) {
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (a.to_f64() - b.to_f64()).powi(2)).sum();
    let size: f64 = b.iter().map(|b| b.to_f64().powi(2)).sum();
    let distance = (difference / size).sqrt();
    println!("{what}: {distance:.1e}");
    assert!(distance <= bound, "{what}: {distance:e}");
}

fn compare<T: Float>(cuda: &Cuda, rows: usize, hidden: usize, bound: f64) {
    let (shape, eps) = (rms_norm::Shape { rows, hidden }, 1e-5);
    let mut ws = Workspace::new(1);
    let [x, dy, dx] = [1, 2, 3].map(|seed| numbers::<T>(seed, rows * hidden));
    let [w, dw] = [4, 5].map(|seed| numbers::<T>(seed, hidden));
    let up = |x: &[T]| cuda.upload(x).unwrap();
    let (on_x, on_w, on_dy) = (up(&x), up(&w), up(&dy));
    let zeros = vec![T::ZERO; rows * hidden];
    let (mut on_y, mut on_rstd) = (up(&zeros), up(&zeros[..rows]));
    rms_norm::forward(on_x.view(), on_w.view(), on_y.view_mut(), on_rstd.view_mut(), shape, eps, &mut ws).unwrap();
    let (mut y, mut rstd) = (zeros.clone(), zeros[..rows].to_vec());
    rms_norm::forward((&x).into(), (&w).into(), (&mut y).into(), (&mut rstd).into(), shape, eps, &mut ws).unwrap();
    assert_near(&on_y.download().unwrap(), &y, bound, "y");
    assert_near(&on_rstd.download().unwrap(), &rstd, bound, "rstd");
    for (accumulate, with_dw) in [(true, true), (false, true), (true, false)] {
        let run_on_device = |ws: &mut Workspace| {
            let (mut on_dx, mut on_dw) = (up(&dx), up(&dw));
            let into_w = with_dw.then(|| on_dw.view_mut());
            let (xv, wv, rv, dv) = (on_x.view(), on_w.view(), on_rstd.view(), on_dy.view());
            rms_norm::backward(xv, wv, rv, dv, on_dx.view_mut(), accumulate, into_w, shape, ws).unwrap();
            (on_dx.download().unwrap(), on_dw.download().unwrap())
        };
        let (mut into_x, mut into_w) = (dx.clone(), dw.clone());
        let wanted = with_dw.then(|| (&mut into_w).into());
        let (xv, wv, rv, dv) = ((&x).into(), (&w).into(), (&rstd).into(), View::from(&dy));
        rms_norm::backward(xv, wv, rv, dv, (&mut into_x).into(), accumulate, wanted, shape, &mut ws).unwrap();
        let (on_dx, on_dw) = run_on_device(&mut ws);
        assert_near(&on_dx, &into_x, bound, "dx");
        assert_near(&on_dw, &into_w, bound, "dw");
        assert_eq!((on_dx, on_dw), run_on_device(&mut ws), "the same bits again");
    }
}

#[test]
fn rms_norm_agrees_with_the_cpu() {
    let Some(cuda) = device() else { return };
    for (rows, hidden) in [(1, 3), (7, 33), (300, 577), (1_000, 2_048)] {
        compare::<f32>(&cuda, rows, hidden, 1e-6);
        compare::<f64>(&cuda, rows, hidden, 1e-14);
    }
}

#[test]
fn devices_are_not_mixed_and_missing_kernels_are_named() {
    let Some(cuda) = device() else { return };
    let mut ws = Workspace::new(1);
    let on_device = cuda.upload(&[1.0f32, 2.0]).unwrap();
    let (w, mut y, mut rstd) = (vec![1.0f32; 2], vec![0.0; 2], vec![0.0; 1]);
    let shape = rms_norm::Shape { rows: 1, hidden: 2 };
    let mixed =
        rms_norm::forward(on_device.view(), (&w).into(), (&mut y).into(), (&mut rstd).into(), shape, 0.0, &mut ws);
    assert!(mixed.unwrap_err().to_string().contains("different devices"));
    let shape = linear::Shape { rows: 1, in_features: 2, out_features: 1 };
    let x = on_device.view();
    let none = linear::forward(x, x, (&mut rstd).into(), shape, 1.0, false, &mut ws).unwrap_err();
    assert_eq!(none.to_string(), "linear::forward has no kernel for cuda; copy its operands to the cpu");
    let empty = cuda.upload::<f32>(&[]).unwrap();
    assert!(empty.download().unwrap().is_empty());
}
