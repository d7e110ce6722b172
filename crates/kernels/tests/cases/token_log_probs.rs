//! `token_log_probs.cu`
use candlewick_kernels::embedding::{BucketViews, Buckets};
use candlewick_kernels::token_log_probs::{
    self, Cotangents, Keep, Kept, KeptSoftmax, Outputs, Shape, Targets, automatic_device_chunk,
};
use candlewick_kernels::{Cuda, CudaBuffer, Result, View, Workspace};

use super::{Case, Sample, Written, numbers, wide};
use crate::harness::{check, check_barriers, device, sizes};

/// Which outputs are wanted and have a cotangent, besides the log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Want {
    statistics: bool,
    given: bool,
    d_weight: bool,
}

const ALL: Want = Want { statistics: true, given: true, d_weight: true };
const FEW: Want = Want { statistics: false, given: false, d_weight: true };
const GIVEN: Want = Want { statistics: false, given: true, d_weight: false };

/// Hidden states and a weight whose logits every type holds, so that rounding is that of gradients alone.
fn head<T: Sample>(shape: Shape) -> (Vec<T>, Vec<T>) {
    let steps = |seed, len, most: f64, step: f64| {
        let of = |value: f64| T::of((value * (most + 0.5)).round() * step);
        wide(&numbers::<f64>(seed, len)).into_iter().map(of).collect()
    };
    (steps(1, shape.rows * shape.hidden, 2.0, 1.0), steps(2, shape.vocab * shape.hidden, 3.0, 0.25))
}

/// Targets of which some share a row, and given ids of which some are the same, or the target.
struct Scored {
    rows: Vec<u32>,
    ids: Vec<u32>,
    given: Vec<u32>,
}

impl Scored {
    fn new(shape: Shape, want: Want) -> Self {
        let rows = (0..shape.targets).map(|i| (i * 5 % 7 * i % shape.rows) as u32).collect();
        let ids: Vec<u32> = (0..shape.targets).map(|i| (i * 611 % shape.vocab) as u32).collect();
        let of = |(i, &id): (usize, &u32)| [id, (i * 37 % shape.vocab) as u32, 2, 2];
        let given = if want.given { ids.iter().enumerate().flat_map(of).collect() } else { vec![] };
        Self { rows, ids, given }
    }
}

/// Everything that the two passes write: scores, d_hidden, d_weight.
struct Results<W> {
    scores: [Vec<W>; 7],
    d_hidden: Vec<f64>,
    d_weight: Vec<W>,
}

impl<W: Sample> Results<W> {
    fn written<T: Sample>(&self, want: Want) -> Vec<Written> {
        let names = ["lse", "log_probs", "mean", "log Σp²", "entropy", "is_top1", "given"];
        let scores = names.iter().zip(&self.scores).filter(|(_, values)| !values.is_empty());
        let scores = scores.map(|(name, values)| Written::new(name, values));
        // Of logits' gradients that are rounded to the type.
        let rounded = |name, values| Written { name, values, bound: T::BOUND };
        let d_weight = want.d_weight.then(|| rounded("d_weight", wide(&self.d_weight)));
        scores.chain([rounded("d_hidden", self.d_hidden.clone())]).chain(d_weight).collect()
    }
}

/// The cotangents of the five outputs that have one, then d_hidden and d_weight before.
fn before<W: Sample>(shape: Shape, want: Want) -> [Vec<W>; 7] {
    let m = shape.targets;
    let given = if want.given { 4 * m } else { 0 };
    let statistic = if want.statistics { m } else { 0 };
    let mut all = [m, statistic, statistic, statistic, given, shape.rows * shape.hidden, shape.vocab * shape.hidden];
    if !want.d_weight {
        all[6] = 0;
    }
    let mut seed = 10;
    let mut before = all.map(|len| {
        seed += 1;
        // Numbers that all types hold.
        numbers::<half::bf16>(seed, len).into_iter().map(|value| W::of(value.value())).collect::<Vec<_>>()
    });
    // Targets that weigh nothing.
    if let Some(d) = before[0].get_mut(1) {
        *d = W::of(0.0);
    }
    before
}

fn cotangents<'a, W>([log_probs, mean, sum_sq, entropy, given]: [View<'a, W>; 5]) -> Cotangents<'a, W> {
    let some = |view: View<'a, W>| (!view.is_empty()).then_some(view);
    Cotangents {
        log_probs: some(log_probs),
        mean_log_probs: some(mean),
        log_sum_sq_probs: some(sum_sq),
        entropy: some(entropy),
        given_log_probs: some(given),
    }
}

fn lengths(shape: Shape, want: Want) -> [usize; 7] {
    let m = shape.targets;
    let statistic = if want.statistics { m } else { 0 };
    [m, m, statistic, statistic, statistic, statistic, if want.given { 4 * m } else { 0 }]
}

/// The CPU's op in `f64`.
fn expected<T: Sample<Wide: Sample>>(shape: Shape, want: Want, pulls: bool) -> Results<f64> {
    let (hidden, weight) = head::<T>(shape);
    let (hidden, weight) = (wide(&hidden), wide(&weight));
    let Scored { rows, ids, given } = Scored::new(shape, want);
    let targets = Targets::new(&rows, &ids, &given);
    let mut ws = Workspace::new(1);
    let mut scores = lengths(shape, want).map(|len| vec![0.0; len]);
    let [lse, log_probs, mean, sum_sq, entropy, top1, given_log_probs] = &mut scores;
    let out = Outputs {
        log_probs: log_probs.into(),
        mean_log_probs: want.statistics.then(|| mean.into()),
        log_sum_sq_probs: want.statistics.then(|| sum_sq.into()),
        entropy: want.statistics.then(|| entropy.into()),
        is_top1: want.statistics.then(|| top1.into()),
        given_log_probs: want.given.then(|| given_log_probs.into()),
    };
    let mut kept = vec![0.0; shape.targets * shape.hidden];
    let keep = if pulls { Keep::Pulls((&mut kept).into()) } else { Keep::Nothing };
    token_log_probs::forward((&hidden).into(), (&weight).into(), targets, out, lse.into(), keep, shape, &mut ws)
        .unwrap();
    let [d0, d1, d2, d3, d4, mut d_hidden, mut d_weight] = before::<f64>(shape, want);
    let d = cotangents([&d0, &d1, &d2, &d3, &d4].map(View::from));
    let kept = if pulls { Kept::Pulls((&kept).into()) } else { Kept::Nothing };
    let (h, w, into_w) = ((&hidden).into(), (&weight).into(), want.d_weight.then(|| (&mut d_weight).into()));
    let lse = (&scores[0]).into();
    token_log_probs::backward(h, w, targets, lse, kept, d, (&mut d_hidden).into(), into_w, shape, &mut ws).unwrap();
    Results { scores, d_hidden, d_weight }
}

fn on_device<T: Sample<Wide: Sample>>(cuda: &Cuda, shape: Shape, want: Want, pulls: bool) -> Result<Results<T::Wide>> {
    let (hidden, weight) = head::<T>(shape);
    let (hidden, weight) = (cuda.upload(&hidden)?, cuda.upload(&weight)?);
    let scored = Scored::new(shape, want);
    let buckets = Buckets::of(&scored.rows);
    let [rows, ids, given] = [&scored.rows, &scored.ids, &scored.given].map(|ids| cuda.upload(ids).unwrap());
    let [of_rows, starts, members] =
        [&buckets.ids, &buckets.starts, &buckets.members].map(|ids| cuda.upload(ids).unwrap());
    let by_row = Some(BucketViews { ids: of_rows.view(), starts: starts.view(), members: members.view() });
    let targets = Targets { rows: rows.view(), ids: ids.view(), given: given.view(), by_row };
    let mut ws = Workspace::new(1);
    let mut scores = lengths(shape, want).map(|len| cuda.unwritten::<T::Wide>(len).unwrap());
    let [lse, log_probs, mean, sum_sq, entropy, top1, given_log_probs] = scores.each_mut().map(CudaBuffer::view_mut);
    let out = Outputs {
        log_probs,
        mean_log_probs: want.statistics.then_some(mean),
        log_sum_sq_probs: want.statistics.then_some(sum_sq),
        entropy: want.statistics.then_some(entropy),
        is_top1: want.statistics.then_some(top1),
        given_log_probs: want.given.then_some(given_log_probs),
    };
    let mut kept = cuda.unwritten::<T>(shape.targets * shape.hidden)?;
    let keep = if pulls { Keep::Pulls(kept.view_mut()) } else { Keep::Nothing };
    token_log_probs::forward(hidden.view(), weight.view(), targets, out, lse, keep, shape, &mut ws)?;
    let before = before::<T::Wide>(shape, want);
    let d_hidden: Vec<T> = before[5].iter().map(|value| T::of(value.value())).collect();
    let mut d_hidden = cuda.upload(&d_hidden)?;
    let [d0, d1, d2, d3, d4, _, mut d_weight] = before.map(|values| cuda.upload(&values).unwrap());
    let d = cotangents([&d0, &d1, &d2, &d3, &d4].map(CudaBuffer::view));
    let kept = if pulls { Kept::Pulls(kept.view()) } else { Kept::Nothing };
    let (h, w, into_w) = (hidden.view(), weight.view(), want.d_weight.then(|| d_weight.view_mut()));
    token_log_probs::backward(h, w, targets, scores[0].view(), kept, d, d_hidden.view_mut(), into_w, shape, &mut ws)?;
    let scores = scores.each_ref().map(|scores| scores.download().unwrap());
    Ok(Results { scores, d_hidden: wide(&d_hidden.download()?), d_weight: d_weight.download()? })
}

fn case<T: Sample<Wide: Sample>>(shape: Shape, want: Want, pulls: bool) -> Case {
    let expected = expected::<T>(shape, want, pulls).written::<T>(want).into_iter().map(|one| one.values).collect();
    let run = move |cuda: &Cuda| Ok(on_device::<T>(cuda, shape, want, pulls)?.written::<T>(want));
    let name = format!("token log-probs of {shape:?} {want:?} {}, pulls {pulls}", T::NAME);
    Case { name, run: Box::new(run), expected }
}

const SMALL: Shape = Shape { rows: 6, hidden: 5, vocab: 13, targets: 8, chunk: 3 };
const LARGE: Shape = Shape { rows: 5, hidden: 16, vocab: 4104, targets: 7, chunk: 4 };

#[test]
fn scores_and_gradients_agree_with_the_cpu() {
    let small = [SMALL, LARGE, Shape { vocab: 521, chunk: 0, ..LARGE }, Shape { targets: 0, ..SMALL }];
    let large = Shape { rows: 100, hidden: 16, vocab: 32_003, targets: 250, chunk: 128 };
    for shape in sizes(&small, &[large, Shape { vocab: 32_000, ..large }]) {
        for want in [ALL, FEW, GIVEN, Want { d_weight: true, ..GIVEN }] {
            check(&[
                case::<f32>(shape, want, false),
                case::<f64>(shape, want, false),
                case::<half::bf16>(shape, want, false),
            ]);
        }
        let frozen = Want { d_weight: false, ..FEW };
        check(&[
            case::<f32>(shape, frozen, true),
            case::<f64>(shape, frozen, true),
            case::<half::bf16>(shape, frozen, true),
        ]);
    }
}

#[test]
fn every_barrier_is_missed() {
    let shape = Shape { targets: 3, chunk: 3, ..LARGE };
    let cases = [case::<f32>(shape, ALL, false), case::<half::bf16>(shape, GIVEN, false)];
    check_barriers("token_log_probs", &cases);
}

/// Logits as they are after a long training: the largest probability is 1 to the last bit, and the rest are small.
#[test]
fn rows_of_gradients_sum_to_zero_however_large_logits_are() {
    let Some(cuda) = device() else { return };
    let shape = Shape { rows: 1, hidden: 1, vocab: 40, targets: 1, chunk: 0 };
    let logits: Vec<f32> = (0..40).map(|id| 1e4 + id as f32 / 16.0).collect();
    let (hidden, weight) = (cuda.upload(&[1.0f32]).unwrap(), cuda.upload(&logits).unwrap());
    let zero = cuda.upload(&[0u32]).unwrap();
    let (id, ends) = (cuda.upload(&[7u32]).unwrap(), cuda.upload(&[0u32, 1]).unwrap());
    let none = cuda.upload::<u32>(&[]).unwrap();
    let by_row = Some(BucketViews { ids: zero.view(), starts: ends.view(), members: zero.view() });
    let targets = Targets { rows: zero.view(), ids: id.view(), given: none.view(), by_row };
    let (mut lse, mut log_probs) = (cuda.unwritten::<f32>(1).unwrap(), cuda.unwritten::<f32>(1).unwrap());
    let ws = &mut Workspace::new(1);
    let out = Outputs::log_probs(log_probs.view_mut());
    let (h, w) = (hidden.view(), weight.view());
    token_log_probs::forward(h, w, targets, out, lse.view_mut(), Keep::Nothing, shape, ws).unwrap();
    let (one, mut d_hidden) = (cuda.upload(&[1.0f32]).unwrap(), cuda.upload(&[0.0f32]).unwrap());
    let mut d_weight = cuda.upload(&[0.0f32; 40]).unwrap();
    let d = Cotangents { log_probs: Some(one.view()), ..Cotangents::default() };
    let (into_h, into_w) = (d_hidden.view_mut(), Some(d_weight.view_mut()));
    token_log_probs::backward(h, w, targets, lse.view(), Kept::Nothing, d, into_h, into_w, shape, ws).unwrap();
    let sum: f64 = wide(&d_weight.download().unwrap()).iter().sum();
    assert!(sum.abs() < 1e-6, "{sum:e}");
}

#[test]
fn what_a_device_cannot_do_is_refused() {
    let Some(cuda) = device() else { return };
    let shape = Shape { rows: 1, hidden: 1, vocab: 2, targets: 1, chunk: 0 };
    let (hidden, weight) = (cuda.upload(&[1.0f32]).unwrap(), cuda.upload(&[1.0f32, 2.0]).unwrap());
    let (zero, none) = (cuda.upload(&[0u32]).unwrap(), cuda.upload::<u32>(&[]).unwrap());
    let targets = Targets { rows: zero.view(), ids: zero.view(), given: none.view(), by_row: None };
    let [mut lse, mut log_probs, mut exps, mut factors] =
        [1, 1, 2, 1].map(|len| cuda.upload(&vec![0.0f32; len]).unwrap());
    let ws = &mut Workspace::new(1);
    let (h, w) = (hidden.view(), weight.view());
    let keep = Keep::Softmax(KeptSoftmax { exps: exps.view_mut(), factors: factors.view_mut() });
    let out = Outputs::log_probs(log_probs.view_mut());
    let error = token_log_probs::forward(h, w, targets, out, lse.view_mut(), keep, shape, ws).unwrap_err();
    assert!(error.to_string().contains("keeps no softmax"), "{error}");
    let mut d_hidden = cuda.upload(&[0.0f32]).unwrap();
    let (kept, d) = (Kept::Nothing, Cotangents::default());
    let error = token_log_probs::backward(h, w, targets, lse.view(), kept, d, d_hidden.view_mut(), None, shape, ws)
        .unwrap_err();
    assert!(error.to_string().contains("by_row"), "{error}");
    let (mut host, on_host) = (vec![0.0f32], Targets::new(&[0], &[0], &[]));
    let out = Outputs::log_probs((&mut host).into());
    let mixed = token_log_probs::forward(h, w, on_host, out, lse.view_mut(), Keep::Nothing, shape, ws).unwrap_err();
    assert!(mixed.to_string().contains("different devices"), "{mixed}");
}

#[test]
fn an_id_beyond_the_vocabulary_scores_nan_and_harms_nobody() {
    let Some(cuda) = device() else { return };
    let shape = Shape { rows: 1, hidden: 1, vocab: 3, targets: 2, chunk: 0 };
    let (hidden, weight) = (cuda.upload(&[1.0f32]).unwrap(), cuda.upload(&[0.0f32; 3]).unwrap());
    let (rows, ids, none) = (
        cuda.upload(&[0u32, 0]).unwrap(),
        cuda.upload(&[1u32, 900_000_000]).unwrap(),
        cuda.upload::<u32>(&[]).unwrap(),
    );
    let targets = Targets { rows: rows.view(), ids: ids.view(), given: none.view(), by_row: None };
    let (mut lse, mut log_probs) = (cuda.unwritten::<f32>(2).unwrap(), cuda.unwritten::<f32>(2).unwrap());
    let out = Outputs::log_probs(log_probs.view_mut());
    let ws = &mut Workspace::new(1);
    token_log_probs::forward(hidden.view(), weight.view(), targets, out, lse.view_mut(), Keep::Nothing, shape, ws)
        .unwrap();
    let log_probs = log_probs.download().unwrap();
    assert!((log_probs[0] + 3f32.ln()).abs() < 1e-6 && log_probs[1].is_nan(), "{log_probs:?}");
}

#[test]
fn a_chunk_of_logits_is_half_a_gibibyte_at_most_or_128_rows() {
    for (vocab, chunk) in [(1, 2048), (32_000, 2048), (152_064, 1664), (262_144, 1024), (10_000_000, 128)] {
        assert_eq!(automatic_device_chunk::<half::bf16>(vocab), chunk, "{vocab}");
    }
    assert_eq!(automatic_device_chunk::<f32>(262_144), 512);
}
