//! Rows in parallel, heads in order.
use super::{Direction, Shape};
use crate::Float;
use crate::parallel::{Crew, Disjoint};
use crate::simd::vectorised;

pub(super) fn apply<T: Float>(
    x: &mut [T],
    positions: &[u32],
    (cos, sin): (&[T], &[T]),
    shape: Shape,
    direction: Direction,
    crew: &Crew,
) {
    let width = shape.heads * shape.head_dim;
    if width == 0 {
        return;
    }
    let half = shape.head_dim / 2;
    let sign = match direction {
        Direction::Forward => T::ONE,
        Direction::Backward => -T::ONE,
    };
    let x = Disjoint::new(x);
    crew.rows(shape.rows, width, |rows| {
        // SAFETY: ranges of rows do not overlap.
        let x = unsafe { x.part(rows.start * width..rows.end * width) };
        for (row, x) in rows.zip(x.chunks_exact_mut(width)) {
            let at = positions[row] as usize * half;
            rotate(x, &cos[at..at + half], &sin[at..at + half], sign);
        }
    });
}

vectorised! {
    fn rotate<T>(x: &mut [T], cos: &[T], sin: &[T], sign: T) {
        let half = cos.len();
        let sin = &sin[..half];
        for head in x.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            let b = &mut b[..half];
            for j in 0..half {
                let (c, s) = (cos[j], sign * sin[j]);
                let (p, q) = (a[j], b[j]);
                a[j] = p * c - q * s;
                b[j] = q * c + p * s;
            }
        }
    }
}
