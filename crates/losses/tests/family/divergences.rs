//! What must hold for every loss of pairs under every reduction and every divergence that it takes.

use candle_core::DType;
use candlewick_losses::{Builtin, Divergence, Groups, Objective, Recipe, Reduction};
use candlewick_testkit::{central_difference, error, worst};
use serde_json::Value;

use crate::properties::{check_finite_at_extremes, loss_at};
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
        check_finite_at_extremes(&recipe, &sample);
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
    assert!(!toml::from_str::<Recipe>(nan).is_ok_and(|recipe| recipe.validate().is_ok()));
    let dpo = candlewick_losses::Dpo { divergence: Divergence::Alpha(f64::NAN), ..Default::default() };
    let error = Objective::validate(&dpo).unwrap_err().to_string();
    assert!(error.starts_with("dpo.divergence.alpha: got NaN, expected a finite number"), "{error}");
}
