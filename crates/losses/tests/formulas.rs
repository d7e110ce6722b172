//! Values and gradients of the published formulas, from an independent statement of them.
//!
//! The numbers stand in `golden/formula-vectors.json`, whose first key says what made them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use candle_core::{Device, Tensor, Var};
use candlewick_losses::{
    Builtin, Cdpo, Context, Dpo, Hinge, Ipo, Kto, MismatchedScores, Objective, Phase, Reduction, RobustDpo, Scores,
    Solo, StepScores, TokenScores, math,
};
use candlewick_testkit::{FormulaVectors, error, worst};

const TOLERANCE: f64 = 1e-9;

#[test]
fn pair_losses_agree_with_the_formulas() {
    let vectors = vectors();
    let cases: [(&str, Builtin); 7] = [
        ("dpo", Dpo { beta: 0.1 }.into()),
        ("dpo beta=1", Dpo { beta: 1.0 }.into()),
        ("cdpo eps=0.1", Cdpo { beta: 0.1, label_smoothing: 0.1 }.into()),
        ("robust eps=0.1", RobustDpo { beta: 0.1, label_smoothing: 0.1 }.into()),
        ("ipo sum tau=0.1", Ipo { beta: 0.1, reduction: Reduction::Sum }.into()),
        ("ipo length-averaged tau=0.1", Ipo { beta: 0.1, reduction: Reduction::Mean }.into()),
        ("hinge", Hinge { beta: 0.1 }.into()),
    ];
    for (name, loss) in cases {
        let (log_probs, policy) = rows(&vectors, "policy");
        let (_, reference) = rows(&vectors, "ref");
        let scores = Scores::of_pairs(policy, Some(reference));
        check(&vectors, name, &loss, &scores, &Context::default(), &log_probs, &["grad_w", "grad_l"]);
    }
}

#[test]
fn labelled_losses_agree_with_the_formulas() {
    let vectors = vectors();
    let cases = [
        ("kto", false, Kto::default()),
        ("kto lambda_D=1 lambda_U=1.33", false, Kto { undesirable_weight: 1.33, ..Kto::default() }),
        ("kto z0 clamped to 0", true, Kto::default()),
    ];
    for (name, swapped, mut loss) in cases {
        let (log_probs, policy) = rows(&vectors, "policy");
        let (_, reference) = rows(&vectors, "ref");
        let labels = [true, true, true, true, false, false, false, false];
        let mut mismatched = MismatchedScores {
            policy: sums(&vectors.input("kl_policy").unwrap()),
            reference: sums(&vectors.input("kl_ref").unwrap()),
        };
        if swapped {
            std::mem::swap(&mut mismatched.policy, &mut mismatched.reference);
        }
        let micro = [Scores { mismatched: Some(mismatched), ..Scores::of_labelled(policy, Some(reference), &labels) }];
        let step = StepScores { micro: &micro, collective: &Solo };
        let context = Objective::prepare(&mut loss, &step, Phase::Train).unwrap();
        let z0 = if swapped { "z0_when_negative" } else { "z0" };
        let expected = vectors.number("kto reference point", z0).unwrap();
        assert!(error(context.scalar("kl").unwrap(), expected) < TOLERANCE);
        check(&vectors, name, &loss, &micro[0], &context, &log_probs, &["grad"]);
    }
}

#[test]
fn log_sigmoid_is_exact_at_the_ends() {
    let vectors = vectors();
    let x = vectors.list("log-sigmoid extremes", "x").unwrap();
    let got = math::log_sigmoid(&Tensor::new(x, &Device::Cpu).unwrap()).unwrap().to_vec1::<f64>().unwrap();
    assert!(worst(&got, &vectors.list("log-sigmoid extremes", "value").unwrap()) < 1e-15);
}

fn check(
    vectors: &FormulaVectors,
    name: &str,
    loss: &dyn Objective,
    scores: &Scores,
    context: &Context,
    log_probs: &Var,
    gradients: &[&str],
) {
    let terms = loss.evaluate(scores, context).unwrap();
    let per_item = terms.terms[0].numerator.to_vec1::<f64>().unwrap();
    assert!(worst(&per_item, &vectors.list(name, "per_example").unwrap()) < TOLERANCE, "{name}");
    let value = terms.loss(&scores.totals()).unwrap();
    let expected = vectors.number(name, "loss").unwrap();
    assert!(error(value.to_scalar::<f64>().unwrap(), expected) < TOLERANCE, "{name}");
    // The recorded gradient is that of a row's sum: every scored token of the row has it.
    let expected: Vec<f64> = gradients.iter().flat_map(|key| vectors.list(name, key).unwrap()).collect();
    let got = value.backward().unwrap().get(log_probs).unwrap().to_vec2::<f64>().unwrap();
    assert_eq!(got.len(), expected.len());
    for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
        for (slot, &got) in got.iter().enumerate() {
            let expected = if slot < scores.policy.lengths()[row] { expected } else { 0.0 };
            assert!(error(got, expected) < TOLERANCE, "{name}, row {row}, slot {slot}: {got} {expected}");
        }
    }
}

/// The rows of one policy, chosen ones first, padded with NaN.
fn rows(vectors: &FormulaVectors, policy: &str) -> (Var, TokenScores) {
    let mut rows = vectors.rows(&format!("{policy}_chosen_tokens")).unwrap();
    rows.extend(vectors.rows(&format!("{policy}_rejected_tokens")).unwrap());
    let slots = rows.iter().map(Vec::len).max().unwrap();
    let padded = |fill: f64, of: fn(f64) -> f64| {
        let rows =
            rows.iter().map(|row| (0..slots).map(|slot| row.get(slot).map_or(fill, |&value| of(value))).collect());
        Tensor::new(rows.collect::<Vec<Vec<f64>>>(), &Device::Cpu).unwrap()
    };
    let log_probs = Var::from_tensor(&padded(f64::NAN, |value| value)).unwrap();
    let scores = TokenScores::new(log_probs.as_tensor().clone(), padded(0.0, |_| 1.0)).unwrap();
    (log_probs, scores)
}

fn sums(values: &[f64]) -> TokenScores {
    let values = Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    TokenScores::unmasked(values).unwrap()
}

fn vectors() -> FormulaVectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formula-vectors.json");
    FormulaVectors::load(&path).unwrap()
}
