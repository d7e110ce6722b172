use candle_core::{D, Tensor};

use super::*;
use crate::testing::*;

/// The vocabulary is no multiple of a vector.
const SHAPE: Shape = Shape { rows: 6, hidden: 5, vocab: 13, targets: 8, chunk: 3 };
const ROWS: [u32; 8] = [5, 0, 0, 3, 1, 0, 2, 5];
const IDS: [u32; 8] = [12, 0, 7, 3, 3, 11, 5, 1];
const GIVEN: [u32; 16] = [0, 12, 5, 5, 7, 1, 2, 3, 4, 11, 6, 8, 9, 10, 12, 1];

#[derive(Clone)]
struct Owned {
    rows: Vec<u32>,
    ids: Vec<u32>,
    given: Vec<u32>,
}

impl Owned {
    fn views(&self) -> Targets<'_> {
        Targets::new(&self.rows, &self.ids, &self.given)
    }
}

fn small() -> Owned {
    Owned { rows: ROWS.to_vec(), ids: IDS.to_vec(), given: GIVEN.to_vec() }
}

fn random(shape: Shape) -> Owned {
    let ids = |seed, n: usize, limit: usize| {
        numbers(seed, n).iter().map(|v| ((v + 1.5) / 3.0 * limit as f64) as u32).collect()
    };
    Owned { rows: ids(5, shape.targets, shape.rows), ids: ids(6, shape.targets, shape.vocab), given: vec![] }
}

#[derive(Debug, Clone, PartialEq)]
struct Scores<T> {
    log_probs: Vec<T>,
    mean: Vec<T>,
    sum_sq: Vec<T>,
    entropy: Vec<T>,
    top1: Vec<T>,
    given: Vec<T>,
    lse: Vec<T>,
}

fn scores<T: Float>(hidden: &[f64], weight: &[f64], targets: &Owned, shape: Shape, threads: usize) -> Scores<T> {
    let nan = |len: usize| vec![T::from_f64(f64::NAN); len];
    let m = shape.targets;
    let mut s = Scores {
        log_probs: nan(m),
        mean: nan(m),
        sum_sq: nan(m),
        entropy: nan(m),
        top1: nan(m),
        given: nan(targets.given.len()),
        lse: nan(m),
    };
    let (hidden, weight) = (cast::<T>(hidden), cast::<T>(weight));
    let out = Outputs {
        log_probs: (&mut s.log_probs).into(),
        mean_log_probs: Some((&mut s.mean).into()),
        log_sum_sq_probs: Some((&mut s.sum_sq).into()),
        entropy: Some((&mut s.entropy).into()),
        is_top1: Some((&mut s.top1).into()),
        given_log_probs: Some((&mut s.given).into()),
    };
    let (h, w) = ((&hidden).into(), (&weight).into());
    let ws = &mut Workspace::new(threads);
    let lse = (&mut s.lse).into();
    forward(h, w, targets.views(), out, lse, Keep::Nothing, shape, ws).unwrap();
    s
}

/// Cotangents of log_probs, mean, log Σp², entropy, given; an empty one is not passed.
type D5 = [Vec<f64>; 5];

fn gradients<T: Float>(
    hidden: &[f64],
    weight: &[f64],
    targets: &Owned,
    d: &D5,
    shape: Shape,
    threads: usize,
) -> (Vec<T>, Vec<T>) {
    let lse = scores::<T>(hidden, weight, targets, shape, threads).lse;
    let (hidden, weight) = (cast::<T>(hidden), cast::<T>(weight));
    let d = d.each_ref().map(|d| cast::<T>(d));
    let of = |i: usize| Some(View::from(&d[i])).filter(|view| !view.is_empty());
    let cotangents = Cotangents {
        log_probs: of(0),
        mean_log_probs: of(1),
        log_sum_sq_probs: of(2),
        entropy: of(3),
        given_log_probs: of(4),
    };
    let (mut dh, mut dw) = (vec![T::ZERO; hidden.len()], vec![T::ZERO; weight.len()]);
    let (h, w, l) = ((&hidden).into(), (&weight).into(), (&lse).into());
    let (into_h, into_w) = ((&mut dh).into(), Some((&mut dw).into()));
    let ws = &mut Workspace::new(threads);
    backward(h, w, targets.views(), l, Kept::Nothing, cotangents, into_h, into_w, shape, ws).unwrap();
    (dh, dw)
}

fn case(shape: Shape) -> (Vec<f64>, Vec<f64>) {
    (numbers(1, shape.rows * shape.hidden), numbers(2, shape.vocab * shape.hidden))
}

fn all_cotangents(targets: &Owned) -> D5 {
    let m = targets.ids.len();
    [numbers(11, m), numbers(12, m), numbers(13, m), numbers(14, m), numbers(15, targets.given.len())]
}

/// The five differentiable outputs through candle, each `[M]`, the last `[M, K]`.
fn decomposed(hidden: &Tensor, weight: &Tensor, targets: &Owned) -> [Tensor; 5] {
    let device = hidden.device();
    let ids = |ids: &[u32], k: usize| Tensor::from_slice(ids, (ids.len() / k, k), device).unwrap();
    let rows = hidden.index_select(&Tensor::new(&targets.rows[..], device).unwrap(), 0).unwrap();
    let log_p = candle_nn::ops::log_softmax(&rows.matmul(&weight.t().unwrap()).unwrap(), D::Minus1).unwrap();
    let p = log_p.exp().unwrap();
    let given = targets.given.len() / targets.ids.len();
    [
        log_p.gather(&ids(&targets.ids, 1), 1).unwrap().squeeze(1).unwrap(),
        log_p.mean(1).unwrap(),
        p.sqr().unwrap().sum(1).unwrap().log().unwrap(),
        (p * &log_p).unwrap().sum(1).unwrap().neg().unwrap(),
        log_p.gather(&ids(&targets.given, given), 1).unwrap(),
    ]
}

#[test]
fn every_output_has_the_gradient_of_autograd() {
    let ((h, w), targets) = (case(SHAPE), small());
    let (vh, vw) = (var(&h, &[6, 5]), var(&w, &[13, 5]));
    let outputs = decomposed(&vh, &vw, &targets);
    let s = scores::<f64>(&h, &w, &targets, SHAPE, 1);
    let names = ["log_probs", "mean", "log_sum_sq", "entropy", "given"];
    let ours = [&s.log_probs, &s.mean, &s.sum_sq, &s.entropy, &s.given];
    let all = all_cotangents(&targets);
    let mut sum = (vec![0.0; h.len()], vec![0.0; w.len()]);
    for i in 0..5 {
        assert_near(ours[i], &elements(&outputs[i]), 1e-13, names[i]);
        let expected = autograd(&outputs[i], &all[i], &[&vh, &vw]);
        let mut only: D5 = Default::default();
        only[i] = all[i].clone();
        let (dh, dw) = gradients::<f64>(&h, &w, &targets, &only, SHAPE, 1);
        assert_near(&dh, &expected[0], 1e-12, &format!("d_hidden by {}", names[i]));
        assert_near(&dw, &expected[1], 1e-12, &format!("d_weight by {}", names[i]));
        sum.0.iter_mut().zip(&expected[0]).for_each(|(s, e)| *s += e);
        sum.1.iter_mut().zip(&expected[1]).for_each(|(s, e)| *s += e);
    }
    let (dh, dw) = gradients::<f64>(&h, &w, &targets, &all, SHAPE, 1);
    assert_near(&dh, &sum.0, 1e-12, "d_hidden by all");
    assert_near(&dw, &sum.1, 1e-12, "d_weight by all");
}

#[test]
fn gradients_are_central_differences() {
    let ((h, w), targets) = (case(SHAPE), small());
    let d = all_cotangents(&targets);
    let loss = |h: &[f64], w: &[f64]| {
        let s = scores::<f64>(h, w, &targets, SHAPE, 1);
        [s.log_probs, s.mean, s.sum_sq, s.entropy, s.given].iter().zip(&d).map(|(out, d)| weighted(out, d)).sum()
    };
    let (dh, dw) = gradients::<f64>(&h, &w, &targets, &d, SHAPE, 1);
    assert_near(&dh, &central_differences(&h, |h| loss(h, &w)), 1e-8, "d_hidden by differences");
    assert_near(&dw, &central_differences(&w, |w| loss(&h, w)), 1e-8, "d_weight by differences");
}

#[test]
fn a_row_by_hand() {
    // Logits 0, ln 2, ln 5: p = 1/8, 2/8, 5/8.
    let weight = [0.0, 2f64.ln(), 5f64.ln()];
    let shape = Shape { rows: 1, hidden: 1, vocab: 3, targets: 2, chunk: 0 };
    let targets = Owned { rows: vec![0, 0], ids: vec![1, 2], given: vec![] };
    let s = scores::<f64>(&[1.0], &weight, &targets, shape, 1);
    assert_near(&s.log_probs, &[0.25f64.ln(), 0.625f64.ln()], 1e-14, "log_probs");
    assert_near(&s.sum_sq[..1], &[(30.0f64 / 64.0).ln()], 1e-14, "log Σp²");
    assert_near(&s.mean[..1], &[(10.0f64 / 512.0).ln() / 3.0], 1e-14, "mean");
    assert_near(&s.lse[..1], &[8f64.ln()], 1e-14, "lse");
    assert_eq!(s.top1, [0.0, 1.0]);
}

#[test]
fn of_equal_logits_the_first_is_the_top() {
    let shape = Shape { rows: 1, hidden: 1, vocab: 4, targets: 4, chunk: 0 };
    let targets = Owned { rows: vec![0; 4], ids: vec![0, 1, 2, 3], given: vec![] };
    assert_eq!(scores::<f32>(&[1.0], &[1.0, 3.0, 3.0, 2.0], &targets, shape, 1).top1, [0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn chunks_decide_no_result() {
    let ((h, w), targets) = (case(SHAPE), small());
    let d = all_cotangents(&targets);
    let whole = Shape { chunk: 0, ..SHAPE };
    let (expected, (dh, dw)) =
        (scores::<f64>(&h, &w, &targets, whole, 1), gradients::<f64>(&h, &w, &targets, &d, whole, 1));
    for chunk in [1, 3, 7, 8, 100] {
        let shape = Shape { chunk, ..SHAPE };
        let s = scores::<f64>(&h, &w, &targets, shape, 2);
        assert_near(&s.log_probs, &expected.log_probs, 1e-13, "log_probs");
        assert_near(&s.entropy, &expected.entropy, 1e-13, "entropy");
        let d = gradients::<f64>(&h, &w, &targets, &d, shape, 2);
        assert_near(&d.0, &dh, 1e-13, "d_hidden");
        assert_near(&d.1, &dw, 1e-13, "d_weight");
    }
    assert_eq!((automatic_chunk(2), automatic_chunk(128_256), automatic_chunk(1 << 30)), (512, 261, 16));
}

#[test]
fn single_precision_is_near_and_repeats_itself() {
    // More targets than are multiplied at a time, and enough of everything for factors to be packed.
    let shape = Shape { rows: 90, hidden: 72, vocab: 603, targets: 500, chunk: 250 };
    let ((h, w), targets) = (case(shape), random(shape));
    let zero: D5 = Default::default();
    let log_probs_only = [numbers(11, 500), vec![], vec![], vec![], vec![]];
    let all = [numbers(11, 500), numbers(12, 500), numbers(13, 500), numbers(14, 500), vec![]];
    let exact = scores::<f64>(&h, &w, &targets, shape, 1);
    for threads in [1, 2] {
        let s = scores::<f32>(&h, &w, &targets, shape, threads);
        assert_near(&s.log_probs, &exact.log_probs, 1e-5, "log_probs in f32");
        assert_near(&s.mean, &exact.mean, 1e-5, "mean in f32");
        assert_near(&s.sum_sq, &exact.sum_sq, 1e-5, "log Σp² in f32");
        assert_near(&s.entropy, &exact.entropy, 1e-5, "entropy in f32");
        assert_eq!(s, scores::<f32>(&h, &w, &targets, shape, threads));
        for d in [&log_probs_only, &all] {
            let (dh, dw) = gradients::<f32>(&h, &w, &targets, d, shape, threads);
            let expected = gradients::<f64>(&h, &w, &targets, d, shape, 1);
            assert_near(&dh, &expected.0, 1e-5, "d_hidden in f32");
            assert_near(&dw, &expected.1, 1e-5, "d_weight in f32");
            assert_eq!((dh, dw), gradients::<f32>(&h, &w, &targets, d, shape, threads));
        }
    }
    let (dh, dw) = gradients::<f32>(&h, &w, &targets, &zero, shape, 1);
    assert!(dh.iter().chain(&dw).all(|&v| v == 0.0));
}

#[test]
fn rows_of_the_gradient_of_logits_sum_to_zero() {
    // With a hidden size of 1 and a hidden state of 1, d_weight of a lone target is the gradient of its logits.
    let shape = Shape { rows: 1, hidden: 1, vocab: 777, targets: 1, chunk: 0 };
    for (size, all) in [(1.0, false), (1.0, true), (1e3, false), (1e4, true)] {
        let w: Vec<f64> = numbers(1, 777).iter().map(|v| v * size).collect();
        let targets = Owned { rows: vec![0], ids: vec![5], given: vec![] };
        let rest = if all { vec![0.7] } else { vec![] };
        let d = [vec![1.3], rest.clone(), rest.clone(), rest, vec![]];
        let (_, dl) = gradients::<f32>(&[1.0], &w, &targets, &d, shape, 1);
        let sum: f64 = dl.iter().map(|&v| f64::from(v)).sum();
        let absolute: f64 = dl.iter().map(|&v| f64::from(v.abs())).sum();
        assert!(sum.abs() < 1e-6 * absolute.max(1.0), "size {size}: {sum:e} of {absolute:e}");
    }
}

#[test]
fn large_logits_stay_finite() {
    let (h, w) = case(SHAPE);
    let w: Vec<f64> = w.iter().map(|v| v * 1e4).collect();
    let targets = small();
    let s = scores::<f32>(&h, &w, &targets, SHAPE, 1);
    for values in [&s.log_probs, &s.mean, &s.sum_sq, &s.entropy, &s.given, &s.lse] {
        assert!(values.iter().all(|v| v.is_finite()), "{values:?}");
    }
    let (dh, dw) = gradients::<f32>(&h, &w, &targets, &all_cotangents(&targets), SHAPE, 1);
    assert!(dh.iter().chain(&dw).all(|v| v.is_finite()));
}

#[test]
fn gradients_accumulate_and_a_frozen_head_has_none() {
    let ((h, w), targets) = (case(SHAPE), small());
    let d = numbers(11, 8);
    let (dh, dw) = gradients::<f64>(&h, &w, &targets, &[d.clone(), vec![], vec![], vec![], vec![]], SHAPE, 1);
    let lse = scores::<f64>(&h, &w, &targets, SHAPE, 1).lse;
    let mut ws = Workspace::new(1);
    let mut run = |into_h: &mut Vec<f64>, into_w: Option<&mut Vec<f64>>| {
        let cotangents = Cotangents { log_probs: Some((&d).into()), ..Cotangents::default() };
        let (hv, wv, into_w) = ((&h).into(), (&w).into(), into_w.map(ViewMut::from));
        let (lv, kept) = ((&lse).into(), Kept::Nothing);
        backward(hv, wv, Targets::new(&ROWS, &IDS, &[]), lv, kept, cotangents, into_h.into(), into_w, SHAPE, &mut ws)
            .unwrap();
    };
    let (mut into_h, mut into_w) = (vec![1.0; dh.len()], vec![1.0; dw.len()]);
    run(&mut into_h, Some(&mut into_w));
    assert_near(&into_h, &dh.iter().map(|v| v + 1.0).collect::<Vec<_>>(), 1e-14, "d_hidden");
    assert_near(&into_w, &dw.iter().map(|v| v + 1.0).collect::<Vec<_>>(), 1e-14, "d_weight");
    let mut frozen = vec![0.0; dh.len()];
    run(&mut frozen, None);
    assert_eq!(frozen, dh);
}

/// Results of a forward that keeps, and the gradients from what it kept; with `pulls` those of a frozen head.
fn kept<T: Float>(
    (h, w): &(Vec<f64>, Vec<f64>),
    targets: &Owned,
    d: &D5,
    shape: Shape,
    pulls: bool,
    threads: usize,
) -> (Scores<T>, Vec<T>, Vec<T>) {
    let (h, w) = (cast::<T>(h), cast::<T>(w));
    let nan = |len: usize| vec![T::from_f64(f64::NAN); len];
    let (m, ws) = (shape.targets, &mut Workspace::new(threads));
    let mut s = Scores {
        log_probs: nan(m),
        mean: nan(m),
        sum_sq: vec![],
        entropy: nan(m),
        top1: nan(m),
        given: nan(targets.given.len()),
        lse: nan(m),
    };
    let (mut exps, mut factors, mut rows) = (nan(m * shape.vocab), nan(m * blocks(shape.vocab)), nan(m * shape.hidden));
    let out = Outputs {
        mean_log_probs: Some((&mut s.mean).into()),
        entropy: Some((&mut s.entropy).into()),
        is_top1: Some((&mut s.top1).into()),
        given_log_probs: Some((&mut s.given).into()),
        ..Outputs::log_probs((&mut s.log_probs).into())
    };
    let keep = match pulls {
        true => Keep::Pulls((&mut rows).into()),
        false => Keep::Softmax(KeptSoftmax { exps: (&mut exps).into(), factors: (&mut factors).into() }),
    };
    let (hv, wv, lse) = (View::from(&h), View::from(&w), (&mut s.lse).into());
    forward(hv, wv, targets.views(), out, lse, keep, shape, ws).unwrap();
    let d = d.each_ref().map(|d| cast::<T>(d));
    let of = |i: usize| Some(View::from(&d[i])).filter(|view| !view.is_empty());
    let cotangents = Cotangents { log_probs: of(0), given_log_probs: of(4), ..Cotangents::default() };
    let kept = match pulls {
        true => Kept::Pulls((&rows).into()),
        false => Kept::Softmax(KeptSoftmax { exps: (&mut exps).into(), factors: (&mut factors).into() }),
    };
    let (mut dh, mut dw) = (vec![T::ZERO; h.len()], vec![T::ZERO; w.len()]);
    let (into_h, into_w) = ((&mut dh).into(), (!pulls).then(|| (&mut dw).into()));
    backward(hv, wv, targets.views(), (&s.lse).into(), kept, cotangents, into_h, into_w, shape, ws).unwrap();
    (s, dh, dw)
}

#[test]
fn what_is_kept_gives_the_gradients_of_what_is_made_again() {
    let shape = Shape { rows: 90, hidden: 48, vocab: 1_003, targets: 120, chunk: 50 };
    let (wide, mut targets) = (case(shape), random(shape));
    targets.given = random(Shape { targets: 240, ..shape }).ids;
    // More hidden rows than are multiplied at a time, and more than one block.
    let tall = Shape { rows: 300, hidden: 8, vocab: 600, targets: 700, chunk: 0 };
    let mut of_tall = random(tall);
    of_tall.given = random(tall).ids;
    for (case, targets, shape) in [(case(SHAPE), small(), SHAPE), (wide, targets, shape), (case(tall), of_tall, tall)] {
        let all = all_cotangents(&targets);
        let both = [all[0].clone(), vec![], vec![], vec![], all[4].clone()];
        let expected = scores::<f64>(&case.0, &case.1, &targets, shape, 1);
        for (pulls, d) in [(false, both), (true, [all[0].clone(), vec![], vec![], vec![], vec![]])] {
            let (dh, mut dw) = gradients::<f64>(&case.0, &case.1, &targets, &d, shape, 1);
            if pulls {
                dw.fill(0.0);
            }
            for threads in [1, 2] {
                let (s, into_h, into_w) = kept::<f64>(&case, &targets, &d, shape, pulls, threads);
                assert_near(&into_h, &dh, 1e-13, "d_hidden");
                assert_near(&into_w, &dw, 1e-13, "d_weight");
                for (name, ours, theirs) in [
                    ("log_probs", &s.log_probs, &expected.log_probs),
                    ("mean", &s.mean, &expected.mean),
                    ("entropy", &s.entropy, &expected.entropy),
                    ("top1", &s.top1, &expected.top1),
                    ("given", &s.given, &expected.given),
                    ("lse", &s.lse, &expected.lse),
                ] {
                    assert_near(ours, theirs, 1e-14, name);
                }
                let single = kept::<f32>(&case, &targets, &d, shape, pulls, threads);
                assert_near(&single.1, &dh, 1e-5, "d_hidden in f32");
                assert_near(&single.2, &dw, 1e-5, "d_weight in f32");
            }
        }
    }
}

#[test]
fn the_first_of_equals_is_the_first_of_all_blocks() {
    // One feature: logits are the weights. The largest stands at 100, 700 and 1,500; blocks hold 512.
    let vocab = 1_600;
    let mut w: Vec<f64> = (0..vocab).map(|i| f64::from(i % 7) - 9.0).collect();
    for top in [100, 700, 1_500] {
        w[top] = 3.0;
    }
    let shape = Shape { rows: 1, hidden: 1, vocab: w.len(), targets: 5, chunk: 0 };
    let targets = Owned { rows: vec![0; 5], ids: vec![100, 700, 1_500, 99, 1_599], given: vec![] };
    for threads in [1, 2] {
        assert_eq!(scores::<f64>(&[1.0], &w, &targets, shape, threads).top1, [1.0, 0.0, 0.0, 0.0, 0.0]);
        w[100] = -9.0;
        assert_eq!(scores::<f64>(&[1.0], &w, &targets, shape, threads).top1, [0.0, 1.0, 0.0, 0.0, 0.0]);
        w[100] = 3.0;
    }
}

#[test]
fn no_targets_and_several_blocks_are_fine() {
    let shape = Shape { rows: 3, hidden: 4, vocab: 1_100, targets: 0, chunk: 0 };
    let targets = Owned { rows: vec![], ids: vec![], given: vec![] };
    for pulls in [false, true] {
        let (_, dh, dw) = kept::<f32>(&case(shape), &targets, &[const { vec![] }; 5], shape, pulls, 2);
        assert!(dh.iter().chain(&dw).all(|&d| d == 0.0));
    }
    let (dh, dw) = gradients::<f32>(&[0.5; 12], &[0.5; 4_400], &targets, &[const { vec![] }; 5], shape, 2);
    assert!(dh.iter().chain(&dw).all(|&d| d == 0.0));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let shape = Shape { rows: 90, hidden: 48, vocab: 1_003, targets: 120, chunk: 50 };
    let (case, targets) = (case(shape), random(shape));
    let d = [numbers(21, 120), vec![], vec![], vec![], vec![]];
    for pulls in [false, true] {
        let alone = kept::<f32>(&case, &targets, &d, shape, pulls, 1);
        for threads in [2, 3] {
            let together = kept::<f32>(&case, &targets, &d, shape, pulls, threads);
            assert_eq!(alone.0.log_probs, together.0.log_probs);
            assert_eq!(alone.1, together.1);
            assert_eq!(alone.2, together.2);
        }
    }
}

#[test]
fn what_was_kept_serves_log_probs_only() {
    let ((h, w), d) = (case(SHAPE), numbers(11, 8));
    let lse = numbers(12, 8);
    let mut ws = Workspace::new(1);
    let mut run = |kept: Kept<'_, f64>, cotangents: Cotangents<'_, f64>, trained: bool| {
        let (mut into_h, mut into_w) = (vec![0.0; h.len()], vec![0.0; w.len()]);
        let into_w = trained.then(|| (&mut into_w).into());
        let (hv, wv, lv) = ((&h).into(), (&w).into(), (&lse).into());
        backward(
            hv,
            wv,
            Targets::new(&ROWS, &IDS, &[]),
            lv,
            kept,
            cotangents,
            (&mut into_h).into(),
            into_w,
            SHAPE,
            &mut ws,
        )
    };
    let (mut exps, mut factors, rows) = (vec![1.0; 8 * 13], vec![1.0; 8], vec![1.0; 8 * 5]);
    let entropy = Cotangents { entropy: Some((&d).into()), ..Cotangents::default() };
    let log_probs = Cotangents { log_probs: Some((&d).into()), ..Cotangents::default() };
    let text = |result: Result<()>| result.unwrap_err().to_string();
    let softmax = KeptSoftmax { exps: (&mut exps).into(), factors: (&mut factors).into() };
    assert!(text(run(Kept::Softmax(softmax), entropy, true)).contains("keep nothing where statistics"));
    assert!(text(run(Kept::Pulls((&rows).into()), entropy, false)).contains("keep nothing where there are other"));
    assert!(text(run(Kept::Pulls((&rows).into()), log_probs, true)).contains("the head is trained"));
    assert_length(run(Kept::Pulls((&rows[1..]).into()), log_probs, false), "kept.pulls");
    let softmax = KeptSoftmax { exps: (&mut exps[1..]).into(), factors: (&mut factors).into() };
    assert_length(run(Kept::Softmax(softmax), log_probs, true), "exps");
    run(Kept::Pulls((&rows).into()), log_probs, false).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_and_no_targets_are_fine() {
    let mut ws = Workspace::new(1);
    let (h, w) = (vec![0.0f32; 30], vec![0.0f32; 65]);
    let mut run = |h: View<'_, f32>, rows: &[u32], ids: &[u32], given: &[u32], m: usize| {
        let (mut a, mut b) = (vec![0.0f32; m], vec![0.0f32; m]);
        let shape = Shape { targets: ids.len(), ..SHAPE };
        let out = Outputs::log_probs((&mut a).into());
        forward(h, (&w).into(), Targets::new(rows, ids, given), out, (&mut b).into(), Keep::Nothing, shape, &mut ws)
    };
    let (rows, ids) = (&ROWS[..], &IDS[..]);
    assert_length(run((&h[1..]).into(), rows, ids, &[], 8), "hidden");
    assert_length(run((&h).into(), &rows[1..], ids, &[], 8), "target_rows");
    assert_length(run((&h).into(), rows, ids, &[], 7), "lse");
    let text = |result: Result<()>| result.unwrap_err().to_string();
    assert!(text(run((&h).into(), &[0, 6], &[0, 0], &[], 2)).contains("target_rows[1] is 6"));
    assert!(text(run((&h).into(), &[0, 0], &[0, 13], &[], 2)).contains("target_ids[1] is 13"));
    assert!(text(run((&h).into(), &[0, 0], &[0, 0], &[1], 2)).contains("1 ids are given"));
    assert!(text(run((&h).into(), &[0, 0], &[0, 0], &[1, 1], 2)).contains("no buffer"));
    assert_no_kernel(run(View::elsewhere(30), rows, ids, &[], 8));
    run((&h).into(), &[], &[], &[], 0).unwrap();
}
