//! What must hold for every loss of the list. Joining the list brings these tests.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use candlewick_losses::{Builtin, Groups, LabelledRow, Objective, PairRows, Recipe, Scores, TokenScores, Totals};
use candlewick_testkit::{central_difference, error, worst};
use common::{Sample, context};
use serde_json::Value;

/// Every loss of the list on every kind of rows that it can use.
fn cases() -> Vec<(Recipe, Sample)> {
    let mut cases = Vec::new();
    for name in Builtin::NAMES {
        let recipe = Recipe::from_name(name).unwrap();
        let rows = recipe.needs().rows;
        let kinds = [
            (rows.pairs, Groups::of_pairs(4)),
            (rows.labelled, Groups::of_labelled(&[true, false, false, true, true, false, true, false])),
            (rows.demonstrations, Groups::of_demonstrations(8)),
        ];
        let usable = kinds.into_iter().filter(|(usable, _)| *usable);
        cases.extend(usable.map(|(_, groups)| (recipe.clone(), Sample::new(groups))));
    }
    assert!(cases.len() >= Builtin::NAMES.len(), "a loss of the list can use no rows");
    cases
}

#[test]
fn the_gradient_is_the_central_difference() {
    for (recipe, sample) in cases() {
        check_gradient(&recipe, &sample);
    }
}

#[test]
fn the_gradient_is_the_central_difference_at_zero_margin() {
    for (recipe, mut sample) in cases() {
        sample.policy = sample.reference.clone();
        check_gradient(&recipe, &sample);
    }
}

fn check_gradient(recipe: &Recipe, sample: &Sample) {
    let context = context(recipe);
    let (_, gradient) = sample.evaluate(recipe, &context, DType::F64);
    assert!(gradient.iter().any(|&slope| slope != 0.0), "{recipe:?} has no gradient");
    let loss = |flat: &[f64]| {
        let policy = flat.chunks(sample.policy[0].len()).map(<[f64]>::to_vec).collect();
        Sample { policy, ..sample.clone() }.loss_in(recipe, &context)
    };
    let numeric = central_difference(loss, &sample.policy.concat(), 1e-5);
    let worst = worst(&gradient, &numeric);
    assert!(worst < 1e-8, "{recipe:?} on {}: {worst:e}", kind(sample));
}

#[test]
fn loss_and_gradient_are_finite_for_log_ratios_of_ten_thousand() {
    for (recipe, sample) in cases() {
        for sign in [1.0, -1.0] {
            let mut extreme = sample.clone();
            for (row, slots) in extreme.policy.iter_mut().enumerate() {
                // Both signs within a pair, so that margins are large too.
                slots[0] = extreme.reference[row][0] + if row < 4 { 1e4 * sign } else { -1e4 * sign };
            }
            for dtype in [DType::F32, DType::F64] {
                let (loss, gradient) = extreme.evaluate(&recipe, &context(&recipe), dtype);
                assert!(loss.is_finite(), "{recipe:?}, {dtype:?}: {loss}");
                assert!(gradient.iter().all(|slope| slope.is_finite()), "{recipe:?}, {dtype:?}");
            }
        }
    }
}

#[test]
fn the_order_of_rows_and_items_does_not_matter() {
    let order = [3, 0, 6, 1, 7, 2, 5, 4];
    let place = |row: usize| order.iter().position(|&from| from == row).unwrap();
    for (recipe, sample) in cases() {
        let rows = |rows: &[Vec<f64>]| order.iter().map(|&row| rows[row].clone()).collect();
        let pairs = sample.groups.pairs.iter().rev();
        let labelled = sample.groups.labelled.iter().rev();
        let permuted = Sample {
            policy: rows(&sample.policy),
            reference: rows(&sample.reference),
            mask: rows(&sample.mask),
            groups: Groups {
                pairs: pairs.map(|p| PairRows { chosen: place(p.chosen), rejected: place(p.rejected) }).collect(),
                labelled: labelled.map(|l| LabelledRow { row: place(l.row), desirable: l.desirable }).collect(),
                demonstrations: sample.groups.demonstrations.iter().rev().map(|&row| place(row)).collect(),
                ..Groups::default()
            },
        };
        let (before, after) = (sample.loss(&recipe), permuted.loss(&recipe));
        assert!(error(after, before) < 1e-12, "{recipe:?}: {before} {after}");
    }
}

#[test]
fn micro_batches_add_up_to_the_whole_step() {
    for (recipe, sample) in cases() {
        let context = context(&recipe);
        let (whole, gradient) = sample.evaluate(&recipe, &context, DType::F64);
        let lengths: Vec<usize> = sample.mask.iter().map(|row| row.iter().sum::<f64>() as usize).collect();
        let parts = split(&sample.groups);
        let mut totals = Totals::default();
        for part in &parts {
            totals += part.totals(&lengths);
        }
        let (mut sum, mut sum_of_gradients) = (0.0, vec![0.0; gradient.len()]);
        for groups in parts {
            let (log_probs, scores) = Sample { groups, ..sample.clone() }.scores(DType::F64);
            let loss = recipe.evaluate(&scores, &context).unwrap().loss(&totals).unwrap();
            sum += loss.to_scalar::<f64>().unwrap();
            let part = loss.backward().unwrap().remove(&log_probs);
            let part =
                part.map_or_else(|| vec![0.0; gradient.len()], |part| part.flatten_all().unwrap().to_vec1().unwrap());
            sum_of_gradients.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        assert!(error(sum, whole) < 1e-12, "{recipe:?}: {sum} {whole}");
        assert!(worst(&sum_of_gradients, &gradient) < 1e-12, "{recipe:?}");
    }
}

/// The items, one a micro-batch.
fn split(groups: &Groups) -> Vec<Groups> {
    let pairs = groups.pairs.iter().map(|&pair| Groups { pairs: vec![pair], ..Groups::default() });
    let labelled = groups.labelled.iter().map(|&row| Groups { labelled: vec![row], ..Groups::default() });
    let demonstrations =
        groups.demonstrations.iter().map(|&row| Groups { demonstrations: vec![row], ..Groups::default() });
    pairs.chain(labelled).chain(demonstrations).collect()
}

#[test]
fn every_option_changes_the_loss() {
    for (recipe, sample) in cases() {
        let before = sample.loss(&recipe);
        for key in options(&recipe).keys() {
            let changed = with_other(&recipe, key);
            changed.validate().unwrap();
            let after = sample.loss(&changed);
            assert!(error(after, before) > 1e-6, "{}.{key} changes nothing: {before} {after}", recipe.name());
        }
    }
}

#[test]
fn every_number_has_a_range_that_is_checked() {
    for name in Builtin::NAMES {
        let recipe = Recipe::from_name(name).unwrap();
        recipe.validate().unwrap();
        for (key, _) in options(&recipe).iter().filter(|(_, value)| value.is_number()) {
            let error = with(&recipe, key, Value::from(-1.0)).validate().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}.{key}: got -1, expected ")), "{error}");
        }
    }
}

#[test]
fn single_and_double_precision_agree() {
    for (recipe, sample) in cases() {
        let context = context(&recipe);
        let (double, double_gradient) = sample.evaluate(&recipe, &context, DType::F64);
        let (single, single_gradient) = sample.evaluate(&recipe, &context, DType::F32);
        assert!(error(single, double) < 1e-5, "{recipe:?}: {single} {double}");
        assert!(worst(&single_gradient, &double_gradient) < 1e-5, "{recipe:?}");
    }
}

#[test]
fn what_stands_under_the_mask_does_not_leak() {
    for (recipe, sample) in cases() {
        let context = context(&recipe);
        let (loss, gradient) = sample.evaluate(&recipe, &context, DType::F64);
        for garbage in [f64::NAN, f64::NEG_INFINITY, 1e300] {
            let mut dirty = sample.clone();
            for (row, mask) in dirty.mask.iter().enumerate() {
                for (slot, _) in mask.iter().enumerate().filter(|&(_, &scored)| scored == 0.0) {
                    dirty.policy[row][slot] = garbage;
                    dirty.reference[row][slot] = garbage;
                }
            }
            assert_eq!(dirty.evaluate(&recipe, &context, DType::F64), (loss, gradient.clone()), "{recipe:?}");
        }
        for (slope, scored) in gradient.iter().zip(sample.mask.concat()) {
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
        let loss = recipe.evaluate(&scores, &context(&recipe)).unwrap().loss(&scores.totals()).unwrap();
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
        let mut context = context(&recipe);
        // The policy has not moved, so no mismatched completion has either.
        context.scalars.entry("kl".to_owned()).and_modify(|drift| *drift = 0.0);
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
            let error = recipe.evaluate(&scores, &context(&recipe)).unwrap_err().to_string();
            assert!(error.contains("the scores hold none"), "{error}");
        }
        let empty = Scores { groups: Groups::default(), ..scores };
        let error = recipe.evaluate(&empty, &context(&recipe)).unwrap_err().to_string();
        assert!(error.contains("and the scores hold no rows"), "{error}");
    }
}

fn kind(sample: &Sample) -> &'static str {
    match (&sample.groups.pairs[..], &sample.groups.labelled[..]) {
        ([], []) => "demonstrations",
        ([], _) => "labelled rows",
        _ => "pairs",
    }
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
    match &options(recipe)[key] {
        Value::Number(number) => with(recipe, key, Value::from(number.as_f64().unwrap() * 1.3 + 0.01)),
        Value::Bool(flag) => with(recipe, key, Value::from(!flag)),
        Value::String(word) if key == "reduction" => {
            with(recipe, key, Value::from(if word == "mean" { "sum" } else { "mean" }))
        }
        Value::String(word) if key == "divergence" => {
            with(recipe, key, Value::from(if word == "reverse_kl" { "forward_kl" } else { "reverse_kl" }))
        }
        other => panic!("{}.{key} = {other}: teach this test another value of it", recipe.name()),
    }
}
