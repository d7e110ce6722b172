//! `clip.cu`
use candlewick_kernels::{Cuda, Float, Result, Workspace, clip};

use super::{Case, Sample, Written, numbers, wide};
use crate::harness::{check, sizes};

/// The outcome for all gradients but the first `from`, so that they begin off a pack where `from` is 1.
fn case<T: Sample + Float>(grads: Vec<T>, from: usize, max_norm: f64) -> Case {
    // In parts, which loses less than a sum in one go.
    let squares = |part: &[T]| wide(part).iter().map(|g| g * g).sum::<f64>();
    let norm = grads[from..].chunks(1000).map(squares).sum::<f64>().sqrt();
    let factor = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
    let name =
        format!("clip of {} from {from} {}, limit {max_norm}", grads.len(), <T as candlewick_kernels::Element>::NAME);
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> { measured(cuda, &grads, from, max_norm) };
    // The norm and its factor apart, since one may be much larger.
    Case { name, run: Box::new(run), expected: vec![vec![norm], vec![factor], vec![1.0]] }
}

fn measured<T: Sample + Float>(cuda: &Cuda, grads: &[T], from: usize, max_norm: f64) -> Result<Vec<Written>> {
    let (on_grads, mut outcome) = (cuda.upload(grads)?, cuda.unwritten::<f64>(clip::OUTCOME)?);
    let grads = on_grads.view().part(from..grads.len())?;
    clip::by_norm(grads, max_norm, outcome.view_mut(), &mut Workspace::new(1))?;
    let outcome = outcome.download()?;
    let written = |name, at: usize| Written::new(name, &outcome[at..=at]);
    Ok(vec![written("norm", 0), written("factor", 1), written("finite", 2)])
}

#[test]
fn norms_agree_with_double_precision() {
    for len in sizes(&[1, 2, 7, 1023, 70_001], &[5_000_011]) {
        for from in [0, 1] {
            check(&[
                case(numbers::<f32>(1, len), from.min(len - 1), 0.5),
                case(numbers::<f64>(2, len), from.min(len - 1), 0.0),
            ]);
        }
    }
    check(&[case(vec![3e38f32; 5], 0, 1.0), case::<f32>(vec![], 0, 1.0)]);
    // More than the blocks have threads, so that each takes several turns.
    check(&[case(numbers::<f32>(3, (1 << 20) + 4099), 0, 1e9)]);
}

#[test]
fn where_gradients_begin_changes_no_bit() {
    let grads = numbers::<f32>(1, 5003);
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let (off, on) = (measured(cuda, &grads, 1, 0.0)?, measured(cuda, &grads[1..], 0, 0.0)?);
        Ok(vec![Written { name: "difference", values: vec![off[0].values[0] - on[0].values[0]], bound: 0.0 }])
    };
    check(&[Case { name: "clip off and on a pack".into(), run: Box::new(run), expected: vec![vec![0.0]] }]);
}

#[test]
fn norms_that_are_not_finite_are_told() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut grads = numbers::<f32>(1, 5003);
        grads[4711] = bad;
        let run = move |cuda: &Cuda| -> Result<Vec<Written>> { Ok(measured(cuda, &grads, 0, 1.0)?.split_off(1)) };
        check(&[Case { name: format!("clip with {bad}"), run: Box::new(run), expected: vec![vec![0.0], vec![0.0]] }]);
    }
}
