//! `elementwise.cu`, `gated.cu`, `rope.cu` and `embedding.cu`
use candlewick_kernels::embedding::{self, BucketViews, Buckets};
use candlewick_kernels::gated::{self, Activation};
use candlewick_kernels::rope::{self, Direction, PairShape, Tables};
use candlewick_kernels::{Cuda, Result, Workspace, elementwise};

use super::{Case, Sample, Written, numbers, wide};
use crate::harness::{check, devices, sizes};

/// y += x, or with a weight y ← weight·x + (1 − weight)·y, of what there is from element `from` on, and nothing before it.
fn summed<T: Sample<Wide: Sample>>(len: usize, from: usize, weight: Option<f64>) -> Case {
    let (mut y, x) = (numbers::<T>(1, from + len), numbers::<T>(2, from + len));
    if weight == Some(1.0) {
        // A copy, whatever y held.
        y[from..].fill(T::of(f64::NAN));
    }
    // In the type of the arithmetic, then rounded: what is expected has the bits of it.
    let bits = |values: &[T]| wide(values).into_iter().map(T::Wide::of).collect::<Vec<_>>();
    let (mut sums, added, mut ws) = (bits(&y), bits(&x), Workspace::new(1));
    let (into, of) = ((&mut sums[from..]).into(), (&added[from..]).into());
    match weight {
        None => elementwise::add_assign(into, of, &mut ws).unwrap(),
        Some(weight) => elementwise::mix(into, of, weight, &mut ws).unwrap(),
    }
    let expected = sums.iter().map(|sum| T::of(sum.value()).value()).collect();
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let (mut on_device, x, mut ws) = (cuda.upload(&y)?, cuda.upload(&x)?, Workspace::new(1));
        let (into, of) = (on_device.view_mut().part(from..from + len)?, x.view().part(from..from + len)?);
        match weight {
            None => elementwise::add_assign(into, of, &mut ws)?,
            Some(weight) => elementwise::mix(into, of, weight, &mut ws)?,
        }
        // Of the sums not a bit may differ.
        Ok(vec![Written { bound: 0.0, ..Written::new("y", &on_device.download()?) }])
    };
    Case {
        name: format!("sum of {len} from {from}, weight {weight:?}, {}", T::NAME),
        run: Box::new(run),
        expected: vec![expected],
    }
}

#[test]
fn sums_have_the_bits_of_the_cpu() {
    let (small, large) = (
        [(0, 0), (1, 0), (8, 0), (33, 0), (4096, 0), (5003, 0), (4096, 1), (4096, 8)],
        [(1_000_003, 0), (1 << 22, 0), (1 << 22, 3)],
    );
    for (len, from) in sizes(&small, &large) {
        for weight in [None, Some(0.0), Some(0.3), Some(1.0)] {
            check(&[
                summed::<f32>(len, from, weight),
                summed::<f64>(len, from, weight),
                summed::<half::bf16>(len, from, weight),
            ]);
        }
    }
}

/// A number that can be compared: what is infinite or none has a large one for its own.
fn told(value: f64) -> f64 {
    if value.is_nan() { 1e300 } else { value.clamp(-1e200, 1e200) }
}

/// Numbers of the arithmetic's type from element `from` on as those of `T`, and back.
fn converted<T: Sample<Wide: Sample>>(x: Vec<T::Wide>, from: usize) -> Case {
    let tell = |values: Vec<f64>| values.into_iter().map(told).collect::<Vec<_>>();
    let expected = tell(x[from..].iter().map(|x| T::of(x.value()).value()).collect());
    let name = format!("conversion of {} from {from}, {}", x.len(), T::NAME);
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let (all, len, mut ws) = (cuda.upload(&x)?, x.len(), Workspace::new(1));
        let (mut y, mut back) = (cuda.unwritten::<T>(len)?, cuda.unwritten::<T::Wide>(len)?);
        elementwise::narrow(y.view_mut().part(from..len)?, all.view().part(from..len)?, &mut ws)?;
        elementwise::widen(back.view_mut().part(from..len)?, y.view().part(from..len)?, &mut ws)?;
        let (y, back) = (tell(wide(&y.download()?[from..])), tell(wide(&back.download()?[from..])));
        Ok([("y", y), ("back", back)].map(|(name, values)| Written { name, values, bound: 0.0 }).into())
    };
    Case { name, run: Box::new(run), expected: vec![expected.clone(), expected] }
}

#[test]
fn conversions_round_to_the_nearest() {
    for (len, from) in
        sizes(&[(0, 0), (1, 0), (8, 0), (33, 0), (4096, 0), (5003, 0), (4100, 4), (4097, 1)], &[(1 << 22, 0)])
    {
        check(&[
            converted::<half::bf16>(numbers(1, len), from),
            converted::<f32>(numbers(2, len), from),
            converted::<f64>(numbers(3, len), from),
        ]);
    }
    // Halfway between two values, to either side; beyond the largest; the smallest there are; what is none.
    let step = 1.0f32 / 256.0;
    let rare =
        [1.0 + step, 1.0 + 3.0 * step, -1.0 - step, 1.0 + 1.001 * step, f32::MAX, -f32::MAX, f32::NAN, -f32::NAN];
    let tiny = [
        f32::from_bits(1),
        f32::from_bits(0x8000),
        f32::from_bits(0x1_8000),
        f32::MIN_POSITIVE,
        -0.0,
        0.0,
        3e38,
        1e-30,
    ];
    check(&[converted::<half::bf16>([rare, tiny].concat(), 0), converted::<half::bf16>([rare, tiny].concat(), 1)]);
}

fn gated<T: Sample>(activation: Activation, len: usize) -> Case {
    let [gate, up, dy] = [1, 2, 3].map(|seed| numbers::<T>(seed, len));
    let (g, u, d) = (wide(&gate), wide(&up), wide(&dy));
    let (mut y, mut dgate, mut dup) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
    let mut ws = Workspace::new(1);
    gated::forward(activation, (&g).into(), (&u).into(), (&mut y).into(), &mut ws).unwrap();
    let (into_gate, into_up) = ((&mut dgate).into(), (&mut dup).into());
    gated::backward(activation, (&g).into(), (&u).into(), (&d).into(), into_gate, into_up, &mut ws).unwrap();
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let mut ws = Workspace::new(1);
        let (gate, up, dy) = (cuda.upload(&gate)?, cuda.upload(&up)?, cuda.upload(&dy)?);
        let [mut y, mut dgate, mut dup] = [cuda.unwritten::<T>(len)?, cuda.unwritten(len)?, cuda.unwritten(len)?];
        gated::forward(activation, gate.view(), up.view(), y.view_mut(), &mut ws)?;
        let (into_gate, into_up) = (dgate.view_mut(), dup.view_mut());
        gated::backward(activation, gate.view(), up.view(), dy.view(), into_gate, into_up, &mut ws)?;
        let [y, dgate, dup] = [y.download()?, dgate.download()?, dup.download()?];
        Ok(vec![Written::new("y", &y), Written::new("dgate", &dgate), Written::new("dup", &dup)])
    };
    Case { name: format!("{activation:?} of {len} {}", T::NAME), run: Box::new(run), expected: vec![y, dgate, dup] }
}

#[test]
fn gated_activations_agree_with_the_cpu() {
    for len in sizes(&[1, 8, 33, 4096, 5003], &[1_000_003, 1 << 22]) {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            check(&[
                gated::<f32>(activation, len),
                gated::<f64>(activation, len),
                gated::<half::bf16>(activation, len),
            ]);
        }
    }
}

fn rotated<T: Sample<Wide: Sample>>(shape: PairShape, direction: Direction) -> Case {
    let PairShape { rows, q_heads, k_heads, head_dim } = shape;
    let (q, k) = (numbers::<T>(1, rows * q_heads * head_dim), numbers::<T>(2, rows * k_heads * head_dim));
    let frequencies: Vec<f64> =
        (0..head_dim / 2).map(|pair| 1e4f64.powf(-2.0 * pair as f64 / head_dim as f64)).collect();
    // Positions that repeat and go back, as those of several completions do.
    let positions: Vec<u32> = (0..rows as u32).map(|row| row * 7 % 40).collect();
    let (exact, tables) = (Tables::<f64>::new(&frequencies, 40), Tables::<T::Wide>::new(&frequencies, 40));
    let (mut on_q, mut on_k) = (wide(&q), wide(&k));
    let (cos, sin) = ((&exact.cos).into(), (&exact.sin).into());
    let mut ws = Workspace::new(1);
    rope::apply_pair((&mut on_q).into(), (&mut on_k).into(), (&positions).into(), cos, sin, shape, direction, &mut ws)
        .unwrap();
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let (mut q, mut k, positions) = (cuda.upload(&q)?, cuda.upload(&k)?, cuda.upload(&positions)?);
        let (cos, sin) = (cuda.upload(&tables.cos)?, cuda.upload(&tables.sin)?);
        let (cos, sin, mut ws) = (cos.view(), sin.view(), Workspace::new(1));
        rope::apply_pair(q.view_mut(), k.view_mut(), positions.view(), cos, sin, shape, direction, &mut ws)?;
        Ok(vec![Written::new("q", &q.download()?), Written::new("k", &k.download()?)])
    };
    Case {
        name: format!("rope of {shape:?} {direction:?} {}", T::NAME),
        run: Box::new(run),
        expected: vec![on_q, on_k],
    }
}

#[test]
fn rotations_agree_with_the_cpu() {
    for (rows, q_heads, k_heads, head_dim) in sizes(
        &[(1, 1, 1, 2), (5, 3, 1, 6), (3, 1, 2, 24), (9, 14, 2, 64), (2, 5, 1, 528), (2, 1, 1, 514), (70, 2, 0, 16)],
        &[(2000, 32, 8, 128)],
    ) {
        let shape = PairShape { rows, q_heads, k_heads, head_dim };
        for direction in [Direction::Forward, Direction::Backward] {
            check(&[
                rotated::<f32>(shape, direction),
                rotated::<f64>(shape, direction),
                rotated::<half::bf16>(shape, direction),
            ]);
        }
    }
}

/// One row of 40 heads that begins `from` elements into its buffer, and a position that the tables may not have.
fn turned_by_one_position(from: usize, position: u32) -> Case {
    let shape = PairShape { rows: 1, q_heads: 40, k_heads: 0, head_dim: 16 };
    let tables = Tables::<f32>::new(&[1.0, 0.5, 0.25, 0.125, 1e-1, 1e-2, 1e-3, 1e-4], 3);
    let x = numbers::<half::bf16>(1, 640);
    let angle = |pair: usize| f64::from(position) * [1.0, 0.5, 0.25, 0.125, 1e-1, 1e-2, 1e-3, 1e-4][pair];
    let is_known = (position as usize) < tables.positions();
    let expected = (0..640).map(|at| {
        let (head, element) = (at / 16 * 16, at % 16);
        let (a, b) = (x[head + element % 8].to_f64(), x[head + element % 8 + 8].to_f64());
        let (sin, cos) = angle(element % 8).sin_cos();
        let turned = if element < 8 { a * cos - b * sin } else { b * cos + a * sin };
        // NaN has no distance: a number stands for it here and below.
        if is_known { turned } else { UNKNOWN }
    });
    let expected = expected.collect();
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let kept = vec![half::bf16::ONE; from];
        let mut q = cuda.upload(&[&kept[..], &x].concat())?;
        let (mut k, positions) = (cuda.upload::<half::bf16>(&[])?, cuda.upload(&[position])?);
        let (cos, sin) = (cuda.upload(&tables.cos)?, cuda.upload(&tables.sin)?);
        let (cos, sin, direction) = (cos.view(), sin.view(), Direction::Forward);
        let part = q.view_mut().part(from..from + 640)?;
        rope::apply_pair(part, k.view_mut(), positions.view(), cos, sin, shape, direction, &mut Workspace::new(1))?;
        let all = q.download()?;
        assert!(all[..from].iter().all(|&element| element == half::bf16::ONE));
        let mut q = Written::new("q", &all[from..]);
        q.values.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = UNKNOWN);
        Ok(vec![q])
    };
    Case { name: format!("rope of position {position} at {from}"), run: Box::new(run), expected: vec![expected] }
}

const UNKNOWN: f64 = 77.0;

#[test]
fn rotations_by_positions_beyond_the_tables_are_nan() {
    for from in [0, 1, 8] {
        check(&[0, 2, 3, u32::MAX].map(|position| turned_by_one_position(from, position)));
    }
}

fn looked_up<T: Sample<Wide: Sample>>(ids: &[u32], vocab: usize, hidden: usize) -> Case {
    let ids = ids.to_vec();
    let (table, dy) = (numbers::<T>(1, vocab * hidden), numbers::<T>(2, ids.len() * hidden));
    let dtable = numbers::<T::Wide>(3, vocab * hidden);
    let mut ws = Workspace::new(1);
    let (mut y, mut sums) = (vec![0.0; ids.len() * hidden], wide(&dtable));
    embedding::forward(&ids, (&wide(&table)).into(), (&mut y).into(), hidden, &mut ws).unwrap();
    embedding::backward(&ids, (&wide(&dy)).into(), (&mut sums).into(), hidden, &mut ws).unwrap();
    let name = format!("embedding of {} ids × {hidden} {}", ids.len(), T::NAME);
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let Buckets { ids: found, starts, members } = Buckets::of(&ids);
        let (on_ids, on_table, on_dy) = (cuda.upload(&ids)?, cuda.upload(&table)?, cuda.upload(&dy)?);
        let (found, starts, members) = (cuda.upload(&found)?, cuda.upload(&starts)?, cuda.upload(&members)?);
        let (mut y, mut sums) = (cuda.unwritten::<T>(ids.len() * hidden)?, cuda.upload(&dtable)?);
        embedding::gather(on_ids.view(), on_table.view(), y.view_mut(), hidden, &mut Workspace::new(1))?;
        let buckets = BucketViews { ids: found.view(), starts: starts.view(), members: members.view() };
        embedding::scatter(buckets, on_dy.view(), sums.view_mut(), hidden)?;
        Ok(vec![Written::new("y", &y.download()?), Written::new("dtable", &sums.download()?)])
    };
    Case { name, run: Box::new(run), expected: vec![y, sums] }
}

#[test]
fn embeddings_agree_with_the_cpu() {
    for (rows, vocab, hidden) in sizes(&[(9, 11, 1), (9, 11, 16), (9, 11, 33), (9, 11, 2088)], &[(3000, 5000, 2048)]) {
        // Most ids several times, in no order.
        let ids: Vec<u32> = (0..rows).map(|row| row * row * 7 % vocab).collect();
        check(&[
            looked_up::<f32>(&ids, vocab as usize, hidden),
            looked_up::<f64>(&ids, vocab as usize, hidden),
            looked_up::<half::bf16>(&ids, vocab as usize, hidden),
        ]);
    }
    // One id so often that its members are fetched in several turns, the last of them not full.
    check(&[looked_up::<half::bf16>(&[1, 1, 1, 0, 1, 1, 1, 1, 1, 1], 3, 16), looked_up::<f32>(&[2; 8], 3, 5)]);
}

/// Ids and buckets that name rows that are not there: NaN, or nothing done, and the rest as it should be. `hidden` columns.
fn looked_up_beyond(hidden: usize) -> Case {
    let table = numbers::<half::bf16>(1, 3 * hidden);
    let ids = vec![2, 3, 0, u32::MAX];
    let known = |id: u32| (id < 3).then(|| wide(&table[id as usize * hidden..][..hidden]));
    let y = ids.iter().flat_map(|&id| known(id).unwrap_or_else(|| vec![UNKNOWN; hidden])).collect();
    // Bucket 0 is of an id that is not there, bucket 1 names row 4 of 4 beside row 1, bucket 2 ends beyond the members.
    let buckets = Buckets { ids: vec![3, 1, 0], starts: vec![0, 1, 3, 9], members: vec![0, 1, 4, 2] };
    let dy = numbers::<half::bf16>(2, 4 * hidden);
    let mut sums = vec![1.0; 3 * hidden];
    for c in 0..hidden {
        sums[hidden + c] += dy[hidden + c].to_f64();
        sums[c] += dy[2 * hidden + c].to_f64();
    }
    let run = move |cuda: &Cuda| -> Result<Vec<Written>> {
        let (on_ids, on_table, on_dy) = (cuda.upload(&ids)?, cuda.upload(&table)?, cuda.upload(&dy)?);
        let (mut y, mut dtable) = (cuda.unwritten::<half::bf16>(4 * hidden)?, cuda.upload(&vec![1.0f32; 3 * hidden])?);
        embedding::gather(on_ids.view(), on_table.view(), y.view_mut(), hidden, &mut Workspace::new(1))?;
        let (found, starts) = (cuda.upload(&buckets.ids)?, cuda.upload(&buckets.starts)?);
        let members = cuda.upload(&buckets.members)?;
        let buckets = BucketViews { ids: found.view(), starts: starts.view(), members: members.view() };
        embedding::scatter(buckets, on_dy.view(), dtable.view_mut(), hidden)?;
        let mut y = Written::new("y", &y.download()?);
        y.values.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = UNKNOWN);
        Ok(vec![y, Written::new("dtable", &dtable.download()?)])
    };
    Case { name: format!("embedding beyond a table of 3 × {hidden}"), run: Box::new(run), expected: vec![y, sums] }
}

#[test]
fn what_no_row_of_a_table_has_is_nan_or_skipped() {
    check(&[looked_up_beyond(5), looked_up_beyond(16)]);
}

#[test]
fn tables_that_are_no_whole_rows_are_refused() {
    let Some([cuda, _]) = devices() else { return };
    let (ids, starts) = (cuda.upload(&[0u32]).unwrap(), cuda.upload(&[0u32, 1]).unwrap());
    let (table, mut y) = (cuda.upload(&[0.0f32; 5]).unwrap(), cuda.upload(&[0.0f32; 2]).unwrap());
    let error = embedding::gather(ids.view(), table.view(), y.view_mut(), 2, &mut Workspace::new(1)).unwrap_err();
    assert_eq!(error.to_string(), "embedding::gather: table has 5 elements, expected whole rows of 2");
    let mut dtable = cuda.upload(&[0.0f32; 5]).unwrap();
    let buckets = BucketViews { ids: ids.view(), starts: starts.view(), members: ids.view() };
    let error = embedding::scatter(buckets, y.view(), dtable.view_mut(), 2).unwrap_err();
    assert_eq!(error.to_string(), "embedding::scatter: dtable has 5 elements, expected whole rows of 2");
    let buckets = BucketViews { starts: ids.view(), ..buckets };
    assert!(embedding::scatter(buckets, y.view(), dtable.view_mut(), 5).is_err());
}

#[test]
fn buckets_hold_every_row_once() {
    let buckets = Buckets::of(&[3, 0, 3, 7, 0]);
    assert_eq!(buckets, Buckets { ids: vec![0, 3, 7], starts: vec![0, 2, 4, 5], members: vec![1, 4, 0, 2, 3] });
    assert_eq!(Buckets::of(&[]), Buckets { ids: vec![], starts: vec![0], members: vec![] });
}
