//! Kernels of `product.cu` that small products do not come to.
use half::bf16;

use crate::cases::numbers;
use crate::direct::direct;

/// A factor [rows, columns], or its transpose, in rows of `stride` elements.
fn laid_out(values: &[bf16], rows: usize, columns: usize, is_transposed: bool, stride: usize) -> Vec<bf16> {
    let lines = if is_transposed { columns } else { rows };
    let mut all = vec![bf16::NAN; lines * stride];
    for r in 0..rows {
        for c in 0..columns {
            all[if is_transposed { c * stride + r } else { r * stride + c }] = values[r * columns + c];
        }
    }
    all
}

#[test]
fn large_tiles_agree_with_a_sum_over_the_depth() {
    let Some(direct) = direct() else { return };
    let (m, n, k, stride) = (135, 144, 70, 152);
    let (a, b) = (numbers::<bf16>(1, m * k), numbers::<bf16>(2, k * n));
    let expected: Vec<f64> =
        (0..m * n).map(|i| (0..k).map(|d| a[i / n * k + d].to_f64() * b[d * n + i % n].to_f64()).sum()).collect();
    for (layout, a_transposed, b_transposed) in
        [("nn", false, false), ("nt", false, true), ("tn", true, false), ("tt", true, true)]
    {
        let on_a = direct.upload(&laid_out(&a, m, k, a_transposed, stride));
        let on_b = direct.upload(&laid_out(&b, k, n, b_transposed, stride));
        // Two parts of the depth, whose sums are apart, in rows on packs; and the whole depth, in other rows.
        for (parts, columns) in [(2, n), (1, n + 3)] {
            let both = [false, true].map(|is_descending| {
                let into = direct.upload(&vec![0.0f32; parts * m * columns]);
                let words = [
                    on_a.at(0),
                    stride as u64,
                    on_b.at(0),
                    stride as u64,
                    into.at(0),
                    columns as u64,
                    u64::from(columns == n),
                    1,
                    0,
                    1.0f64.to_bits(),
                    m as u64,
                    n as u64,
                    k as u64,
                    if parts == 2 { 64 } else { 96 },
                ];
                let kernel = format!("product_bf16_packed_{layout}_128");
                direct.launch(&kernel, [4, parts as u32, 1], 256, is_descending, &words).unwrap();
                into.download::<f32>()
            });
            assert_eq!(direct.conflicts(), 0, "{layout}: conflicts of banks");
            assert_eq!(both[0], both[1], "{layout}, {parts} parts: a race");
            for (i, expected) in expected.iter().enumerate() {
                let at = i / n * columns + i % n;
                let sum: f64 = (0..parts).map(|part| f64::from(both[0][part * m * n + at])).sum();
                assert!((sum - expected).abs() < 1e-5, "{layout}, {parts} parts, {i}: {sum}, not {expected}");
            }
            let mut between = (0..parts * m * columns).filter(|at| at % columns >= n);
            assert!(between.all(|at| both[0][at] == 0.0), "{layout}: what is between rows is left alone");
        }
    }
}

#[test]
fn parts_are_added_in_rows_of_their_own_stride() {
    let Some(direct) = direct() else { return };
    let (m, n, stride, count) = (3, 5, 8, 4);
    let (parts, c) = (numbers::<f32>(1, count * m * n), numbers::<bf16>(2, m * stride));
    for accumulate in [false, true] {
        let (on_parts, on_c) = (direct.upload(&parts), direct.upload(&c));
        let [into, accumulates, scale] = [on_c.at(0), u64::from(accumulate), 0.5f64.to_bits()];
        let words = [on_parts.at(0), into, stride as u64, accumulates, scale, m as u64, n as u64, count as u64];
        direct.launch("product_sum_parts_bf16", [1, 1, 1], 256, false, &words).unwrap();
        for (i, found) in on_c.download::<bf16>().into_iter().enumerate() {
            let (row, column) = (i / stride, i % stride);
            let sum: f64 = (0..count).map(|part| f64::from(parts[(part * m + row) * n + column.min(n - 1)])).sum();
            let expected = match (column < n, accumulate) {
                (false, _) => c[i].to_f64(),
                (true, false) => 0.5 * sum,
                (true, true) => c[i].to_f64() + 0.5 * sum,
            };
            assert!((found.to_f64() - expected).abs() <= 4e-3 * expected.abs(), "{i}: {found}, not {expected}");
        }
    }
}
