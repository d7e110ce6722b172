//! What must hold for every loss of pairs under every reduction and every divergence that it takes.

use candle_core::DType;
use candlewick_losses::{Builtin, Divergence, Groups, Objective, Recipe, Reduction};
use candlewick_testkit::{central_difference, error, worst};
use serde_json::Value;

use crate::properties::loss_at;
use crate::sample::Sample;

const REDUCTIONS: [Reduction; 4] = [
    Reduction::Sum,
    Reduction::Mean,
    Reduction::LengthDesensitized { alpha: 0.25 },
    Reduction::LengthDesensitizedMean { alpha: 0.25 },
];

const DIVERGENCES: [Divergence; 6] = [
    Divergence::ReverseKl,
    Divergence::ForwardKl,
    Divergence::JensenShannon,
    Divergence::Alpha(-1.0),
    Divergence::Alpha(0.5),
    Divergence::Alpha(2.0),
];

/// Every loss with a divergence, under every pair of options.
fn recipes() -> Vec<Recipe> {
    let mut recipes = Vec::new();
    for name in Builtin::NAMES {
        let fields = serde_json::to_value(Recipe::from_name(name).unwrap()).unwrap();
        let divergences = if fields.get("divergence").is_some() { &DIVERGENCES[..] } else { &DIVERGENCES[..1] };
        if fields.get("reduction").is_none() || !Recipe::from_name(name).unwrap().needs().rows.pairs {
            continue;
        }
        for divergence in divergences {
            for reduction in REDUCTIONS {
                let mut fields = fields.clone();
                fields["reduction"] = serde_json::to_value(reduction).unwrap();
                if let Some(field) = fields.get_mut("divergence") {
                    *field = serde_json::to_value(divergence).unwrap();
                }
                recipes.push(serde_json::from_value::<Recipe>(fields).unwrap());
            }
        }
    }
    assert!(recipes.len() >= 6 * 24, "{}", recipes.len());
    recipes
}

#[test]
fn the_gradient_is_the_central_difference() {
    let sample = Sample::new(Groups::of_pairs(4));
    for recipe in recipes() {
        recipe.validate().unwrap();
        let context = sample.context(&recipe);
        let (_, gradient) = sample.evaluate(&recipe, &context, DType::F64);
        let loss = |flat: &[f64]| loss_at(&recipe, &sample, &context, flat);
        let worst = worst(&gradient, &central_difference(loss, &sample.inputs(&recipe), 1e-6));
        assert!(worst < 1e-6, "{recipe:?}: {worst:e}");
    }
}

#[test]
fn loss_and_gradient_are_finite_for_log_ratios_of_ten_thousand() {
    let sample = Sample::new(Groups::of_pairs(4));
    for recipe in recipes() {
        for sign in [1.0, -1.0] {
            let mut extreme = sample.clone();
            for (row, slots) in extreme.policy.iter_mut().enumerate() {
                slots[0] = extreme.reference[row][0] + if row < 4 { 1e4 * sign } else { -1e4 * sign };
            }
            for dtype in [DType::F32, DType::F64] {
                let (loss, gradient) = extreme.evaluate(&recipe, &extreme.context(&recipe), dtype);
                assert!(loss.is_finite(), "{recipe:?}, {dtype:?}: {loss}");
                assert!(gradient.iter().all(|slope| slope.is_finite()), "{recipe:?}, {dtype:?}");
            }
        }
    }
}

#[test]
fn where_policy_and_reference_agree_no_option_changes_the_loss() {
    let mut sample = Sample::new(Groups::of_pairs(4));
    sample.policy = sample.reference.clone();
    for recipe in recipes() {
        let Some(stated) = recipe.loss_at_zero_margin() else { continue };
        let got = sample.loss(&recipe);
        assert!(error(got, stated) < 1e-12, "{recipe:?}: {got} {stated}");
    }
}

#[test]
fn parameters_of_reductions_and_divergences_have_ranges_that_are_checked() {
    for name in Builtin::NAMES {
        let fields = serde_json::to_value(Recipe::from_name(name).unwrap()).unwrap();
        let with = |key: &str, value: Value| {
            let mut fields = fields.clone();
            fields[key] = value;
            serde_json::from_value::<Recipe>(fields).unwrap().validate()
        };
        if fields.get("reduction").is_some() {
            let wrong = serde_json::json!({ "length_desensitized": { "alpha": 1.5 } });
            let error = with("reduction", wrong).unwrap_err().to_string();
            assert_eq!(error, format!("{name}.reduction.alpha: got 1.5, expected a weight in [0, 1]"));
        }
    }
    // TOML has a word for NaN, which JSON lacks.
    let nan = "type = \"hinge\"\ndivergence = { alpha = nan }";
    let error = toml::from_str::<Recipe>(nan).map(|recipe| recipe.validate());
    let refused = match error {
        Err(_) => true,
        Ok(validated) => validated.is_err(),
    };
    assert!(refused);
    let dpo = candlewick_losses::Dpo { divergence: Divergence::Alpha(f64::NAN), ..Default::default() };
    let error = Objective::validate(&dpo).unwrap_err().to_string();
    assert!(error.starts_with("dpo.divergence.alpha: got NaN, expected a finite number"), "{error}");
}
