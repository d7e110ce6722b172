//! `segment_sum.cu`
use candlewick_kernels::{Cuda, Element, Float, Result, segment_sum};

use super::{Case, Sample, Written, numbers, wide};
use crate::harness::{check, sizes};

fn case<T: Sample + Float>(starts: &[u32], is_weighted: bool) -> Case {
    let (len, segments) = (starts[starts.len() - 1] as usize, starts.len() - 1);
    let (mut values, dsums, mut weights) = (numbers::<T>(1, len), numbers::<T>(2, segments), numbers::<T>(3, len));
    for i in (0..len).filter(|i| is_weighted && i % 5 == 2) {
        (values[i], weights[i]) = (T::of(f64::NEG_INFINITY), T::of(0.0));
    }
    let weights = is_weighted.then_some(weights);
    let starts = starts.to_vec();
    let (mut sums, mut dvalues) = (vec![0.0; segments], vec![0.0; len]);
    let wide_weights = weights.as_ref().map(|weights| wide(weights));
    let views = || wide_weights.as_ref().map(|weights| weights.into());
    segment_sum::forward((&wide(&values)).into(), (&starts).into(), views(), (&mut sums).into()).unwrap();
    segment_sum::backward((&wide(&dsums)).into(), (&starts).into(), views(), (&mut dvalues).into()).unwrap();
    let name = format!("segment_sum of {starts:?} {}, weights {is_weighted}", <T as Element>::NAME);
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let (values, dsums, starts) = (cuda.upload(&values)?, cuda.upload(&dsums)?, cuda.upload(&starts)?);
        let weights = weights.as_ref().map(|weights| cuda.upload(weights)).transpose()?;
        let weights = weights.as_ref().map(|weights| weights.view());
        let (mut sums, mut dvalues) = (cuda.unwritten::<T>(segments)?, cuda.unwritten::<T>(len)?);
        segment_sum::forward(values.view(), starts.view(), weights, sums.view_mut())?;
        segment_sum::backward(dsums.view(), starts.view(), weights, dvalues.view_mut())?;
        Ok(vec![Written::new("sums", &sums.download()?), Written::new("dvalues", &dvalues.download()?)])
    };
    Case { name, run: Box::new(run), expected: vec![sums, dvalues] }
}

#[test]
fn agrees_with_the_cpu() {
    for starts in sizes(&[&[0][..], &[0, 1], &[0, 0, 3, 3, 40, 300, 1811, 1811]], &[&[0, 70_000, 70_001, 500_000]]) {
        for is_weighted in [false, true] {
            check(&[case::<f32>(starts, is_weighted), case::<f64>(starts, is_weighted)]);
        }
    }
}
