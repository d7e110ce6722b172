#![expect(clippy::single_range_in_vec_init, reason = "a prompt may have one completion")]
use candle_core::{D, Tensor};

use super::*;
use crate::testing::*;

/// A prompt of 4 with completions of 3, 0 and 2 rows; no prompt and a completion of 3; a prompt of 2 alone.
fn segments() -> Vec<Segment> {
    vec![
        Segment { prompt: 0..4, completions: vec![4..7, 7..7, 7..9] },
        Segment { prompt: 9..9, completions: vec![9..12] },
        Segment { prompt: 12..14, completions: vec![] },
    ]
}

const SHAPE: Shape = Shape { rows: 14, heads: 4, kv_heads: 2, head_dim: 6, soft_cap: None, window: None };

struct Case {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    dout: Vec<f64>,
}

fn case(shape: Shape) -> Case {
    let (queries, keys) = (shape.rows * shape.heads * shape.head_dim, shape.rows * shape.kv_heads * shape.head_dim);
    Case { q: numbers(1, queries), k: numbers(2, keys), v: numbers(3, keys), dout: numbers(4, queries) }
}

struct Results<T> {
    out: Vec<T>,
    lse: Vec<T>,
    dq: Vec<T>,
    dk: Vec<T>,
    dv: Vec<T>,
}

fn run<T: crate::Float>(case: &Case, segments: &[Segment], shape: Shape, threads: usize) -> Results<T> {
    let mut ws = Workspace::new(threads);
    let [q, k, v, dout] = [&case.q, &case.k, &case.v, &case.dout].map(|x| cast::<T>(x));
    let nan = |len| vec![T::from_f64(f64::NAN); len];
    let mut r = Results {
        out: nan(q.len()),
        lse: nan(shape.rows * shape.heads),
        dq: nan(q.len()),
        dk: nan(k.len()),
        dv: nan(v.len()),
    };
    let [qv, kv, vv] = [View::from(&q), View::from(&k), View::from(&v)];
    forward(qv, kv, vv, (&mut r.out).into(), (&mut r.lse).into(), segments.into(), shape, &mut ws).unwrap();
    let (dq, dk, dv) = ((&mut r.dq).into(), (&mut r.dk).into(), (&mut r.dv).into());
    let (out, lse) = ((&r.out).into(), (&r.lse).into());
    backward(qv, kv, vv, out, lse, (&dout).into(), dq, dk, dv, segments.into(), shape, &mut ws).unwrap();
    r
}

/// Whether row `i` sees row `j`, said once more in another way.
fn sees(segments: &[Segment], window: Option<usize>, i: usize, j: usize) -> bool {
    segments.iter().any(|s| {
        let own = std::iter::once(&s.prompt).chain(&s.completions).find(|range| range.contains(&i));
        own.is_some_and(|own| {
            let tokens_back = match (own.contains(&j), own != &s.prompt && s.prompt.contains(&j)) {
                (true, _) => i.checked_sub(j),
                (_, true) => Some(i - own.start + s.prompt.end - j),
                _ => None,
            };
            tokens_back.is_some_and(|back| window.is_none_or(|window| back < window))
        })
    })
}

/// Full scores, an additive mask, candle's softmax. [rows, heads, D] -> [rows, heads, D]
fn decomposed(q: &Tensor, k: &Tensor, v: &Tensor, segments: &[Segment], shape: Shape) -> Tensor {
    let n = shape.rows;
    let mask: Vec<f64> = (0..n * n)
        .map(|at| if sees(segments, shape.window, at / n, at % n) { 0.0 } else { f64::NEG_INFINITY })
        .collect();
    let mask = tensor(&mask, &[1, n, n]);
    let group = shape.heads / shape.kv_heads;
    let spread = |x: &Tensor| {
        let wide = [n, shape.kv_heads, group, shape.head_dim];
        let x = x.unsqueeze(2).unwrap().broadcast_as(&wide[..]).unwrap().contiguous().unwrap();
        x.reshape((n, shape.heads, shape.head_dim)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
    };
    let q = q.transpose(0, 1).unwrap().contiguous().unwrap();
    let scores = (q.matmul(&spread(k).t().unwrap()).unwrap() * (1.0 / (shape.head_dim as f64).sqrt())).unwrap();
    let scores = match shape.soft_cap {
        Some(cap) => ((scores / cap).unwrap().tanh().unwrap() * cap).unwrap(),
        None => scores,
    };
    let p = candle_nn::ops::softmax(&scores.broadcast_add(&mask).unwrap(), D::Minus1).unwrap();
    p.matmul(&spread(v)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
}

/// Plain; with a cap that scores feel; with a window that ends inside a prompt; with both.
fn shapes() -> [Shape; 4] {
    [(None, None), (Some(0.7), None), (None, Some(4)), (Some(0.7), Some(3))].map(|(soft_cap, window)| Shape {
        soft_cap,
        window,
        ..SHAPE
    })
}

#[test]
fn gradients_are_those_of_autograd() {
    let case = case(SHAPE);
    let [q, k, v] = [(&case.q, 4), (&case.k, 2), (&case.v, 2)].map(|(x, heads)| var(x, &[14, heads, 6]));
    for shape in shapes() {
        let out = decomposed(&q, &k, &v, &segments(), shape);
        let expected = autograd(&out, &case.dout, &[&q, &k, &v]);
        for threads in [1, 2] {
            let r = run::<f64>(&case, &segments(), shape, threads);
            assert_near(&r.out, &elements(&out), 1e-13, "out");
            assert_near(&r.dq, &expected[0], 1e-13, "dq");
            assert_near(&r.dk, &expected[1], 1e-13, "dk");
            assert_near(&r.dv, &expected[2], 1e-13, "dv");
        }
    }
}

#[test]
fn gradients_are_central_differences() {
    let base = case(SHAPE);
    for shape in shapes() {
        let r = run::<f64>(&base, &segments(), shape, 1);
        let loss = |case: Case| weighted(&run::<f64>(&case, &segments(), shape, 1).out, &base.dout);
        let with = |change: &dyn Fn(&mut Case)| {
            let mut case = case(SHAPE);
            change(&mut case);
            loss(case)
        };
        let dq = central_differences(&base.q, |q| with(&|case| case.q.copy_from_slice(q)));
        let dk = central_differences(&base.k, |k| with(&|case| case.k.copy_from_slice(k)));
        let dv = central_differences(&base.v, |v| with(&|case| case.v.copy_from_slice(v)));
        assert_near(&r.dq, &dq, 1e-8, "dq by differences");
        assert_near(&r.dk, &dk, 1e-8, "dk by differences");
        assert_near(&r.dv, &dv, 1e-8, "dv by differences");
    }
}

#[test]
fn decoding_is_the_last_row() {
    let rows = 9;
    for shape in shapes() {
        let shape = Shape { rows, ..shape };
        let case = case(shape);
        let all = run::<f64>(&case, &[Segment { prompt: 0..rows, completions: vec![] }], shape, 1);
        let (last, mut out) = ((rows - 1) * 24, vec![0.0; 24]);
        let q = View::from(&case.q[last..]);
        decode(q, (&case.k).into(), (&case.v).into(), (&mut out).into(), shape, &mut Workspace::new(1)).unwrap();
        assert_near(&out, &all.out[last..], 1e-13, "out");
    }
}

/// Copies rows of `width` elements.
fn gather(x: &[f64], rows: &[usize], width: usize) -> Vec<f64> {
    rows.iter().flat_map(|&row| x[row * width..(row + 1) * width].iter().copied()).collect()
}

#[test]
fn a_shared_prompt_is_as_many_copies_of_it() {
    // Long enough for several tiles of the prompt and of a completion.
    let shape = Shape { rows: 150 + 140 + 7, heads: 2, kv_heads: 1, head_dim: 8, ..SHAPE };
    let shared = [Segment { prompt: 0..150, completions: vec![150..290, 290..297] }];
    let case = case(shape);
    let copies: Vec<usize> = (0..290).chain(0..150).chain(290..297).collect();
    let apart = [
        Segment { prompt: 0..150, completions: vec![150..290] },
        Segment { prompt: 290..440, completions: vec![440..447] },
    ];
    let apart_shape = Shape { rows: 447, ..shape };
    let mut copied = Case {
        q: gather(&case.q, &copies, 16),
        k: gather(&case.k, &copies, 8),
        v: gather(&case.v, &copies, 8),
        dout: gather(&case.dout, &copies, 16),
    };
    // The prompt's own outputs count once.
    copied.dout[290 * 16..440 * 16].fill(0.0);
    let one = run::<f64>(&case, &shared, shape, 1);
    let two = run::<f64>(&copied, &apart, apart_shape, 2);
    let sum_copies = |x: &[f64], width: usize| {
        let mut sum = vec![0.0; shape.rows * width];
        for (from, &to) in copies.iter().enumerate() {
            (0..width).for_each(|c| sum[to * width + c] += x[from * width + c]);
        }
        sum
    };
    assert_near(&gather(&one.out, &copies, 16), &two.out, 1e-12, "out");
    assert_near(&one.dq, &sum_copies(&two.dq, 16), 1e-12, "dq");
    assert_near(&one.dk, &sum_copies(&two.dk, 8), 1e-12, "dk");
    assert_near(&one.dv, &sum_copies(&two.dv, 8), 1e-12, "dv");
}

#[test]
fn packed_is_separate() {
    let packed = run::<f64>(&case(SHAPE), &segments(), SHAPE, 1);
    let base = case(SHAPE);
    for segment in segments() {
        let rows: Vec<usize> =
            std::iter::once(&segment.prompt).chain(&segment.completions).cloned().flatten().collect();
        let shift = |range: &std::ops::Range<usize>| range.start - rows[0]..range.end - rows[0];
        let alone =
            [Segment { prompt: shift(&segment.prompt), completions: segment.completions.iter().map(shift).collect() }];
        let part = Case {
            q: gather(&base.q, &rows, 24),
            k: gather(&base.k, &rows, 12),
            v: gather(&base.v, &rows, 12),
            dout: gather(&base.dout, &rows, 24),
        };
        let r = run::<f64>(&part, &alone, Shape { rows: rows.len(), ..SHAPE }, 1);
        assert_near(&gather(&packed.out, &rows, 24), &r.out, 1e-12, "out");
        assert_near(&gather(&packed.lse, &rows, 4), &r.lse, 1e-12, "lse");
        assert_near(&gather(&packed.dq, &rows, 24), &r.dq, 1e-12, "dq");
        assert_near(&gather(&packed.dk, &rows, 12), &r.dk, 1e-12, "dk");
        assert_near(&gather(&packed.dv, &rows, 12), &r.dv, 1e-12, "dv");
    }
}

#[test]
fn single_precision_is_near_and_repeats_itself() {
    let shape = Shape { rows: 400, heads: 4, kv_heads: 2, head_dim: 32, ..SHAPE };
    let segments = [
        Segment { prompt: 0..130, completions: vec![130..300, 300..340] },
        Segment { prompt: 340..400, completions: vec![] },
    ];
    let case = case(shape);
    let exact = run::<f64>(&case, &segments, shape, 1);
    for threads in [1, 2] {
        let r = run::<f32>(&case, &segments, shape, threads);
        assert_near(&r.out, &exact.out, 1e-5, "out in f32");
        assert_near(&r.lse, &exact.lse, 1e-5, "lse in f32");
        assert_near(&r.dq, &exact.dq, 1e-5, "dq in f32");
        assert_near(&r.dk, &exact.dk, 1e-5, "dk in f32");
        assert_near(&r.dv, &exact.dv, 1e-5, "dv in f32");
        let again = run::<f32>(&case, &segments, shape, threads);
        assert_eq!((r.out, r.dq, r.dk, r.dv), (again.out, again.dq, again.dk, again.dv), "{threads} threads");
    }
}

#[test]
fn large_scores_stay_finite() {
    let mut case = case(SHAPE);
    case.q.iter_mut().for_each(|q| *q *= 1e4);
    let r = run::<f32>(&case, &segments(), SHAPE, 1);
    let all = r.out.iter().chain(&r.lse).chain(&r.dq).chain(&r.dk).chain(&r.dv);
    assert!(all.copied().all(f32::is_finite));
}

#[test]
fn rows_of_no_segment_give_zeros() {
    let case = case(SHAPE);
    let r = run::<f64>(&case, &segments()[1..2], SHAPE, 1);
    assert!(r.out[..9 * 24].iter().chain(&r.dq[12 * 24..]).chain(&r.dk[..9 * 12]).all(|&v| v == 0.0));
    assert!(r.out[9 * 24..12 * 24].iter().all(|&v| v != 0.0));
    let none = run::<f32>(
        &Case { q: vec![], k: vec![], v: vec![], dout: vec![] },
        &[Segment::default()],
        Shape { rows: 0, ..SHAPE },
        2,
    );
    assert!(none.out.is_empty());
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut ws = Workspace::new(1);
    let (q, k) = (vec![0.0f32; 14 * 24], vec![0.0f32; 14 * 12]);
    let mut run = |q: View<'_, f32>, segments: &[Segment], shape| {
        let (mut out, mut lse) = (vec![0.0f32; 14 * 24], vec![0.0f32; 14 * 4]);
        forward(q, (&k).into(), (&k).into(), (&mut out).into(), (&mut lse).into(), segments.into(), shape, &mut ws)
    };
    assert_length(run((&q[1..]).into(), &segments(), SHAPE), "q");
    let reason = |result: Result<()>| result.unwrap_err().to_string();
    let overlapping = [Segment { prompt: 0..4, completions: vec![3..6] }];
    assert!(reason(run((&q).into(), &overlapping, SHAPE)).contains("overlap"));
    let beyond = [Segment { prompt: 0..4, completions: vec![4..15] }];
    assert!(reason(run((&q).into(), &beyond, SHAPE)).contains("4..15"));
    assert!(
        reason(run((&q).into(), &segments(), Shape { kv_heads: 3, ..SHAPE })).contains("multiple of the 3 kv_heads")
    );
    assert_no_kernel(run(View::elsewhere(14 * 24), &segments(), SHAPE));
}

/// Pairs of a row and one that it sees, sorted.
fn seen_pairs(segments: &[Segment], rows: usize) -> Vec<(usize, usize)> {
    let pairs = (0..rows).flat_map(|i| (0..rows).map(move |j| (i, j)));
    pairs.filter(|&(i, j)| sees(segments, None, i, j)).collect()
}

#[test]
fn tiles_are_who_sees_whom() {
    let long = vec![
        Segment { prompt: 3..153, completions: vec![160..300, 153..153, 153..160] },
        Segment { prompt: 301..301, completions: vec![301..305, 305..306] },
        Segment { prompt: 310..380, completions: vec![] },
    ];
    for (segments, rows) in [(segments(), 14), (long, 381)] {
        let tiles = Tiles::of(&segments, rows).unwrap();
        let expected = seen_pairs(&segments, rows);
        assert_eq!(tiles.covered, (0..rows).filter(|&i| sees(&segments, None, i, i)).count());
        let (mut by_queries, mut work) = (Vec::new(), Vec::new());
        for &[first, count, own, shared, shared_len] in as_usize(&tiles.queries).as_chunks().0 {
            assert!((1..=tiles::QUERIES).contains(&count));
            for i in first..first + count {
                let key_row = |key| if key < shared_len { shared + key } else { own + key - shared_len };
                by_queries.extend((0..=shared_len + i - own).map(|key| (i, key_row(key))));
            }
            work.push(count * (shared_len + first + count - own));
        }
        assert!(work.is_sorted_by(|a, b| a >= b), "the longest first");
        let mut by_keys = Vec::new();
        let ranges = as_usize(&tiles.ranges);
        for &[first, count, number, begin, end] in as_usize(&tiles.keys).as_chunks().0 {
            assert!((1..=tiles::KEYS).contains(&count));
            for &[queries, behind, of_first] in &ranges.as_chunks().0[begin..end] {
                let pairs = (queries..behind).flat_map(|i| (first..first + count).map(move |j| (i, j)));
                by_keys.extend(pairs.filter(|(i, j)| number + j - first <= of_first + i - queries));
            }
        }
        for pairs in [&mut by_queries, &mut by_keys] {
            pairs.sort_unstable();
            assert_eq!(*pairs, expected);
        }
    }
    let overlapping = [Segment { prompt: 0..4, completions: vec![3..6] }];
    assert!(Tiles::of(&overlapping, 6).unwrap_err().to_string().contains("overlap"));
    assert!(Tiles::of(&[], usize::MAX).unwrap_err().to_string().contains("fewer than 2³⁰"));
}

fn as_usize(numbers: &[u32]) -> Vec<usize> {
    numbers.iter().map(|&number| number as usize).collect()
}
