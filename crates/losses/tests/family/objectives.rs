//! Objectives that are no entry of the list: mixtures, and losses of other crates.
#![expect(clippy::float_cmp, reason = "the numbers are exact")]

use candle_core::{DType, Device, Tensor};
use candlewick_losses::{
    AnchoredPair, Builtin, Collective, Context, Dpo, Error, Groups, Kto, Loss, LossTerms, MismatchedScores, Mix,
    Objective, Part, Phase, Recipe, Reduction, Result, Rewards, Scores, Sft, Solo, StepScores, Term, TokenScores,
};
use candlewick_testkit::error;

use crate::sample::Sample;

/// `(Δ_w − Δ_l − target)²`, with a target that training moves.
#[derive(Debug)]
struct Moving {
    target: f64,
}

impl Loss for Moving {
    type Input = AnchoredPair;

    fn terms(&self, input: &AnchoredPair, _: &Context) -> Result<LossTerms> {
        let margins = input.log_ratios(Reduction::Sum)?.margins()?;
        Ok(LossTerms::new([Term::per_item("moving", (margins - self.target)?.sqr()?)]))
    }

    fn prepare(&mut self, _: &StepScores<'_>, phase: Phase) -> Result<Context> {
        if phase == Phase::Train {
            self.target += 1.0;
        }
        Ok(Context::default().with_scalar("target", self.target))
    }

    fn state(&self) -> Option<serde_json::Value> {
        Some(self.target.into())
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        self.target = state.as_f64().ok_or_else(|| Error::State(format!("got {state}, expected a number")))?;
        Ok(())
    }
}

#[test]
fn a_loss_of_another_crate_is_an_objective() {
    let sample = Sample::new(Groups::of_pairs(4));
    let (_, scores) = sample.scores(DType::F64);
    let mut objective: Box<dyn Objective> = Box::new(Moving { target: 0.0 });
    assert!(objective.needs().reference && objective.needs().rows.pairs);
    let step = StepScores { micro: std::slice::from_ref(&scores), collective: &Solo };
    assert_eq!(objective.prepare(&step, Phase::Evaluate).unwrap().scalar("target").unwrap(), 0.0);
    objective.prepare(&step, Phase::Train).unwrap();
    let loss = objective.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
    assert!(loss.to_scalar::<f64>().unwrap() > 0.0);
    let labelled = Sample::new(Groups::of_labelled(&[true])).scores(DType::F64).1;
    let error = objective.evaluate(&labelled, &Context::default()).unwrap_err().to_string();
    assert_eq!(error, "Moving reads pairs, and the scores hold labelled rows: use data of that form or another loss");
    assert_eq!(objective.state(), Some(1.0.into()));
    objective.restore(&5.0.into()).unwrap();
    assert_eq!(objective.state(), Some(5.0.into()));
}

#[test]
fn a_mix_adds_its_parts_with_their_weights() {
    let sample = Sample::new(Groups::of_pairs(4));
    let mix = toml::from_str::<Recipe>(
        r#"type = "mix"
           parts = [
             { weight = 0.75, loss = { type = "sigmoid", beta = 0.3 } },
             { loss = { type = "mix", parts = [ { weight = 0.5, loss = { type = "sft" } } ] } },
           ]"#,
    )
    .unwrap();
    mix.validate().unwrap();
    let parts =
        [(0.75, Recipe::Builtin(Dpo { beta: 0.3, ..Dpo::default() }.into())), (0.5, Recipe::Builtin(Sft {}.into()))];
    let expected: f64 = parts.iter().map(|(weight, loss)| weight * sample.loss(loss)).sum();
    assert!(error(sample.loss(&mix), expected) < 1e-14);
    assert_eq!(serde_json::from_str::<Recipe>(&serde_json::to_string(&mix).unwrap()).unwrap(), mix);
    assert_eq!(toml::from_str::<Recipe>(&toml::to_string(&mix).unwrap()).unwrap(), mix);
    assert_eq!(mix.loss_at_zero_margin(), None);
    let needs = mix.needs();
    assert!(needs.reference && needs.rows.pairs && !needs.rows.labelled);
    let terms = mix.evaluate(&sample.scores(DType::F64).1, &Context::default()).unwrap();
    assert!(matches!(terms.rewards, Some(Rewards::Pair { .. })));
}

#[test]
fn a_mix_may_hold_losses_of_other_crates_and_keeps_their_state() {
    let part = |weight, loss: Box<dyn Objective>| Part { weight, loss };
    let mut mix = Mix { parts: vec![part(1.0, Box::<Dpo>::default()), part(2.0, Box::new(Moving { target: 3.0 }))] };
    assert_eq!(mix.state(), Some(serde_json::json!([null, 3.0])));
    mix.restore(&serde_json::json!([null, 7.0])).unwrap();
    assert_eq!(mix.state(), Some(serde_json::json!([null, 7.0])));
    assert!(matches!(mix.restore(&serde_json::json!([1.0])), Err(Error::State(_))));
    assert!(matches!(mix.restore(&serde_json::json!([1.0, 2.0])), Err(Error::State(_))));
}

#[test]
fn a_mix_that_no_data_serves_is_refused() {
    let part = |loss: Recipe| Part { weight: 1.0, loss };
    let kto = Recipe::Builtin(Kto::default().into());
    let dpo = Recipe::Builtin(Dpo::default().into());
    let error = Mix { parts: vec![part(kto), part(dpo)] }.validate().unwrap_err().to_string();
    assert!(error.contains("reads labelled rows") && error.contains("reads pairs: no data serves all"), "{error}");
    let parts = ["bradley_terry", "sft"].map(|name| part(Builtin::from_name(name).expect("a loss of the list").into()));
    let error = Mix { parts: parts.into() }.validate().unwrap_err().to_string();
    assert!(error.contains("values of a score model"), "{error}");
    assert!(matches!(Mix::<Recipe> { parts: Vec::new() }.validate(), Err(Error::Mix(_))));
    let parts = vec![Part { weight: f64::NAN, loss: Recipe::Builtin(Sft {}.into()) }];
    assert!(matches!(Mix { parts }.validate(), Err(Error::Parameter { parameter: "weight", .. })));
}

#[test]
fn a_micro_batch_without_demonstrations_adds_nothing() {
    let mix = r#"{ "type": "mix", "parts": [ { "loss": { "type": "kto" } }, { "loss": { "type": "sft" } } ] }"#;
    let mix: Recipe = serde_json::from_str(mix).unwrap();
    mix.validate().unwrap();
    let sample = Sample::new(Groups::of_labelled(&[false, false]));
    let kto = Recipe::Builtin(Kto::default().into());
    assert_eq!(sample.loss(&mix), sample.loss(&kto));
    assert_eq!(sample.context(&mix).scalar("kl").unwrap(), sample.context(&kto).scalar("kl").unwrap());
}

/// Two ranks of which this test plays one: the other's values are given.
#[derive(Debug)]
struct WithOther([f64; 2]);

impl Collective for WithOther {
    fn sum(&self, values: &mut [f64]) -> Result<()> {
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
fn the_reference_point_spans_micro_batches_and_ranks_before_it_is_clamped() {
    let micro = [drift(&[1.0]), drift(&[-3.0, 0.5])];
    let point = |collective: &dyn Collective| {
        let step = StepScores { micro: &micro, collective };
        Objective::prepare(&mut Kto::default(), &step, Phase::Train).unwrap().scalar("kl").unwrap()
    };
    assert_eq!(point(&Solo), 0.0);
    assert_eq!(point(&WithOther([5.5, 1.0])), 1.0); // (1 − 3 + 0.5 + 5.5) / 4
    let none = StepScores { micro: &[], collective: &Solo };
    let error = Objective::prepare(&mut Kto::default(), &none, Phase::Train).unwrap_err().to_string();
    assert_eq!(error, "kto: the step holds no mismatched completions, so `kl` cannot be computed");
    let nan = [drift(&[f64::NAN])];
    let step = StepScores { micro: &nan, collective: &Solo };
    let seen = Objective::prepare(&mut Kto::default(), &step, Phase::Train).unwrap().scalar("kl").unwrap();
    assert!(seen.is_nan(), "a NaN must be seen, not clamped away: {seen}");
}

#[test]
fn kto_without_its_reference_point_is_an_error() {
    let (_, scores) = Sample::new(Groups::of_labelled(&[true, false])).scores(DType::F64);
    let error = Kto::default().evaluate(&scores, &Context::default()).unwrap_err().to_string();
    assert!(error.starts_with("context: `kl` is missing"), "{error}");
}

#[test]
fn scores_of_other_rows_are_refused() {
    let (_, scores) = Sample::new(Groups::of_pairs(4)).scores(DType::F64);
    let other = TokenScores::unmasked(scores.policy.log_probs().clone()).unwrap();
    let scores = Scores { reference: Some(other), ..scores };
    let error = Dpo::default().evaluate(&scores, &Context::default()).unwrap_err().to_string();
    assert_eq!(error, "reference: got shape [5], expected 3 scored tokens in row 1, as the policy has");
}

fn drift(log_ratios: &[f64]) -> Scores {
    let rows = |values: Vec<f64>| {
        let values = Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
        TokenScores::unmasked(values).unwrap()
    };
    let reference = rows(vec![-2.0; log_ratios.len()]);
    let policy = rows(log_ratios.iter().map(|ratio| ratio - 2.0).collect());
    let mismatched = MismatchedScores { policy: policy.clone(), reference };
    Scores { mismatched: Some(mismatched), ..Scores::of_demonstrations(policy) }
}
