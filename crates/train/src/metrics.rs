//! What a step or an evaluation measured, as exact sums and counts.
use std::collections::{BTreeMap, BTreeSet};

use candlewick_losses::{Collective, Groups, LossTerms, Rewards, Scores, TokenScores, gather};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// A mean that has not been divided yet, so that means over micro-batches and ranks are exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// Sum of the values.
    pub sum: f64,
    /// Number of values.
    pub count: f64,
}

impl Mean {
    /// `sum / count`; nothing when no value was seen.
    pub fn value(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

/// Measured quantities under TRL's names.
///
/// | name | mean of | over |
/// |---|---|---|
/// | `rewards/chosen`, `rewards/rejected` | implicit reward β·Σ log-ratio | chosen (desirable), rejected (undesirable) rows |
/// | `rewards/margins` | reward of the chosen less that of the rejected | pairs; for labelled rows the difference of the two means |
/// | `rewards/accuracies` | 1 where the chosen has strictly more reward | pairs |
/// | `logps/chosen`, `logps/rejected` | Σ log-probability, not of a score model | as the rewards; a demonstration, the best rated of ranked completions and one judged well count as chosen, the others of a ranking and one judged ill as rejected |
/// | `entropy` | entropy of the policy, in nats | scored tokens |
/// | `mean_token_accuracy` | 1 where the token is the likeliest | scored tokens of chosen rows |
/// | `margins/optimised` | the margin that the loss compares, where that is not the difference of the implicit rewards: of means over tokens, with a divergence, with a target, sorted | items |
/// | `accuracies/optimised` | 1 where that margin is above 0 | the same |
/// | `log_ratios/absolute` | \|Σ log π − log π_ref\|, in nats, where there is a reference | completions |
/// | `log_ratios/chosen` | log π − log π_ref, in nats | scored tokens of chosen rows |
/// | any other | what the objective reports by [`LossTerms::with_metric`](candlewick_losses::LossTerms::with_metric) | its values |
///
/// What belongs to the step as a whole, such as KTO's `kl`, stands beside them as one number a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    means: BTreeMap<String, Mean>,
    scalars: BTreeMap<String, f64>,
}

impl Metrics {
    /// The mean called `name`, if it was measured.
    pub fn mean(&self, name: &str) -> Option<Mean> {
        self.means.get(name).copied()
    }

    /// The value called `name`, if it was measured.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values().remove(name)
    }

    /// Every measured value.
    pub fn values(&self) -> BTreeMap<String, f64> {
        let mut values = self.scalars.clone();
        values.extend(self.means.iter().filter_map(|(name, mean)| Some((name.clone(), mean.value()?))));
        if let (false, Some(chosen), Some(rejected)) =
            (values.contains_key("rewards/margins"), values.get("rewards/chosen"), values.get("rewards/rejected"))
        {
            values.insert("rewards/margins".into(), chosen - rejected);
        }
        values
    }

    /// Adds the sums and counts of another part of the same step.
    pub fn merge(&mut self, other: &Self) {
        for (name, mean) in &other.means {
            self.add(name, mean.sum, mean.count);
        }
        self.scalars.extend(other.scalars.clone());
    }

    /// Adds the sums and counts of the other ranks. A rank may lack what others measured, such as rewards of a verdict that
    /// none of its rows has: the names are exchanged first.
    pub(crate) fn sum_over_ranks(&mut self, collective: &dyn Collective) -> Result<()> {
        if collective.ranks() == 1 {
            return Ok(());
        }
        let own: Vec<f64> = self.means.keys().flat_map(|name| name.bytes().chain([b'\n'])).map(f64::from).collect();
        let bytes: Vec<u8> = gather(collective, &own)?.concat().into_iter().map(|byte| byte as u8).collect();
        let names = String::from_utf8_lossy(&bytes);
        let names: BTreeSet<&str> = names.lines().collect();
        let own = |name: &str| self.means.get(name).map_or([0.0, 0.0], |mean| [mean.sum, mean.count]);
        let mut flat: Vec<f64> = names.iter().flat_map(|name| own(name)).collect();
        collective.sum(&mut flat)?;
        for (name, pair) in names.iter().zip(flat.chunks_exact(2)) {
            self.means.insert((*name).to_owned(), Mean { sum: pair[0], count: pair[1] });
        }
        Ok(())
    }

    /// Adds what the scores of one micro-batch tell.
    pub(crate) fn record(&mut self, scores: &Scores, groups: &Groups, terms: &LossTerms) -> Result<()> {
        let policy = &scores.policy;
        let log_probs = to_f64(&policy.sums()?.detach())?;
        let (chosen, rejected) = sides(groups);
        if let Some(reference) = &scores.reference {
            let ratios: Vec<f64> = log_probs.iter().zip(to_f64(&reference.sums()?)?).map(|(a, b)| a - b).collect();
            self.add_all(LOG_RATIOS, ratios.iter().map(|ratio| ratio.abs()));
            for &row in &chosen {
                self.add(LOG_RATIOS_CHOSEN, ratios[row], policy.lengths()[row] as f64);
            }
        }
        // A score model says nothing of tokens.
        if policy.values().is_none() {
            self.add_all("logps/chosen", chosen.iter().map(|&row| log_probs[row]));
            self.add_all("logps/rejected", rejected.iter().map(|&row| log_probs[row]));
        }
        match &terms.rewards {
            Some(Rewards::Pair { chosen, rejected }) => {
                let (chosen, rejected) = (to_f64(chosen)?, to_f64(rejected)?);
                self.add_all(
                    "rewards/accuracies",
                    chosen.iter().zip(&rejected).map(|(c, r)| f64::from(u8::from(c > r))),
                );
                self.add_all("rewards/margins", chosen.iter().zip(&rejected).map(|(c, r)| c - r));
                self.add_all("rewards/chosen", chosen.into_iter());
                self.add_all("rewards/rejected", rejected.into_iter());
            }
            Some(Rewards::Labelled { rewards }) => {
                for (row, reward) in groups.labelled.iter().zip(to_f64(rewards)?) {
                    self.add(if row.desirable { "rewards/chosen" } else { "rewards/rejected" }, reward, 1.0);
                }
            }
            None => {}
        }
        for metric in &terms.metrics {
            self.add_all(&metric.name, to_f64(&metric.values.flatten_all()?)?.into_iter());
        }
        if let Some(entropy) = policy.entropy() {
            let all: Vec<usize> = (0..policy.rows()).collect();
            self.add_tokens("entropy", entropy, policy, &all)?;
        }
        if let Some(is_top1) = policy.is_top1() {
            self.add_tokens("mean_token_accuracy", is_top1, policy, &chosen)?;
        }
        Ok(())
    }

    /// Notes what belongs to the step as a whole.
    pub(crate) fn record_scalars(&mut self, scalars: &BTreeMap<String, f64>) {
        self.scalars.extend(scalars.clone());
    }

    fn add_tokens(
        &mut self,
        name: &str,
        values: &candle_core::Tensor,
        policy: &TokenScores,
        rows: &[usize],
    ) -> Result<()> {
        // Statistics under mask 0 are undefined, and may be NaN.
        let zeros = values.zeros_like()?;
        let masked = policy.mask().ne(0.0)?.where_cond(values, &zeros)?;
        let sums = to_f64(&masked.sum(1)?.detach())?;
        for &row in rows {
            self.add(name, sums[row], policy.lengths()[row] as f64);
        }
        Ok(())
    }

    fn add_all(&mut self, name: &str, values: impl Iterator<Item = f64>) {
        values.for_each(|value| self.add(name, value, 1.0));
    }

    pub(crate) fn add(&mut self, name: &str, sum: f64, count: f64) {
        let mean = self.means.entry(name.to_owned()).or_default();
        mean.sum += sum;
        mean.count += count;
    }
}

/// The rows that count as chosen and as rejected.
fn sides(groups: &Groups) -> (Vec<usize>, Vec<usize>) {
    let rejected = groups.pairs.iter().map(|pair| pair.rejected);
    let undesirable = groups.labelled.iter().filter(|row| !row.desirable).map(|row| row.row);
    let worse = groups.ranked.iter().flat_map(|group| {
        let best = group.best();
        group.rows.iter().copied().filter(move |row| Some(*row) != best)
    });
    let blamed = groups.judged.iter().filter(|item| !item.positive).map(|item| item.plain);
    (groups.demonstration_rows(), rejected.chain(undesirable).chain(worse).chain(blamed).collect())
}

/// The elements of a tensor of one dimension.
pub(crate) fn to_f64(tensor: &candle_core::Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(candle_core::DType::F64)?.to_vec1()?)
}

/// How far completions are from the reference.
pub(crate) const LOG_RATIOS: &str = "log_ratios/absolute";
/// How far chosen tokens are above it.
pub(crate) const LOG_RATIOS_CHOSEN: &str = "log_ratios/chosen";
