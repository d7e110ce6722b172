//! `attention.cu` and `flash.cu`
use candlewick_kernels::attention::{self, Layout, Segment, Shape, TileViews, Tiles};
use candlewick_kernels::{Cuda, CudaBuffer, Result, Workspace};
use half::bf16;

use super::{Case, Sample, Written, distance, numbers, wide};
use crate::harness::{check, check_barriers, sizes};

/// Segments among rows, and whose scores are what.
#[derive(Clone)]
struct Batch {
    segments: Vec<Segment>,
    shape: Shape,
}

impl Batch {
    /// Prompts with the lengths of their completions, one after the other, and as many rows of no segment after each.
    fn new(prompts: &[(usize, &[usize])], gap: usize, heads: [usize; 2], head_dim: usize) -> Self {
        let mut rows = 0;
        let mut next = |len: usize| {
            rows += len;
            rows - len..rows
        };
        let mut segments = Vec::new();
        for (prompt, completions) in prompts {
            let prompt = next(*prompt);
            segments.push(Segment { prompt, completions: completions.iter().map(|&len| next(len)).collect() });
            next(gap);
        }
        let [heads, kv_heads] = heads;
        Self { segments, shape: Shape { rows, heads, kv_heads, head_dim, soft_cap: None, window: None } }
    }

    /// With a cap that scores feel.
    fn capped(mut self) -> Self {
        self.shape.soft_cap = Some(0.8);
        self
    }

    fn windowed(mut self, window: usize) -> Self {
        self.shape.window = Some(window);
        self
    }

    fn queries(&self) -> usize {
        self.shape.rows * self.shape.heads * self.shape.head_dim
    }

    fn keys(&self) -> usize {
        self.shape.rows * self.shape.kv_heads * self.shape.head_dim
    }
}

/// Tiles and their copies on a device.
struct OnDevice {
    tiles: Tiles,
    queries: CudaBuffer<u32>,
    keys: CudaBuffer<u32>,
    ranges: CudaBuffer<u32>,
}

impl OnDevice {
    fn new(cuda: &Cuda, batch: &Batch) -> Result<Self> {
        let tiles = Tiles::of(&batch.segments, batch.shape.rows)?;
        let (queries, keys, ranges) =
            (cuda.upload(&tiles.queries)?, cuda.upload(&tiles.keys)?, cuda.upload(&tiles.ranges)?);
        Ok(Self { tiles, queries, keys, ranges })
    }

    fn views(&self) -> TileViews<'_> {
        self.tiles.views_of(self.queries.view(), self.keys.view(), self.ranges.view())
    }
}

#[derive(Clone)]
struct Operands<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    dout: Vec<T>,
}

impl<T: Sample> Operands<T> {
    fn random(batch: &Batch) -> Self {
        let [q, dout] = [1, 4].map(|seed| numbers(seed, batch.queries()));
        let [k, v] = [2, 3].map(|seed| numbers(seed, batch.keys()));
        Self { q, k, v, dout }
    }

    /// With scores that are all far below 0, where their exponentials relative to 0 are none.
    fn negative(mut self) -> Self {
        self.q.iter_mut().for_each(|q| *q = T::of(q.value().abs()));
        self.k.iter_mut().for_each(|k| *k = T::of(-k.value().abs()));
        self.scaled(256.0)
    }

    /// With scores that grow along a sequence, at each step of 64 keys by a part of what makes sums be scaled.
    fn growing(mut self, batch: &Batch) -> Self {
        let width = batch.shape.kv_heads * batch.shape.head_dim;
        self.q.iter_mut().for_each(|q| *q = T::of(q.value().abs()));
        self.k.iter_mut().enumerate().for_each(|(i, k)| *k = T::of(k.value().abs() * (i / width) as f64 / 32.0));
        self
    }

    /// With scores so many times as large.
    fn scaled(mut self, scale: f64) -> Self {
        self.q.iter_mut().for_each(|q| *q = T::of(scale * q.value()));
        self
    }
}

/// Forward and backward on a device: out, lse, dq, dk, dv. `q` begins `first` elements after its buffer.
fn run<T: Sample<Wide: Sample>>(
    cuda: &Cuda,
    batch: &Batch,
    operands: &Operands<T>,
    first: usize,
) -> Result<Vec<Written>> {
    let on_device = OnDevice::new(cuda, batch)?;
    let layout = Layout { segments: &batch.segments, tiles: Some(on_device.views()) };
    let (shape, ws) = (batch.shape, &mut Workspace::new(1));
    let on_q = cuda.upload(&[&vec![T::default(); first][..], &operands.q].concat())?;
    let (on_k, on_v, on_dout) = (cuda.upload(&operands.k)?, cuda.upload(&operands.v)?, cuda.upload(&operands.dout)?);
    let (q, k, v) = (on_q.view().part(first..on_q.len())?, on_k.view(), on_v.view());
    let mut out = cuda.unwritten::<T>(batch.queries())?;
    let mut lse = cuda.unwritten::<T::Wide>(shape.rows * shape.heads)?;
    attention::forward(q, k, v, out.view_mut(), lse.view_mut(), layout, shape, ws)?;
    let mut dq = cuda.unwritten::<T>(batch.queries())?;
    let (mut dk, mut dv) = (cuda.unwritten::<T>(batch.keys())?, cuda.unwritten::<T>(batch.keys())?);
    let (into_q, into_k, into_v) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
    let (of_out, of_lse, dout) = (out.view(), lse.view(), on_dout.view());
    attention::backward(q, k, v, of_out, of_lse, dout, into_q, into_k, into_v, layout, shape, ws)?;
    let gradient = |name: &'static str, values: &CudaBuffer<T>| {
        Ok(Written { bound: bound_of_gradients::<T>(), ..Written::new(name, &values.download()?) })
    };
    Ok(vec![
        Written::new("out", &out.download()?),
        Written::new("lse", &lse.download()?),
        gradient("dq", &dq)?,
        gradient("dk", &dk)?,
        gradient("dv", &dv)?,
    ])
}

/// What gradients may be off by: `bf16` rounds P and dS before it multiplies them (each by 2⁻⁹ at most), takes δ of an `out` that is
/// rounded, and rounds the result.
fn bound_of_gradients<T: Sample>() -> f64 {
    2.0 * T::BOUND
}

fn case<T: Sample<Wide: Sample>>(name: &str, batch: &Batch) -> Case {
    case_of::<T>(name, batch, Operands::random(batch), 0)
}

fn case_of<T: Sample<Wide: Sample>>(name: &str, batch: &Batch, operands: Operands<T>, first: usize) -> Case {
    let Shape { rows, heads, kv_heads, head_dim, soft_cap, window } = batch.shape;
    let name = format!(
        "attention of {name}: {rows} rows, {heads} heads on {kv_heads}, of {head_dim} {}, cap {soft_cap:?}, window {window:?}",
        T::NAME
    );
    let Operands { q, k, v, dout } = &operands;
    let expected = expected(batch, [q, k, v, dout].map(|values| wide(values)));
    let batch = batch.clone();
    Case { name, run: Box::new(move |cuda| run(cuda, &batch, &operands, first)), expected }
}

/// The CPU's op in `f64`: out, lse, dq, dk, dv.
fn expected(batch: &Batch, [q, k, v, dout]: [Vec<f64>; 4]) -> Vec<Vec<f64>> {
    let (shape, layout, ws) = (batch.shape, Layout::from(&batch.segments[..]), &mut Workspace::new(1));
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; shape.rows * shape.heads]);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; k.len()]);
    let (of_q, of_k, of_v) = ((&q).into(), (&k).into(), (&v).into());
    attention::forward(of_q, of_k, of_v, (&mut out).into(), (&mut lse).into(), layout, shape, ws).unwrap();
    let (into_q, into_k, into_v) = ((&mut dq).into(), (&mut dk).into(), (&mut dv).into());
    let (of_out, of_lse, dout) = ((&out).into(), (&lse).into(), (&dout).into());
    attention::backward(of_q, of_k, of_v, of_out, of_lse, dout, into_q, into_k, into_v, layout, shape, ws).unwrap();
    vec![out, lse, dq, dk, dv]
}

/// Completions of several lengths, none among them, longer than a step of 32; no prompt; a prompt alone; rows of no segment.
const FEW: &[(usize, &[usize])] = &[(5, &[3, 0, 40]), (0, &[4, 1]), (6, &[])];
/// A prompt that ends within a step of 64 keys.
const LONG_PROMPT: &[(usize, &[usize])] = &[(70, &[3, 0, 40]), (0, &[9]), (3, &[])];
/// More than one tile of queries, and of a prompt's keys.
const LONG: &[(usize, &[usize])] = &[(135, &[140, 2])];
/// Of the sizes of training.
const MANY: &[(usize, &[usize])] = &[(700, &[300, 1, 511, 64]), (128, &[128, 128]), (1000, &[]), (3, &[1500, 33])];

#[test]
fn plain_kernels_agree_with_the_cpu() {
    for (heads, head_dim) in [([1, 1], 7), ([3, 1], 33), ([7, 7], 3), ([6, 2], 8)] {
        let batch = Batch::new(FEW, 2, heads, head_dim);
        check(&[case::<f32>("a few", &batch), case::<f64>("a few", &batch)]);
        if head_dim % 8 != 0 {
            check(&[case::<bf16>("a few", &batch)]);
        }
    }
    let long = Batch::new(LONG_PROMPT, 1, [1, 1], 9);
    check(&[case::<f64>("a long prompt", &long), case::<f64>("a head of 256", &Batch::new(FEW, 0, [1, 1], 256))]);
    for batch in [long.clone().capped(), long.clone().windowed(11), long.windowed(64).capped()] {
        check(&[case::<f32>("a long prompt", &batch), case::<f64>("a long prompt", &batch)]);
    }
}

#[test]
fn tensor_cores_agree_with_the_cpu() {
    let all: &[([usize; 2], usize)] = &[([1, 1], 64), ([3, 1], 96), ([7, 1], 24), ([2, 2], 128), ([2, 1], 256)];
    for (heads, head_dim) in sizes(all, &[]) {
        check(&[case::<bf16>("a long prompt", &Batch::new(LONG_PROMPT, 1, heads, head_dim))]);
    }
    for (heads, head_dim) in sizes(&[([6, 2], 32)], all) {
        check(&[case::<bf16>("a few", &Batch::new(FEW, 2, heads, head_dim))]);
    }
    for (heads, head_dim) in sizes(&[([1, 1], 64)], all) {
        check(&[case::<bf16>("long", &Batch::new(LONG, 0, heads, head_dim))]);
    }
    for (heads, head_dim) in sizes(&[], all) {
        check(&[case::<bf16>("many", &Batch::new(MANY, 5, heads, head_dim))]);
    }
}

/// Of large scores few weights are neither 0 nor 1, and there δ, of a rounded `out`, is near dP: what is lost then, the plain kernels lose too.
#[test]
fn large_scores_are_no_worse_than_with_plain_kernels() {
    let Some([cuda, _]) = crate::harness::devices() else { return };
    // With rows of no segment, so that no window ends beside a short step.
    let batch = Batch::new(FEW, 40, [2, 1], 64);
    let random = || Operands::<bf16>::random(&batch);
    for operands in [random().scaled(16.0), random().scaled(256.0), random().negative()] {
        let Operands { q, k, v, dout } = &operands;
        let expected = expected(&batch, [q, k, v, dout].map(|values| wide(values)));
        let [flash, plain] = [0, 1].map(|first| run(&cuda, &batch, &operands, first).unwrap());
        for ((flash, plain), expected) in flash.iter().zip(&plain).zip(&expected) {
            let [flash_distance, plain_distance] = [flash, plain].map(|one| distance(&one.values, expected));
            println!("{}: {flash_distance:.1e}, by plain kernels {plain_distance:.1e}", flash.name);
            assert!(flash_distance <= flash.bound.max(1.5 * plain_distance), "{}: {flash_distance:.1e}", flash.name);
        }
    }
}

#[test]
fn sums_of_scores_that_grow_are_scaled() {
    let batch = Batch::new(LONG, 0, [1, 1], 64);
    check(&[case_of("growing scores", &batch, Operands::<bf16>::random(&batch).growing(&batch), 0)]);
}

/// Scores near 256 that `f32` holds exactly, so that nothing is rounded but lse, by 1e-5: P has a sum of 1 all the same.
#[test]
fn rows_of_weights_sum_to_one_where_scores_are_large() {
    let batch = Batch::new(FEW, 0, [2, 1], 16);
    let mut operands = Operands::<f32>::random(&batch);
    for (values, first) in [(&mut operands.q, 64.0), (&mut operands.k, 16.0)] {
        values.iter_mut().for_each(|value| *value = value.signum());
        values.iter_mut().step_by(16).for_each(|value| *value = first);
    }
    check(&[case_of("large exact scores", &batch, operands, 0)]);
}

#[test]
fn operands_off_a_pack_go_by_plain_kernels() {
    let batch = Batch::new(FEW, 0, [1, 1], 16);
    check(&[case_of("a few, off a pack", &batch, Operands::<bf16>::random(&batch), 1)]);
}

/// Each completion behind a copy of the prompt as one sequence, which nobody knows to be a prompt and a completion.
#[test]
fn a_shared_prompt_is_as_many_copies_of_it() {
    let Some([cuda, _]) = crate::harness::devices() else { return };
    let shared = Batch::new(&[(70, &[20, 33])], 0, [2, 1], 64);
    let copies: Vec<usize> = (0..90).chain(0..70).chain(90..123).collect();
    let apart = Batch::new(&[(90, &[]), (103, &[])], 0, [2, 1], 64);
    let operands = Operands::<bf16>::random(&shared);
    let gather = |x: &[bf16], width: usize| copies.iter().flat_map(|&row| x[row * width..][..width].to_vec()).collect();
    let mut copied: Operands<bf16> = Operands {
        q: gather(&operands.q, 128),
        k: gather(&operands.k, 64),
        v: gather(&operands.v, 64),
        dout: gather(&operands.dout, 128),
    };
    // The prompt's own outputs count once.
    copied.dout[90 * 128..160 * 128].fill(bf16::ZERO);
    let [one, two] = [(&shared, &operands), (&apart, &copied)].map(|(batch, operands)| {
        let written = run(&cuda, batch, operands, 0).unwrap();
        written.into_iter().map(|one| one.values).collect::<Vec<_>>()
    });
    let widths = [128, 2, 128, 64, 64];
    for (i, (name, width)) in ["out", "lse", "dq", "dk", "dv"].into_iter().zip(widths).enumerate() {
        let mut sums = vec![0.0; one[i].len()];
        for (from, &to) in copies.iter().enumerate() {
            // Values are the same in each copy, gradients add up.
            let is_second = i < 2 && (90..160).contains(&from);
            let into = &mut sums[to * width..][..width];
            into.iter_mut().zip(&two[i][from * width..]).filter(|_| !is_second).for_each(|(sum, x)| *sum += x);
        }
        let distance = distance(&one[i], &sums);
        assert!(distance <= bound_of_gradients::<bf16>(), "{name}: {distance:.1e}");
    }
}

#[test]
fn tensor_cores_cap_scores_and_have_windows() {
    let long = Batch::new(LONG_PROMPT, 1, [2, 1], 64);
    for batch in
        [long.clone().capped(), long.clone().windowed(2), long.clone().windowed(11), long.windowed(70).capped()]
    {
        check(&[case::<bf16>("a long prompt", &batch)]);
    }
    check(&[case::<bf16>("a long prompt", &Batch::new(LONG_PROMPT, 0, [1, 1], 256).windowed(40).capped())]);
    check(&[case::<bf16>("long", &Batch::new(LONG, 0, [1, 1], 64).windowed(33))]);
    for head_dim in sizes(&[], &[64, 96, 128, 256]) {
        check(&[case::<bf16>("many", &Batch::new(MANY, 5, [4, 2], head_dim).windowed(200).capped())]);
    }
}

#[test]
fn every_barrier_is_missed() {
    let sizes = [64, 256].map(|head_dim| case::<bf16>("a long prompt", &Batch::new(LONG_PROMPT, 0, [1, 1], head_dim)));
    check_barriers("flash", &sizes);
}

/// One row against a cache of its last key and those before.
fn decoding<T: Sample<Wide: Sample>>(shape: Shape) -> Case {
    let Shape { rows, heads, kv_heads, head_dim, soft_cap, window } = shape;
    let (q, k, v) = (
        numbers::<T>(1, heads * head_dim),
        numbers::<T>(2, rows * kv_heads * head_dim),
        numbers::<T>(3, rows * kv_heads * head_dim),
    );
    let (mut out, ws) = (vec![0.0; q.len()], &mut Workspace::new(1));
    let [of_q, of_k, of_v] = [&q, &k, &v].map(|values| wide(values));
    attention::decode((&of_q).into(), (&of_k).into(), (&of_v).into(), (&mut out).into(), shape, ws).unwrap();
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let (q, k, v) = (cuda.upload(&q)?, cuda.upload(&k)?, cuda.upload(&v)?);
        let (mut out, ws) = (cuda.unwritten::<T>(q.len())?, &mut Workspace::new(1));
        attention::decode(q.view(), k.view(), v.view(), out.view_mut(), shape, ws)?;
        Ok(vec![Written::new("out", &out.download()?)])
    };
    let name = format!(
        "decoding with {rows} rows, {heads} heads on {kv_heads}, of {head_dim} {}, cap {soft_cap:?}, window {window:?}",
        T::NAME
    );
    Case { name, run: Box::new(run), expected: vec![out] }
}

#[test]
fn decoding_agrees_with_the_cpu() {
    let plain = Shape { rows: 1, heads: 6, kv_heads: 2, head_dim: 33, soft_cap: None, window: None };
    for rows in sizes(&[1, 40, 128, 300], &[5000]) {
        let capped = Shape { rows, soft_cap: Some(0.8), window: Some(70), ..plain };
        let large = Shape { rows, heads: 1, kv_heads: 1, head_dim: 256, ..plain };
        for shape in [Shape { rows, ..plain }, capped, large] {
            check(&[decoding::<f32>(shape), decoding::<f64>(shape), decoding::<bf16>(shape)]);
        }
    }
}

#[test]
fn what_a_device_cannot_do_is_refused() {
    let Some([cuda, _]) = crate::harness::devices() else { return };
    let batch = Batch::new(FEW, 0, [1, 1], 4);
    let on_device = OnDevice::new(&cuda, &batch).unwrap();
    let run = |shape: Shape, tiles: Option<TileViews<'_>>| {
        let len = shape.rows * shape.head_dim;
        let (q, mut out) = (cuda.upload(&vec![0f32; len]).unwrap(), cuda.unwritten::<f32>(len).unwrap());
        let mut lse = cuda.unwritten::<f32>(shape.rows).unwrap();
        let layout = Layout { segments: &batch.segments, tiles };
        let (q, ws) = (q.view(), &mut Workspace::new(1));
        attention::forward(q, q, q, out.view_mut(), lse.view_mut(), layout, shape, ws).unwrap_err().to_string()
    };
    assert!(run(batch.shape, None).contains("make them with attention::Tiles::of"));
    let other = Shape { rows: batch.shape.rows + 1, ..batch.shape };
    assert!(run(other, Some(on_device.views())).contains("tiles.rows"));
    let large = Shape { head_dim: 257, ..batch.shape };
    assert!(run(large, Some(on_device.views())).contains("head_dim is 257, expected at most 256"));
    let here = Shape { window: Some(0), ..batch.shape };
    assert!(run(here, Some(on_device.views())).contains("window is 0"));
    let tiles = on_device.tiles.views();
    assert!(run(batch.shape, Some(tiles)).contains("different devices"));
}
