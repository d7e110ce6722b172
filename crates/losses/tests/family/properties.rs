//! What must hold for every loss of the list. Joining the list brings these tests.

use candle_core::{DType, Device, Tensor, Var};
use candlewick_losses::{Builtin, Context, Groups, Objective, Recipe, ReferenceUpdate, Scores, TokenScores, Totals};
use candlewick_testkit::{central_difference, error, worst};
use serde_json::Value;

use crate::sample::{ROWS, SLOTS, Sample, prepare};

/// Every loss of the list, its presets, and objectives that wrap another, on every kind of rows that they can use.
fn cases() -> Vec<(Recipe, Sample)> {
    let mut cases = Vec::new();
    for recipe in recipes() {
        let samples = Sample::all_for(&recipe);
        assert!(!samples.is_empty(), "{recipe:?} can use no rows");
        cases.extend(samples.into_iter().map(|sample| (recipe.clone(), sample)));
    }
    cases
}

fn recipes() -> Vec<Recipe> {
    let names = Builtin::NAMES.iter().copied().chain(Builtin::presets().map(|(_, preset)| preset.name));
    names.map(|name| Recipe::from_name(name).unwrap()).chain(wrapped()).collect()
}

/// Objectives that are made of others.
fn wrapped() -> Vec<Recipe> {
    WRAPPED.iter().map(|json| serde_json::from_str(json).unwrap()).collect()
}

const WRAPPED: [&str; 16] = [
    r#"{ "type": "mix", "parts": [ { "weight": 0.5, "loss": { "type": "dpo" } }, { "loss": { "type": "sft" } } ] }"#,
    r#"{ "type": "mix", "parts": [ { "loss": { "type": "kto" } }, { "weight": 0.3, "loss": { "type": "kto_s" } } ] }"#,
    r#"{ "type": "mix", "parts": [ { "loss": { "type": "aot" } }, { "weight": 0.3, "loss": { "type": "sft" } } ] }"#,
    r#"{ "type": "wpo", "loss": { "type": "dpo" } }"#,
    r#"{ "type": "humanline", "loss": { "type": "dpo" } }"#,
    r#"{ "type": "humanline", "loss": { "type": "kto" } }"#,
    r#"{ "type": "humanline", "loss": { "type": "aot" } }"#,
    r#"{ "type": "humanline", "loss": { "type": "wpo", "loss": { "type": "apo_down" } } }"#,
    r#"{ "type": "trust_region", "loss": { "type": "bco" } }"#,
    r#"{ "type": "tchebycheff", "temperature": 0.3,
         "mix": { "parts": [ { "loss": { "type": "dpo" } }, { "loss": { "type": "sft" } } ] } }"#,
    r#"{ "type": "tchebycheff", "temperature": 0.3,
         "mix": { "parts": [ { "loss": { "type": "aot" } }, { "loss": { "type": "sft" } } ] } }"#,
    r#"{ "type": "ordered", "by": "safer", "loss": { "type": "dpo" } }"#,
    r#"{ "type": "ordered", "by": "cost_gap", "loss": { "type": "simpo" } }"#,
    r#"{ "type": "panacea", "evaluate_at": [0.3, 0.7],
         "mix": { "parts": [ { "loss": { "type": "dpo" } },
                             { "loss": { "type": "ordered", "by": "safer", "loss": { "type": "ipo" } } } ] } }"#,
    r#"{ "type": "panacea", "aggregate": "tchebycheff",
         "mix": { "parts": [ { "loss": { "type": "aot" } }, { "loss": { "type": "sft" } } ] } }"#,
    r#"{ "type": "trust_region", "update": "lagged", "loss": { "type": "humanline", "loss": { "type": "dpo" } } }"#,
];

/// The cases whose gradient is a slope. The weights of WPO are held although they depend on what is moved; its gradient
/// is checked against recorded ones.
fn differentiable() -> impl Iterator<Item = (Recipe, Sample)> {
    cases().into_iter().filter(|(recipe, _)| !format!("{recipe:?}").contains("Wpo"))
}

#[test]
fn the_gradient_is_the_central_difference() {
    for (recipe, sample) in differentiable() {
        let (gradient, numeric) = gradients(&recipe, &sample, &sample.context(&recipe));
        assert!(gradient.iter().any(|&slope| slope != 0.0), "{recipe:?} has no gradient");
        let worst = worst(&gradient, &numeric);
        assert!(worst < 1e-7, "{recipe:?} on {}: {worst:e}", kind(&sample));
    }
}

#[test]
fn the_gradient_where_policy_and_reference_agree_is_the_central_difference() {
    for (recipe, mut sample) in differentiable() {
        sample.policy = sample.reference.clone();
        let mut context = sample.context(&recipe);
        // The policy has not moved, so no mismatched completion has either.
        still(&mut context);
        check_gradient_at_a_kink(&recipe, &sample, &context);
    }
}

#[test]
fn the_gradient_at_margins_of_zero_is_the_central_difference() {
    for (recipe, mut sample) in differentiable() {
        // Both sides of every pair are as far from the reference, in sum.
        for (row, slots) in sample.policy.iter_mut().enumerate() {
            slots.clone_from(&sample.reference[row]);
            slots[0] += 0.5;
        }
        check_gradient_at_a_kink(&recipe, &sample, &sample.context(&recipe));
    }
}

/// Where a loss has a kink, its gradient must lie between the slopes of both sides.
fn check_gradient_at_a_kink(recipe: &Recipe, sample: &Sample, context: &Context) {
    let (gradient, numeric) = gradients(recipe, sample, context);
    if worst(&gradient, &numeric) < 1e-7 {
        return;
    }
    let at = sample.inputs(recipe);
    let here = loss_at(recipe, sample, context, &at);
    let step = 1e-6;
    for (place, &slope) in gradient.iter().enumerate() {
        let moved = |by: f64| {
            let mut moved = at.clone();
            moved[place] += by;
            loss_at(recipe, sample, context, &moved)
        };
        let (left, right) = ((here - moved(-step)) / step, (moved(step) - here) / step);
        let (low, high) = (left.min(right) - 1e-4, left.max(right) + 1e-4);
        assert!((low..=high).contains(&slope), "{recipe:?} on {}: {slope} not in {low}..={high}", kind(sample));
    }
}

/// The gradient and central differences, with respect to every input.
fn gradients(recipe: &Recipe, sample: &Sample, context: &Context) -> (Vec<f64>, Vec<f64>) {
    let (_, gradient) = sample.evaluate(recipe, context, DType::F64);
    let numeric = central_difference(|flat| loss_at(recipe, sample, context, flat), &sample.inputs(recipe), 1e-5);
    (gradient, numeric)
}

/// The loss at other inputs. Statistics of the step are held, as they carry no gradient; but the partners that a sort
/// gives to both sides of a difference move together.
pub(crate) fn loss_at(recipe: &Recipe, sample: &Sample, context: &Context, flat: &[f64]) -> f64 {
    let moved = sample.with_inputs(recipe, flat);
    if recipe.name() == "aot_unpaired" { moved.loss(recipe) } else { moved.loss_in(recipe, context) }
}

#[test]
fn loss_and_gradient_are_finite_for_log_ratios_of_ten_thousand() {
    for (recipe, sample) in cases() {
        check_finite_at_extremes(&recipe, &sample);
    }
}

/// Loss and gradient on log-ratios of ±10,000.
pub(crate) fn check_finite_at_extremes(recipe: &Recipe, sample: &Sample) {
    for sign in [1.0, -1.0] {
        let mut extreme = sample.clone();
        for (row, slots) in extreme.policy.iter_mut().enumerate() {
            // Both signs within a pair, so that margins are large too.
            slots[0] = extreme.reference[row][0] + if row < 4 { 1e4 * sign } else { -1e4 * sign };
        }
        for dtype in [DType::F32, DType::F64] {
            let (loss, gradient) = extreme.evaluate(recipe, &extreme.context(recipe), dtype);
            assert!(loss.is_finite(), "{recipe:?}, {dtype:?}: {loss}");
            assert!(gradient.iter().all(|slope| slope.is_finite()), "{recipe:?}, {dtype:?}");
        }
    }
}

#[test]
fn the_order_of_rows_and_items_does_not_matter() {
    for (recipe, sample) in cases() {
        let permuted = sample.permuted(&[3, 0, 6, 1, 7, 2, 5, 4]);
        let (before, after) = (sample.loss(&recipe), permuted.loss(&recipe));
        assert!(error(after, before) < 1e-12, "{recipe:?}: {before} {after}");
    }
}

#[test]
fn micro_batches_add_up_to_the_whole_step() {
    for (recipe, sample) in cases() {
        let (whole, gradient) = sample.evaluate(&recipe, &sample.context(&recipe), DType::F64);
        let parts = sample.split();
        let (inputs, mut micro): (Vec<_>, Vec<Scores>) = parts.iter().map(|part| part.scores(DType::F64)).unzip();
        // The mismatched completions of the step stand in one of its micro-batches.
        micro.iter_mut().skip(1).for_each(|scores| scores.mismatched = None);
        let mut totals = Totals::default();
        micro.iter().for_each(|scores| totals += scores.totals());
        let context = prepare(&recipe, &micro);
        let (mut sum, mut sum_of_gradients) = (0.0, vec![0.0; gradient.len()]);
        for (index, part) in parts.iter().enumerate() {
            let context = context.micro(index);
            let (loss, slopes) = part.differentiate(&recipe, &context, &inputs[index], &micro[index], &totals);
            sum += loss;
            sum_of_gradients.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        }
        assert!(error(sum, whole) < 1e-12, "{recipe:?}: {sum} {whole}");
        assert!(worst(&sum_of_gradients, &gradient) < 1e-12, "{recipe:?}");
    }
}

#[test]
fn every_option_changes_the_loss() {
    for recipe in recipes() {
        // The losses that another is made of are no options of it.
        for key in options(&recipe).keys().filter(|key| !["loss", "parts", "mix"].contains(&key.as_str())) {
            let changed = with_other(&recipe, key);
            changed.validate().unwrap();
            let samples = Sample::all_for(&recipe);
            let changes = |sample: &Sample| error(sample.loss(&changed), sample.loss(&recipe)) > 1e-6;
            let moves_reference = changed.reference_update() != recipe.reference_update();
            assert!(moves_reference || samples.iter().any(changes), "{}.{key} changes nothing", recipe.name());
        }
    }
}

#[test]
fn every_number_has_a_range_that_is_checked() {
    for name in Builtin::NAMES {
        let recipe = Recipe::from_name(name).unwrap();
        recipe.validate().unwrap();
        for (key, _) in options(&recipe).iter().filter(|(key, value)| value.is_number() && *key != "head") {
            if ANY_SIGN.contains(&(*name, key.as_str())) {
                with(&recipe, key, Value::from(-1.0)).validate().unwrap();
                continue;
            }
            // Counts cannot be below 0 by their type.
            let wrong = if options(&recipe)[key].is_u64() { Value::from(0) } else { Value::from(-1.0) };
            let refused = with(&recipe, key, wrong.clone()).validate();
            let error = refused.expect_err(&format!("{name}.{key} = {wrong} is accepted: check its range")).to_string();
            let got = wrong.as_f64().unwrap();
            assert!(error.starts_with(&format!("{name}.{key}: got {got}, expected ")), "{error}");
        }
    }
}

/// Hyperparameters that may have any finite value.
const ANY_SIGN: [(&str, &str); 2] = [("alpha_po", "alpha"), ("cpo", "alpha")];

#[test]
fn only_losses_that_say_so_move_their_reference() {
    for recipe in recipes() {
        let moves = recipe.reference_update() != ReferenceUpdate::Frozen;
        let says_so = recipe.name().starts_with("tr_") || recipe.name() == "trust_region";
        assert_eq!(moves, says_so, "{recipe:?}");
    }
}

#[test]
fn single_and_double_precision_agree() {
    for (recipe, sample) in cases() {
        let context = sample.context(&recipe);
        let (double, double_gradient) = sample.evaluate(&recipe, &context, DType::F64);
        let (single, single_gradient) = sample.evaluate(&recipe, &context, DType::F32);
        assert!(error(single, double) < 1e-5, "{recipe:?}: {single} {double}");
        assert!(worst(&single_gradient, &double_gradient) < 1e-5, "{recipe:?}");
    }
}

#[test]
fn what_stands_under_the_mask_does_not_leak() {
    for (recipe, sample) in cases() {
        let context = sample.context(&recipe);
        let (loss, gradient) = sample.evaluate(&recipe, &context, DType::F64);
        for garbage in [f64::NAN, f64::NEG_INFINITY, 1e300] {
            let mut dirty = sample.clone();
            for (row, mask) in sample.mask.iter().enumerate() {
                for (slot, _) in mask.iter().enumerate().filter(|&(_, &scored)| scored == 0.0) {
                    dirty.spoil(row, slot, garbage);
                }
            }
            assert_eq!(dirty.evaluate(&recipe, &context, DType::F64), (loss, gradient.clone()), "{recipe:?}");
        }
        for (slope, scored) in gradient[..ROWS * SLOTS].iter().zip(sample.mask.concat()) {
            assert!(scored > 0.0 || *slope == 0.0, "{recipe:?}: gradient {slope} where nothing is scored");
        }
    }
}

#[test]
fn the_reference_receives_no_gradient() {
    for (recipe, sample) in cases().into_iter().filter(|(recipe, _)| recipe.needs().reference) {
        let (_, scores) = sample.scores(DType::F64);
        let log_probs = Var::from_tensor(&Tensor::new(sample.reference.clone(), &Device::Cpu).unwrap()).unwrap();
        let mask = scores.policy.mask().clone();
        let reference = TokenScores::new(log_probs.as_tensor().clone(), mask).unwrap();
        let scores = Scores { reference: Some(reference), ..scores };
        let loss = recipe.evaluate(&scores, &sample.context(&recipe)).unwrap().loss(&scores.totals()).unwrap();
        assert!(loss.backward().unwrap().get(&log_probs).is_none(), "{recipe:?}");
    }
}

#[test]
fn the_loss_where_policy_and_reference_agree_is_as_stated() {
    for (recipe, mut sample) in cases() {
        let Some(stated) = recipe.loss_at_zero_margin() else {
            continue;
        };
        sample.policy = sample.reference.clone();
        sample.silence();
        let mut context = sample.context(&recipe);
        // The policy has not moved, so no mismatched completion has either.
        still(&mut context);
        let got = sample.loss_in(&recipe, &context);
        assert!(error(got, stated) < 1e-12, "{recipe:?}: {got} {stated}");
    }
}

#[test]
fn configuration_survives_a_round_trip() {
    for (name, summary) in Builtin::NAMES.iter().zip(Builtin::SUMMARIES) {
        let recipe = Recipe::from_name(name).unwrap();
        assert!(!summary.is_empty());
        let changed = options(&recipe).keys().fold(recipe.clone(), |recipe, key| with_other(&recipe, key));
        for recipe in [recipe, changed] {
            let json = serde_json::to_string(&recipe).unwrap();
            assert!(json.starts_with(&format!(r#"{{"type":"{name}""#)), "{json}");
            assert_eq!(serde_json::from_str::<Recipe>(&json).unwrap(), recipe);
            let toml = toml::to_string(&recipe).unwrap();
            assert_eq!(toml::from_str::<Recipe>(&toml).unwrap(), recipe, "{toml}");
        }
        let typo = serde_json::from_str::<Recipe>(&format!(r#"{{ "type": "{name}", "no_such_key": 1 }}"#));
        assert!(typo.unwrap_err().to_string().contains("no_such_key"), "{name}");
    }
}

#[test]
fn names_and_aliases_are_all_different() {
    let mut names: Vec<&str> =
        Builtin::NAMES.iter().chain(Builtin::ALIASES.iter().copied().flatten()).copied().collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for name in names {
        assert!(Builtin::from_name(name).is_some(), "{name}");
    }
}

#[test]
fn missing_references_and_wrong_rows_are_named() {
    for (recipe, sample) in cases() {
        let (_, scores) = sample.scores(DType::F64);
        if recipe.needs().reference {
            let scores = Scores { reference: None, ..scores.clone() };
            let error = recipe.evaluate(&scores, &sample.context(&recipe)).unwrap_err().to_string();
            assert!(error.contains("the scores hold none"), "{error}");
        }
        let empty = Scores { groups: Groups::default(), ..scores };
        let error = recipe.evaluate(&empty, &Context::default()).unwrap_err().to_string();
        assert!(error.contains("and the scores hold no rows"), "{error}");
    }
}

/// A context of a policy that has not moved.
fn still(context: &mut Context) {
    context.scalars.entry("kl".to_owned()).and_modify(|drift| *drift = 0.0);
    context.parts.iter_mut().for_each(still);
}

fn kind(sample: &Sample) -> String {
    candlewick_losses::Rows::of(&sample.scores(DType::F64).1).to_string()
}

/// The hyperparameters by name.
fn options(recipe: &Recipe) -> serde_json::Map<String, Value> {
    let Value::Object(mut fields) = serde_json::to_value(recipe).unwrap() else { panic!("a loss is a table") };
    fields.remove("type").unwrap();
    fields
}

fn with(recipe: &Recipe, key: &str, value: Value) -> Recipe {
    let mut fields = serde_json::to_value(recipe).unwrap();
    fields[key] = value;
    serde_json::from_value(fields).unwrap()
}

/// The same loss with another value of one hyperparameter.
fn with_other(recipe: &Recipe, key: &str) -> Recipe {
    let value = &options(recipe)[key];
    let others = match value {
        Value::Number(number) if number.is_u64() => vec![Value::from(number.as_u64().unwrap() + 1)],
        Value::Number(number) => vec![Value::from(number.as_f64().unwrap() * 1.3 + 0.01)],
        Value::Bool(flag) => vec![Value::from(!flag)],
        Value::Array(list) if list.len() > 1 && list.iter().all(Value::is_number) => {
            vec![list.iter().rev().cloned().collect()]
        }
        Value::Object(fields) if fields.values().all(Value::is_number) => {
            let other = |(key, value): (&String, &Value)| (key.clone(), Value::from(value.as_f64().unwrap() * 1.3));
            vec![Value::Object(fields.iter().map(other).collect())]
        }
        _ => OTHERS.iter().map(|json| serde_json::from_str(json).unwrap()).collect(),
    };
    // Of the words and tables below, the first that this hyperparameter takes.
    let mut fields = serde_json::to_value(recipe).unwrap();
    let changed = others.into_iter().filter(|other| other != value).find_map(|other| {
        fields[key] = other;
        serde_json::from_value::<Recipe>(fields.clone()).ok()
    });
    changed.unwrap_or_else(|| panic!("{}.{key} = {value}: teach this test another value of it", recipe.name()))
}

/// Values of hyperparameters that are no numbers.
const OTHERS: [&str; 26] = [
    r#""mean""#,
    r#""sum""#,
    r#""forward_kl""#,
    r#""logistic""#,
    r#""hinge""#,
    r#""third_party""#,
    r#""max""#,
    r#"{ "hard": { "every": 3 } }"#,
    r#"{ "balanced_ema": { "decay": 0.5 } }"#,
    r#"{ "min": 0.5, "max": 10.0 }"#,
    r#"{ "type": "ipo" }"#,
    r#"[ { "weight": 2.0, "loss": { "type": "dpo" } } ]"#,
    r#""squared""#,
    r#""sample""#,
    r#""safer""#,
    r#""chosen""#,
    r#""cost""#,
    r#""helpfulness""#,
    r#""regress""#,
    r#""log_ratios""#,
    r#""measured""#,
    r#""labels""#,
    r#""reward_gap""#,
    r#""tchebycheff""#,
    r#""linear""#,
    "[2.5]",
];
