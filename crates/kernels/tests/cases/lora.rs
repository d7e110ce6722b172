//! Adapters of maps that share their input.
use candlewick_kernels::lora::{self, Gradients, Projection, Shape};
use candlewick_kernels::{Cuda, CudaBuffer, Element, Float, Result, View, Workspace};

use super::{Case, Sample, Written, numbers, wide};
use crate::harness::{check, sizes};

/// Rank, output, scale of each projection.
type Sizes = [(usize, usize, f64); 3];

/// u; then y, db of each projection; dx, da.
fn names() -> [&'static str; 9] {
    ["u", "y0", "y1", "y2", "db0", "db1", "db2", "dx", "da"]
}

fn projections<'a, T: Element>(sizes: Sizes, b: [View<'a, T>; 3]) -> Vec<Projection<'a, T>> {
    let of = |((rank, out_features, scale), b)| Projection { b, rank, out_features, scale: T::Wide::from_f64(scale) };
    sizes.into_iter().zip(b).map(of).collect()
}

fn case<T: Sample<Wide: Sample>>(shape: Shape, sizes: Sizes, with_dx: bool) -> Case {
    let Shape { rows, in_features } = shape;
    let all: usize = sizes.iter().map(|size| size.0).sum();
    let (x, a) = (numbers::<T>(1, rows * in_features), numbers::<T>(2, all * in_features));
    let b = sizes.map(|(rank, out, _)| numbers::<T>(3 + out as u64, rank * out));
    let [y, dy] = [20, 30].map(|seed| sizes.map(|(_, out, _)| numbers::<T>(seed + out as u64, rows * out)));
    let (dx, da) = (numbers::<T>(4, x.len()), numbers::<T::Wide>(5, a.len()));
    let db = sizes.map(|(rank, out, _)| numbers::<T::Wide>(40 + out as u64, rank * out));

    let (of_x, of_a, of_b, of_dy) = (wide(&x), wide(&a), b.each_ref().map(|b| wide(b)), dy.each_ref().map(|d| wide(d)));
    let (mut u, mut on_y, mut on_db) =
        (vec![0.0; rows * all], y.each_ref().map(|y| wide(y)), db.each_ref().map(|d| wide(d)));
    let (mut on_dx, mut on_da) = (wide(&dx), wide(&da));
    let mut ws = Workspace::new(1);
    let adapters = projections(sizes, of_b.each_ref().map(View::from));
    let into = on_y.iter_mut().map(Into::into).collect();
    lora::forward((&of_x).into(), (&of_a).into(), &adapters, (&mut u).into(), into, shape, &mut ws).unwrap();
    let d = Gradients {
        x: with_dx.then(|| (&mut on_dx).into()),
        a: (&mut on_da).into(),
        b: on_db.iter_mut().map(Into::into).collect(),
    };
    let views = of_dy.each_ref().map(View::from);
    lora::backward((&of_x).into(), (&of_a).into(), &adapters, (&u).into(), &views, d, shape, &mut ws).unwrap();
    let expected = [vec![u], on_y.into(), on_db.into(), vec![on_dx, on_da]].concat();

    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let mut ws = Workspace::new(1);
        let up = |values: &[Vec<T>; 3]| values.each_ref().map(|values| cuda.upload(values).unwrap());
        let (x, a, b, dy, mut y) = (cuda.upload(&x)?, cuda.upload(&a)?, up(&b), up(&dy), up(&y));
        let (mut u, mut dx, mut da) = (cuda.unwritten::<T>(rows * all)?, cuda.upload(&dx)?, cuda.upload(&da)?);
        let mut db = db.each_ref().map(|db| cuda.upload(db).unwrap());
        let adapters = projections(sizes, b.each_ref().map(CudaBuffer::view));
        let into = y.iter_mut().map(CudaBuffer::view_mut).collect();
        lora::forward(x.view(), a.view(), &adapters, u.view_mut(), into, shape, &mut ws)?;
        let d = Gradients {
            x: with_dx.then(|| dx.view_mut()),
            a: da.view_mut(),
            b: db.iter_mut().map(CudaBuffer::view_mut).collect(),
        };
        let views = dy.each_ref().map(CudaBuffer::view);
        lora::backward(x.view(), a.view(), &adapters, u.view(), &views, d, shape, &mut ws)?;
        let mut values = vec![wide(&u.download()?)];
        values.extend(y.iter().map(|y| wide(&y.download().unwrap())));
        values.extend(db.iter().map(|db| wide(&db.download().unwrap())));
        values.extend([wide(&dx.download()?), wide(&da.download()?)]);
        // What u and du are rounded to is in everything.
        Ok(names().into_iter().zip(values).map(|(name, values)| Written { name, values, bound: T::BOUND }).collect())
    };
    Case { name: format!("lora of {shape:?} {sizes:?} {}, dx {with_dx}", T::NAME), run: Box::new(run), expected }
}

#[test]
fn adapters_agree_with_the_cpu() {
    let adapters = [(8, 24, 0.5), (4, 7, 2.0), (1, 16, 1.0)];
    let shape = |rows, in_features| Shape { rows, in_features };
    let small = [(shape(1, 1), true), (shape(9, 33), true), (shape(16, 64), false), (shape(0, 3), true)];
    for (shape, with_dx) in sizes(&small, &[(shape(700, 896), true)]) {
        check(&[
            case::<f32>(shape, adapters, with_dx),
            case::<f64>(shape, adapters, with_dx),
            case::<half::bf16>(shape, adapters, with_dx),
        ]);
    }
}
