//! Losses and rewards that TRL's CPO and ORPO functions computed in f32, reproduced to 1e-5.
//!
//! The numbers stand in `golden/trl_golden_bco_cpo_orpo.json`. They are log-probabilities of whole completions, here those
//! of completions of one token.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use candle_core::{Device, Tensor};
use candlewick_losses::{
    AlphaPo, Context, Cpo, CpoForm, LossTerms, Objective, Orpo, Rewards, Scores, Simpo, TokenScores,
};
use candlewick_testkit::{CpoGolden, Golden, TrlValues, error, worst};

const TOLERANCE: f64 = 1e-5;

#[test]
fn contrastive_losses_agree_with_trl() {
    let cases = golden().cpo;
    for case in &cases {
        let loss = loss_of(case);
        let terms = evaluate(&*loss, &case.chosen, &case.rejected);
        let losses = terms.terms[0].numerator.to_vec1::<f64>().unwrap();
        assert!(worst(&losses, &case.losses) < TOLERANCE, "{loss:?}: {losses:?}");
        let Some(Rewards::Pair { chosen, rejected }) = terms.rewards else { panic!("pairs have rewards of pairs") };
        assert!(worst(&chosen.to_vec1::<f64>().unwrap(), &case.rewards_chosen) < TOLERANCE, "{loss:?}");
        assert!(worst(&rejected.to_vec1::<f64>().unwrap(), &case.rewards_rejected) < TOLERANCE, "{loss:?}");
    }
    // Four forms, each with and without label smoothing and a shape; a case must not fall out unseen.
    assert_eq!(cases.len(), 16);
}

#[test]
fn odds_ratios_agree_with_trl() {
    for case in &golden().orpo {
        let terms = evaluate(&Orpo { beta: case.beta }, &case.chosen_avg, &case.rejected_avg);
        let odds = &terms.terms[0];
        let losses: Vec<f64> =
            odds.numerator.to_vec1::<f64>().unwrap().iter().map(|loss| -odds.weight * loss).collect();
        assert!(worst(&losses, &case.beta_logsigmoid_logodds) < TOLERANCE, "{losses:?}");
        for (name, expected) in [("log_odds_ratio", case.mean_logsigmoid), ("log_odds_chosen", case.mean_log_odds)] {
            let metric = terms.metrics.iter().find(|metric| metric.name == name).unwrap();
            let mean = metric.values.mean_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(error(mean, expected) < TOLERANCE, "{name}: {mean}");
        }
    }
}

/// The loss that TRL's options describe, without the NLL, which these cases leave out.
fn loss_of(case: &CpoGolden) -> Box<dyn Objective> {
    let &CpoGolden { beta, label_smoothing, alpha, simpo_gamma: gamma, .. } = case;
    let cpo = Cpo { beta, alpha, nll_weight: 0.0, ..Cpo::default() };
    match case.loss_type.as_str() {
        "sigmoid" => Box::new(Cpo { label_smoothing, ..cpo }),
        // TRL ignores label smoothing in these forms.
        "hinge" => Box::new(Cpo { form: CpoForm::Hinge, ..cpo }),
        "ipo" => Box::new(Cpo { form: CpoForm::Ipo, ..cpo }),
        "simpo" if alpha > 0.0 => Box::new(AlphaPo { alpha, beta, gamma, label_smoothing, nll_weight: 0.0 }),
        "simpo" => Box::new(Simpo { beta, gamma, label_smoothing, nll_weight: 0.0 }),
        other => panic!("no loss for {other}"),
    }
}

fn evaluate(loss: &dyn Objective, chosen: &[f64], rejected: &[f64]) -> LossTerms {
    loss.validate().unwrap();
    let log_probs = Tensor::new([chosen, rejected].concat(), &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let scores = Scores::of_pairs(TokenScores::unmasked(log_probs).unwrap(), None);
    loss.evaluate(&scores, &Context::default()).unwrap()
}

fn golden() -> TrlValues {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trl_golden_bco_cpo_orpo.json");
    match Golden::load(&path).unwrap() {
        Golden::Values(values) => *values,
        other => panic!("another form: {other:?}"),
    }
}
