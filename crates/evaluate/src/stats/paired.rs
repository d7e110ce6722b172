//! Differences of two treatments on the same seeds.

use candlewick_data::SplitMix;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{mean, standard_deviation};

/// Most differences whose signs are all tried.
const ALL_SIGNS: usize = 20;
/// Signs drawn where there are more.
const DRAWN_SIGNS: u64 = 100_000;

/// Whether a mean difference could be chance: two tests, both two-sided.
///
/// Both suppose that a difference is as likely to be so much above its mean as below. Student's t supposes normal differences
/// beside that; of few runs it says what cannot be seen otherwise. Turning signs supposes nothing more (Fisher's permutation
/// test, *The Design of Experiments*, 1935, section 21), but of n differences its p is never below 2^(1 − n): of five, 0.0625.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedTest {
    /// The mean difference.
    pub difference: f64,
    /// Pairs.
    pub pairs: usize,
    /// p of Student's paired t; 1 where no difference varies and none is there.
    pub student: f64,
    /// p of all ways to turn signs; of 100,000 drawn ones where there are more than 20 pairs.
    pub sign_flip: f64,
}

impl PairedTest {
    /// Of differences of pairs; nothing of fewer than two, of which nothing can be said.
    pub fn of(differences: &[f64]) -> Option<Self> {
        let (difference, spread) = (mean(differences)?, standard_deviation(differences)?);
        let pairs = differences.len();
        Some(Self { difference, pairs, student: student(difference, spread, pairs), sign_flip: sign_flip(differences) })
    }
}

fn student(difference: f64, spread: f64, pairs: usize) -> f64 {
    if spread == 0.0 {
        return if difference == 0.0 { 1.0 } else { 0.0 };
    }
    let t = difference / (spread / (pairs as f64).sqrt());
    // Freedom is at least 1, so that the law exists.
    StudentsT::new(0.0, 1.0, (pairs - 1) as f64).map_or(f64::NAN, |law| 2.0 * law.cdf(-t.abs()))
}

fn sign_flip(differences: &[f64]) -> f64 {
    let observed: f64 = differences.iter().sum::<f64>().abs();
    // The same sum in another order is the same sum.
    let reaches = |sum: f64| sum.abs() >= observed * (1.0 - 1e-12);
    let turned = |signs: u64| -> f64 {
        differences.iter().enumerate().map(|(i, d)| if signs >> i & 1 == 1 { -d } else { *d }).sum()
    };
    if differences.len() <= ALL_SIGNS {
        let all = 1u64 << differences.len();
        return (0..all).filter(|signs| reaches(turned(*signs))).count() as f64 / all as f64;
    }
    let mut random = SplitMix::new(0, 0);
    let mut reached = 1u64;
    for _ in 0..DRAWN_SIGNS {
        let mut sum = 0.0;
        for chunk in differences.chunks(64) {
            let signs = random.next_u64();
            sum += chunk.iter().enumerate().map(|(i, d)| if signs >> i & 1 == 1 { -d } else { *d }).sum::<f64>();
        }
        reached += u64::from(reaches(sum));
    }
    // The signs as they are count as one draw (Phipson and Smyth, 2010): p is never 0.
    reached as f64 / (DRAWN_SIGNS + 1) as f64
}

/// Holm's step-down correction (1979): the p values of a family of tests, so that the chance of any false alarm among them is at
/// most the level. In the order given; what is not a number stays and counts for nothing.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).filter(|i| !p_values[*i].is_nan()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = p_values.to_vec();
    let mut largest: f64 = 0.0;
    for (rank, index) in order.iter().enumerate() {
        largest = largest.max((p_values[*index] * (order.len() - rank) as f64).min(1.0));
        adjusted[*index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
    }

    #[test]
    fn five_differences_of_one_sign() {
        let found = PairedTest::of(&[0.01, 0.02, 0.015, 0.03, 0.005]).expect("five");
        // Their variance is 92.5e-6, and of four degrees of freedom Student's law has a closed form.
        let t = 0.016 / (92.5e-6f64 / 5.0).sqrt();
        let square = t * t / (1.0 + t * t / 4.0);
        let below = 0.5 + 3.0 / 8.0 * square.sqrt() * (1.0 - square / 12.0);
        close(found.student, 2.0 * (1.0 - below));
        close(found.sign_flip, 2.0 / 32.0);
        close(found.difference, 0.016);
    }

    #[test]
    fn no_difference_is_no_finding_and_one_pair_says_nothing() {
        let none = PairedTest::of(&[0.0, 0.0, 0.0]).expect("three");
        close(none.student, 1.0);
        close(none.sign_flip, 1.0);
        assert_eq!(PairedTest::of(&[1.0]), None);
        close(PairedTest::of(&[1.0, -1.0]).expect("two").sign_flip, 1.0);
    }

    #[test]
    fn drawn_signs_come_near_all_signs() {
        let few: Vec<f64> = (0..18).map(|i| f64::from(i % 5) - 1.2).collect();
        let exact = sign_flip(&few);
        // The same differences and zeros, whose signs do not matter.
        let many: Vec<f64> = few.iter().copied().chain([0.0; 6]).collect();
        let drawn = sign_flip(&many);
        assert!((exact - drawn).abs() < 0.01, "{exact} {drawn}");
    }

    #[test]
    fn holm_steps_down() {
        // statsmodels.stats.multitest.multipletests([0.01, 0.04, 0.03, 0.005], method="holm")
        let found = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in found.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            close(*found, expected);
        }
        assert!(holm(&[f64::NAN, 0.5])[0].is_nan());
    }
}
