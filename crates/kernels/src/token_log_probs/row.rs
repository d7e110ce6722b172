//! One row of logits: its sums, and its gradient in place.
use crate::Float;
use crate::simd::{self, sum_of, vectorised};

/// Sums over logits l, all of a row or a block of it, relative to a shift near their largest: e = exp(l − shift).
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    shift: f64,
    count: usize,
    /// Σ e.
    exp: f64,
    /// Σ e².
    exp_sq: f64,
    /// Σ e·(l − shift).
    exp_shifted: f64,
    /// Σ (l − shift).
    shifted: f64,
}

impl Sums {
    /// Numbers that [`Sums::write`] writes where statistics are wanted, and where not.
    pub(super) const ALL: usize = 5;
    pub(super) const FEW: usize = 2;

    /// Those that need no statistics, from Σ exp(l − shift).
    pub(super) fn of_exps<T: Float>(shift: T, exp: f64, count: usize) -> Self {
        Self { shift: shift.to_f64(), count, exp, exp_sq: f64::NAN, exp_shifted: f64::NAN, shifted: f64::NAN }
    }

    /// Those of all blocks of a row; NaN where one is.
    pub(super) fn together(parts: impl Iterator<Item = Self> + Clone) -> Self {
        let shift = parts.clone().fold(f64::NEG_INFINITY, |largest, part| largest.max(part.shift));
        let none = Self { shift, count: 0, exp: 0.0, exp_sq: 0.0, exp_shifted: 0.0, shifted: 0.0 };
        parts.fold(none, |sum, part| {
            let down = part.shift - shift;
            let factor = down.exp();
            Self {
                shift,
                count: sum.count + part.count,
                exp: sum.exp + factor * part.exp,
                exp_sq: sum.exp_sq + factor * factor * part.exp_sq,
                exp_shifted: sum.exp_shifted + factor * (part.exp_shifted + down * part.exp),
                shifted: sum.shifted + part.shifted + down * part.count as f64,
            }
        })
    }

    /// Into [`Sums::ALL`] or [`Sums::FEW`] numbers.
    pub(super) fn write<T: Float>(&self, to: &mut [T]) {
        let all = [self.shift, self.exp, self.exp_sq, self.exp_shifted, self.shifted];
        to.iter_mut().zip(all).for_each(|(to, value)| *to = T::from_f64(value));
    }

    /// What [`Sums::write`] wrote, of `count` logits.
    pub(super) fn read<T: Float>(from: &[T], count: usize) -> Self {
        let number = |i: usize| from.get(i).map_or(f64::NAN, |value| value.to_f64());
        Self { shift: number(0), count, exp: number(1), exp_sq: number(2), exp_shifted: number(3), shifted: number(4) }
    }

    pub(super) fn shift(&self) -> f64 {
        self.shift
    }

    /// What makes probabilities of exp(l − shift), where the whole row has the sums `row`.
    pub(super) fn factor(&self, row: &Self) -> f64 {
        (self.shift - row.shift).exp() / row.exp
    }

    pub(super) fn lse(&self) -> f64 {
        self.shift + self.exp.ln()
    }

    pub(super) fn log_prob<T: Float>(&self, logit: T) -> f64 {
        logit.to_f64() - self.shift - self.exp.ln()
    }

    pub(super) fn mean_log_prob(&self) -> f64 {
        self.shifted / self.count as f64 - self.exp.ln()
    }

    pub(super) fn log_sum_sq_probs(&self) -> f64 {
        self.exp_sq.ln() - 2.0 * self.exp.ln()
    }

    pub(super) fn entropy(&self) -> f64 {
        self.exp.ln() - self.exp_shifted / self.exp
    }
}

/// The sums of logits; those that only statistics need where `statistics`, else NaN.
pub(super) fn sums<T: Float>(logits: &[T], shift: T, statistics: bool) -> Sums {
    if statistics {
        return all_sums(logits, shift);
    }
    Sums::of_exps(shift, simd::exp_sum(logits, shift), logits.len())
}

/// Cotangents of one row; `direct` is the sum of those of log-probabilities of single ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<T> {
    pub(super) direct: T,
    pub(super) mean_log_prob: T,
    pub(super) log_sum_sq_probs: T,
    pub(super) entropy: T,
}

/// Replaces logits by their gradient, but for the terms of single ids (see [`super::backward`] for the terms).
pub(super) fn differentiate<T: Float>(logits: &mut [T], lse: T, weights: Weights<T>) {
    let Weights { direct, mean_log_prob, log_sum_sq_probs, entropy } = weights;
    let zero = |value: T| value == T::ZERO;
    if zero(mean_log_prob) && zero(log_sum_sq_probs) && zero(entropy) {
        if zero(direct) {
            return logits.fill(T::ZERO);
        }
        let sum = simd::exp_in_place(logits, lse);
        return simd::scale(logits, T::from_f64(-direct.to_f64() / sum));
    }
    let sums = all_sums(logits, lse);
    let vocab = logits.len() as f64;
    combine(
        logits,
        Terms {
            shift: lse,
            log_sum: T::from_f64(sums.exp.ln()),
            inverse_sum: T::from_f64(1.0 / sums.exp),
            inverse_sum_sq_probs: T::from_f64(sums.exp * sums.exp / sums.exp_sq),
            row_entropy: T::from_f64(sums.entropy()),
            all: direct + mean_log_prob + log_sum_sq_probs + log_sum_sq_probs,
            every: T::from_f64(mean_log_prob.to_f64() / vocab),
            twice_sq: log_sum_sq_probs + log_sum_sq_probs,
            entropy,
        },
    );
}

/// Factors of the terms of a gradient.
#[derive(Clone, Copy)]
struct Terms<T> {
    shift: T,
    log_sum: T,
    inverse_sum: T,
    inverse_sum_sq_probs: T,
    row_entropy: T,
    /// Of −p.
    all: T,
    /// Of 1.
    every: T,
    /// Of p²/Σp².
    twice_sq: T,
    /// Of −p·(log p + entropy).
    entropy: T,
}

vectorised! {
    fn all_sums<T>(logits: &[T], shift: T) -> Sums {
        const BLOCK: usize = 512;
        let mut sums =
            Sums { shift: shift.to_f64(), count: logits.len(), exp: 0.0, exp_sq: 0.0, exp_shifted: 0.0, shifted: 0.0 };
        let mut exps = [T::ZERO; BLOCK];
        for logits in logits.chunks(BLOCK) {
            let exps = &mut exps[..logits.len()];
            for (e, &l) in exps.iter_mut().zip(logits) {
                *e = (l - shift).exp_fast();
            }
            let n = logits.len();
            let exps = &exps[..n];
            sums.exp += simd::sum(exps);
            sums.exp_sq += sum_of(n, |i| exps[i] * exps[i]);
            sums.exp_shifted += sum_of(n, |i| exps[i] * (logits[i] - shift));
            sums.shifted += sum_of(n, |i| logits[i] - shift);
        }
        sums
    }

    fn combine<T>(logits: &mut [T], terms: Terms<T>) {
        for l in logits {
            let shifted = *l - terms.shift;
            let p = shifted.exp_fast() * terms.inverse_sum;
            let log_p = shifted - terms.log_sum;
            let share = p * p * terms.inverse_sum_sq_probs;
            *l = terms.every + terms.twice_sq * share - p * (terms.all + terms.entropy * (log_p + terms.row_entropy));
        }
    }
}
