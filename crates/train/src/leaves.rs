//! Where automatic differentiation begins and ends: the scores of one micro-batch.
use candle_core::{DType, Tensor, Var};
use candlewick_losses::TokenScores;

use crate::error::Result;
use crate::policy::Cotangents;

/// The scores of a policy as the variables of a small graph.
#[derive(Debug)]
pub(crate) struct Leaves {
    /// Scores that carry gradients back to the variables.
    pub(crate) scores: TokenScores,
    log_probs: Var,
    mean_log_probs: Option<Var>,
    log_sum_sq_probs: Option<Var>,
    entropy: Option<Var>,
    given: Option<Var>,
    values: Option<Var>,
}

impl Leaves {
    pub(crate) fn new(scores: &TokenScores) -> Result<Self> {
        let variable = |tensor: &Tensor| Var::from_tensor(&tensor.detach());
        let optional = |tensor: Option<&Tensor>| tensor.map(variable).transpose();
        let log_probs = variable(scores.log_probs())?;
        let mean_log_probs = optional(scores.mean_log_probs())?;
        let log_sum_sq_probs = optional(scores.log_sum_sq_probs())?;
        let entropy = optional(scores.entropy())?;
        let given = optional(scores.given())?;
        let values = optional(scores.values())?;
        let mut graph = TokenScores::new(log_probs.as_tensor().clone(), scores.mask().clone())?;
        if let Some(variable) = &mean_log_probs {
            graph = graph.with_mean_log_probs(variable.as_tensor().clone())?;
        }
        if let Some(variable) = &log_sum_sq_probs {
            graph = graph.with_log_sum_sq_probs(variable.as_tensor().clone())?;
        }
        if let Some(variable) = &entropy {
            graph = graph.with_entropy(variable.as_tensor().clone())?;
        }
        if let Some(variable) = &given {
            graph = graph.with_given(variable.as_tensor().clone())?;
        }
        if let Some(variable) = &values {
            graph = graph.with_values(variable.as_tensor().clone())?;
        }
        if let Some(is_top1) = scores.is_top1() {
            graph = graph.with_is_top1(is_top1.clone())?;
        }
        Ok(Self { scores: graph, log_probs, mean_log_probs, log_sum_sq_probs, entropy, given, values })
    }

    /// d(loss)/d(scores) of a scalar `loss`.
    pub(crate) fn cotangents(&self, loss: &Tensor) -> Result<Cotangents> {
        let gradients = loss.backward()?;
        let optional = |variable: &Option<Var>| variable.as_ref().and_then(|variable| gradients.get(variable)).cloned();
        let log_probs = match gradients.get(&self.log_probs) {
            Some(gradient) => gradient.clone(),
            // No term depends on them, as when every total is zero.
            None => self.log_probs.zeros_like()?,
        };
        Ok(Cotangents {
            log_probs,
            mean_log_probs: optional(&self.mean_log_probs),
            log_sum_sq_probs: optional(&self.log_sum_sq_probs),
            entropy: optional(&self.entropy),
            given: optional(&self.given),
            values: optional(&self.values),
        })
    }
}

impl Cotangents {
    /// Whether every derivative is zero: the loss is flat here.
    pub(crate) fn are_zero(&self) -> Result<bool> {
        let all = [
            Some(&self.log_probs),
            self.mean_log_probs.as_ref(),
            self.log_sum_sq_probs.as_ref(),
            self.entropy.as_ref(),
            self.given.as_ref(),
            self.values.as_ref(),
        ];
        for tensor in all.into_iter().flatten() {
            if tensor.abs()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()? != 0.0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
