//! `S·Σ_i λ_i·L_i` over sources of preferences

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::Named;
use super::bradley_terry::of_sides;
use crate::error::{Error, Result};
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::math::log_sigmoid;
use crate::min_norm::min_norm_weights;
use crate::numbers::{Origin, PerItem, With};
use crate::scores::host;
use crate::terms::{LossTerms, Term};
use crate::valued::PooledPair;
use crate::view::{StepWide, window};

/// A reward model of several sources of preferences, which count such that no source is served at the expense of another.
///
/// # Formula
/// `S·Σ_i λ_i·L_i` over the `S` sources of the step, `L_i` the mean of `−log σ(r_w − r_l)` over the pairs whose `source` is `i`.
/// `λ` is the point of the simplex at which `‖Σ_i λ_i·g_i‖` is smallest, `g_i` the gradient of `L_i` with respect to the head's
/// weight, of length 1.
///
/// # Gradient
/// Of the pairs of source `i` that of [`BradleyTerry`](crate::BradleyTerry), times `S·λ_i` and divided by their number; `λ` is held.
///
/// # When to use
/// Pairs from people, tasks or files that disagree, where the mean would follow the largest or the loudest of them. Every step
/// should hold pairs of every source.
///
/// # Source
/// Zeng et al. 2023 (On Diversified Preferences of Large Language Model Alignment), arXiv 2312.07401, as the authors' code.
/// Confidence A.
///
/// # Deviations
/// The gradients are those of the whole optimizer step; the authors can also mix them with those of steps before (0.01 of
/// them in their scripts). The weights are found to rounding, theirs by some steps of Frank and Wolfe's method. TRL has no such loss.
///
/// # Checked by
/// Formulas: `more min-norm weights`. That the weights are those of the head's gradients is checked against automatic
/// differentiation in its own test.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{More, Objective, Phase, Scores, Solo, StepScores, TokenScores};
/// // Both pairs say the same of the head, so each counts one half of two.
/// let values = Tensor::new(&[[0.0f64], [0.0], [0.0], [0.0]], &Device::Cpu)?;
/// let pooled = Tensor::new(&[[1.0f64, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], &Device::Cpu)?;
/// let mut scores = Scores::of_pairs(TokenScores::of_values(values)?.with_pooled(pooled)?, None);
/// scores.groups.numbers.insert("source".to_owned(), vec![0.0, 1.0]);
/// let step = [scores];
/// let context = More::default().prepare(&StepScores { micro: &step, collective: &Solo }, Phase::Train)?;
/// let loss = More::default().evaluate(&step[0], &context.micro(0))?.loss(&step[0].totals())?;
/// assert!((loss.to_scalar::<f64>()? - 2.0 * 2f64.ln()).abs() < 1e-12);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct More {
    /// Which head of the score model is trained, counted from 0. Default 0.
    pub head: usize,
}

/// The weights of the pairs of a micro-batch.
const WEIGHTS: &str = "weights";

impl Named for More {
    const NAME: &'static str = "more";
    const ALIASES: &'static [&'static str] = &["multi_objective_reward"];
    const SUMMARY: &'static str = "a reward model of several sources of pairs, each by its share of the common descent";
}

impl Loss for More {
    type Input = With<PooledPair, Origin>;

    fn terms(&self, input: &Self::Input, context: &Context) -> Result<LossTerms> {
        let rewards = input.of_head(self.head)?;
        let losses = log_sigmoid(&rewards.margins()?)?.neg()?;
        let weights = context.vector(WEIGHTS)?;
        let weights = Tensor::new(weights, losses.device())?.to_dtype(losses.dtype())?;
        Ok(LossTerms::new([Term::per_item(Self::NAME, (losses * weights)?)]).with_rewards(of_sides(&rewards)))
    }

    fn prepare(&mut self, step: &StepScores<'_>, _: Phase) -> Result<Context> {
        let mut sums = Sums::default();
        let mut sources = Vec::new();
        for micro in step.micro {
            let input: With<PooledPair, Origin> = window(Self::NAME, micro)?;
            let of_pairs = host(input.number())?.into_iter().enumerate().map(|(item, value)| source(item, value));
            let of_pairs = of_pairs.collect::<Result<Vec<usize>>>()?;
            sums.add(&of_pairs, &host(&input.of_head(self.head)?.margins()?)?, &input.differences()?);
            sources.push(of_pairs);
        }
        sums.over_ranks(step)?;
        let weights = sums.weights();
        let pairs: f64 = sums.counts.iter().sum();
        let of_pair = |source: &usize| weights[*source] * pairs / sums.counts[*source];
        let vectors = sources.iter().map(|micro| [(WEIGHTS.to_owned(), micro.iter().map(of_pair).collect())].into());
        let mut context = Context { vectors: vectors.collect(), ..Context::default() };
        let present = |source: &usize| sums.counts[*source] > 0.0;
        let named = (0..Origin::SOURCES).filter(present).map(|source| (format!("weights/{source}"), weights[source]));
        context.scalars.extend(named);
        Ok(context)
    }

    fn step_wide(&self) -> StepWide {
        StepWide::AllRows
    }

    fn heads(&self) -> usize {
        self.head.saturating_add(1)
    }
}

fn source(item: usize, value: f64) -> Result<usize> {
    if Origin::NUMBER.admits(value) {
        return Ok(value as usize);
    }
    let expected = format!("a whole number from 0 to {}", Origin::SOURCES - 1);
    Err(Error::NumberOutOfRange { name: Origin::NUMBER.name, item, got: value, expected })
}

/// Gradients of the head's weight by source, not yet divided, and the number of pairs of each.
#[derive(Debug, Default)]
struct Sums {
    counts: Vec<f64>,
    gradients: Vec<Vec<f64>>,
}

impl Sums {
    /// `−σ(r_l − r_w)·(h_w − h_l)` of every pair, `h` the hidden state that its head reads.
    fn add(&mut self, sources: &[usize], margins: &[f64], differences: &[Vec<f64>]) {
        self.counts.resize(Origin::SOURCES, 0.0);
        self.gradients.resize(Origin::SOURCES, Vec::new());
        for ((&source, margin), difference) in sources.iter().zip(margins).zip(differences) {
            let slope = -1.0 / (1.0 + margin.exp());
            self.counts[source] += 1.0;
            self.gradients[source].resize(difference.len(), 0.0);
            self.gradients[source].iter_mut().zip(difference).for_each(|(sum, x)| *sum += slope * x);
        }
    }

    fn over_ranks(&mut self, step: &StepScores<'_>) -> Result<()> {
        self.counts.resize(Origin::SOURCES, 0.0);
        self.gradients.resize(Origin::SOURCES, Vec::new());
        let mut sizes = vec![0.0; step.collective.ranks().max(1)];
        sizes[step.collective.rank()] = self.gradients.iter().map(Vec::len).max().unwrap_or(0) as f64;
        step.collective.sum(&mut sizes)?;
        let size = sizes.into_iter().fold(0.0, f64::max) as usize;
        let mut flat = self.counts.clone();
        for gradient in &mut self.gradients {
            gradient.resize(size, 0.0);
            flat.extend_from_slice(gradient);
        }
        step.collective.sum(&mut flat)?;
        self.counts.copy_from_slice(&flat[..Origin::SOURCES]);
        let gradients = flat[Origin::SOURCES..].chunks_exact(size.max(1));
        self.gradients.iter_mut().zip(gradients).for_each(|(own, all)| own.copy_from_slice(all));
        Ok(())
    }

    /// `S·λ` by source; 0 of a source without pairs.
    fn weights(&self) -> Vec<f64> {
        let present: Vec<usize> = (0..Origin::SOURCES).filter(|source| self.counts[*source] > 0.0).collect();
        let unit = |source: &usize| {
            let gradient = &self.gradients[*source];
            let length = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
            gradient.iter().map(|x| if length > 0.0 { x / length } else { 0.0 }).collect()
        };
        let mut weights = vec![0.0; Origin::SOURCES];
        let shares = min_norm_weights(&present.iter().map(unit).collect::<Vec<Vec<f64>>>());
        present.iter().zip(shares).for_each(|(&source, share)| weights[source] = share * present.len() as f64);
        weights
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use candlewick_testkit::worst;

    use super::*;
    use crate::{Objective, Scores, Solo, TokenScores};

    /// Three pairs under a head of two weights: the hidden states, the weight, and the scores made of them.
    fn pairs(sources: &[f64]) -> (Var, Scores) {
        let hidden = [[0.4, -1.0], [0.3, 0.8], [-0.7, 0.1], [0.0, 0.5], [1.0, 0.2], [0.6, -0.4]];
        let hidden = Tensor::new(&hidden, &Device::Cpu).unwrap();
        let weight = Var::new(&[[0.3f64], [-0.2]], &Device::Cpu).unwrap();
        let values = hidden.matmul(weight.as_tensor()).unwrap();
        let scores = TokenScores::of_values(values).unwrap().with_pooled(hidden).unwrap();
        let mut scores = Scores::of_pairs(scores, None);
        scores.groups.numbers.insert("source".to_owned(), sources.to_vec());
        (weight, scores)
    }

    fn prepare(micro: &[Scores]) -> Context {
        Objective::prepare(&mut More::default(), &StepScores { micro, collective: &Solo }, Phase::Train).unwrap()
    }

    #[test]
    fn the_weights_are_those_of_the_gradients_of_the_head() {
        let sources = [0.0, 7.0, 3.0];
        let (weight, scores) = pairs(&sources);
        let context = prepare(std::slice::from_ref(&scores));
        let margins =
            <With<PooledPair, Origin> as crate::View>::view(&scores).unwrap().of_head(0).unwrap().margins().unwrap();
        let gradient = |of: &[usize]| -> Vec<f64> {
            let losses = log_sigmoid(&crate::scores::select_rows(&margins, of).unwrap()).unwrap().neg().unwrap();
            let slopes = losses.mean_all().unwrap().backward().unwrap();
            let slopes = slopes.get(&weight).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let length = slopes.iter().map(|x| x * x).sum::<f64>().sqrt();
            slopes.iter().map(|x| x / length).collect()
        };
        let gradients = [gradient(&[0]), gradient(&[1]), gradient(&[2])];
        let shares = min_norm_weights(&gradients);
        assert!(shares.iter().all(|share| *share < 0.9) && (shares[0] - shares[2]).abs() > 0.05, "{shares:?}");
        let named = ["weights/0", "weights/7", "weights/3"].map(|name| context.scalar(name).unwrap() / 3.0);
        assert!(worst(&named, &shares) < 1e-9, "{named:?} {shares:?}");
        // S·λ·(pairs / pairs of the source) = 3·λ·3.
        let of_pairs: Vec<f64> = shares.iter().map(|share| 9.0 * share).collect();
        assert!(worst(context.micro(0).vector(WEIGHTS).unwrap(), &of_pairs) < 1e-9);
    }

    #[test]
    fn one_source_is_bradley_and_terry() {
        let (_, scores) = pairs(&[2.0; 3]);
        let context = prepare(std::slice::from_ref(&scores));
        let value = |objective: &dyn Objective| {
            let terms = objective.evaluate(&scores, &context.micro(0)).unwrap();
            terms.loss(&scores.totals()).unwrap().to_scalar::<f64>().unwrap()
        };
        assert!((value(&More::default()) - value(&crate::BradleyTerry::default())).abs() < 1e-15);
    }

    #[test]
    fn a_source_is_a_whole_number() {
        let (_, scores) = pairs(&[0.0, 1.5, 1.0]);
        let step = StepScores { micro: &[scores], collective: &Solo };
        let error = Objective::prepare(&mut More::default(), &step, Phase::Train).unwrap_err();
        assert_eq!(error.to_string(), "source, item 1: got 1.5, expected a whole number from 0 to 15");
    }
}
