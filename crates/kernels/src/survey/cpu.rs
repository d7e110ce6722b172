//! Pieces in parallel, whose flags are brought together by `or`, in any order.
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{NOT_FINITE, NOT_ZERO};
use crate::parallel::Crew;
use crate::{Element, Float};

/// What a piece of a tensor says of it.
fn flags_of<T: Element>(x: &[T]) -> u32 {
    let (mut is_other, mut is_bad) = (false, false);
    for x in x {
        let x = x.widen();
        is_other |= x != T::Wide::ZERO;
        is_bad |= !x.is_finite();
    }
    NOT_ZERO * u32::from(is_other) + NOT_FINITE * u32::from(is_bad)
}

/// The tensors, which end at `ends`, of which `range` has a part, each with that part.
fn parts(ends: &[u64], range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let first = ends.partition_point(|&end| end as usize <= range.start);
    let mut start = range.start;
    ends.iter().enumerate().skip(first).take_while(move |_| start < range.end).map(move |(tensor, &end)| {
        let part = start..range.end.min(end as usize);
        start = part.end;
        (tensor, part)
    })
}

pub(super) fn flags<T: Element>(x: &[T], ends: &[u64], flags: &mut [u32], crew: &Crew) {
    flags.fill(0);
    // SAFETY: atomic words are laid out as plain ones are, and nobody else has these.
    let found = unsafe { &*(std::ptr::from_mut(flags) as *const [AtomicU32]) };
    crew.rows(x.len(), 1, |range| {
        for (tensor, part) in parts(ends, range) {
            found[tensor].fetch_or(flags_of(&x[part]), Ordering::Relaxed);
        }
    });
}
