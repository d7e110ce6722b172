//! Compares the losses with numbers that TRL computed.
//!
//! ```text
//! cargo run --release --example golden -- trl_golden.json trl_golden_bco_cpo_orpo.json
//! ```
//!
//! prints for each case its configuration and the error of the loss and of the
//! gradient of every token log-probability, `|a − b| / max(1, |b|)`; names what is not
//! built; and exits 1 if an error is over 1e-9 (1e-5 where the numbers were made in
//! f32), 2 if a file cannot be read.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{Device, Tensor, Var};
use candlewick::losses::udm::DensityRatio;
use candlewick::losses::{
    Context, Error, LossTerms, MismatchedScores, Objective, Phase, Result, Scores, Solo, StepScores, TokenScores, trl,
};
use candlewick_testkit::{
    BcoGolden, CpoGolden, DpoCase, DpoConfig, DpoGolden, Golden, KtoCase, KtoConfig, KtoGolden, Matrix, OrpoGolden,
    TrlTokens, TrlValues, error, shifted, worst,
};

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if paths.is_empty() {
        eprintln!("usage: golden FILE.json…");
        return ExitCode::from(UNREADABLE);
    }
    let mut tally = Tally::default();
    for path in &paths {
        match Golden::load(path) {
            Ok(Golden::Tokens(golden)) => tokens(path, &golden, &mut tally),
            Ok(Golden::Values(golden)) => values(path, &golden, &mut tally),
            Ok(_) => {
                eprintln!("error: {}: a form that this program does not know", path.display());
                return ExitCode::from(UNREADABLE);
            }
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(UNREADABLE);
            }
        }
    }
    println!(
        "{} agree, {} differ, {} skipped; largest error: loss {:.1e}, gradient {:.1e}",
        tally.agree, tally.differ, tally.skipped, tally.worst.loss, tally.worst.gradient
    );
    if tally.differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How far a case is from the recorded numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Deviation {
    loss: f64,
    gradient: f64,
}

#[derive(Debug, Default)]
struct Tally {
    agree: usize,
    differ: usize,
    skipped: usize,
    worst: Deviation,
}

impl Tally {
    fn record(&mut self, case: &str, tolerance: f64, result: Result<Deviation>) {
        match result {
            Ok(deviation) => {
                let agrees = deviation.loss <= tolerance && deviation.gradient <= tolerance;
                *(if agrees { &mut self.agree } else { &mut self.differ }) += 1;
                self.worst.loss = self.worst.loss.max(deviation.loss);
                self.worst.gradient = self.worst.gradient.max(deviation.gradient);
                let verdict = if agrees { "ok  " } else { "FAIL" };
                let Deviation { loss, gradient } = deviation;
                println!("{verdict} {case}: loss={loss:.1e} gradient={gradient:.1e} tolerance={tolerance:.0e}");
            }
            Err(error @ Error::NotBuilt(_)) => {
                self.skipped += 1;
                println!("skip: {error} ({case})");
            }
            Err(error) => {
                self.differ += 1;
                println!("FAIL {case}: {error}");
            }
        }
    }
}

fn tokens(path: &Path, golden: &TrlTokens, tally: &mut Tally) {
    println!("# {} (TRL {})", path.display(), golden.trl_version);
    for case in &golden.dpo.cases {
        let tolerance = if case.dtype == "torch.float32" { SINGLE } else { DOUBLE };
        tally.record(&format!("dpo {}", dpo_name(&case.config)), tolerance, pairs(&golden.dpo, case));
    }
    for case in &golden.kto.cases {
        let name = format!("kto {} labels={}", kto_name(&case.config), labels(&case.labels));
        tally.record(&name, DOUBLE, labelled(&golden.kto, case));
    }
}

/// Recorded without gradients, and from log-probabilities of whole completions: those of completions of one token.
fn values(path: &Path, golden: &TrlValues, tally: &mut Tally) {
    println!("# {} (TRL {})", path.display(), golden.trl_version);
    for case in &golden.bco {
        let name = format!("bco beta={} steps={}", case.beta, case.steps.len());
        tally.record(&name, SINGLE, run_of_bco(case));
    }
    let weights: Vec<f64> = golden.bco_udm.p.iter().map(|&p| DensityRatio::default().weight(p)).collect();
    let deviation = Deviation { loss: worst(&weights, &golden.bco_udm.weight), gradient: 0.0 };
    tally.record(&format!("bco_udm weights={}", weights.len()), SINGLE, Ok(deviation));
    for case in &golden.cpo {
        let CpoGolden { loss_type, beta, label_smoothing, alpha, simpo_gamma, .. } = case;
        let name = format!(
            "cpo {loss_type} beta={beta} label_smoothing={label_smoothing} alpha={alpha} simpo_gamma={simpo_gamma}"
        );
        tally.record(&name, SINGLE, contrastive(case));
    }
    for case in &golden.orpo {
        tally.record(&format!("orpo beta={}", case.beta), SINGLE, odds_ratios(case));
    }
}

fn run_of_bco(case: &BcoGolden) -> Result<Deviation> {
    let options = trl::Options { trainer: trl::Trainer::Bco, beta: case.beta, ..trl::Options::default() };
    let mut recipe = options.recipe()?;
    recipe.validate()?;
    let mut deviation = Deviation::default();
    for step in &case.steps {
        let policy = [step.policy_chosen.as_slice(), &step.policy_rejected].concat();
        let reference = [step.ref_chosen.as_slice(), &step.ref_rejected].concat();
        let verdicts: Vec<bool> = (0..policy.len()).map(|row| row < step.policy_chosen.len()).collect();
        let micro = [Scores::of_labelled(one_token(&policy)?, Some(one_token(&reference)?), &verdicts)];
        let phase = if step.do_train { Phase::Train } else { Phase::Evaluate };
        let context = recipe.prepare(&StepScores { micro: &micro, collective: &Solo }, phase)?;
        let loss = recipe.evaluate(&micro[0], &context.micro(0))?.loss(&micro[0].totals())?.to_scalar()?;
        let errors = [error(loss, step.loss_nanmean), error(context.scalar("delta")?, step.delta)];
        deviation.loss = errors.into_iter().fold(deviation.loss, f64::max);
    }
    Ok(deviation)
}

/// The loss of every pair, without the imitation of the chosen ones, which the cases leave out.
fn contrastive(case: &CpoGolden) -> Result<Deviation> {
    let options = trl::Options {
        trainer: trl::Trainer::Cpo,
        loss_type: vec![case.loss_type.clone()],
        beta: case.beta,
        label_smoothing: case.label_smoothing,
        alpha: case.alpha,
        simpo_gamma: case.simpo_gamma,
        cpo_alpha: 0.0,
        ..trl::Options::default()
    };
    let terms = of_one_token_pairs(&options, &case.chosen, &case.rejected)?;
    let losses = terms.terms[0].numerator.to_vec1::<f64>()?;
    Ok(Deviation { loss: worst(&losses, &case.losses), gradient: 0.0 })
}

/// The term of the log-odds ratio of every pair.
fn odds_ratios(case: &OrpoGolden) -> Result<Deviation> {
    let options = trl::Options { trainer: trl::Trainer::Orpo, beta: case.beta, ..trl::Options::default() };
    let terms = of_one_token_pairs(&options, &case.chosen_avg, &case.rejected_avg)?;
    let term = &terms.terms[0];
    let losses = (&term.numerator * -term.weight)?.to_vec1::<f64>()?;
    Ok(Deviation { loss: worst(&losses, &case.beta_logsigmoid_logodds), gradient: 0.0 })
}

fn of_one_token_pairs(options: &trl::Options, chosen: &[f64], rejected: &[f64]) -> Result<LossTerms> {
    let recipe = options.recipe()?;
    recipe.validate()?;
    let scores = Scores::of_pairs(one_token(&[chosen, rejected].concat())?, None);
    recipe.evaluate(&scores, &Context::default())
}

fn one_token(log_probs: &[f64]) -> Result<TokenScores> {
    TokenScores::unmasked(Tensor::new(log_probs, &Device::Cpu)?.unsqueeze(1)?)
}

fn pairs(golden: &DpoGolden, case: &DpoCase) -> Result<Deviation> {
    let config = case.config.clone();
    let options = trl::Options {
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
    };
    let mask = shifted(&golden.mask);
    let log_probs = variable(&golden.policy_token_logps)?;
    let policy =
        token_scores(log_probs.as_tensor(), &mask)?.with_log_sum_sq_probs(tensor(&golden.log_sum_sq_probs)?)?;
    let reference = token_scores(&tensor(&golden.ref_token_logps)?, &mask)?;
    let scores = Scores::of_pairs(policy, Some(reference));
    deviation(&options, scores, &log_probs, case.loss, &case.grad_policy_token_logps)
}

fn labelled(golden: &KtoGolden, case: &KtoCase) -> Result<Deviation> {
    let config = case.config.clone();
    let options = trl::Options {
        trainer: trl::Trainer::Kto,
        loss_type: vec![config.loss_type],
        beta: config.beta,
        desirable_weight: config.desirable_weight,
        undesirable_weight: config.undesirable_weight,
        ..trl::Options::default()
    };
    let (mask, kl_mask) = (shifted(&golden.mask), shifted(&golden.kl_mask));
    let log_probs = variable(&golden.policy_token_logps)?;
    let policy = token_scores(log_probs.as_tensor(), &mask)?;
    let reference = token_scores(&tensor(&golden.ref_token_logps)?, &mask)?;
    let mismatched = MismatchedScores {
        policy: token_scores(&tensor(&case.kl_policy_token_logps)?, &kl_mask)?,
        reference: token_scores(&tensor(&case.kl_ref_token_logps)?, &kl_mask)?,
    };
    let scores = Scores { mismatched: Some(mismatched), ..Scores::of_labelled(policy, Some(reference), &case.labels) };
    deviation(&options, scores, &log_probs, case.loss, &case.grad_policy_token_logps)
}

fn deviation(
    options: &trl::Options,
    scores: Scores,
    log_probs: &Var,
    loss: f64,
    gradient: &Matrix,
) -> Result<Deviation> {
    let mut recipe = options.recipe()?;
    recipe.validate()?;
    let micro = [scores];
    let context: Context = recipe.prepare(&StepScores { micro: &micro, collective: &Solo }, Phase::Train)?;
    let value = recipe.evaluate(&micro[0], &context.micro(0))?.loss(&micro[0].totals())?;
    let got = value.backward()?.remove(log_probs);
    let got = got.map_or_else(|| Ok(Vec::new()), |got| got.flatten_all()?.to_vec1::<f64>())?;
    Ok(Deviation { loss: error(value.to_scalar()?, loss), gradient: worst(&got, &gradient.concat()) })
}

fn dpo_name(config: &DpoConfig) -> String {
    let mut name = format!("{} beta={}", config.loss_types.join("+"), config.beta);
    let mut add = |key: &str, value: &dyn Debug, usual: bool| {
        if !usual {
            name.push_str(&format!(" {key}={value:?}"));
        }
    };
    add("loss_weights", &config.loss_weights, config.loss_weights.len() == 1);
    add("label_smoothing", &config.label_smoothing, config.label_smoothing == 0.0);
    let reverse = config.f_divergence_type == "reverse_kl";
    add("f_divergence_type", &config.f_divergence_type, reverse);
    add("f_alpha_divergence_coef", &config.f_alpha_divergence_coef, config.f_divergence_type != "alpha_divergence");
    add("ld_alpha", &config.ld_alpha.unwrap_or_default(), config.ld_alpha.is_none());
    add("use_weighting", &config.use_weighting, !config.use_weighting);
    add("discopop_tau", &config.discopop_tau, !config.loss_types.iter().any(|loss| loss == "discopop"));
    name
}

fn kto_name(config: &KtoConfig) -> String {
    let KtoConfig { loss_type, beta, desirable_weight, undesirable_weight } = config;
    format!("{loss_type} beta={beta} desirable_weight={desirable_weight} undesirable_weight={undesirable_weight}")
}

fn labels(labels: &[bool]) -> String {
    labels.iter().map(|&desirable| if desirable { '+' } else { '-' }).collect()
}

fn tensor(rows: &Matrix) -> Result<Tensor> {
    Ok(Tensor::new(rows.clone(), &Device::Cpu)?)
}

fn variable(rows: &Matrix) -> Result<Var> {
    Ok(Var::from_tensor(&tensor(rows)?)?)
}

fn token_scores(log_probs: &Tensor, mask: &Matrix) -> Result<TokenScores> {
    TokenScores::new(log_probs.clone(), tensor(mask)?)
}

const DOUBLE: f64 = 1e-9;
const SINGLE: f64 = 1e-5;
const UNREADABLE: u8 = 2;
