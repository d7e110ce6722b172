//! Over which costs a multiplier looks.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Over which costs `J` is the mean.
///
/// The longer it looks back, the slower a rule must be: over the last `W` steps it is stable up to about
/// `2β/((W − 1)·Var_π(c))`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Window {
    /// The costs that were given last.
    #[default]
    Latest,
    /// The last so many costs, as in Safe RLHF, which has 128 a rank.
    Last {
        /// How many; at least 1.
        costs: usize,
    },
    /// A moving average of the means of what was given, corrected for its start.
    Average {
        /// Weight of the past, in [0, 1).
        decay: f64,
    },
}

/// What a window holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    /// Measured costs and whether each was above 0, of [`Window::Last`] and of [`Window::Latest`].
    last: VecDeque<(f64, bool)>,
    cost: Average,
    unsafe_share: Average,
}

/// A moving average that is corrected for its start: after one number it is that number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Average {
    sum: f64,
    weight: f64,
}

impl Window {
    pub(super) fn fault(self) -> Option<(&'static str, f64, &'static str)> {
        match self {
            Self::Last { costs: 0 } => Some(("dual.window.costs", 0.0, "at least 1")),
            Self::Average { decay } if !(0.0..1.0).contains(&decay) => {
                Some(("dual.window.decay", decay, "a weight in [0, 1)"))
            }
            _ => None,
        }
    }

    /// By how many steps the mean is older than the latest costs, of which there are so many a step.
    pub(super) fn delay(self, costs_a_step: usize) -> f64 {
        match self {
            Self::Latest => 0.0,
            Self::Last { costs } => (costs as f64 / costs_a_step.max(1) as f64 - 1.0).max(0.0) / 2.0,
            Self::Average { decay } => decay / (1.0 - decay),
        }
    }

    /// Adds measured costs, each with whether it was above 0; at least one.
    pub(super) fn add(self, seen: &mut Seen, costs: &[(f64, bool)]) {
        match self {
            Self::Latest => seen.last = costs.iter().copied().collect(),
            Self::Last { costs: count } => {
                seen.last.extend(costs);
                seen.last.drain(..seen.last.len().saturating_sub(count));
            }
            Self::Average { decay } => {
                let (cost, unsafe_share) = means(costs.iter());
                seen.cost.add(cost, decay);
                seen.unsafe_share.add(unsafe_share, decay);
            }
        }
    }

    /// The mean of the measured costs and the share of those above 0; `None` before the first.
    pub(super) fn means(self, seen: &Seen) -> Option<(f64, f64)> {
        match self {
            Self::Average { .. } => Some((seen.cost.mean()?, seen.unsafe_share.mean()?)),
            Self::Latest | Self::Last { .. } => (!seen.last.is_empty()).then(|| means(seen.last.iter())),
        }
    }
}

impl Seen {
    pub(super) fn is_sound(&self) -> bool {
        self.last.iter().all(|(cost, _)| cost.is_finite()) && self.cost.is_sound() && self.unsafe_share.is_sound()
    }
}

impl Average {
    /// Adds a number and gives the average with it.
    pub(super) fn add(&mut self, value: f64, decay: f64) -> f64 {
        self.sum = decay * self.sum + (1.0 - decay) * value;
        self.weight = decay * self.weight + (1.0 - decay);
        self.sum / self.weight
    }

    pub(super) fn mean(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }

    pub(super) fn is_sound(&self) -> bool {
        self.sum.is_finite() && (0.0..=1.0 + 1e-9).contains(&self.weight)
    }
}

fn means<'a>(costs: impl ExactSizeIterator<Item = &'a (f64, bool)>) -> (f64, f64) {
    let count = costs.len() as f64;
    let sums =
        costs.fold((0.0, 0.0), |(sum, above), (cost, is_above)| (sum + cost, above + f64::from(u8::from(*is_above))));
    (sums.0 / count, sums.1 / count)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;

    fn after(window: Window, given: &[&[f64]]) -> (f64, f64) {
        let mut seen = Seen::default();
        assert_eq!(window.means(&seen), None);
        for costs in given {
            let costs: Vec<_> = costs.iter().map(|&cost| (cost, cost > 0.0)).collect();
            window.add(&mut seen, &costs);
        }
        window.means(&seen).unwrap()
    }

    #[test]
    fn each_looks_back_as_far_as_it_says() {
        let given: [&[f64]; 2] = [&[4.0, -1.0, 2.0], &[1.0, -2.0]];
        assert_eq!(after(Window::Latest, &given), (-0.5, 0.5));
        assert_eq!(after(Window::Last { costs: 3 }, &given), (1.0 / 3.0, 2.0 / 3.0));
        assert_eq!(after(Window::Last { costs: 9 }, &given), (0.8, 0.6));
        // Two thirds of the last mean and one third of the first.
        let (cost, share) = after(Window::Average { decay: 0.5 }, &given);
        assert!((cost - (5.0 / 3.0 - 1.0) / 3.0).abs() < 1e-15, "{cost}");
        assert!((share - (2.0 / 3.0 + 1.0) / 3.0).abs() < 1e-15, "{share}");
        assert_eq!(after(Window::Average { decay: 0.9 }, &given[..1]).0, 5.0 / 3.0);
    }
}
