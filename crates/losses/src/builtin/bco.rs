//! `−log σ(r − δ)` and `−w·log σ(−(r − δ))`

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Named, Preset, check_beta, in_range};
use crate::error::{Error, Result};
use crate::groups::Scores;
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::math::log_sigmoid;
use crate::numbers::Numbers;
use crate::reduction::Reduction;
use crate::scores::host;
use crate::terms::{LossTerms, Term};
use crate::udm::{DESIRABLE_PROMPT, DensityRatio};
use crate::view::{AnchoredLabels, StepWide, window};

/// Binary classifier optimisation: tells desirable from undesirable completions by rewards about a running shift.
///
/// # Formula
/// With `r = β·Σ_t (log π − log π_ref)`, the mean over rows of `−log σ(r − δ)` for desirable and `−w·log σ(−(r − δ))` for
/// undesirable ones. The shift `δ` is a running mean of rewards ([`RewardShift`]) to which each training step adds its own
/// before it uses it. `w = 1`, or with [`density_ratio`](Self::density_ratio) the weight of the row's prompt.
///
/// # Gradient
/// `−β·σ(δ − r)` for `log π` of desirable rows, `w·β·σ(r − δ)` for undesirable ones; it does not vanish for rows on the wrong
/// side. `δ` and `w` are detached. A cumulative `δ` freezes as training goes on.
///
/// # When to use
/// Single completions with a verdict, where no second pass for KTO's mismatched completions is wanted. Where one verdict
/// is much rarer, [`RewardShift::Balanced`]; where desirable and undesirable completions answer different prompts,
/// `density_ratio` (underlying-distribution matching) with a column that [`udm`](crate::udm) helps to make.
///
/// # Source
/// Jung et al. 2024, arXiv 2404.04656. Confidence A✓ in TRL's form (its trainer up to 1.1x); that the paper's shift is the
/// moving average of the two classes' means is D: its constants, and so those of [`RewardShift::BalancedEma`], are not verified.
///
/// # Deviations
/// From the paper: `cumulative` is TRL's shift, not the paper's. From TRL: one update of `δ` an optimizer step instead of
/// one a micro-batch, so that accumulation does not change it; rewards that are not finite make `δ` visibly NaN for the
/// step and leave the running means as they were. Before any training step `δ` is 0, as in TRL.
///
/// # Checked by
/// TRL: `bco`, `bco_udm`. Formulas: `bco step 1 (delta includes this batch)`, `bco step 2`, `bco deltas`, `bco + UDM weights`,
/// `udm weights`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Bco, Objective, Phase, Scores, Solo, StepScores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-4.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-1.0]], &Device::Cpu)?)?;
/// let step = [Scores::of_labelled(policy, Some(reference), &[true, false])];
/// let mut bco = Bco { beta: 1.0, ..Bco::default() };
/// let context = bco.prepare(&StepScores { micro: &step, collective: &Solo }, Phase::Train)?;
/// // Rewards 1 and −3, so δ = −1 and both rows are 2 away from it.
/// assert_eq!(context.scalar("delta")?, -1.0);
/// let loss = bco.evaluate(&step[0], &context.micro(0))?.loss(&step[0].totals())?;
/// assert!((loss.to_scalar::<f64>()? - 0.126_928_011_042_972_5).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bco {
    /// Reward of a nat of log-ratio; positive. Default 0.1 (TRL's; the paper's is said to be 0.01).
    pub beta: f64,
    /// What rewards are compared with. Default [`RewardShift::Cumulative`].
    pub shift: RewardShift,
    /// Weights of undesirable rows by their prompts: every row must then bring the number `desirable_prompt`, the
    /// probability that its prompt is one of the desirable rows. Default none: all weigh 1.
    pub density_ratio: Option<DensityRatio>,
    /// The rewards seen in training: state of a run, not of its configuration.
    #[serde(skip)]
    pub seen: RewardMeans,
}

/// The running mean `δ` that rewards are compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardShift {
    /// The mean over all rewards seen, as in TRL.
    #[default]
    Cumulative,
    /// `½·(E₊ + E₋)`, with the mean over all rewards seen of each verdict; of the only one while one was seen.
    Balanced,
    /// The same with an exponential moving average over steps of each verdict's mean: `E ← decay·E + (1 − decay)·mean`. The
    /// first step that holds a verdict starts its average, and a step without it leaves it as it was.
    BalancedEma {
        /// Weight of the past, in [0, 1). 0.9 is usual.
        decay: f64,
    },
}

/// The rewards seen in training.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RewardMeans {
    /// Of desirable rows.
    pub desirable: RewardMean,
    /// Of undesirable rows.
    pub undesirable: RewardMean,
}

/// A running mean of rewards.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RewardMean {
    /// The mean, finite; 0 if no reward was seen.
    pub mean: f64,
    /// How many rewards were seen.
    pub count: f64,
}

impl Default for Bco {
    fn default() -> Self {
        let (shift, seen) = (RewardShift::Cumulative, RewardMeans::default());
        Self { beta: 0.1, shift, density_ratio: None, seen }
    }
}

impl Named for Bco {
    const NAME: &'static str = "bco";
    const ALIASES: &'static [&'static str] = &["binary_classifier"];
    const SUMMARY: &'static str =
        "binary classifier optimisation: rewards of single completions about their running mean";
    const PRESETS: &'static [Preset] = &[Preset {
        name: "bco_udm",
        aliases: &[],
        summary: "BCO with undesirable rows weighted by the density ratio of their prompts",
        settings: r#"{ "density_ratio": {} }"#,
    }];
}

impl Loss for Bco {
    type Input = AnchoredLabels;

    fn terms(&self, input: &AnchoredLabels, context: &Context) -> Result<LossTerms> {
        let rewards = (input.log_ratios(Reduction::Sum)? * self.beta)?;
        let right = ((rewards - context.scalar(DELTA)?)? * input.by_label(1.0, -1.0)?)?;
        let mut losses = log_sigmoid(&right)?.neg()?;
        if let Some(ratio) = self.density_ratio {
            let weights = Tensor::new(weights(ratio, input)?, losses.device())?.to_dtype(losses.dtype())?;
            losses = (losses * weights)?;
        }
        LossTerms::new([Term::per_item(Self::NAME, losses)])
            .with_rewards(input.rewards(self.beta)?)
            .with_optimised_margins(&right)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        if let RewardShift::BalancedEma { decay } = self.shift {
            in_range::<Self>("shift.decay", decay, (0.0..1.0).contains(&decay), "a weight in [0, 1)")?;
        }
        let Some(DensityRatio { min, max }) = self.density_ratio else { return Ok(()) };
        in_range::<Self>("density_ratio.min", min, min.is_finite() && min >= 0.0, "a number of at least 0")?;
        in_range::<Self>("density_ratio.max", max, max.is_finite() && max >= min, "a number of at least `min`")
    }

    fn prepare(&mut self, step: &StepScores<'_>, phase: Phase) -> Result<Context> {
        let delta = match phase {
            Phase::Evaluate => self.seen.shift(self.shift),
            Phase::Train => self.shift_with(&self.rewards(step)?),
        };
        Ok(Context::default().with_scalar(DELTA, delta))
    }

    fn step_wide(&self) -> StepWide {
        StepWide::AllRows
    }

    fn numbers(&self) -> Numbers {
        self.density_ratio.map_or(Numbers::NONE, |_| Numbers::of(DESIRABLE_PROMPT))
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        // Where no reward ever was other than 0, as on the first step, δ is 0; weights depend on the data.
        self.density_ratio.is_none().then_some(std::f64::consts::LN_2)
    }

    fn state(&self) -> Option<Value> {
        let mean = |mean: RewardMean| json!({ "mean": exact(mean.mean), "count": exact(mean.count) });
        let (desirable, undesirable) = (mean(self.seen.desirable), mean(self.seen.undesirable));
        Some(json!({ "format": FORMAT, "desirable": desirable, "undesirable": undesirable }))
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let unfit = || Error::State(format!("bco reads format {FORMAT} with means of finite rewards, and got {state}"));
        if state.get("format").and_then(Value::as_u64) != Some(FORMAT) {
            return Err(unfit());
        }
        let mean = |class: &str| {
            let saved = state.get(class)?;
            RewardMean { mean: number(saved.get("mean")?)?, count: number(saved.get("count")?)? }.checked()
        };
        let (desirable, undesirable) = (mean("desirable").ok_or_else(unfit)?, mean("undesirable").ok_or_else(unfit)?);
        self.seen = RewardMeans { desirable, undesirable };
        Ok(())
    }
}

/// Sum and count of the rewards of one verdict in one step.
#[derive(Debug, Clone, Copy)]
struct Sum {
    sum: f64,
    count: f64,
}

impl Bco {
    /// Sums of desirable and undesirable rewards over all micro-batches and ranks.
    fn rewards(&self, step: &StepScores<'_>) -> Result<[Sum; 2]> {
        let mut sums = [0.0; 4];
        for micro in step.micro.iter().filter(|micro| !micro.groups.labelled.is_empty()) {
            for (reward, desirable) in self.rewards_of(micro)? {
                let class = if desirable { 0 } else { 2 };
                sums[class] += reward;
                sums[class + 1] += 1.0;
            }
        }
        step.collective.sum(&mut sums)?;
        let [desirable, desirables, undesirable, undesirables] = sums;
        if desirables + undesirables == 0.0 {
            return Err(Error::EmptyStep { loss: Self::NAME.to_owned(), what: "labelled rows", scalar: DELTA });
        }
        Ok([Sum { sum: desirable, count: desirables }, Sum { sum: undesirable, count: undesirables }])
    }

    /// The rewards of a micro-batch with their verdicts.
    fn rewards_of(&self, micro: &Scores) -> Result<Vec<(f64, bool)>> {
        let input: AnchoredLabels = window(Self::NAME, micro)?;
        let log_ratios = host(&input.log_ratios(Reduction::Sum)?)?;
        let verdicts = input.labelled().iter().map(|label| label.desirable);
        Ok(log_ratios.into_iter().map(|log_ratio| self.beta * log_ratio).zip(verdicts).collect())
    }

    /// Adds the rewards of a step and gives the shift with them. NaN, with nothing added, if they are not finite: the loss
    /// is then NaN too, which must be seen, but later steps must not suffer.
    fn shift_with(&mut self, [desirable, undesirable]: &[Sum; 2]) -> f64 {
        let added = RewardMeans {
            desirable: self.seen.desirable.with(*desirable, self.shift),
            undesirable: self.seen.undesirable.with(*undesirable, self.shift),
        };
        if added.desirable.checked().is_none() || added.undesirable.checked().is_none() {
            return f64::NAN;
        }
        self.seen = added;
        added.shift(self.shift)
    }
}

impl RewardMeans {
    /// The shift that they give; 0 if no reward was seen.
    pub fn shift(&self, shift: RewardShift) -> f64 {
        let (desirable, undesirable) = (self.desirable, self.undesirable);
        let (first, second) = match shift {
            RewardShift::Cumulative => (desirable.count, undesirable.count),
            RewardShift::Balanced | RewardShift::BalancedEma { .. } => (desirable.seen(), undesirable.seen()),
        };
        if first + second == 0.0 {
            return 0.0;
        }
        (first * desirable.mean + second * undesirable.mean) / (first + second)
    }
}

impl RewardMean {
    fn with(self, Sum { sum, count }: Sum, shift: RewardShift) -> Self {
        if count == 0.0 {
            return self;
        }
        let seen = self.count + count;
        let weight = match shift {
            RewardShift::BalancedEma { decay } if self.count > 0.0 => 1.0 - decay,
            _ => count / seen,
        };
        Self { mean: self.mean + weight * (sum / count - self.mean), count: seen }
    }

    /// 1 if any reward was seen, else 0.
    fn seen(self) -> f64 {
        f64::from(u8::from(self.count > 0.0))
    }

    fn checked(self) -> Option<Self> {
        (self.mean.is_finite() && self.count.is_finite() && self.count >= 0.0).then_some(self)
    }
}

/// The weight of every row: 1 for desirable ones.
fn weights(ratio: DensityRatio, input: &AnchoredLabels) -> Result<Vec<f64>> {
    let probabilities = input.numbers(DESIRABLE_PROMPT.name).ok_or_else(|| Error::MissingNumber {
        loss: Bco::NAME.to_owned(),
        name: DESIRABLE_PROMPT.name,
        meaning: DESIRABLE_PROMPT.meaning,
        items: input.labelled().len(),
        found: 0,
    })?;
    let rows = input.labelled().iter().zip(probabilities);
    Ok(rows.map(|(label, &probability)| if label.desirable { 1.0 } else { ratio.weight(probability) }).collect())
}

/// A number as text that reads back to the same bits; readers of JSON numbers may be off by the last.
pub(super) fn exact(number: f64) -> Value {
    Value::String(number.to_string())
}

pub(super) fn number(saved: &Value) -> Option<f64> {
    saved.as_str()?.parse().ok()
}

const DELTA: &str = "delta";
const FORMAT: u64 = 1;

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candlewick_testkit::error;

    use super::super::vectors::{TOLERANCE, check_in, check_labelled, check_labelled_with, labelled, vectors};
    use super::*;
    use crate::{Collective, Objective, Solo, TokenScores};

    /// A micro-batch with these rewards at `β = 1`.
    fn rewards(desirable: &[f64], undesirable: &[f64]) -> Scores {
        let rows: Vec<Vec<f64>> = desirable.iter().chain(undesirable).map(|&reward| vec![reward]).collect();
        let policy = TokenScores::unmasked(Tensor::new(rows, &Device::Cpu).unwrap()).unwrap();
        let zeros = TokenScores::unmasked(policy.log_probs().zeros_like().unwrap()).unwrap();
        let verdicts: Vec<bool> = (0..policy.rows()).map(|row| row < desirable.len()).collect();
        Scores::of_labelled(policy, Some(zeros), &verdicts)
    }

    fn bco(shift: RewardShift) -> Bco {
        Bco { beta: 1.0, shift, ..Bco::default() }
    }

    fn train(loss: &mut Bco, micro: &[Scores]) -> f64 {
        prepare(loss, micro, &Solo, Phase::Train).unwrap()
    }

    fn prepare(loss: &mut Bco, micro: &[Scores], collective: &dyn Collective, phase: Phase) -> Result<f64> {
        Objective::prepare(loss, &StepScores { micro, collective }, phase)?.scalar(DELTA)
    }

    #[test]
    fn agrees_with_the_formulas() {
        let vectors = vectors();
        check_labelled("bco step 1 (delta includes this batch)", Bco::default());
        let (log_probs, scores) = labelled();
        let second = vectors.list("bco deltas", "batch2_rewards").unwrap();
        for (shift, first, after) in [
            (RewardShift::Cumulative, Some("delta_step1"), "delta_step2"),
            (RewardShift::Balanced, None, "class_balanced_after_step2"),
        ] {
            let mut loss = Bco { shift, ..Bco::default() };
            let delta = train(&mut loss, std::slice::from_ref(&scores));
            if let Some(first) = first {
                assert!(error(delta, vectors.number("bco deltas", first).unwrap()) < TOLERANCE);
            }
            // The same running means at `β = 1`, for which the rewards of the second step are recorded.
            let mut loss = Bco { beta: 1.0, ..loss };
            let delta = train(&mut loss, &[rewards(&second[..4], &second[4..])]);
            assert!(error(delta, vectors.number("bco deltas", after).unwrap()) < TOLERANCE, "{shift:?} {delta}");
            if shift == RewardShift::Cumulative {
                let context = Context::default().with_scalar(DELTA, delta);
                check_in("bco step 2", &Bco::default(), &scores, &context, &log_probs, &["grad"]);
            }
        }
    }

    #[test]
    fn undesirable_rows_are_weighted_by_their_prompts() {
        let vectors = vectors();
        let ratio = DensityRatio::default();
        let probabilities = vectors.list("udm weights", "p").unwrap();
        let expected = vectors.list("udm weights", "weight").unwrap();
        for (&probability, expected) in probabilities.iter().zip(expected) {
            assert!(error(ratio.weight(probability), expected) < TOLERANCE);
        }
        let loss = Bco { density_ratio: Some(ratio), ..Bco::default() };
        // Those of desirable rows are not read.
        let numbers = [vec![0.0, 0.3, 0.9, 1.0], probabilities].concat();
        check_labelled_with("bco + UDM weights", loss, &[("desirable_prompt", numbers)]);
    }

    #[test]
    fn a_density_ratio_asks_for_its_number() {
        let weighted = Bco { density_ratio: Some(DensityRatio::default()), ..Bco::default() };
        assert_eq!(Bco::default().needs().numbers, Numbers::NONE);
        assert_eq!(weighted.needs().numbers, Numbers::of(DESIRABLE_PROMPT));
        let context = Context::default().with_scalar(DELTA, 0.0);
        let mut scores = rewards(&[1.0], &[2.0]);
        assert!(weighted.evaluate(&scores, &context).unwrap_err().to_string().contains("`desirable_prompt`"));
        scores.groups.numbers.insert(DESIRABLE_PROMPT.name.to_owned(), vec![0.5, 1.5]);
        assert!(matches!(weighted.evaluate(&scores, &context), Err(Error::NumberOutOfRange { item: 1, .. })));
    }

    #[test]
    fn a_shift_follows_its_rule() {
        let first = [rewards(&[1.0, 2.0, 3.0], &[-2.0])];
        let second = [rewards(&[4.0], &[])];
        for (shift, deltas) in [
            (RewardShift::Cumulative, [1.0, 8.0 / 5.0]),
            (RewardShift::Balanced, [0.0, 0.25]),
            (RewardShift::BalancedEma { decay: 0.75 }, [0.0, 0.25]),
            (RewardShift::BalancedEma { decay: 0.5 }, [0.0, 0.5]),
        ] {
            let mut loss = bco(shift);
            let got = [train(&mut loss, &first), train(&mut loss, &second)];
            assert!(got.iter().zip(deltas).all(|(&got, delta)| error(got, delta) < 1e-15), "{shift:?}: {got:?}");
        }
        // With one verdict so far, its mean is the shift.
        assert!((train(&mut bco(RewardShift::Balanced), &second) - 4.0).abs() < 1e-15);
    }

    #[test]
    fn a_class_that_is_not_there_keeps_its_mean() {
        let mut loss = bco(RewardShift::BalancedEma { decay: 0.9 });
        train(&mut loss, &[rewards(&[1.0], &[-2.0])]);
        let before = loss.seen.undesirable;
        train(&mut loss, &[rewards(&[5.0], &[])]);
        assert_eq!(loss.seen.undesirable, before);
        assert!((loss.seen.desirable.mean - 1.4).abs() < 1e-15);
    }

    #[test]
    fn evaluation_leaves_the_shift() {
        let mut loss = bco(RewardShift::Cumulative);
        let evaluate = |loss: &mut Bco| prepare(loss, &[rewards(&[9.0], &[9.0])], &Solo, Phase::Evaluate).unwrap();
        assert!(evaluate(&mut loss).abs() <= 0.0);
        train(&mut loss, &[rewards(&[1.0], &[2.0])]);
        assert!((evaluate(&mut loss) - 1.5).abs() < 1e-15);
    }

    #[test]
    fn one_micro_batch_is_as_good_as_many() {
        for shift in [RewardShift::Cumulative, RewardShift::Balanced, RewardShift::BalancedEma { decay: 0.9 }] {
            let (mut one, mut many) = (bco(shift), bco(shift));
            for step in [[1.0, 2.0, -4.0], [0.5, -1.0, 7.0]] {
                let whole = train(&mut one, &[rewards(&step[..2], &step[2..])]);
                let parts = [rewards(&step[..1], &[]), rewards(&[], &step[2..]), rewards(&step[1..2], &[])];
                assert!((whole - train(&mut many, &parts)).abs() < 1e-14, "{shift:?}");
            }
        }
    }

    /// Another rank, which brings these sums and counts.
    #[derive(Debug)]
    struct Other([f64; 4]);

    impl Collective for Other {
        fn sum(&self, values: &mut [f64]) -> Result<()> {
            assert_eq!(values.len(), self.0.len());
            values.iter_mut().zip(self.0).for_each(|(value, other)| *value += other);
            Ok(())
        }

        fn ranks(&self) -> usize {
            2
        }

        fn rank(&self) -> usize {
            0
        }
    }

    #[test]
    fn ranks_count_by_their_rows() {
        let mut loss = bco(RewardShift::Cumulative);
        let other = Other([0.0, 0.0, 6.0, 3.0]);
        let delta = prepare(&mut loss, &[rewards(&[10.0], &[])], &other, Phase::Train).unwrap();
        assert!((delta - 4.0).abs() < 1e-15);
        // A rank without rows takes the same shift from the others.
        let delta = prepare(&mut bco(RewardShift::Cumulative), &[], &other, Phase::Train).unwrap();
        assert!((delta - 2.0).abs() < 1e-15);
        let nothing = prepare(&mut loss, &[], &Solo, Phase::Train);
        assert!(matches!(nothing, Err(Error::EmptyStep { .. })));
    }

    #[test]
    fn state_survives_text_to_the_bit() {
        let mut loss = bco(RewardShift::Cumulative);
        train(&mut loss, &[rewards(&[0.1, 0.7, 1e-17], &[-1.0 / 3.0])]);
        let text = serde_json::to_string(&Objective::state(&loss).unwrap()).unwrap();
        let mut resumed = bco(RewardShift::Cumulative);
        Objective::restore(&mut resumed, &serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(resumed, loss);
        let step = [rewards(&[0.3], &[0.2])];
        assert_eq!(train(&mut resumed, &step).to_bits(), train(&mut loss, &step).to_bits());
    }

    #[test]
    fn state_of_another_kind_is_refused() {
        let good = Objective::state(&bco(RewardShift::Cumulative)).unwrap();
        let with = |key: &str, value: Value| {
            let mut state = good.clone();
            state[key] = value;
            state
        };
        for bad in [
            Value::Null,
            with("format", json!(2)),
            with("desirable", Value::Null),
            with("undesirable", json!({ "mean": "NaN", "count": "1" })),
            with("undesirable", json!({ "mean": "0", "count": "-1" })),
        ] {
            let mut loss = bco(RewardShift::Cumulative);
            let error = Objective::restore(&mut loss, &bad).unwrap_err().to_string();
            assert!(error.contains("format 1") && loss == bco(RewardShift::Cumulative), "{error}");
        }
    }

    #[test]
    fn rewards_that_are_not_finite_are_seen_and_not_kept() {
        for poison in [f64::NAN, f64::INFINITY] {
            let mut loss = bco(RewardShift::Cumulative);
            train(&mut loss, &[rewards(&[1.0], &[2.0])]);
            let before = loss;
            assert!(train(&mut loss, &[rewards(&[poison], &[2.0])]).is_nan());
            assert_eq!(loss, before);
        }
    }

    #[test]
    fn a_step_may_hold_one_row() {
        let mut loss = bco(RewardShift::Cumulative);
        let step = [rewards(&[3.0], &[])];
        let delta = train(&mut loss, &step);
        let context = Context::default().with_scalar(DELTA, delta);
        let value = loss.evaluate(&step[0], &context).unwrap().loss(&step[0].totals()).unwrap();
        assert!((value.to_scalar::<f64>().unwrap() - 2f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn settings_are_written_as_in_a_configuration() {
        let text = r#"{ "shift": { "balanced_ema": { "decay": 0.9 } }, "density_ratio": { "max": 5.0 } }"#;
        let loss: Bco = serde_json::from_str(text).unwrap();
        assert_eq!(loss.shift, RewardShift::BalancedEma { decay: 0.9 });
        assert_eq!(loss.density_ratio, Some(DensityRatio { min: 0.5, max: 5.0 }));
        Objective::validate(&loss).unwrap();
        for bad in [
            Bco { shift: RewardShift::BalancedEma { decay: 1.0 }, ..Bco::default() },
            Bco { density_ratio: Some(DensityRatio { min: -1.0, max: 1.0 }), ..Bco::default() },
            Bco { density_ratio: Some(DensityRatio { min: 2.0, max: 1.0 }), ..Bco::default() },
        ] {
            assert!(matches!(Objective::validate(&bad), Err(Error::Parameter { .. })));
        }
    }
}
