//! BCO as TRL computed it over runs of steps, in f32: reproduced to 1e-5.
//!
//! The numbers stand in `golden/trl_golden_bco_cpo_orpo.json`, whose first key says what made them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use candle_core::{Device, Tensor};
use candlewick_losses::udm::DensityRatio;
use candlewick_losses::{Bco, Objective, Phase, Scores, Solo, StepScores, TokenScores};
use candlewick_testkit::{BcoStep, Golden, TrlValues, error, worst};

const TOLERANCE: f64 = 1e-5;

#[test]
fn runs_agree_with_trl() {
    let mut steps = 0;
    for run in golden().bco {
        let mut bco = Bco { beta: run.beta, ..Bco::default() };
        for (index, step) in run.steps.iter().enumerate() {
            check(&mut bco, step, &format!("beta {}, step {index}", run.beta));
            steps += 1;
        }
    }
    assert_eq!(steps, 12);
}

#[test]
fn a_run_that_is_resumed_at_any_step_agrees_too() {
    for run in golden().bco {
        let mut state = Objective::state(&Bco::default()).unwrap();
        for (index, step) in run.steps.iter().enumerate() {
            let mut bco = Bco { beta: run.beta, ..Bco::default() };
            let text = serde_json::to_string(&state).unwrap();
            Objective::restore(&mut bco, &serde_json::from_str(&text).unwrap()).unwrap();
            check(&mut bco, step, &format!("beta {}, step {index}", run.beta));
            state = Objective::state(&bco).unwrap();
        }
    }
}

#[test]
fn density_ratios_agree_with_trl() {
    let golden = golden().bco_udm;
    let got: Vec<f64> = golden.p.iter().map(|&probability| DensityRatio::default().weight(probability)).collect();
    assert!(got.len() >= 11 && worst(&got, &golden.weight) < 1e-12, "{got:?}");
}

fn check(bco: &mut Bco, step: &BcoStep, what: &str) {
    let policy = [step.policy_chosen.as_slice(), &step.policy_rejected].concat();
    let reference = [step.ref_chosen.as_slice(), &step.ref_rejected].concat();
    let verdicts: Vec<bool> = (0..policy.len()).map(|row| row < step.policy_chosen.len()).collect();
    let micro = [Scores::of_labelled(sums(&policy), Some(sums(&reference)), &verdicts)];
    let phase = if step.do_train { Phase::Train } else { Phase::Evaluate };
    let context = bco.prepare(&StepScores { micro: &micro, collective: &Solo }, phase).unwrap();
    assert!(error(context.scalar("delta").unwrap(), step.delta) < TOLERANCE, "{what}");
    assert!(error(bco.seen.desirable.count + bco.seen.undesirable.count, step.running_count) < TOLERANCE, "{what}");
    let terms = bco.evaluate(&micro[0], &context.micro(0)).unwrap();
    let losses = terms.terms[0].numerator.to_vec1::<f64>().unwrap();
    assert!(worst(&losses, &step.losses) < TOLERANCE, "{what}: {losses:?}");
    let loss = terms.loss(&micro[0].totals()).unwrap().to_scalar::<f64>().unwrap();
    assert!(error(loss, step.loss_nanmean) < TOLERANCE, "{what}: {loss}");
}

/// Rows of one token each.
fn sums(log_probs: &[f64]) -> TokenScores {
    let rows: Vec<Vec<f64>> = log_probs.iter().map(|&value| vec![value]).collect();
    TokenScores::unmasked(Tensor::new(rows, &Device::Cpu).unwrap()).unwrap()
}

fn golden() -> TrlValues {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trl_golden_bco_cpo_orpo.json");
    match Golden::load(&path).unwrap() {
        Golden::Values(values) => *values,
        other => panic!("another form: {other:?}"),
    }
}
