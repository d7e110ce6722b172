//! The methods and their options.
use std::collections::BTreeMap;

use super::slerp::{Angle, Between};
use super::{dare, iso, linear, ties};
use crate::error::{Error, Result};

/// How tensors become one.
///
/// `Δᵢ` is what stands in model `i` less what stands in the base, or the product `s·B·A` of adapter `i`. Every method
/// but [`Linear`](Self::Linear), and [`Slerp`](Self::Slerp) without a base, gives `base + λ·merged(Δ)`.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// `Σ wᵢ·xᵢ` of the weights themselves, or of adapters' products; no base takes part.
    Linear {
        /// One a model.
        weights: Vec<f64>,
        /// Divide by `Σ wᵢ`.
        normalize: bool,
    },
    /// `base + λ·Σ wᵢ·Δᵢ`.
    TaskArithmetic {
        /// One a model.
        weights: Vec<f64>,
        /// Divide by `Σ wᵢ`.
        normalize: bool,
        /// The factor of what is merged.
        lambda: f64,
    },
    /// Between two models along the arc; with a base between their task vectors.
    Slerp {
        /// 0 is the first model, 1 the second.
        t: f64,
        /// What is one vector.
        vector: Vector,
        /// The factor of what is merged; without a base 1.
        lambda: f64,
    },
    /// Trimmed task vectors, of which those agree that are averaged.
    Ties {
        /// One a model.
        weights: Vec<f64>,
        /// The share of elements that trimming keeps, one a model.
        densities: Vec<f64>,
        /// Divide by the weights of those that agree.
        normalize: bool,
        /// The factor of what is merged.
        lambda: f64,
    },
    /// Task vectors of which elements are dropped at random.
    Dare {
        /// One a model.
        weights: Vec<f64>,
        /// The share of elements that are kept, one a model.
        densities: Vec<f64>,
        /// Elect signs as TIES does (`dare_ties`), or add up (`dare_linear`).
        elect: bool,
        /// Divide by the weights, of those that agree or of all.
        normalize: bool,
        /// Divide what is kept by the density.
        rescale: bool,
        /// What decides the draw.
        seed: u64,
        /// The factor of what is merged.
        lambda: f64,
    },
    /// The sum of task matrices with equal singular values; tensors that are no matrices are averaged.
    IsoC {
        /// The factor of what is merged.
        lambda: f64,
    },
    /// The same over common and task-specific directions.
    IsoCts {
        /// The share of common directions.
        common: f64,
        /// The factor of what is merged.
        lambda: f64,
    },
}

/// What spherical interpolation takes for one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vector {
    /// Every tensor by itself.
    Tensor,
    /// All tensors of a layer, `model.layers.N.`; tensors outside of layers by themselves.
    Layer,
}

impl Vector {
    /// The vector that a tensor belongs to.
    pub(super) fn of(self, tensor: &str) -> &str {
        const LAYERS: &str = "model.layers.";
        let end = match self {
            Self::Layer => tensor.strip_prefix(LAYERS).and_then(|rest| rest.find('.')).map(|dot| LAYERS.len() + dot),
            Self::Tensor => None,
        };
        &tensor[..end.unwrap_or(tensor.len())]
    }
}

/// The angles of spherical interpolation, by vector.
pub(super) type Angles = BTreeMap<String, Angle>;

/// One tensor of every model, its deltas or its weights.
pub(super) struct Tensors {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<Vec<f64>>,
}

impl Method {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::TaskArithmetic { .. } => "task_arithmetic",
            Self::Slerp { .. } => "slerp",
            Self::Ties { .. } => "ties",
            Self::Dare { elect: false, .. } => "dare_linear",
            Self::Dare { elect: true, .. } => "dare_ties",
            Self::IsoC { .. } => "iso_c",
            Self::IsoCts { .. } => "iso_cts",
        }
    }

    /// Whether whole models need a base.
    pub fn needs_base(&self) -> bool {
        !matches!(self, Self::Linear { .. } | Self::Slerp { .. })
    }

    /// What the merged deltas are multiplied with.
    pub(super) fn lambda(&self) -> f64 {
        match self {
            Self::Linear { .. } => 1.0,
            Self::TaskArithmetic { lambda, .. }
            | Self::Slerp { lambda, .. }
            | Self::Ties { lambda, .. }
            | Self::Dare { lambda, .. }
            | Self::IsoC { lambda }
            | Self::IsoCts { lambda, .. } => *lambda,
        }
    }

    /// Checks the options for `count` models.
    ///
    /// # Errors
    /// A number outside its range, or not one a model.
    pub fn check(&self, count: usize) -> Result<()> {
        let finite = |name: &str, value: f64| match value.is_finite() {
            true => Ok(()),
            false => Err(Error::Input(format!("{name} is {value}; expected a finite number"))),
        };
        finite("lambda", self.lambda())?;
        if count == 0 {
            return Err(Error::Input("nothing to merge; name models or adapters".into()));
        }
        match self {
            Self::Linear { weights, normalize } | Self::TaskArithmetic { weights, normalize, .. } => {
                check_weights(weights, *normalize, false, count)
            }
            Self::Slerp { t, .. } if !(0.0..=1.0).contains(t) => {
                Err(Error::Input(format!("t is {t}; expected 0, the first model, to 1, the second")))
            }
            Self::Slerp { .. } if count != 2 => {
                Err(Error::Input(format!("slerp goes between two models, and {count} are named; name two")))
            }
            Self::Slerp { .. } | Self::IsoC { .. } => Ok(()),
            Self::IsoCts { common, .. } if !(0.0..=1.0).contains(common) => {
                Err(Error::Input(format!("common-space-fraction is {common}; expected 0 to 1")))
            }
            Self::IsoCts { .. } => Ok(()),
            Self::Ties { weights, densities, normalize, .. } => {
                check_weights(weights, *normalize, true, count)?;
                check_densities(densities, count)
            }
            Self::Dare { weights, densities, normalize, elect, .. } => {
                check_weights(weights, *normalize, *elect, count)?;
                check_densities(densities, count)
            }
        }
    }

    /// What one tensor of the result is, before the factor λ; `angles` are those of [`Slerp`](Self::Slerp).
    pub(super) fn merge(&self, tensors: Tensors, angles: &Angles) -> Result<Vec<f64>> {
        let Tensors { name, shape, mut data } = tensors;
        Ok(match self {
            Self::Linear { .. } | Self::TaskArithmetic { .. } | Self::Slerp { .. } => {
                linear::weighted_sum(&data, &self.factors(&name, angles).unwrap_or_default())
            }
            Self::Ties { weights, densities, normalize, .. } => {
                data.iter_mut().zip(densities).for_each(|(delta, density)| ties::trim(delta, *density));
                ties::elect(&data, weights, *normalize)
            }
            Self::Dare { weights, densities, elect, normalize, rescale, seed, .. } => {
                for (model, (delta, density)) in data.iter_mut().zip(densities).enumerate() {
                    dare::drop_out(delta, *density, *rescale, *seed, model, &name);
                }
                match elect {
                    true => ties::elect(&data, weights, *normalize),
                    false => linear::weighted_sum(&data, &linear::shares(weights, *normalize)),
                }
            }
            Self::IsoC { .. } | Self::IsoCts { .. } if shape.len() != 2 => {
                linear::weighted_sum(&data, &linear::shares(&vec![1.0; data.len()], true))
            }
            Self::IsoC { .. } => iso::iso_c(&data, shape[0], shape[1])?,
            Self::IsoCts { common, .. } => iso::iso_cts(&data, shape[0], shape[1], *common)?,
        })
    }

    /// The factors of the tensors, of a method that only adds them up.
    pub(super) fn factors(&self, tensor: &str, angles: &Angles) -> Option<Vec<f64>> {
        match self {
            Self::Linear { weights, normalize } | Self::TaskArithmetic { weights, normalize, .. } => {
                Some(linear::shares(weights, *normalize))
            }
            Self::Slerp { t, vector, .. } => {
                let Between { a, b, .. } = angles.get(vector.of(tensor)).copied().unwrap_or_default().at(*t);
                Some(vec![a, b])
            }
            _ => None,
        }
    }
}

fn check_weights(weights: &[f64], normalize: bool, elects: bool, count: usize) -> Result<()> {
    if weights.len() != count {
        let found = weights.len();
        return Err(Error::Input(format!("there are {found} weights for {count} models; give one a model, in order")));
    }
    if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
        return Err(Error::Input(format!("a weight is {weight}; expected finite numbers")));
    }
    let total: f64 = weights.iter().sum();
    if normalize && elects && weights.iter().any(|weight| *weight <= 0.0) {
        return Err(Error::Input(format!(
            "weights are {weights:?}; a mean of those that agree needs positive ones: give such, or normalize = false"
        )));
    }
    if normalize && total.abs() < 1e-8 {
        return Err(Error::Input(format!(
            "weights are {weights:?} and add up to {total}; they cannot be divided by that: normalize = false"
        )));
    }
    Ok(())
}

fn check_densities(densities: &[f64], count: usize) -> Result<()> {
    if densities.len() != count {
        let found = densities.len();
        return Err(Error::Input(format!("there are {found} densities for {count} models; give one, or one a model")));
    }
    match densities.iter().find(|density| !(**density > 0.0 && **density <= 1.0)) {
        Some(density) => Err(Error::Input(format!("density is {density}; expected more than 0, to 1"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_one_vector() {
        let name = "model.layers.12.self_attn.q_proj.weight";
        assert_eq!(Vector::Layer.of(name), "model.layers.12");
        assert_eq!(Vector::Tensor.of(name), name);
        for outside in ["model.embed_tokens.weight", "model.layers.", "lm_head.weight"] {
            assert_eq!(Vector::Layer.of(outside), outside);
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        let ties = |weights: &[f64], density: f64, normalize| Method::Ties {
            weights: weights.to_vec(),
            densities: vec![density; 2],
            normalize,
            lambda: 1.0,
        };
        for (method, word) in [
            (ties(&[1.0], 0.5, true), "1 weights for 2"),
            (ties(&[1.0, f64::NAN], 0.5, true), "NaN"),
            (ties(&[1.0, -1.0], 0.5, true), "positive"),
            (ties(&[1.0, 1.0], 0.0, true), "density is 0"),
            (ties(&[1.0, 1.0], 1.5, true), "density is 1.5"),
            (Method::Linear { weights: vec![1.0, -1.0], normalize: true }, "add up to 0"),
            (Method::Slerp { t: 1.5, vector: Vector::Tensor, lambda: 1.0 }, "t is 1.5"),
            (Method::IsoC { lambda: f64::INFINITY }, "lambda is inf"),
            (Method::IsoCts { common: -0.1, lambda: 1.0 }, "common-space-fraction"),
        ] {
            let error = method.check(2).unwrap_err().to_string();
            assert!(error.contains(word), "{method:?}: {error}");
        }
        ties(&[1.0, -1.0], 0.5, false).check(2).unwrap();
        let slerp = Method::Slerp { t: 0.5, vector: Vector::Layer, lambda: 1.0 };
        assert!(slerp.check(3).unwrap_err().to_string().contains("3 are named"));
        assert!(slerp.check(0).unwrap_err().to_string().contains("nothing to merge"));
    }
}
