//! `tensor_cores.cuh`: where every element of a matrix lies, and what copies do.
use half::bf16;

use crate::cases::numbers;
use crate::direct::{Direct, direct};

const LANES: usize = 32;
/// Memory that nobody has written.
const POISON: u16 = 0xffff;

fn bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A register of two elements, the first in its lower half.
fn pair(low: bf16, high: bf16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

#[test]
fn products_of_fragments_are_those_of_their_matrices() {
    let Some(direct) = direct() else { return };
    let (a, b, c) = (numbers::<bf16>(1, 16 * 16), numbers::<bf16>(2, 16 * 8), numbers::<f32>(3, 16 * 8));
    // As the PTX ISA has it: element i of a lane's 8 of a, 4 of b, and 4 of the sums.
    let of_a = |lane: usize, i: usize| {
        let row = if i < 2 || (4..6).contains(&i) { lane / 4 } else { lane / 4 + 8 };
        let column = lane % 4 * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
        a[row * 16 + column]
    };
    let of_b = |lane: usize, i: usize| {
        let row = lane % 4 * 2 + (i & 1) + if i >= 2 { 8 } else { 0 };
        b[row * 8 + lane / 4]
    };
    let place = |lane: usize, i: usize| {
        let row = if i < 2 { lane / 4 } else { lane / 4 + 8 };
        row * 8 + lane % 4 * 2 + (i & 1)
    };
    let each = |count: usize| (0..LANES).flat_map(move |lane| (0..count).map(move |i| (lane, i)));
    let registers_of_a: Vec<_> = each(4).map(|(lane, r)| pair(of_a(lane, 2 * r), of_a(lane, 2 * r + 1))).collect();
    let registers_of_b: Vec<_> = each(2).map(|(lane, r)| pair(of_b(lane, 2 * r), of_b(lane, 2 * r + 1))).collect();
    let before: Vec<f32> = each(4).map(|(lane, i)| c[place(lane, i)]).collect();
    let [on_a, on_b] = [&registers_of_a, &registers_of_b].map(|registers| direct.upload(registers));
    let sums = direct.upload(&before);
    direct.launch("probe_mma", [1, 1, 1], 32, false, &[on_a.at(0), on_b.at(0), sums.at(0)]).unwrap();
    for ((lane, i), sum) in each(4).zip(sums.download::<f32>()) {
        let (row, column) = (place(lane, i) / 8, place(lane, i) % 8);
        let product: f64 = (0..16).map(|k| a[row * 16 + k].to_f64() * b[k * 8 + column].to_f64()).sum();
        let expected = f64::from(c[row * 8 + column]) + product;
        assert!((f64::from(sum) - expected).abs() < 1e-5, "lane {lane}, sum {i}: {sum}, not {expected}");
    }
}

#[test]
fn matrices_come_to_the_lanes_of_their_elements() {
    let Some(direct) = direct() else { return };
    // Numbers of their own, which have bf16's bits.
    let rows: Vec<u16> = (0..32 * 8).collect();
    let (on_rows, into) = (direct.upload(&rows), direct.unwritten(2 * LANES * 4 * 4));
    let launch = |distance: u64| {
        direct.launch("probe_load_matrices", [1, 1, 1], 32, false, &[on_rows.at(0), into.at(0), distance])
    };
    launch(16).unwrap();
    // Rows 32 bytes apart: 0 and 4, 1 and 5, 2 and 6, 3 and 7 of each of four matrices, which are read twice.
    assert_eq!(direct.conflicts(), 4 * 4 * 2);
    let element = |i: usize, row: usize, column: usize| u32::from(rows[(8 * i + row) * 8 + column]);
    let registers = into.download::<u32>();
    for lane in 0..LANES {
        let (group, within) = (lane / 4, lane % 4);
        for i in 0..4 {
            let plain = element(i, group, 2 * within) | element(i, group, 2 * within + 1) << 16;
            let transposed = element(i, 2 * within, group) | element(i, 2 * within + 1, group) << 16;
            assert_eq!(registers[lane * 4 + i], plain, "lane {lane}, matrix {i}");
            assert_eq!(registers[(LANES + lane) * 4 + i], transposed, "lane {lane}, matrix {i}, transposed");
        }
    }
    assert!(launch(12).unwrap_err().contains("does not begin on 16 bytes"));
    assert!(launch(24).unwrap_err().contains("not in shared memory"));
    let elsewhere = direct.launch("probe_load_elsewhere", [1, 1, 1], 32, false, &[on_rows.at(0), into.at(0)]);
    assert!(elsewhere.unwrap_err().contains("not in shared memory"));
}

#[test]
fn copies_land_when_they_are_waited_for() {
    let Some(direct) = direct() else { return };
    let from = bits(&numbers::<bf16>(1, 3 * 32 * 8));
    let (on_from, to) = (direct.upload(&from), direct.unwritten(6 * 32 * 8 * 2));
    for is_descending in [false, true] {
        direct.launch("probe_groups", [1, 1, 1], 32, is_descending, &[on_from.at(0), to.at(0)]).unwrap();
        let (landed, pending) = from.split_at(2 * 32 * 8);
        assert_eq!(to.download::<u16>(), [landed, &vec![POISON; pending.len()], &from].concat());
    }
}

fn copies(direct: &Direct, is_descending: bool, [to_first, from_first]: [u64; 2]) -> Result<Vec<u16>, String> {
    let (from, to) = (direct.upload(&[7u16; 64 * 8]), direct.unwritten(64 * 8 * 2));
    let words = [from.at(0), to.at(0), to_first, from_first];
    direct.launch("probe_copies", [1, 1, 1], 64, is_descending, &words).map(|()| to.download())
}

#[test]
fn copies_are_of_aligned_packs_with_zeros_at_the_end() {
    let Some(direct) = direct() else { return };
    let expected: Vec<u16> = (0..64 * 8).map(|i| if i % 8 < (i / 8 + 1) % 9 { 7 } else { 0 }).collect();
    for is_descending in [false, true] {
        assert_eq!(copies(&direct, is_descending, [0, 0]), Ok(expected.clone()));
    }
    for (first, words) in [
        ([1, 0], "is not aligned"),
        ([0, 4], "is not aligned"),
        ([8, 0], "does not go to shared memory"),
        ([0, 8], "outside of every buffer"),
    ] {
        let error = copies(&direct, true, first).unwrap_err();
        assert!(error.contains(words), "{first:?}: {error}");
    }
}
