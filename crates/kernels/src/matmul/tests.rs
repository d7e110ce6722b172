use super::*;
use crate::testing::{assert_near, cast, numbers};

/// The kernels that this machine has, and one that is nothing but its definition.
fn kernels() -> Vec<(&'static str, &'static Kernel<f32>)> {
    static BY_DEFINITION: Kernel<f32> = blocked::tests::by_definition();
    [("definition", &BY_DEFINITION)].into_iter().chain(kernel_for_f32().map(|kernel| ("machine", kernel))).collect()
}

/// A matrix that lies in rows, in columns, or with both strides.
struct Matrix {
    elements: Vec<f64>,
    at: At<()>,
}

impl Matrix {
    fn new(seed: u64, rows: usize, columns: usize, layout: usize) -> Self {
        let at = match layout {
            0 => At::rows((), columns),
            1 => At::rows((), rows).transposed(),
            _ => At { start: (), rows: 2 * columns + 3, cols: 2 },
        };
        Self { elements: numbers(seed, reach(rows, columns, at.rows, at.cols)), at }
    }

    fn get(&self, row: usize, column: usize) -> f64 {
        self.elements[row * self.at.rows + column * self.at.cols]
    }

    fn single(&self) -> Vec<f32> {
        cast(&self.elements)
    }

    fn shared(&self, elements: &[f32]) -> Shared<f32> {
        Shared(At { start: elements.as_ptr(), rows: self.at.rows, cols: self.at.cols })
    }
}

fn product_of(Size { m, n, k }: Size, left: &Matrix, right: &Matrix) -> Vec<f64> {
    let element = |row: usize, column: usize| (0..k).map(|at| left.get(row, at) * right.get(at, column)).sum();
    (0..m).flat_map(|row| (0..n).map(move |column| (row, column))).map(|(r, c)| element(r, c)).collect()
}

#[test]
fn kernels_multiply_factors_however_they_lie() {
    let sizes = [
        (32, 64, 32),
        (7, 65, 33),
        (6, 16, 1),
        (1, 1, 5),
        (253, 130, 40),
        (61, 1601, 11),
        (50, 79, 1600),
        (487, 31, 77),
    ];
    for (i, (m, n, k)) in sizes.into_iter().enumerate() {
        let size = Size { m, n, k };
        for layout in 0..3 {
            let (left, right) = (Matrix::new(1, m, k, layout), Matrix::new(2, k, n, (layout + i) % 3));
            let exact = product_of(size, &left, &right);
            let there = numbers(3, m * n);
            let (left_f32, right_f32) = (left.single(), right.single());
            for (name, kernel) in kernels() {
                let mut first: [Option<Vec<f32>>; 2] = [None, None];
                for (threads, accumulate) in [(1, true), (2, true), (5, true), (1, false), (2, false)] {
                    let crew = Crew::new(threads);
                    let mut dst: Vec<f32> = if accumulate { cast(&there) } else { vec![f32::NAN; m * n] };
                    let mut packing = vec![f32::NAN; blocked::packed(size, crew.threads())];
                    let factors = (left.shared(&left_f32), right.shared(&right_f32));
                    // SAFETY: the factors have these rows and columns, `dst` is a vector of its own.
                    unsafe { blocked::whole(kernel, &crew, size, &mut dst, accumulate, factors, 0.5, &mut packing) };
                    let expected =
                        exact.iter().zip(&there).map(|(x, there)| 0.5 * x + if accumulate { *there } else { 0.0 });
                    let what = format!("{name} {m}x{n}x{k}, layout {layout}, {threads} threads, {accumulate}");
                    assert_near(&dst, &expected.collect::<Vec<_>>(), 1e-6, &what);
                    let first = first[usize::from(accumulate)].get_or_insert_with(|| dst.clone());
                    assert_eq!(&dst, first, "{what}: the same bits on any number of threads");
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_what_it_is_multiplied_beside() {
    let (n, k) = (200, 900);
    let (left, right) = (Matrix::new(1, 300, k, 0).single(), Matrix::new(2, k, n, 1).single());
    let rows = |from: usize, m: usize| {
        let mut dst = vec![f32::NAN; m * n];
        let left = Whole::new(&left[from * k..], k);
        let right = Whole::new(&right, k).transposed();
        whole(&mut Workspace::new(2), Size { m, n, k }, &mut dst, false, left, right, 1.0);
        dst
    };
    if kernel_for_f32().is_some() {
        let all = rows(0, 300);
        assert_eq!(all[17 * n..117 * n], rows(17, 100));
        assert_eq!(all[200 * n..], rows(200, 100));
        assert_eq!(all[5 * n..37 * n], rows(5, 32));
    } else {
        eprintln!("skipped: this machine has no kernel for f32");
    }
}

#[test]
fn what_is_no_number_stays_in_its_row_and_column() {
    let (m, n, k) = (40, 70, 33);
    let (mut left, mut right) = (Matrix::new(1, m, k, 0).single(), Matrix::new(2, k, n, 0).single());
    left[7 * k + 4] = f32::NAN;
    right[2 * n + 69] = f32::INFINITY;
    let mut dst = vec![0.0; m * n];
    let (lhs, rhs) = (Whole::new(&left, k), Whole::new(&right, n));
    whole(&mut Workspace::new(2), Size { m, n, k }, &mut dst, false, lhs, rhs, 1.0);
    for (i, x) in dst.iter().enumerate() {
        assert_eq!(x.is_finite(), i / n != 7 && i % n != 69, "row {}, column {}: {x}", i / n, i % n);
    }
}

#[test]
fn factors_are_packed_once_and_multiplied_in_parts() {
    let size = Size { m: 100, n: 150, k: 1000 };
    let (left, right) = (Matrix::new(1, size.m, size.k, 1), Matrix::new(2, size.k, size.n, 0));
    let exact = product_of(size, &left, &right);
    let (left_f32, right_f32) = (left.single(), right.single());
    let ways = kernels().into_iter().map(|(name, kernel)| (name, Some(kernel))).chain([("gemm", None)]);
    for (name, kernel) in ways {
        let factors = Factors { kernel };
        let crew = Crew::new(2);
        let mut of_left = vec![f32::NAN; factors.left_len(size.m, size.k)];
        let mut of_right = vec![f32::NAN; factors.right_len(size.k, size.n)];
        let mut dst = vec![1.0f32; size.m * size.n];
        // SAFETY: the factors have these rows and columns, `dst` is a vector of its own.
        unsafe {
            let left = factors.left(&crew, left.shared(&left_f32).0, size.m, size.k, &mut of_left);
            let right = factors.right(&crew, right.shared(&right_f32).0, size.k, size.n, &mut of_right);
            for first in (0..size.m).step_by(5 * STRIP) {
                let size = Size { m: (size.m - first).min(5 * STRIP), ..size };
                let to = At::rows(dst.as_mut_ptr().add(first * size.n), size.n);
                factors.multiply(size, to, true, (&left, first), &right);
            }
        }
        let expected: Vec<f64> = exact.iter().map(|x| x + 1.0).collect();
        assert_near(&dst, &expected, 1e-6, name);
    }
}
