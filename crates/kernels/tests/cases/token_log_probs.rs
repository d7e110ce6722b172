//! `token_log_probs.cu`
use candlewick_kernels::embedding::{BucketViews, Buckets};
use candlewick_kernels::token_log_probs::{
    self, Cotangents, Keep, Kept, KeptSoftmax, Outputs, Shape, Targets, automatic_device_chunk, logits_stride,
};
use candlewick_kernels::{Cuda, CudaBuffer, Element, Result, View, Workspace};

use super::{Case, Sample, Written, numbers, wide};
use crate::harness::{check, check_barriers, device, opened, sizes};

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

/// What is kept for the backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    Pulls,
    /// On the CPU, nothing.
    Logits,
}

/// The CPU's op in `f64`.
fn expected<T: Sample<Wide: Sample>>(shape: Shape, want: Want, kind: Kind) -> Results<f64> {
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
    let pulls = kind == Kind::Pulls;
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

fn on_device<T: Sample<Wide: Sample>>(cuda: &Cuda, shape: Shape, want: Want, kind: Kind) -> Result<Results<T::Wide>> {
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
    let width = if kind == Kind::Logits { logits_stride::<T>(shape.vocab) } else { shape.hidden };
    let mut kept = cuda.unwritten::<T>(shape.targets * width)?;
    let keep = match kind {
        Kind::Nothing => Keep::Nothing,
        Kind::Pulls => Keep::Pulls(kept.view_mut()),
        Kind::Logits => Keep::Logits(kept.view_mut()),
    };
    token_log_probs::forward(hidden.view(), weight.view(), targets, out, lse, keep, shape, &mut ws)?;
    let before = before::<T::Wide>(shape, want);
    let d_hidden: Vec<T> = before[5].iter().map(|value| T::of(value.value())).collect();
    let mut d_hidden = cuda.upload(&d_hidden)?;
    let [d0, d1, d2, d3, d4, _, mut d_weight] = before.map(|values| cuda.upload(&values).unwrap());
    let d = cotangents([&d0, &d1, &d2, &d3, &d4].map(CudaBuffer::view));
    let kept = match kind {
        Kind::Nothing => Kept::Nothing,
        Kind::Pulls => Kept::Pulls(kept.view()),
        Kind::Logits => Kept::Logits(kept.view_mut()),
    };
    let (h, w, into_w) = (hidden.view(), weight.view(), want.d_weight.then(|| d_weight.view_mut()));
    token_log_probs::backward(h, w, targets, scores[0].view(), kept, d, d_hidden.view_mut(), into_w, shape, &mut ws)?;
    let scores = scores.each_ref().map(|scores| scores.download().unwrap());
    Ok(Results { scores, d_hidden: wide(&d_hidden.download()?), d_weight: d_weight.download()? })
}

fn case<T: Sample<Wide: Sample>>(shape: Shape, want: Want, kind: Kind) -> Case {
    let expected = expected::<T>(shape, want, kind).written::<T>(want).into_iter().map(|one| one.values).collect();
    let run = move |cuda: &Cuda| Ok(on_device::<T>(cuda, shape, want, kind)?.written::<T>(want));
    let name = format!("token log-probs of {shape:?} {want:?} {}, {kind:?} kept", T::NAME);
    Case { name, run: Box::new(run), expected }
}

const SMALL: Shape = Shape { rows: 6, hidden: 5, vocab: 13, targets: 8, chunk: 3 };
const LARGE: Shape = Shape { rows: 5, hidden: 16, vocab: 4104, targets: 7, chunk: 4 };

#[test]
fn scores_and_gradients_agree_with_the_cpu() {
    let small = [SMALL, LARGE, Shape { vocab: 521, chunk: 0, ..LARGE }, Shape { targets: 0, ..SMALL }];
    let large = Shape { rows: 100, hidden: 16, vocab: 32_003, targets: 250, chunk: 128 };
    for shape in sizes(&small, &[large, Shape { vocab: 32_000, ..large }]) {
        let of_types = |want, kind| {
            check(&[
                case::<f32>(shape, want, kind),
                case::<f64>(shape, want, kind),
                case::<half::bf16>(shape, want, kind),
            ]);
        };
        for want in [ALL, FEW, GIVEN, Want { d_weight: true, ..GIVEN }] {
            of_types(want, Kind::Nothing);
        }
        of_types(ALL, Kind::Logits);
        of_types(Want { d_weight: false, ..FEW }, Kind::Pulls);
    }
}

#[test]
fn more_targets_than_blocks_have_their_turns() {
    let shape = Shape { rows: 4_200, hidden: 8, vocab: 8, targets: 4_200, chunk: 4_100 };
    check(&[case::<f32>(shape, Want { d_weight: false, ..FEW }, Kind::Pulls), case::<f32>(shape, FEW, Kind::Nothing)]);
}

#[test]
fn every_barrier_is_missed() {
    let shape = Shape { targets: 3, chunk: 3, ..LARGE };
    let cases = [case::<f32>(shape, ALL, Kind::Nothing), case::<half::bf16>(shape, GIVEN, Kind::Nothing)];
    check_barriers("token_log_probs", &cases);
}

/// A head whose one hidden state, 1, has these logits, and targets that all score it.
struct OneRow<T: Element> {
    shape: Shape,
    hidden: CudaBuffer<T>,
    weight: CudaBuffer<T>,
    rows: CudaBuffer<u32>,
    ids: CudaBuffer<u32>,
    given: CudaBuffer<u32>,
    starts: CudaBuffer<u32>,
    members: CudaBuffer<u32>,
    lse: CudaBuffer<T::Wide>,
    log_probs: CudaBuffer<T::Wide>,
    is_top1: CudaBuffer<T::Wide>,
    given_log_probs: CudaBuffer<T::Wide>,
    d_hidden: CudaBuffer<T>,
    d_weight: CudaBuffer<T::Wide>,
}

impl<T: Sample<Wide: Sample>> OneRow<T> {
    fn new(cuda: &Cuda, logits: &[f64], ids: &[u32], given: &[u32]) -> Self {
        let count = ids.len();
        let up = |ids: &[u32]| cuda.upload(ids).unwrap();
        let wide = |len| cuda.upload(&vec![T::Wide::of(0.0); len]).unwrap();
        Self {
            shape: Shape { rows: 1, hidden: 1, vocab: logits.len(), targets: count, chunk: 0 },
            hidden: cuda.upload(&[T::of(1.0)]).unwrap(),
            weight: cuda.upload(&logits.iter().map(|&logit| T::of(logit)).collect::<Vec<_>>()).unwrap(),
            rows: up(&vec![0; count]),
            ids: up(ids),
            given: up(given),
            starts: up(&[0, count as u32]),
            members: up(&(0..count as u32).collect::<Vec<_>>()),
            lse: wide(count),
            log_probs: wide(count),
            is_top1: wide(count),
            given_log_probs: wide(given.len()),
            d_hidden: cuda.upload(&[T::of(0.0)]).unwrap(),
            d_weight: wide(logits.len()),
        }
    }

    fn forward(&mut self, keep: Keep<'_, T>) -> Result<()> {
        let Self { rows, ids, given, hidden, weight, lse, log_probs, is_top1, given_log_probs, .. } = self;
        // What is not there may be anywhere.
        let given_ids = if given.is_empty() { View::from(&[][..]) } else { given.view() };
        let targets = Targets { rows: rows.view(), ids: ids.view(), given: given_ids, by_row: None };
        let out = Outputs {
            is_top1: Some(is_top1.view_mut()),
            given_log_probs: (!given.is_empty()).then(|| given_log_probs.view_mut()),
            ..Outputs::log_probs(log_probs.view_mut())
        };
        let ws = &mut Workspace::new(1);
        token_log_probs::forward(hidden.view(), weight.view(), targets, out, lse.view_mut(), keep, self.shape, ws)
    }

    /// With a cotangent of 1 for each log-probability, those of given ids included, where `ones`.
    fn backward(&mut self, cuda: &Cuda, kept: Kept<'_, T>, ones: bool, trained: bool) -> Result<()> {
        let of = |len: usize| cuda.upload(&vec![T::Wide::of(1.0); len]).unwrap();
        let (d_log_probs, d_given) = (of(self.shape.targets), of(self.given.len()));
        let d = Cotangents {
            log_probs: ones.then(|| d_log_probs.view()),
            given_log_probs: (ones && !self.given.is_empty()).then(|| d_given.view()),
            ..Cotangents::default()
        };
        let by_row = Some(BucketViews {
            ids: self.rows.view().part(0..1)?,
            starts: self.starts.view(),
            members: self.members.view(),
        });
        let (rows, ids, given) = (self.rows.view(), self.ids.view(), self.given.view());
        let (h, w, lse) = (self.hidden.view(), self.weight.view(), self.lse.view());
        let (into_h, into_w) = (self.d_hidden.view_mut(), trained.then(|| self.d_weight.view_mut()));
        let ws = &mut Workspace::new(1);
        let targets = Targets { rows, ids, given, by_row };
        token_log_probs::backward(h, w, targets, lse, kept, d, into_h, into_w, self.shape, ws)
    }
}

/// The sum of a row's gradient, where logits are as large as after a long training.
fn sum_of_gradient<T: Sample<Wide: Sample>>(cuda: &Cuda, logits: &[f64]) -> f64 {
    let mut row = OneRow::<T>::new(cuda, logits, &[1], &[]);
    row.forward(Keep::Nothing).unwrap();
    row.backward(cuda, Kept::Nothing, true, true).unwrap();
    wide(&row.d_weight.download().unwrap()).iter().sum()
}

#[test]
fn rows_of_gradients_sum_to_zero_however_large_logits_are() {
    let Some(cuda) = device() else { return };
    let logits: Vec<f64> = (0..40).map(|id| 1e4 + f64::from(id) / 16.0).collect();
    let sum = sum_of_gradient::<f32>(&cuda, &logits);
    assert!(sum.abs() < 1e-6, "{sum:e}");
    let sum = sum_of_gradient::<half::bf16>(&cuda, &[16_384.0, 16_384.0]);
    assert!(sum.abs() < 4e-3, "{sum:e}");
}

#[test]
fn the_most_probable_token_is_the_first_of_equals() {
    let Some(cuda) = device() else { return };
    let top1 = |logits: &[f64]| {
        let ids: Vec<u32> = (0..logits.len() as u32).collect();
        let mut row = OneRow::<f32>::new(&cuda, logits, &ids, &[]);
        row.forward(Keep::Nothing).unwrap();
        wide(&row.is_top1.download().unwrap())
    };
    assert_eq!(top1(&[1.0, 3.0, 3.0, 2.0, 3.0]), [0.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(top1(&[1.0, 2.0, 3.0]), [0.0, 0.0, 1.0]);
    assert_eq!(top1(&[f64::NAN])[..], [0.0]);
}

#[test]
fn an_id_beyond_the_vocabulary_scores_nan_and_harms_nobody() {
    let Some(cuda) = device() else { return };
    const BEYOND: u32 = 900_000_000;
    let mut row = OneRow::<f32>::new(&cuda, &[0.0; 3], &[1, BEYOND], &[0, BEYOND]);
    row.forward(Keep::Nothing).unwrap();
    let [log_probs, given] = [&row.log_probs, &row.given_log_probs].map(|values| values.download().unwrap());
    for values in [log_probs, given] {
        assert!((values[0] + 3f32.ln()).abs() < 1e-6 && values[1].is_nan(), "{values:?}");
    }
    assert_eq!(row.is_top1.download().unwrap(), [0.0, 0.0]);
    row.backward(&cuda, Kept::Nothing, true, true).unwrap();
    // Each row is pushed down by its two cotangents and up at the ids that there are.
    let d_weight = row.d_weight.download().unwrap();
    let expected = [-1.0 / 3.0, -1.0 / 3.0, -4.0 / 3.0];
    assert!(d_weight.iter().zip(expected).all(|(d, expected)| (d - expected).abs() < 1e-6), "{d_weight:?}");
}

#[test]
fn pulls_without_a_cotangent_pull_nothing() {
    let Some(cuda) = device() else { return };
    let mut row = OneRow::<f32>::new(&cuda, &[1.0, 2.0], &[0], &[]);
    let mut pulls = cuda.unwritten::<f32>(1).unwrap();
    row.forward(Keep::Pulls(pulls.view_mut())).unwrap();
    row.backward(&cuda, Kept::Pulls(pulls.view()), false, false).unwrap();
    assert_eq!(row.d_hidden.download().unwrap(), [0.0]);
    row.backward(&cuda, Kept::Pulls(pulls.view()), true, false).unwrap();
    assert!(row.d_hidden.download().unwrap()[0] < -0.1);
}

#[test]
fn what_a_device_cannot_do_is_refused() {
    let Some(cuda) = device() else { return };
    let mut row = OneRow::<f32>::new(&cuda, &[1.0, 2.0], &[0], &[]);
    let (mut exps, mut factors) = (cuda.unwritten::<f32>(2).unwrap(), cuda.unwritten::<f32>(1).unwrap());
    let keep = Keep::Softmax(KeptSoftmax { exps: exps.view_mut(), factors: factors.view_mut() });
    let error = row.forward(keep).unwrap_err().to_string();
    assert!(error.contains("keeps no softmax"), "{error}");
    let error = row.forward(Keep::Logits(exps.view_mut())).unwrap_err().to_string();
    assert!(error.contains("keep.logits has 2 elements, expected 4 (targets × logits_stride)"), "{error}");

    let (zero, none) = (cuda.upload(&[0u32]).unwrap(), cuda.upload::<u32>(&[]).unwrap());
    let targets = Targets { rows: zero.view(), ids: zero.view(), given: none.view(), by_row: None };
    let ws = &mut Workspace::new(1);
    let mut refused = |targets: Targets<'_>| {
        let (h, w, lse, d) = (row.hidden.view(), row.weight.view(), row.lse.view(), Cotangents::default());
        let into_h = row.d_hidden.view_mut();
        token_log_probs::backward(h, w, targets, lse, Kept::Nothing, d, into_h, None, row.shape, ws)
            .unwrap_err()
            .to_string()
    };
    let error = refused(targets);
    assert!(error.contains("by_row"), "{error}");
    let of_another = BucketViews { ids: zero.view(), starts: zero.view(), members: none.view() };
    let error = refused(Targets { by_row: Some(of_another), ..targets });
    assert!(error.contains("by_row.members has 0 elements, expected 1 (targets)"), "{error}");
    let error = refused(Targets { by_row: Some(BucketViews { members: zero.view(), ..of_another }), ..targets });
    assert!(error.contains("by_row.starts has 1 elements, expected 2 (buckets + 1)"), "{error}");

    let (mut host, on_host) = (vec![0.0f32], Targets::new(&[0], &[0], &[]));
    let out = Outputs::log_probs((&mut host).into());
    let (h, w, lse) = (row.hidden.view(), row.weight.view(), row.lse.view_mut());
    let mixed = token_log_probs::forward(h, w, on_host, out, lse, Keep::Nothing, row.shape, ws).unwrap_err();
    assert!(mixed.to_string().contains("different devices"), "{mixed}");
}

#[test]
fn a_chunk_of_logits_is_half_a_gibibyte_at_most_or_128_rows() {
    for (vocab, chunk) in [(1, 2048), (32_000, 2048), (152_064, 1664), (262_144, 1024), (10_000_000, 128)] {
        assert_eq!(automatic_device_chunk::<half::bf16>(vocab), chunk, "{vocab}");
    }
    assert_eq!(automatic_device_chunk::<f32>(262_144), 512);
}

/// Bytes that a forward of two chunks has beside its operands.
fn worked_in(shape: Shape, keeps: bool) -> Option<usize> {
    let cuda = opened()?;
    let (hidden, weight) = (
        cuda.upload(&vec![1.0f32; shape.hidden]).unwrap(),
        cuda.upload(&vec![0.5f32; shape.vocab * shape.hidden]).unwrap(),
    );
    let zeros = cuda.upload(&vec![0u32; shape.targets]).unwrap();
    let none = View::from(&[][..]);
    let targets = Targets { rows: zeros.view(), ids: zeros.view(), given: none, by_row: None };
    let [mut lse, mut log_probs] = [0, 1].map(|_| cuda.unwritten::<f32>(shape.targets).unwrap());
    let mut kept = cuda.unwritten(if keeps { shape.targets * logits_stride::<f32>(shape.vocab) } else { 0 }).unwrap();
    let keep = if keeps { Keep::Logits(kept.view_mut()) } else { Keep::Nothing };
    let before = cuda.memory().unwrap().used;
    let (out, ws) = (Outputs::log_probs(log_probs.view_mut()), &mut Workspace::new(1));
    token_log_probs::forward(hidden.view(), weight.view(), targets, out, lse.view_mut(), keep, shape, ws).unwrap();
    Some(cuda.memory().unwrap().most_used - before)
}

/// Else a policy that keeps its logits would have them of products of other sizes than its reference, which round otherwise.
#[test]
fn logits_are_made_in_the_same_pieces_whether_they_are_kept_or_not() {
    let shape = Shape { rows: 1, hidden: 24, vocab: 8, targets: 2_500, chunk: 0 };
    let chunk = token_log_probs::device_chunk::<f32>(shape.vocab, shape.targets);
    assert_eq!(chunk, 1_280);
    let [Some(kept), Some(passing)] = [true, false].map(|keeps| worked_in(shape, keeps)) else { return };
    assert_eq!((kept, passing), (4 * chunk * shape.hidden, 4 * chunk * (shape.hidden + shape.vocab)));
}
