//! Kernels on fewer blocks than there are rows, which then have their turns: what no case is large enough for.
use crate::cases::numbers;
use crate::direct::direct;

/// Runs a kernel in both orders of threads and with each number of blocks, and wants the same bits of what it writes.
fn agree(kernel: &str, blocks: [u32; 2], run: impl Fn(u32, bool) -> Vec<f32>) {
    let bits = |blocks, is_descending| run(blocks, is_descending).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let expected = bits(blocks[1], false);
    for (blocks, is_descending) in [(blocks[0], false), (blocks[0], true), (blocks[1], true)] {
        assert_eq!(bits(blocks, is_descending), expected, "{kernel} on {blocks} blocks");
    }
}

#[test]
fn rotations_of_more_rows_than_blocks() {
    let Some(direct) = direct() else { return };
    let (rows, q_heads, k_heads, half, known) = (7, 3, 2, 5, 4);
    let positions = direct.upload(&[0u32, 3, 1, 2, 0, 1, 3]);
    let (cos, sin) = (direct.upload(&numbers::<f32>(1, known * half)), direct.upload(&numbers::<f32>(2, known * half)));
    let begun = [q_heads, k_heads].map(|heads| numbers::<f32>(heads as u64, rows * heads * 2 * half));
    agree("rope", [2, rows as u32], |blocks, is_descending| {
        let [q, k] = begun.each_ref().map(|begun| direct.upload(begun));
        let operands = [q.at(0), k.at(0), positions.at(0), cos.at(0), sin.at(0)];
        let sizes = [known, rows, q_heads, k_heads, half].map(|size| size as u64);
        let words = [&operands[..], &sizes, &[0]].concat();
        direct.launch("rope_f32", [blocks, 1, 1], 32, is_descending, &words).unwrap();
        let (q, k) = (q.download::<f32>(), k.download::<f32>());
        assert!(q[rows * q_heads * 2 * half - 1].to_bits() != begun[0][rows * q_heads * 2 * half - 1].to_bits());
        [q, k].concat()
    });
}

#[test]
fn more_rows_and_buckets_of_a_table_than_blocks() {
    let Some(direct) = direct() else { return };
    let (known, rows, hidden) = (6, 9, 8);
    let ids = direct.upload(&[5u32, 0, 0, 3, 1, 9, 2, 5, 4]);
    let table = direct.upload(&numbers::<f32>(1, known * hidden));
    let sizes = [known, rows, hidden].map(|size| size as u64);
    agree("gather", [2, rows as u32], |blocks, is_descending| {
        let y = direct.unwritten(rows * hidden * size_of::<f32>());
        let words = [&[ids.at(0), table.at(0), y.at(0)][..], &sizes].concat();
        direct.launch("embedding_forward_packed_f32", [blocks, 1, 1], 32, is_descending, &words).unwrap();
        let y = y.download::<f32>();
        // The last row is of id 4; memory that nobody has written is NaN.
        assert_eq!(y[8 * hidden..], table.download::<f32>()[4 * hidden..5 * hidden]);
        y
    });

    let found = direct.upload(&[0u32, 1, 7, 3, 5]);
    let (starts, members) = (direct.upload(&[0u32, 5, 6, 7, 8, 9]), direct.upload(&[1u32, 2, 0, 8, 4, 5, 3, 7, 6]));
    let dy = direct.upload(&numbers::<f32>(2, rows * hidden));
    agree("scatter", [2, 5], |blocks, is_descending| {
        let dtable = direct.upload(&vec![0.0f32; known * hidden]);
        let operands = [&found, &starts, &members, &dy, &dtable].map(|operand| operand.at(0));
        let words = [&operands[..], &[known as u64, 5, rows as u64, hidden as u64]].concat();
        direct.launch("embedding_backward_packed_f32", [blocks, 1, 1], 32, is_descending, &words).unwrap();
        let sums = dtable.download::<f32>();
        // The bucket of id 5 has row 6 alone; id 2 has none.
        assert_eq!(sums[5 * hidden..], dy.download::<f32>()[6 * hidden..7 * hidden]);
        assert_eq!(sums[2 * hidden..3 * hidden], [0.0; 8]);
        sums
    });
}
