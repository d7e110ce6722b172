//! Losses and gradients that TRL computed, reproduced to 1e-9 in f64 and to 1e-5 where TRL computed in f32.
//!
//! The numbers stand in `golden/trl_golden.json`, whose first key says what made them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use candlewick_losses::{
    Context, LossTerms, MismatchedScores, Objective, Phase, Recipe, Rewards, Scores, Solo, StepScores, TokenScores, trl,
};
use candlewick_testkit::{DpoCase, DpoGolden, Golden, KtoCase, KtoGolden, Matrix, TrlTokens, error, shifted, worst};

const TOLERANCE: f64 = 1e-9;
/// Of cases that TRL could compute in single precision only: those of the alpha divergence.
const SINGLE: f64 = 1e-5;
/// How many cases there are of every loss or mix: none may fall out unseen.
const PAIR_CASES: [(&str, usize); 17] = [
    ("sigmoid", 12),
    ("hinge", 5),
    ("ipo", 7),
    ("aot", 3),
    ("aot_unpaired", 3),
    ("exo_pair", 1),
    ("nca_pair", 2),
    ("robust", 1),
    ("bco_pair", 2),
    ("sppo_hard", 2),
    ("apo_zero", 2),
    ("apo_down", 2),
    ("discopop", 5),
    ("sft", 2),
    ("sigmoid_norm", 5),
    ("sigmoid+sft", 1),
    ("sigmoid+bco_pair+sft", 1),
];

#[test]
fn pairs_agree_with_trl() {
    let golden = golden().dpo;
    let mut checked = BTreeMap::<String, usize>::new();
    for case in &golden.cases {
        let recipe = dpo_options(case).recipe().unwrap_or_else(|error| panic!("{:?}: {error}", case.config));
        check_pairs(&golden, case, recipe);
        *checked.entry(case.config.loss_types.join("+")).or_default() += 1;
    }
    assert_eq!(checked, PAIR_CASES.map(|(losses, count)| (losses.to_owned(), count)).into());
    assert_eq!(checked.values().sum::<usize>(), 56);
}

#[test]
fn labelled_rows_agree_with_trl() {
    let golden = golden().kto;
    for case in &golden.cases {
        let recipe = kto_options(case).recipe().unwrap_or_else(|error| panic!("{:?}: {error}", case.config));
        check_labelled(&golden, case, recipe);
    }
    assert_eq!(golden.cases.len(), 8);
}

fn check_pairs(golden: &DpoGolden, case: &DpoCase, recipe: Recipe) {
    let log_probs = Var::from_tensor(&tensor(&golden.policy_token_logps)).unwrap();
    let mask = shifted(&golden.mask);
    let policy =
        token_scores(log_probs.as_tensor(), &mask).with_log_sum_sq_probs(tensor(&golden.log_sum_sq_probs)).unwrap();
    let reference = token_scores(&tensor(&golden.ref_token_logps), &mask);
    let scores = Scores::of_pairs(policy, Some(reference));
    assert_eq!(scores.groups.pairs.len(), golden.pairs);
    let what = format!("{:?}", case.config);
    let tolerance = if case.dtype == "torch.float32" { SINGLE } else { TOLERANCE };
    let (terms, _) = check(&what, recipe, scores, &log_probs, case.loss, &case.grad_policy_token_logps, tolerance);
    check_rewards(&what, &terms, case, tolerance);
}

/// TRL's rewards are made of what the loss sums, ours of sums over all tokens: of length-desensitized losses, TRL's
/// margins are our optimised ones.
fn check_rewards(what: &str, terms: &LossTerms, case: &DpoCase, tolerance: f64) {
    let agrees = |name: &str, got: f64| assert!(error(got, case.metrics[name]) < tolerance, "{what}: {name}: {got}");
    if case.config.ld_alpha.is_some() {
        let metric =
            |name| terms.metrics.iter().find(|metric| metric.name == name).map(|metric| numbers(&metric.values));
        // The margins of IPO are divided by lengths besides.
        if case.config.loss_types == ["sigmoid"] {
            agrees("rewards/margins", mean(&metric("margins/optimised").unwrap()));
            agrees("rewards/accuracies", mean(&metric("accuracies/optimised").unwrap()));
        }
        return;
    }
    let Some(rewards) = &terms.rewards else { return };
    let Rewards::Pair { chosen, rejected } = rewards else { panic!("pairs have rewards of pairs") };
    let (chosen, rejected) = (numbers(chosen), numbers(rejected));
    let accurate = chosen.iter().zip(&rejected).filter(|(chosen, rejected)| chosen > rejected).count();
    agrees("rewards/chosen", mean(&chosen));
    agrees("rewards/rejected", mean(&rejected));
    agrees("rewards/margins", mean(&chosen) - mean(&rejected));
    agrees("rewards/accuracies", accurate as f64 / chosen.len() as f64);
}

fn check_labelled(golden: &KtoGolden, case: &KtoCase, recipe: Recipe) {
    let log_probs = Var::from_tensor(&tensor(&golden.policy_token_logps)).unwrap();
    let mask = shifted(&golden.mask);
    let policy = token_scores(log_probs.as_tensor(), &mask);
    let reference = token_scores(&tensor(&golden.ref_token_logps), &mask);
    let kl_mask = shifted(&golden.kl_mask);
    let mismatched = MismatchedScores {
        policy: token_scores(&tensor(&case.kl_policy_token_logps), &kl_mask),
        reference: token_scores(&tensor(&case.kl_ref_token_logps), &kl_mask),
    };
    let scores = Scores { mismatched: Some(mismatched), ..Scores::of_labelled(policy, Some(reference), &case.labels) };
    let what = format!("{:?} {:?}", case.config, case.labels);
    let (terms, context) =
        check(&what, recipe, scores, &log_probs, case.loss, &case.grad_policy_token_logps, TOLERANCE);
    // TRL reports a 0 where a loss has no reference point.
    let drift = if case.config.loss_type == "kto" { context.scalar("kl").unwrap() } else { 0.0 };
    assert!(error(drift, case.metrics["kl"]) < TOLERANCE, "{what}");
    let Some(Rewards::Labelled { rewards }) = terms.rewards else { panic!("labelled rows have labelled rewards") };
    for (name, side) in [("rewards/chosen", true), ("rewards/rejected", false)] {
        let rewards = numbers(&rewards).into_iter().zip(&case.labels);
        let rewards: Vec<f64> = rewards.filter(|&(_, &label)| label == side).map(|(reward, _)| reward).collect();
        let expected = case.metrics.get(name).copied();
        assert_eq!(expected.is_none(), rewards.is_empty(), "{what}: {name}");
        if let Some(expected) = expected {
            assert!(error(mean(&rewards), expected) < TOLERANCE, "{what}: {name}");
        }
    }
}

fn check(
    what: &str,
    mut recipe: Recipe,
    scores: Scores,
    log_probs: &Var,
    loss: f64,
    gradient: &Matrix,
    tolerance: f64,
) -> (LossTerms, Context) {
    recipe.validate().unwrap();
    let micro = [scores];
    let context = recipe.prepare(&StepScores { micro: &micro, collective: &Solo }, Phase::Train);
    let context = context.unwrap();
    let terms = recipe.evaluate(&micro[0], &context.micro(0)).unwrap();
    let value = terms.loss(&micro[0].totals()).unwrap();
    let loss_error = error(value.to_scalar::<f64>().unwrap(), loss);
    let got = numbers(value.backward().unwrap().get(log_probs).unwrap());
    let gradient_error = worst(&got, &gradient.concat());
    assert!(loss_error < tolerance && gradient_error < tolerance, "{what}: {loss_error:e} {gradient_error:e}");
    (terms, context)
}

fn golden() -> TrlTokens {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/trl_golden.json");
    match Golden::load(&path).unwrap() {
        Golden::Tokens(tokens) => *tokens,
        other => panic!("another form: {other:?}"),
    }
}

fn dpo_options(case: &DpoCase) -> trl::Options {
    let config = case.config.clone();
    trl::Options {
        loss_type: config.loss_types,
        loss_weights: Some(config.loss_weights),
        beta: config.beta,
        label_smoothing: config.label_smoothing,
        f_divergence_type: config.f_divergence_type,
        f_alpha_divergence_coef: config.f_alpha_divergence_coef,
        ld_alpha: config.ld_alpha,
        use_weighting: config.use_weighting,
        discopop_tau: config.discopop_tau,
        ..trl::Options::default()
    }
}

fn kto_options(case: &KtoCase) -> trl::Options {
    let config = case.config.clone();
    trl::Options {
        trainer: trl::Trainer::Kto,
        loss_type: vec![config.loss_type],
        beta: config.beta,
        desirable_weight: config.desirable_weight,
        undesirable_weight: config.undesirable_weight,
        ..trl::Options::default()
    }
}

fn tensor(rows: &Matrix) -> Tensor {
    Tensor::new(rows.clone(), &Device::Cpu).unwrap()
}

fn token_scores(log_probs: &Tensor, mask: &Matrix) -> TokenScores {
    TokenScores::new(log_probs.clone(), tensor(mask)).unwrap()
}

fn numbers(values: &Tensor) -> Vec<f64> {
    values.flatten_all().unwrap().to_vec1().unwrap()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
