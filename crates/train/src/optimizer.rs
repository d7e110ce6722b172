//! AdamW over flat buffers, and the clip before it.
use std::ops::Range;
use std::path::Path;

use candlewick_kernels::{Float, Workspace, adamw, zeros};
use candlewick_model::{Gradients, Parameters};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tensor_file::{self, Column, Columns, Element};

/// Hyperparameters of AdamW (Loshchilov & Hutter, arXiv 1711.05101), as in torch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWOptions {
    /// Peak learning rate; the schedule scales it.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay. Norms and biases are spared, as transformers' trainer does.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { learning_rate: 1e-6, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// AdamW with its moments, in the layout of the parameters.
#[derive(Debug, Clone)]
pub(crate) struct AdamW<T> {
    options: AdamWOptions,
    steps: u64,
    mean: Vec<T>,
    mean_square: Vec<T>,
    /// Stretches of neighbouring parameters that decay alike.
    spans: Vec<(Range<usize>, bool)>,
}

impl<T: Element> AdamW<T> {
    pub(crate) fn new(parameters: &Parameters<T>, options: AdamWOptions) -> Self {
        let mut spans: Vec<(Range<usize>, bool)> = Vec::new();
        for i in 0..parameters.len() {
            let (range, decays) = (parameters.range(i), options.weight_decay > 0.0 && decays(parameters.name(i)));
            match spans.last_mut() {
                Some((span, same)) if *same == decays && span.end == range.start => span.end = range.end,
                _ => spans.push((range, decays)),
            }
        }
        let count = parameters.element_count();
        Self { options, steps: 0, mean: zeros(count), mean_square: zeros(count), spans }
    }

    /// One update with gradients scaled by `scale` and the learning rate by `factor`.
    pub(crate) fn step(
        &mut self,
        parameters: &mut Parameters<T>,
        gradients: &Gradients<T>,
        scale: f64,
        factor: f64,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.steps += 1;
        for (range, decays) in &self.spans {
            let hyper = adamw::Hyper {
                lr: self.options.learning_rate * factor,
                beta1: self.options.beta1,
                beta2: self.options.beta2,
                eps: self.options.eps,
                weight_decay: if *decays { self.options.weight_decay } else { 0.0 },
            };
            adamw::step(
                (&mut parameters.data_mut()[range.clone()]).into(),
                (&gradients.data()[range.clone()]).into(),
                (&mut self.mean[range.clone()]).into(),
                (&mut self.mean_square[range.clone()]).into(),
                self.steps,
                scale,
                hyper,
                workspace,
            )?;
        }
        Ok(())
    }

    /// Whether a gradient other than zero ever reached these parameters.
    pub(crate) fn has_met_gradient(&self, range: Range<usize>) -> bool {
        let moments = self.mean[range.clone()].iter().chain(&self.mean_square[range]);
        moments.into_iter().any(|x| Float::to_f64(*x) != 0.0)
    }

    /// Writes moments and count.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let metadata = [("format", "candlewick-adamw"), ("version", "1"), ("steps", &self.steps.to_string())]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let columns = [("mean", Column::new(&self.mean)), ("mean_square", Column::new(&self.mean_square))];
        tensor_file::write(path, &metadata.into(), &columns)
    }

    /// Reads what [`save`](Self::save) wrote, for parameters of the same layout.
    pub(crate) fn load(&mut self, path: &Path) -> Result<()> {
        let refuse = |reason: String| Error::checkpoint(path, reason);
        let file = Columns::read(path)?.map_err(refuse)?;
        if (file.metadata("format"), file.metadata("version")) != (Some("candlewick-adamw"), Some("1")) {
            return Err(refuse("not the state of AdamW in format version 1".into()));
        }
        let steps = file.metadata("steps").and_then(|text| text.parse().ok());
        let steps = steps.ok_or_else(|| refuse("the number of steps is missing".into()))?;
        let mean = file.column::<T>("mean").map_err(refuse)?;
        let mean_square = file.column::<T>("mean_square").map_err(refuse)?;
        if mean.len() != self.mean.len() || mean_square.len() != self.mean.len() {
            return Err(refuse(format!("it holds {} numbers; the parameters have {}", mean.len(), self.mean.len())));
        }
        self.steps = steps;
        self.mean.copy_from_slice(&mean);
        self.mean_square.copy_from_slice(&mean_square);
        Ok(())
    }
}

/// The factor that brings gradients of norm `norm` down to `limit`, as `torch.nn.utils.clip_grad_norm_` computes it:
/// `min(1, limit / (norm + 1e-6))`. A limit of 0 means none.
pub(crate) fn clip_factor(norm: f64, limit: f64) -> f64 {
    if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

fn decays(name: &str) -> bool {
    !name.contains("norm") && !name.ends_with("bias")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Parameters<f64> {
        let layout = [("a.weight", 2), ("b.norm.weight", 1), ("c.weight", 1), ("c.bias", 1)];
        let mut p = Parameters::zeros(layout.map(|(name, length)| (name.to_owned(), vec![length]))).unwrap();
        p.data_mut().copy_from_slice(&[1.0, -2.0, 3.0, 4.0, 5.0]);
        p
    }

    // The first step of Adam moves each weight by lr · sign(gradient), whatever the gradient's size (eps = 0).
    #[test]
    fn weights_decay_and_norms_and_biases_do_not() {
        let mut p = parameters();
        let mut gradients = Gradients::zeros(&p);
        gradients.data_mut().copy_from_slice(&[1.0, -10.0, 2.0, -3.0, 0.5]);
        let options = AdamWOptions { learning_rate: 0.2, eps: 0.0, weight_decay: 0.5, ..AdamWOptions::default() };
        AdamW::new(&p, options).step(&mut p, &gradients, 0.25, 0.5, &mut Workspace::new(1)).unwrap();
        let expected = [1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1, 3.0 - 0.1, 4.0 * 0.95 + 0.1, 5.0 - 0.1];
        for (got, expected) in p.data().iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12, "{got} instead of {expected}");
        }
    }

    #[test]
    fn moments_come_back_to_the_bit_and_only_for_the_same_layout() {
        let mut p = parameters();
        let mut gradients = Gradients::zeros(&p);
        gradients.data_mut().copy_from_slice(&[0.1, 0.2, 0.3, 0.4, 0.5]);
        let mut one = AdamW::new(&p, AdamWOptions::default());
        one.step(&mut p, &gradients, 1.0, 1.0, &mut Workspace::new(1)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("optimizer.safetensors");
        one.save(&path).unwrap();
        let mut other = AdamW::new(&p, AdamWOptions::default());
        other.load(&path).unwrap();
        let mut q = p.clone();
        one.step(&mut p, &gradients, 1.0, 1.0, &mut Workspace::new(1)).unwrap();
        other.step(&mut q, &gradients, 1.0, 1.0, &mut Workspace::new(1)).unwrap();
        assert!(p.data().iter().zip(q.data()).all(|(a, b)| a.to_bits() == b.to_bits()));

        let small = Parameters::<f64>::zeros([("a".to_owned(), vec![1])]).unwrap();
        let text = AdamW::new(&small, AdamWOptions::default()).load(&path).unwrap_err().to_string();
        assert!(text.contains("it holds 5 numbers; the parameters have 1"), "{text}");
    }

    #[test]
    fn the_clip_is_torchs() {
        assert!((clip_factor(4.0, 1.0) - 1.0 / 4.000001).abs() < 1e-15);
        assert!((clip_factor(0.5, 1.0) - 1.0).abs() < f64::EPSILON);
        assert!((clip_factor(1e9, 0.0) - 1.0).abs() < f64::EPSILON);
    }
}
