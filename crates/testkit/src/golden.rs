//! Golden vectors: losses and gradients that another program computed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::load::{LoadError, json};

/// Rows of equal length.
pub type Matrix = Vec<Vec<f64>>;

/// A file of golden vectors, whichever form it has.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Golden {
    /// Losses with the gradient of every token log-probability.
    Tokens(Box<TrlTokens>),
    /// Losses of BCO, CPO and ORPO; values only, in f32.
    Values(Box<TrlValues>),
}

/// `trl_golden.json`: what TRL's own functions computed in f64.
#[derive(Debug, Clone, Deserialize)]
pub struct TrlTokens {
    /// The version of TRL.
    pub trl_version: String,
    /// Pairs.
    pub dpo: DpoGolden,
    /// Completions with a verdict.
    pub kto: KtoGolden,
}

/// Cases over one batch of pairs: rows `0..B` chosen, `B..2B` rejected.
#[derive(Debug, Clone, Deserialize)]
pub struct DpoGolden {
    /// Number of pairs.
    #[serde(rename = "B")]
    pub pairs: usize,
    /// Mask over tokens, `[2B, T + 1]`; see [`shifted`].
    pub mask: Matrix,
    /// Log-probabilities of the policy, `[2B, T]`: column `t` is that of token `t + 1`.
    pub policy_token_logps: Matrix,
    /// Log-probabilities of the reference, `[2B, T]`.
    pub ref_token_logps: Matrix,
    /// `log Σ_v p_v²` of the policy, `[2B, T]`.
    pub log_sum_sq_probs: Matrix,
    /// What was computed from them.
    pub cases: Vec<DpoCase>,
}

/// One configuration of TRL's DPO trainer.
#[derive(Debug, Clone, Deserialize)]
pub struct DpoCase {
    /// Its options.
    pub config: DpoConfig,
    /// `torch.float64` or `torch.float32`.
    pub dtype: String,
    /// The loss.
    pub loss: f64,
    /// The metrics by TRL's names.
    pub metrics: BTreeMap<String, f64>,
    /// d loss / d policy log-probability, `[2B, T]`.
    pub grad_policy_token_logps: Matrix,
}

/// The options of TRL's DPO trainer that decide the loss.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpoConfig {
    /// The losses that are added.
    pub loss_types: Vec<String>,
    /// Their factors.
    pub loss_weights: Vec<f64>,
    /// `β`.
    pub beta: f64,
    /// `ε`.
    pub label_smoothing: f64,
    /// The divergence.
    pub f_divergence_type: String,
    /// `α` of the alpha divergence.
    pub f_alpha_divergence_coef: f64,
    /// `α` of LD-DPO.
    pub ld_alpha: Option<f64>,
    /// Whether pairs are weighted as in WPO.
    pub use_weighting: bool,
    /// `τ` of DiscoPOP.
    pub discopop_tau: f64,
}

/// Cases over one batch of completions with a verdict.
#[derive(Debug, Clone, Deserialize)]
pub struct KtoGolden {
    /// Mask over tokens, `[N, T + 1]`; see [`shifted`].
    pub mask: Matrix,
    /// Mask over tokens of the mismatched completions, `[N, T + 1]`.
    pub kl_mask: Matrix,
    /// Log-probabilities of the policy, `[N, T]`.
    pub policy_token_logps: Matrix,
    /// Log-probabilities of the reference, `[N, T]`.
    pub ref_token_logps: Matrix,
    /// What was computed from them.
    pub cases: Vec<KtoCase>,
}

/// One configuration of TRL's KTO trainer.
#[derive(Debug, Clone, Deserialize)]
pub struct KtoCase {
    /// Its options.
    pub config: KtoConfig,
    /// The verdicts, `[N]`.
    pub labels: Vec<bool>,
    /// Log-probabilities by the policy of the mismatched completions, `[N, T]`.
    pub kl_policy_token_logps: Matrix,
    /// Log-probabilities by the reference of the mismatched completions, `[N, T]`.
    pub kl_ref_token_logps: Matrix,
    /// The loss.
    pub loss: f64,
    /// The metrics by TRL's names.
    pub metrics: BTreeMap<String, f64>,
    /// d loss / d policy log-probability, `[N, T]`.
    pub grad_policy_token_logps: Matrix,
}

/// The options of TRL's KTO trainer that decide the loss.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KtoConfig {
    /// The loss.
    pub loss_type: String,
    /// `β`.
    pub beta: f64,
    /// `λ_D`.
    pub desirable_weight: f64,
    /// `λ_U`.
    pub undesirable_weight: f64,
}

/// `trl_golden_bco_cpo_orpo.json`: what TRL's own functions computed in f32.
#[derive(Debug, Clone, Deserialize)]
pub struct TrlValues {
    /// The version of TRL.
    pub trl_version: String,
    /// Runs of BCO with its running mean.
    pub bco: Vec<BcoGolden>,
    /// CPO, SimPO and AlphaPO.
    pub cpo: Vec<CpoGolden>,
    /// ORPO.
    pub orpo: Vec<OrpoGolden>,
    /// Weights by the underlying distribution.
    pub bco_udm: BcoUdmGolden,
}

/// A run of BCO.
#[derive(Debug, Clone, Deserialize)]
pub struct BcoGolden {
    /// `β`.
    pub beta: f64,
    /// Its steps, in order.
    pub steps: Vec<BcoStep>,
}

/// A step of BCO: sequence log-probabilities in, losses and running mean out.
#[derive(Debug, Clone, Deserialize)]
pub struct BcoStep {
    /// Whether the running mean moves.
    pub do_train: bool,
    /// Desirable completions under the policy.
    pub policy_chosen: Vec<f64>,
    /// Undesirable completions under the policy.
    pub policy_rejected: Vec<f64>,
    /// Desirable completions under the reference.
    pub ref_chosen: Vec<f64>,
    /// Undesirable completions under the reference.
    pub ref_rejected: Vec<f64>,
    /// One loss a completion, desirable ones first.
    pub losses: Vec<f64>,
    /// Their mean.
    pub loss_nanmean: f64,
    /// The running mean of the rewards.
    pub delta: f64,
    /// How many rewards it has seen.
    pub running_count: f64,
    /// Their variance.
    pub running_var: f64,
}

/// A case of CPO, SimPO or AlphaPO on sequence log-probabilities.
#[derive(Debug, Clone, Deserialize)]
pub struct CpoGolden {
    /// The loss.
    pub loss_type: String,
    /// `β`.
    pub beta: f64,
    /// `ε`.
    pub label_smoothing: f64,
    /// `α` of AlphaPO.
    pub alpha: f64,
    /// `γ` of SimPO.
    pub simpo_gamma: f64,
    /// Chosen completions.
    pub chosen: Vec<f64>,
    /// Rejected completions.
    pub rejected: Vec<f64>,
    /// One loss a pair.
    pub losses: Vec<f64>,
    /// Rewards of the chosen completions.
    pub rewards_chosen: Vec<f64>,
    /// Rewards of the rejected completions.
    pub rewards_rejected: Vec<f64>,
}

/// A case of ORPO on mean token log-probabilities.
#[derive(Debug, Clone, Deserialize)]
pub struct OrpoGolden {
    /// `β`.
    pub beta: f64,
    /// Chosen completions.
    pub chosen_avg: Vec<f64>,
    /// Rejected completions.
    pub rejected_avg: Vec<f64>,
    /// `β·log σ` of the log-odds ratio, one a pair.
    pub beta_logsigmoid_logodds: Vec<f64>,
    /// Mean of `log σ` of the log-odds ratios.
    pub mean_logsigmoid: f64,
    /// Mean of the log-odds ratios.
    pub mean_log_odds: f64,
}

/// Weights of undesirable completions in BCO.
#[derive(Debug, Clone, Deserialize)]
pub struct BcoUdmGolden {
    /// Probability that the prompt is one of a desirable completion.
    pub p: Vec<f64>,
    /// The weight.
    pub weight: Vec<f64>,
}

/// `formula-vectors.json`: inputs, and values and gradients by name.
#[derive(Debug, Clone, Deserialize)]
pub struct FormulaVectors {
    inputs: BTreeMap<String, Value>,
    results: BTreeMap<String, BTreeMap<String, Value>>,
}

impl Golden {
    /// Reads a file of either form.
    ///
    /// # Errors
    /// If it cannot be read, is not JSON, or has neither form.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let keys: BTreeMap<String, serde::de::IgnoredAny> = json(path)?;
        if keys.contains_key("dpo") {
            Ok(Self::Tokens(Box::new(json(path)?)))
        } else if keys.contains_key("bco") {
            Ok(Self::Values(Box::new(json(path)?)))
        } else {
            let found = keys.into_keys().collect::<Vec<_>>().join(", ");
            Err(LoadError::new(
                path,
                format!("got the keys {found}; expected `dpo` and `kto`, or `bco`, `cpo` and `orpo`"),
            ))
        }
    }
}

impl FormulaVectors {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read or has another form.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        json(path)
    }

    /// Rows of an input, of lengths that may differ.
    pub fn rows(&self, input: &str) -> Option<Matrix> {
        serde_json::from_value(self.inputs.get(input)?.clone()).ok()
    }

    /// A flat input.
    pub fn input(&self, input: &str) -> Option<Vec<f64>> {
        serde_json::from_value(self.inputs.get(input)?.clone()).ok()
    }

    /// A list of a result, for example `grad_w` of `dpo`.
    pub fn list(&self, name: &str, key: &str) -> Option<Vec<f64>> {
        serde_json::from_value(self.results.get(name)?.get(key)?.clone()).ok()
    }

    /// A matrix of a result, for example `grad` of `adpa advantage term`.
    pub fn matrix(&self, name: &str, key: &str) -> Option<Matrix> {
        serde_json::from_value(self.results.get(name)?.get(key)?.clone()).ok()
    }

    /// A number of a result, for example `loss` of `dpo`.
    pub fn number(&self, name: &str, key: &str) -> Option<f64> {
        self.results.get(name)?.get(key)?.as_f64()
    }
}

/// A mask over tokens as a mask over log-probabilities: column `t` of the result is
/// that of token `t + 1`, whose log-probability stands in column `t`.
///
/// ```
/// assert_eq!(candlewick_testkit::shifted(&vec![vec![0.0, 1.0, 1.0]]), [[1.0, 1.0]]);
/// ```
pub fn shifted(mask: &Matrix) -> Matrix {
    mask.iter().map(|row| row.iter().skip(1).copied().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared;

    #[test]
    fn golden_files_have_the_form_they_are_read_in() {
        let Some(shared) = shared() else {
            println!("skipped: no shared folder");
            return;
        };
        let Golden::Tokens(tokens) = Golden::load(&shared.join("golden/trl_golden.json")).unwrap() else {
            panic!("another form");
        };
        assert_eq!((tokens.dpo.cases.len(), tokens.kto.cases.len()), (56, 8));
        let row = &tokens.dpo.cases[0].grad_policy_token_logps[0];
        assert_eq!(row.len(), shifted(&tokens.dpo.mask)[0].len());
        let Golden::Values(values) = Golden::load(&shared.join("golden/trl_golden_bco_cpo_orpo.json")).unwrap() else {
            panic!("another form");
        };
        assert_eq!((values.bco.len(), values.cpo.len(), values.orpo.len()), (2, 16, 1));
        let vectors = FormulaVectors::load(&shared.join("golden/formula-vectors.json")).unwrap();
        assert_eq!(vectors.list("dpo", "grad_w").unwrap().len(), 4);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Golden::load(Path::new("no/such/file.json")).unwrap_err();
        assert!(error.to_string().starts_with("no/such/file.json: "), "{error}");
    }
}
