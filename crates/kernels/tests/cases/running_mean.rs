//! `running_mean.cu`, whose bits are those of the CPU.
use candlewick_kernels::running_mean::{self, Correction};
use candlewick_kernels::{Buffer, Cuda, Float, Result, Workspace};

use super::{Case, Sample, Written, numbers};
use crate::harness::{check, sizes};

/// A mean begun and followed for two steps, of what there is from element `from` on, and nothing before it.
fn followed<T: Sample + Float>(
    device: Option<&Cuda>,
    len: usize,
    from: usize,
    way: Option<f64>,
) -> Result<Vec<Written>> {
    let owned = |elements: Vec<T>| device.map_or_else(|| Ok(elements.clone().into()), |d| Buffer::upload(&elements, d));
    let (all, mut ws) = (from + len, Workspace::new(1));
    let mut begun = numbers::<T>(1, all);
    if let Some(last) = begun.last_mut() {
        // The mean of one has its sign too.
        *last = T::of(-0.0);
    }
    let (begun, mut y) = (owned(begun)?, owned(numbers(2, all))?);
    let mut mean = match device {
        Some(device) => Buffer::upload(&vec![0.5f64; all], device)?,
        None => vec![0.5f64; all].into(),
    };
    running_mean::begin(mean.view_mut().part(from..all)?, begun.view().part(from..all)?, &mut ws)?;
    let first = mean.to_host()?;
    for (seed, weight) in [(3, 0.3), (4, 1e-4)] {
        let x = owned(numbers(seed, all))?;
        let correction =
            way.map(|weight| Ok(Correction { start: begun.view().part(from..all)?, weight })).transpose()?;
        let (into, mean) = (y.view_mut().part(from..all)?, mean.view_mut().part(from..all)?);
        running_mean::step(into, mean, x.view().part(from..all)?, weight, correction, &mut ws)?;
    }
    let exactly = |written: Written| Written { bound: 0.0, ..written };
    Ok(vec![
        exactly(Written::new("begun", &first)),
        exactly(Written::new("mean", &mean.to_host()?)),
        exactly(Written::new("y", &y.to_host()?)),
    ])
}

fn case<T: Sample + Float>(len: usize, from: usize, way: Option<f64>) -> Case {
    Case {
        name: format!("running mean of {len} from {from}, correction {way:?}, {}", T::NAME),
        expected: followed::<T>(None, len, from, way).unwrap().into_iter().map(|written| written.values).collect(),
        run: Box::new(move |cuda| followed::<T>(Some(cuda), len, from, way)),
    }
}

#[test]
fn running_means_have_the_bits_of_the_cpu() {
    let (small, large) = (
        [(0, 0), (1, 0), (8, 0), (33, 0), (4096, 0), (5003, 0), (4096, 1), (4096, 4)],
        [(1_000_003, 0), (1 << 22, 0), (1 << 22, 3)],
    );
    for (len, from) in sizes(&small, &large) {
        for way in [None, Some(0.7)] {
            check(&[case::<f32>(len, from, way), case::<f64>(len, from, way)]);
        }
    }
}
