//! `−t·log σ(β·z) − (1 − t)·log σ(−β·z)` with `t = σ(w·Δr − Σ_k λ_k·Δc_k)`

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Named, Preset, check_beta, check_not_negative, check_reduction, in_range, with_margins};
use crate::divergence::Divergence;
use crate::dual::{Constraint, DualSettings, Duals, Observed};
use crate::error::{Error, Result};
use crate::loss::{Context, Loss, Phase, StepScores};
use crate::math::{sigmoid, soft_logistic};
use crate::numbers::{COST_GAPS, Number, Numbers, PerItem, RewardGap, SafeChosen, SafeRejected};
use crate::reduction::Reduction;
use crate::terms::{LossTerms, Term};
use crate::view::AnchoredPair;

/// The Lagrangian of Safe RLHF without sampling: DPO whose soft labels are those of the reward less `λ` times the cost.
///
/// # Formula
/// `−t·log σ(β·z) − (1 − t)·log σ(−β·z)` with `z = Δ_w − Δ_l` in nats, `t = σ(Δr_λ)` and `Δr_λ = w·Δr − Σ_k λ_k·Δc_k`,
/// where `Δr` is the pair's `reward_gap` and `Δc_k` its `cost_gap`, `cost_gap_2`, … With `target = "regress"` it is
/// `(β·z − Δr_λ)²`. The mean over pairs. Both have their minimum, over all pairs of completions, at
/// `π_λ ∝ π_ref·exp((w·r − λ·c)/β)`: the maximiser of `E[w·r − λ·c] − β·KL`.
///
/// # Gradient
/// `β·(σ(β·z) − t)` for `log π(y_w)` and the opposite for `log π(y_l)`, bounded; of `"regress"`, `2β·(β·z − Δr_λ)`.
/// None for scores and multipliers.
///
/// # When to use
/// Pairs with scores of a reward model and a cost model (or labels of safety in the place of costs) and a limit on the
/// mean cost: solve for `λ` once over a table of scores ([`ScoreTable`](crate::dual::ScoreTable), 64 completions a
/// prompt or more), then train with it. Never take `λ` from the pairs alone: two completions a prompt show about 36 %
/// of how far a policy has moved. With a `dual` the multipliers move, by costs of fresh completions that whoever
/// trains observes: a run of a configuration by its `[safety]`. Which side is called chosen does not matter.
/// `docs/safe-rlhf.md` has the whole picture.
///
/// # Source
/// The offline form of Dai et al. 2023 (Safe RLHF), arXiv 2310.12773: the labels of Huang et al. 2024 (MoCAN and
/// PeCAN), arXiv 2405.19544, whose code was read, as probabilities. With hard labels drawn from `t` it is their DPO,
/// of the same mean gradient and with noise that this has not. Confidence A.
///
/// # Deviations
/// Soft labels for sampled ones. The target of log-ratios (`scores = "log_ratios"`, PeCAN) counts them `β` times:
/// PeCAN's released labelling leaves out `β`, and its optimum is another policy. The sum of `dpo` on pairs of
/// helpfulness and of safety, a `mix`, averages probabilities and is *not* this objective.
///
/// # Checked by
/// Formulas: `safe-rlhf multiplier, log space (lr .1, max 5)`, which the multiplier follows. Worlds small enough to
/// write the optimum down: `tests/safe_rlhf`.
///
/// # Example
/// ```
/// use candle_core::{Device, Tensor};
/// use candlewick_losses::{Context, Objective, SafeRlhfLagrangian, Scores, TokenScores};
/// let policy = TokenScores::unmasked(Tensor::new(&[[-1.0f64], [-3.0]], &Device::Cpu)?)?;
/// let reference = TokenScores::unmasked(Tensor::new(&[[-2.0f64], [-2.0]], &Device::Cpu)?)?;
/// let mut scores = Scores::of_pairs(policy, Some(reference));
/// scores.groups.numbers.insert("reward_gap".to_owned(), vec![1.0]);
/// scores.groups.numbers.insert("cost_gap".to_owned(), vec![0.5]);
/// let objective = SafeRlhfLagrangian { beta: 0.5, lambda: vec![2.0], ..SafeRlhfLagrangian::default() };
/// let loss = objective.evaluate(&scores, &Context::default())?.loss(&scores.totals())?;
/// // Δr − 2·Δc = 0, so t = ½; β·z = 1: ½·log(1 + e⁻¹) + ½·log(1 + e).
/// assert!((loss.to_scalar::<f64>()? - 0.813_261_687_518_222_8).abs() < 1e-15);
/// # Ok::<(), candlewick_losses::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SafeRlhfLagrangian {
    /// Weight of the divergence from the reference, per nat; positive. Default 0.1.
    pub beta: f64,
    /// `w`, what a unit of the reward counts; at least 0. Default 1.
    pub reward_weight: f64,
    /// `λ` of every constraint, one to four, each at least 0; with a `dual`, where they start. Default one of 1.
    pub lambda: Vec<f64>,
    /// What a pair's margin is compared with. Default [`LagrangianTarget::Soft`].
    pub target: LagrangianTarget,
    /// What the scores of the data are. Default [`LagrangianScores::Measured`].
    pub scores: LagrangianScores,
    /// Where costs come from. Default [`CostSource::Gaps`].
    pub costs: CostSource,
    /// How the tokens of a completion add up. Default [`Reduction::Sum`].
    pub reduction: Reduction,
    /// How every multiplier moves, one a constraint, by costs that are observed while training. Default none: they
    /// stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dual: Vec<DualSettings>,
    /// The multipliers that move, from the first step on: state of a run, not of its configuration.
    #[serde(skip)]
    pub moving: Option<Duals>,
}

/// What the margin of a pair is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LagrangianTarget {
    /// A logistic loss with the soft label `σ(Δr_λ)`: bounded slopes, however wrong a score is.
    #[default]
    Soft,
    /// The square of the distance from `Δr_λ`: the same optimum, better conditioned, and at the mercy of outliers.
    Regress,
}

/// What the scores of the data are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LagrangianScores {
    /// Rewards and costs.
    #[default]
    Measured,
    /// Log-ratios `log π − log π_ref` of policies that were trained with the same `beta`, in nats: of one trained on
    /// helpfulness in `reward_gap`, the negatives of those trained on safety in `cost_gap`. They count `β` each; labels
    /// (`costs = "labels"`) count 1.
    LogRatios,
}

/// Where the costs of a pair come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CostSource {
    /// Gaps of cost models: `cost_gap`, and `cost_gap_2` to `cost_gap_4` for further constraints.
    #[default]
    Gaps,
    /// Labels: a completion costs 1 if it is unsafe and 0 if not, by `safe_chosen` and `safe_rejected`. The mean cost
    /// is then the rate of unsafe completions, and there is one constraint.
    Labels,
}

impl Default for SafeRlhfLagrangian {
    fn default() -> Self {
        Self {
            beta: 0.1,
            reward_weight: 1.0,
            lambda: vec![1.0],
            target: LagrangianTarget::default(),
            scores: LagrangianScores::default(),
            costs: CostSource::default(),
            reduction: Reduction::Sum,
            dual: Vec::new(),
            moving: None,
        }
    }
}

impl Named for SafeRlhfLagrangian {
    const NAME: &'static str = "safe_rlhf_lagrangian";
    const ALIASES: &'static [&'static str] = &["mocan"];
    const SUMMARY: &'static str =
        "offline Safe RLHF: DPO with the soft labels of the reward less λ times the cost, `reward_gap` and `cost_gap`";
    const PRESETS: &'static [Preset] = &[Preset {
        name: "pecan",
        aliases: &[],
        summary: "the same with the log-ratio of a helpful policy for the reward and minus that of a safe one for the cost",
        settings: r#"{ "scores": "log_ratios" }"#,
    }];
}

impl Loss for SafeRlhfLagrangian {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = (input.log_ratios(self.reduction)?.margins()? * self.beta)?;
        let gaps = self.gaps(input)?;
        let losses = match self.target {
            LagrangianTarget::Soft => soft_logistic(&margins, &sigmoid(&gaps)?)?,
            LagrangianTarget::Regress => (&margins - &gaps)?.sqr()?,
        };
        let terms = LossTerms::new([Term::per_item(Self::NAME, losses)])
            .with_rewards(input.rewards(self.beta)?)
            .with_metric(GAPS, &gaps);
        with_margins(terms, &margins, self.reduction, Divergence::ReverseKl)
    }

    fn validate(&self) -> Result<()> {
        check_beta::<Self>(self.beta)?;
        check_not_negative::<Self>("reward_weight", self.reward_weight)?;
        let count = self.lambda.len();
        let most = if self.costs == CostSource::Labels { 1 } else { COST_GAPS.len() };
        let expected =
            if most == 1 { "one multiplier, as `costs = \"labels\"` has one constraint" } else { "1 to 4 multipliers" };
        in_range::<Self>("lambda", count as f64, (1..=most).contains(&count), expected)?;
        self.lambda.iter().try_for_each(|&lambda| check_not_negative::<Self>("lambda", lambda))?;
        check_reduction::<Self>(self.reduction)?;
        if self.dual.is_empty() {
            return Ok(());
        }
        let expected = "as many constraints as `lambda` has multipliers";
        in_range::<Self>("dual", self.dual.len() as f64, self.dual.len() == count, expected)?;
        for (settings, &lambda) in self.dual.iter().zip(&self.lambda) {
            if let Some((parameter, got, expected)) = settings.fault() {
                return in_range::<Self>(parameter, got, false, expected);
            }
            let (low, high) = settings.bounds();
            let expected = "a start within the bounds of `dual.ascent` (its floor or 0, to its cap)";
            in_range::<Self>("lambda", lambda, (low..=high).contains(&lambda), expected)?;
        }
        Ok(())
    }

    /// Moves the multipliers, where they do, once a step that trains; an evaluation leaves them.
    fn prepare(&mut self, _: &StepScores<'_>, phase: Phase) -> Result<Context> {
        match phase {
            _ if self.dual.is_empty() => Ok(self.fixed()),
            Phase::Evaluate => self.moving.as_ref().map_or_else(|| Ok(self.fixed()), |duals| Ok(duals.context())),
            Phase::Train => Ok(self.duals()?.step()),
        }
    }

    fn numbers(&self) -> Numbers {
        let costs: &[Number] = match self.costs {
            CostSource::Gaps => &COST_GAPS[..self.lambda.len().min(COST_GAPS.len())],
            CostSource::Labels => &[SafeChosen::NUMBER, SafeRejected::NUMBER],
        };
        let all = costs.iter().try_fold(Numbers::of(RewardGap::NUMBER), |all, &cost| all.union(Numbers::of(cost)));
        all.expect("there is room for a reward and four costs, which have names of their own")
    }

    fn loss_at_zero_margin(&self) -> Option<f64> {
        (self.target == LagrangianTarget::Soft).then_some(std::f64::consts::LN_2)
    }

    fn constraints(&self) -> Vec<Constraint> {
        // Log-ratios are costs in nats: the optimum moves with them as it does with costs where beta is 1.
        let beta = if self.scores == LagrangianScores::LogRatios { 1.0 } else { self.beta };
        let constraint = |(&settings, &start)| Constraint { settings, start, beta };
        self.dual.iter().zip(&self.lambda).map(constraint).collect()
    }

    fn observe(&mut self, observed: &Observed) -> Result<()> {
        if self.dual.is_empty() {
            return Err(Error::ReadsNoCosts { objective: Self::NAME });
        }
        self.duals()?.observe(observed)
    }

    fn state(&self) -> Option<Value> {
        let saved = |duals: &Duals| json!({ "format": FORMAT, "duals": duals.state() });
        (!self.dual.is_empty()).then(|| self.moving.as_ref().map_or_else(|| json!({ "format": FORMAT }), saved))
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let name = Self::NAME;
        if self.dual.is_empty() {
            return Err(Error::State(format!("{name} holds none without a `dual`, and the checkpoint has {state}")));
        }
        if state.get("format").and_then(Value::as_u64) != Some(FORMAT) {
            return Err(Error::State(format!("{name} reads format {FORMAT}, and got {state}")));
        }
        self.moving = None;
        // A run that was saved before its first step has moved nothing.
        state.get("duals").map_or(Ok(()), |duals| self.duals()?.restore(duals))
    }
}

impl SafeRlhfLagrangian {
    /// The multipliers that pairs are labelled with now.
    pub fn multipliers(&self) -> Vec<f64> {
        self.moving.as_ref().map_or_else(|| self.lambda.clone(), Duals::multipliers)
    }

    /// `Δr_λ` of every pair, `[B]`; detached.
    fn gaps(&self, input: &AnchoredPair) -> Result<Tensor> {
        let number = |number: Number| {
            input.number(number.name).ok_or_else(|| Error::MissingNumber {
                loss: Self::NAME.to_owned(),
                name: number.name,
                meaning: number.meaning,
                items: input.policy().count(),
                found: 0,
            })
        };
        let unit = if self.scores == LagrangianScores::LogRatios { self.beta } else { 1.0 };
        let mut gaps = (number(RewardGap::NUMBER)? * (self.reward_weight * unit))?;
        for (lambda, gap) in self.multipliers().into_iter().zip(COST_GAPS) {
            let costs = match self.costs {
                CostSource::Gaps => (number(gap)? * unit)?,
                // A cost of 1 less the label: the gap is that of the labels the other way round, in units of its own.
                CostSource::Labels => (number(SafeRejected::NUMBER)? - number(SafeChosen::NUMBER)?)?,
            };
            gaps = (gaps - (costs * lambda)?)?;
        }
        Ok(gaps)
    }

    fn duals(&mut self) -> Result<&mut Duals> {
        let duals = match self.moving.take() {
            Some(duals) => duals,
            None => Duals::new(&self.dual, &self.lambda)?,
        };
        Ok(self.moving.insert(duals))
    }

    /// The multipliers that stay, as numbers to log.
    fn fixed(&self) -> Context {
        let named = self.lambda.iter().enumerate();
        named.fold(Context::default(), |context, (k, &lambda)| {
            context.with_scalar(&crate::dual::scalar_name("lambda", k), lambda)
        })
    }
}

/// What margins are compared with, `Δr_λ`.
const GAPS: &str = "margins/target";
const FORMAT: u64 = 1;

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use candle_core::Var;
    use candlewick_testkit::FormulaVectors;

    use super::super::vectors::{pairs, vectors};
    use super::*;
    use crate::dual::Ascent;
    use crate::{Objective, Recipe, Scores, Solo, View};

    const MULTIPLIER: &str = "safe-rlhf multiplier, log space (lr .1, max 5)";

    fn scored() -> (Var, Scores) {
        let (log_probs, mut scores) = pairs();
        scores.groups.numbers.insert("reward_gap".to_owned(), vec![1.0, -0.5, 2.0, 0.0]);
        scores.groups.numbers.insert("cost_gap".to_owned(), vec![0.5, 1.5, -1.0, 0.25]);
        scores.groups.numbers.insert("cost_gap_2".to_owned(), vec![-0.5, 0.0, 1.0, 2.0]);
        (log_probs, scores)
    }

    fn moving() -> SafeRlhfLagrangian {
        let settings = DualSettings { ascent: Ascent::beaver(), ..DualSettings::default() };
        SafeRlhfLagrangian { dual: vec![settings], ..SafeRlhfLagrangian::default() }
    }

    fn step(objective: &mut impl Objective, phase: Phase) -> Context {
        Objective::prepare(objective, &StepScores { micro: &[], collective: &Solo }, phase).unwrap()
    }

    fn cost(cost: f64) -> Observed {
        Observed { costs: vec![vec![cost]], rewards: Vec::new() }
    }

    #[test]
    fn the_label_is_that_of_the_reward_less_the_costs() {
        let (_, scores) = scored();
        let objective = SafeRlhfLagrangian { lambda: vec![0.5, 2.0], reward_weight: 3.0, ..Default::default() };
        let terms = objective.evaluate(&scores, &Context::default()).unwrap();
        let gaps = terms.metrics[0].values.to_vec1::<f64>().unwrap();
        assert_eq!(gaps, [3.0 - 0.25 + 1.0, -1.5 - 0.75, 6.0 + 0.5 - 2.0, -0.125 - 4.0]);
        // −t·log σ(x) − (1 − t)·log σ(−x) is log(1 + e^x) − t·x.
        let margins =
            (<AnchoredPair as View>::view(&scores).unwrap().log_ratios(Reduction::Sum).unwrap().margins().unwrap()
                * 0.1)
                .unwrap();
        let losses = terms.terms[0].numerator.to_vec1::<f64>().unwrap();
        for ((x, gap), loss) in margins.to_vec1::<f64>().unwrap().into_iter().zip(gaps).zip(losses) {
            let label = 1.0 / (1.0 + (-gap).exp());
            assert!((x.exp().ln_1p() - label * x - loss).abs() < 1e-14);
        }
    }

    #[test]
    fn labels_cost_one_where_a_completion_is_unsafe() {
        let (_, mut scores) = scored();
        scores.groups.numbers.insert("safe_chosen".to_owned(), vec![1.0, 1.0, 0.0, 0.0]);
        scores.groups.numbers.insert("safe_rejected".to_owned(), vec![1.0, 0.0, 1.0, 0.0]);
        let objective = SafeRlhfLagrangian { costs: CostSource::Labels, lambda: vec![2.0], ..Default::default() };
        let terms = objective.evaluate(&scores, &Context::default()).unwrap();
        assert_eq!(terms.metrics[0].values.to_vec1::<f64>().unwrap(), [1.0, -0.5 + 2.0, 2.0 - 2.0, 0.0]);
    }

    #[test]
    fn the_multiplier_moves_once_a_step_that_trains() {
        let recorded = |key| -> Vec<f64> { FormulaVectors::list(&vectors(), MULTIPLIER, key).unwrap() };
        let mut objective = moving();
        assert!(Objective::observes(&objective));
        for (index, (&given, &expected)) in recorded("J_cost").iter().zip(&recorded("multiplier")[1..]).enumerate() {
            Objective::observe(&mut objective, &cost(given)).unwrap();
            let before = objective.multipliers()[0];
            assert_eq!(step(&mut objective, Phase::Evaluate).scalar("lambda").unwrap(), before);
            let context = step(&mut objective, Phase::Train);
            let lambda = context.scalar("lambda").unwrap();
            assert!((lambda - expected).abs() < 1e-12, "step {index}: {lambda} {expected}");
            assert_eq!(
                (context.scalar("expected_cost").unwrap(), context.scalar("violation").unwrap()),
                (given, given)
            );
            // Without new costs it stays, and pairs are labelled with it.
            assert_eq!(step(&mut objective, Phase::Train).scalar("lambda").unwrap(), lambda);
            assert_eq!(objective.multipliers(), [lambda]);
        }
    }

    #[test]
    fn a_saved_run_goes_on_with_the_same_bits() {
        let run = |objective: &mut SafeRlhfLagrangian, steps: std::ops::Range<u32>| {
            for at in steps {
                Objective::observe(objective, &cost(f64::from(at * 7 % 5) / 3.0 - 0.5)).unwrap();
                step(objective, Phase::Train);
            }
        };
        let (mut whole, mut first) = (moving(), moving());
        run(&mut whole, 0..6);
        run(&mut first, 0..6);
        let text = Objective::state(&first).unwrap().to_string();
        let mut second = Recipe::Builtin(moving().into());
        second.restore(&serde_json::from_str(&text).unwrap()).unwrap();
        let Recipe::Builtin(crate::Builtin::SafeRlhfLagrangian(mut second)) = second else { panic!("it is one") };
        run(&mut whole, 6..13);
        run(&mut second, 6..13);
        assert_eq!(second.multipliers()[0].to_bits(), whole.multipliers()[0].to_bits());
        let mut fresh = moving();
        Objective::restore(&mut fresh, &Objective::state(&moving()).unwrap()).unwrap();
        assert_eq!(fresh, moving());
        let error = Objective::restore(&mut SafeRlhfLagrangian::default(), &serde_json::json!({})).unwrap_err();
        assert!(error.to_string().contains("holds none without a `dual`"), "{error}");
    }

    #[test]
    fn costs_reach_it_through_every_wrapper_and_nobody_else() {
        let inner = r#"{ "type": "safe_rlhf_lagrangian", "dual": [ { "limit": 0.5, "ascent": { "linear": { "rate": 1.0 } } } ] }"#;
        let shells = [
            inner.to_owned(),
            format!(r#"{{ "type": "mix", "parts": [ {{ "loss": {{ "type": "sft" }} }}, {{ "loss": {inner} }} ] }}"#),
            format!(r#"{{ "type": "wpo", "loss": {inner} }}"#),
            format!(r#"{{ "type": "humanline", "loss": {inner} }}"#),
            format!(r#"{{ "type": "trust_region", "loss": {inner} }}"#),
            format!(
                r#"{{ "type": "tchebycheff", "mix": {{ "parts": [ {{ "loss": {{ "type": "dpo" }} }}, {{ "loss": {inner} }} ] }} }}"#
            ),
        ];
        for json in shells {
            let mut recipe: Recipe = serde_json::from_str(&json).unwrap();
            recipe.validate().unwrap();
            let [constraint] = recipe.constraints()[..] else { panic!("{json}") };
            assert_eq!((constraint.settings.limit, constraint.start, constraint.beta), (0.5, 1.0, 0.1), "{json}");
            assert!(recipe.observes(), "{json}");
            recipe.observe(&cost(2.0)).unwrap();
            let context = recipe.prepare(&StepScores { micro: &[], collective: &Solo }, Phase::Train).unwrap();
            assert_eq!(context.scalar("lambda").unwrap(), 2.5, "{json}");
            assert_eq!(context.scalar("p_unsafe").unwrap(), 1.0, "{json}");
            let mut other: Recipe = serde_json::from_str(&json).unwrap();
            other.restore(&recipe.state().unwrap()).unwrap();
            assert_eq!(other, recipe);
        }
        // A Panacea adapter answers at one preference alone.
        let parts = format!(r#"{{ "parts": [ {{ "loss": {{ "type": "dpo" }} }}, {{ "loss": {inner} }} ] }}"#);
        let panacea: Recipe = serde_json::from_str(&format!(r#"{{ "type": "panacea", "mix": {parts} }}"#)).unwrap();
        let error = panacea.validate().unwrap_err().to_string();
        assert!(error.contains("leave dual out"), "{error}");
        let other = inner.replace("0.5", "0.25");
        let mix = format!(r#"{{ "type": "mix", "parts": [ {{ "loss": {inner} }}, {{ "loss": {other} }} ] }}"#);
        let error = serde_json::from_str::<Recipe>(&mix).unwrap().validate().unwrap_err().to_string();
        assert!(error.contains("parts 0 and 1 have other lists of `dual`"), "{error}");
        for json in [r#"{ "type": "dpo" }"#, r#"{ "type": "mix", "parts": [ { "loss": { "type": "dpo" } } ] }"#] {
            let mut recipe: Recipe = serde_json::from_str(json).unwrap();
            assert!(!recipe.observes());
            assert!(
                recipe.observe(&cost(1.0)).unwrap_err().to_string().contains("reads no costs of fresh completions")
            );
        }
        assert!(Objective::observe(&mut SafeRlhfLagrangian::default(), &cost(1.0)).is_err());
    }

    #[test]
    fn costs_that_one_part_refuses_reach_none() {
        let part = |constraints: usize| {
            let lambda = vec![1.0; constraints];
            let dual = vec![DualSettings::default(); constraints];
            let loss: Recipe = crate::Builtin::from(SafeRlhfLagrangian { lambda, dual, ..Default::default() }).into();
            crate::Part { weight: 1.0, loss }
        };
        // Validation refuses such a mix; whoever does not ask it learns of it here.
        let mut mix = crate::Mix { parts: vec![part(1), part(2)] };
        mix.validate().unwrap_err();
        let before = step(&mut mix, Phase::Train);
        let error = mix.observe(&cost(2.0)).unwrap_err().to_string();
        assert!(error.contains("got costs of 1 constraints, expected 2"), "{error}");
        assert_eq!(step(&mut mix, Phase::Train), before);
        // Within a mix, too.
        let inner = crate::Part { weight: 1.0, loss: mix.clone().into() };
        let mut outer = crate::Mix { parts: vec![part(1), inner] };
        let before = step(&mut outer, Phase::Train);
        outer.observe(&cost(2.0)).unwrap_err();
        assert_eq!(step(&mut outer, Phase::Train), before);
        let mut agreeing = crate::Mix { parts: vec![part(1), part(1)] };
        agreeing.observe(&cost(2.0)).unwrap();
        assert_eq!(step(&mut agreeing, Phase::Train).scalar("lambda/1").unwrap(), 1.1);
    }

    #[test]
    fn nothing_flows_into_scores_or_multipliers() {
        let (log_probs, mut scores) = scored();
        // The reference is a variable too: it is held fixed by the view.
        let reference = Var::from_tensor(scores.reference.as_ref().unwrap().log_probs()).unwrap();
        scores.reference = Some(scores.policy.with_log_probs(reference.as_tensor()).unwrap());
        let log_ratios = (log_probs.as_tensor() - reference.as_tensor()).unwrap().to_vec2::<f64>().unwrap();
        let lengths = scores.policy.lengths().to_vec();
        let sums: Vec<f64> = log_ratios.iter().zip(&lengths).map(|(row, &length)| row[..length].iter().sum()).collect();
        let mut objective = moving();
        Objective::observe(&mut objective, &cost(3.0)).unwrap();
        step(&mut objective, Phase::Train);
        let lambda = objective.multipliers()[0];
        assert!(lambda > 1.3, "it has moved: {lambda}");
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for (target, beta) in [(LagrangianTarget::Soft, 0.1), (LagrangianTarget::Regress, 0.3)] {
            for (scores_as, unit) in [(LagrangianScores::default(), 1.0), (LagrangianScores::LogRatios, beta)] {
                let objective = SafeRlhfLagrangian { target, beta, scores: scores_as, ..objective.clone() };
                let terms = objective.evaluate(&scores, &Context::default()).unwrap();
                let gradients = terms.loss(&scores.totals()).unwrap().backward().unwrap();
                assert!(gradients.get(&reference).is_none());
                let got = gradients.get(&log_probs).unwrap().to_vec2::<f64>().unwrap();
                for (pair, (reward, cost)) in [1.0, -0.5, 2.0, 0.0].into_iter().zip([0.5, 1.5, -1.0, 0.25]).enumerate()
                {
                    // The slope of the loss whose label is a number: whatever flowed into it would add to this.
                    let (gap, margin) = (unit * (reward - lambda * cost), beta * (sums[pair] - sums[4 + pair]));
                    let slope = match target {
                        LagrangianTarget::Soft => sigmoid(margin) - sigmoid(gap),
                        LagrangianTarget::Regress => 2.0 * (margin - gap),
                    };
                    for (row, sign) in [(pair, 1.0), (4 + pair, -1.0)] {
                        let expected = sign * beta * slope / 4.0;
                        let (scored, padding) = got[row].split_at(lengths[row]);
                        assert!(scored.iter().all(|got| (got - expected).abs() < 1e-14), "{scored:?} {expected}");
                        assert!(padding.iter().all(|got| *got == 0.0));
                    }
                }
            }
        }
    }

    #[test]
    fn settings_that_do_not_fit_are_named() {
        let wrong = |json: &str| {
            let recipe: Recipe =
                serde_json::from_str(&format!(r#"{{ "type": "safe_rlhf_lagrangian", {json} }}"#)).unwrap();
            recipe.validate().unwrap_err().to_string()
        };
        assert!(wrong(r#""lambda": []"#).contains("lambda: got 0, expected 1 to 4 multipliers"));
        assert!(wrong(r#""lambda": [1, -2]"#).contains("lambda: got -2, expected a number of at least 0"));
        assert!(wrong(r#""lambda": [1, 1], "costs": "labels""#).contains("lambda: got 2, expected one multiplier"));
        assert!(wrong(r#""dual": [{}, {}]"#).contains("dual: got 2, expected as many constraints"));
        let rate = wrong(r#""dual": [{ "ascent": { "linear": { "rate": -1 } } }]"#);
        assert_eq!(rate, "safe_rlhf_lagrangian.dual.ascent.rate: got -1, expected a positive number");
        let start = wrong(r#""lambda": [9], "dual": [{ "ascent": { "log_gradient": {} } }]"#);
        assert!(start.contains("lambda: got 9, expected a start within the bounds"), "{start}");
        let typo = serde_json::from_str::<Recipe>(r#"{ "type": "safe_rlhf_lagrangian", "dual": [{ "limt": 1 }] }"#);
        assert!(typo.unwrap_err().to_string().contains("limt"));
    }
}
