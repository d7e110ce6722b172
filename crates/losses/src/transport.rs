//! Optimal transport on a line: the values at the same place of two sorted lists are partners.

use candle_core::Tensor;

use crate::collective::{Collective, gather};
use crate::error::{Error, Result};
use crate::loss::Context;

/// For every value of `own` the value of `other` that stands at the same place when both are sorted in ascending order
/// over all micro-batches and ranks. Both hold one list a micro-batch, and both as many values.
///
/// Equal values stay in the order of ranks, micro-batches and items. NaN has a place too (after all numbers, or before
/// them where its sign bit is set) and is somebody's partner, so that it is seen.
///
/// # Errors
/// If a rank cannot be reached.
pub(crate) fn partners(collective: &dyn Collective, own: &[Vec<f64>], other: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
    let own_ranks = gather(collective, &own.concat())?;
    let before: usize = own_ranks.iter().take(collective.rank()).map(Vec::len).sum();
    let all_own = own_ranks.concat();
    let mut all_other = gather(collective, &other.concat())?.concat();
    let mut order: Vec<usize> = (0..all_own.len()).collect();
    // + 0 makes one zero of −0 and 0, which are a tie.
    order.sort_by(|&a, &b| (all_own[a] + 0.0).total_cmp(&(all_own[b] + 0.0)));
    all_other.sort_by(|a, b| (a + 0.0).total_cmp(&(b + 0.0)));
    let mut partners = vec![f64::NAN; all_own.len()];
    for (place, value) in order.into_iter().zip(all_other) {
        partners[place] = value;
    }
    let mut mine = partners.into_iter().skip(before);
    Ok(own.iter().map(|micro| mine.by_ref().take(micro.len()).collect()).collect())
}

/// The partners of a micro-batch's values, `[B]`, as they stand in its context; detached.
///
/// # Errors
/// If they are not there, or belong to another number of values.
pub(crate) fn partners_of(values: &Tensor, context: &Context, name: &str) -> Result<Tensor> {
    let partners = context.vector(name)?;
    if partners.len() != values.elem_count() {
        let expected = format!("[{}], one a pair of the micro-batch that the context belongs to", values.elem_count());
        return Err(Error::Shape { what: "partners", got: vec![partners.len()], expected });
    }
    Ok(Tensor::new(partners, values.device())?.to_dtype(values.dtype())?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Solo;

    /// Several ranks of which a test plays one; the values of the others stand in the order in which they are asked
    /// for.
    #[derive(Debug)]
    pub(crate) struct Ranks {
        pub(crate) rank: usize,
        /// The lists of every rank, this one's too.
        pub(crate) lists: Vec<Vec<Vec<f64>>>,
        pub(crate) calls: std::cell::Cell<usize>,
    }

    impl Collective for Ranks {
        /// Two calls a gathered list: how many values each rank has, and the values.
        fn sum(&self, values: &mut [f64]) -> Result<()> {
            let call = self.calls.replace(self.calls.get() + 1);
            let list: Vec<&[f64]> = self.lists.iter().map(|lists| lists[call / 2].as_slice()).collect();
            let sum =
                if call.is_multiple_of(2) { list.iter().map(|own| own.len() as f64).collect() } else { list.concat() };
            assert_eq!(sum.len(), values.len());
            for (rank, own) in list.iter().enumerate().filter(|_| call % 2 == 1) {
                let before: usize = list[..rank].iter().map(|own| own.len()).sum();
                let expected = if rank == self.rank { own.to_vec() } else { vec![0.0; own.len()] };
                assert_eq!(values[before..before + own.len()], expected, "rank {rank}");
            }
            values.copy_from_slice(&sum);
            Ok(())
        }

        fn ranks(&self) -> usize {
            self.lists.len()
        }

        fn rank(&self) -> usize {
            self.rank
        }
    }

    #[test]
    fn partners_have_the_same_place() {
        let own = [vec![3.0, 1.0], vec![2.0]];
        let other = [vec![-1.0, -3.0], vec![-2.0]];
        assert_eq!(partners(&Solo, &own, &other).unwrap(), [vec![-1.0, -3.0], vec![-2.0]]);
        assert_eq!(partners(&Solo, &other, &own).unwrap(), own);
        assert!(partners(&Solo, &[], &[]).unwrap().is_empty());
    }

    #[test]
    fn equal_values_stay_in_order() {
        let own = [vec![0.0, 5.0], vec![-0.0, 0.0]];
        let other = [vec![1.0, 2.0], vec![3.0, 4.0]];
        assert_eq!(partners(&Solo, &own, &other).unwrap(), [vec![1.0, 4.0], vec![2.0, 3.0]]);
    }

    #[test]
    fn ranks_are_sorted_together() {
        let lists = vec![vec![vec![4.0, 0.0], vec![10.0, 20.0]], vec![vec![0.0, 2.0, 1.0], vec![50.0, 40.0, 30.0]]];
        let of = |rank: usize| {
            let ranks = Ranks { rank, lists: lists.clone(), calls: std::cell::Cell::new(0) };
            partners(&ranks, &[lists[rank][0].clone()], &[lists[rank][1].clone()]).unwrap().concat()
        };
        assert_eq!(of(0), [50.0, 10.0]);
        assert_eq!(of(1), [20.0, 40.0, 30.0]);
    }

    #[test]
    fn nan_is_a_partner_and_not_a_panic() {
        let found = partners(&Solo, &[vec![f64::NAN, 1.0]], &[vec![2.0, f64::NAN]]).unwrap().concat();
        assert!(found[0].is_nan());
        assert_eq!(found[1..], [2.0]);
    }
}
