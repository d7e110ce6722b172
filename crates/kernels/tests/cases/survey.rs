//! `survey.cu`
use candlewick_kernels::{Cuda, Result, Workspace, survey};

use super::{Case, Sample, Written, numbers};
use crate::harness::{check, sizes};

/// Tensors of these lengths, the first behind `from` elements that are none of them. Some hold zeros alone, some one other element.
fn surveyed<T: Sample>(lens: &[usize], from: usize) -> Case {
    let mut x = numbers::<T>(1, from);
    let (mut ends, mut expected) = (Vec::new(), Vec::new());
    for (tensor, &len) in lens.iter().enumerate() {
        // By turns: zeros, numbers, one number, an infinite one, none.
        let (rare, flags) = [(0.0, 0.0), (0.5, 1.0), (-1e-3, 1.0), (f64::INFINITY, 3.0), (f64::NAN, 3.0)][tensor % 5];
        let mut part = if tensor % 5 == 1 { numbers::<T>(tensor as u64, len) } else { vec![T::of(0.0); len] };
        if let Some(one) = part.get_mut((len * 7 / 9).min(len.saturating_sub(tensor % 2 + 1))) {
            *one = T::of(rare);
        }
        expected.push(if len == 0 { 0.0 } else { flags });
        x.extend(part);
        ends.push((x.len() - from) as u64);
    }
    let name = format!("survey of {} in {} from {from}, {}", x.len() - from, lens.len(), T::NAME);
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let (x, ends, mut flags) = (cuda.upload(&x)?, cuda.upload(&ends)?, cuda.unwritten(ends.len())?);
        let x = x.view().part(from..x.len())?;
        survey::flags(x, ends.view(), flags.view_mut(), &mut Workspace::new(1))?;
        let values = flags.download()?.into_iter().map(f64::from).collect();
        Ok(vec![Written { name: "flags", values, bound: 0.0 }])
    };
    Case { name, run: Box::new(run), expected: vec![expected] }
}

#[test]
fn tensors_have_their_flags() {
    let small =
        [&[1, 2, 3, 4, 5][..], &[0, 7, 0, 0, 9, 0], &[1 << 15; 3], &[5000, 3, 30_000, 1, 70_001, 64, 1023, 8, 8, 8]];
    for lens in sizes(&small, &[&[1 << 22, 3, 5_000_011, 77, 1 << 20], &[129; 20_000]]) {
        for from in [0, 1] {
            check(&[surveyed::<f32>(lens, from), surveyed::<f64>(lens, from), surveyed::<half::bf16>(lens, from)]);
        }
    }
    check(&[surveyed::<f32>(&[], 0), surveyed::<f32>(&[0, 0], 0)]);
}

/// Ends that are none are no reason to read or write anywhere else.
#[test]
fn wrong_ends_are_harmless() {
    for ends in [vec![3000u64, 10, 99_999_999, 5], vec![7], vec![u64::MAX; 2]] {
        let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
            let (x, mut flags) = (cuda.upload(&numbers::<f32>(1, 5003))?, cuda.unwritten(ends.len())?);
            survey::flags(x.view(), cuda.upload(&ends)?.view(), flags.view_mut(), &mut Workspace::new(1))?;
            let values = vec![f64::from(flags.download()?[0])];
            Ok(vec![Written { name: "flags of the first", values, bound: 0.0 }])
        };
        check(&[Case { name: "survey of wrong ends".into(), run: Box::new(run), expected: vec![vec![1.0]] }]);
    }
}
