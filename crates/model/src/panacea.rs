//! Panacea: an adapter of which some singular values are a preference vector.
//!
//! `W = W₀ + c·U·diag(σ₁ … σ_r, s·λ₁ … s·λ_m)·Vᵀ`. `U [out, r + m]` lies where LoRA has its B and `Vᵀ [r + m, in]`
//! where it has its A; `c` is LoRA's scale. `σ [r]` and the one number `s` are trained, `λ` is no parameter: it is
//! given, non-negative with a sum of 1, and may be another one for every pass. `U` and `V` start with orthonormal
//! columns and `σ` and `s` at 0, so that a fresh adapter changes nothing at any `λ`.
//!
//! Zhong et al. 2024, arXiv 2402.02030; the penalty as in AdaLoRA, Zhang et al. 2023, arXiv 2303.10512. Both are known
//! second-hand.
use candlewick_kernels::Float;
use rand::rngs::StdRng;
use serde_json::{Map, Value};

use crate::adapter::PREFIX;
use crate::error::{Error, Result};
use crate::parameters::Gradients;
use crate::trunk::standard_normal;

/// What stands as `peft_type` in the files of such an adapter: PEFT knows none of that name, and refuses it.
pub(crate) const PEFT_TYPE: &str = "PANACEA";
/// The key of `m` in the adapter's files.
pub(crate) const PREFERENCES: &str = "preferences";
/// The key of `γ` in the adapter's files.
pub(crate) const ORTHOGONALITY: &str = "orthogonality";
/// More preferences than anybody has, so that a damaged file cannot ask for anything.
pub(crate) const MAX_PREFERENCES: usize = 64;
/// How far the sum of a preference vector may be from 1.
const TOLERANCE: f64 = 1e-6;

/// What a Panacea adapter has beside the pairs of LoRA.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Panacea {
    /// `λ`, `[m]`.
    pub(crate) preference: Vec<f64>,
    /// `γ`, the weight of the penalty.
    pub(crate) orthogonality: f64,
}

/// Where the singular values of one linear lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub(crate) sigma: usize,
    pub(crate) s: usize,
}

impl Panacea {
    /// At equal preferences.
    pub(crate) fn new(preferences: usize, orthogonality: f64) -> Result<Self> {
        if !(2..=MAX_PREFERENCES).contains(&preferences) {
            return Err(Error::Input(format!("{PREFERENCES} is {preferences}; expected 2 to {MAX_PREFERENCES}")));
        }
        if !(orthogonality.is_finite() && orthogonality >= 0.0) {
            return Err(Error::Input(format!("{ORTHOGONALITY} is {orthogonality}; expected a number of at least 0")));
        }
        Ok(Self { preference: vec![1.0 / preferences as f64; preferences], orthogonality })
    }

    /// Of an adapter's configuration; nothing of a plain one.
    pub(crate) fn of(config: &Map<String, Value>) -> Result<Option<Self>> {
        if !is_panacea(config) {
            return Ok(None);
        }
        let count = config.get(PREFERENCES).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
        let orthogonality = config.get(ORTHOGONALITY).and_then(Value::as_f64);
        match (count, orthogonality) {
            (Some(count), Some(orthogonality)) => Self::new(count, orthogonality).map(Some),
            (None, _) => {
                Err(Error::Input(format!("{PREFERENCES} is missing or no count; expected 2 to {MAX_PREFERENCES}")))
            }
            (_, None) => Err(Error::Input(format!("{ORTHOGONALITY} is missing; expected a number of at least 0"))),
        }
    }

    pub(crate) fn set_preference(&mut self, preference: &[f64]) -> Result<()> {
        check_preference(preference, self.preference.len())?;
        self.preference.copy_from_slice(preference);
        Ok(())
    }

    /// `[σ, s·λ]`, the `r + m` singular values.
    pub(crate) fn values<T: Float>(&self, sigma: &[T], s: T) -> Vec<T> {
        sigma.iter().copied().chain(self.preference.iter().map(|weight| s * T::from_f64(*weight))).collect()
    }

    /// Adds the gradients of `σ` and `s`, given those of the values: `∂/∂s = Σ λᵢ·∂/∂(s·λᵢ)`.
    pub(crate) fn add_gradients<T: Float>(&self, places: Places, d_values: &[f64], gradients: &mut Gradients<T>) {
        let (of_sigma, of_preference) = d_values.split_at(d_values.len() - self.preference.len());
        for (gradient, d) in gradients.tensor_mut(places.sigma).iter_mut().zip(of_sigma) {
            *gradient += T::from_f64(*d);
        }
        let d: f64 = of_preference.iter().zip(&self.preference).map(|(d, weight)| d * weight).sum();
        gradients.tensor_mut(places.s)[0] += T::from_f64(d);
    }
}

/// Whether an adapter's configuration is that of a Panacea adapter.
pub(crate) fn is_panacea(config: &Map<String, Value>) -> bool {
    config.get("peft_type").and_then(Value::as_str) == Some(PEFT_TYPE)
}

/// Refuses what is no vector of `count` preferences: non-negative numbers with a sum of 1.
pub(crate) fn check_preference(preference: &[f64], count: usize) -> Result<()> {
    let sum: f64 = preference.iter().sum();
    if preference.len() != count {
        return Err(Error::Input(format!(
            "the preference has {} numbers and the adapter {count} preferences; give one number for each",
            preference.len()
        )));
    }
    match preference.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
        Some(weight) => Err(Error::Input(format!("the preference holds {weight}; expected numbers of at least 0"))),
        None if (sum - 1.0).abs() > TOLERANCE => {
            Err(Error::Input(format!("the preference {preference:?} has a sum of {sum}; expected 1")))
        }
        None => Ok(()),
    }
}

/// The names of `σ` and `s` of a module.
pub(crate) fn stored(module: &str) -> [String; 2] {
    [format!("{PREFIX}{module}.lora_sigma"), format!("{PREFIX}{module}.lora_s")]
}

/// `x diag(values)` into `out`, both `[rows, k]`.
pub(crate) fn scale_columns<T: Float>(x: &[T], values: &[T], out: &mut [T]) {
    for (out, x) in out.chunks_exact_mut(values.len()).zip(x.chunks_exact(values.len())) {
        out.iter_mut().zip(x.iter().zip(values)).for_each(|(out, (x, value))| *out = *x * *value);
    }
}

/// `Σ_rows x·y` of each column of two `[rows, k]`.
pub(crate) fn column_products<T: Float>(x: &[T], y: &[T], columns: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact(columns)) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum += x.to_f64() * y.to_f64());
    }
    sums
}

/// `count` orthonormal vectors of `size` numbers, one after another: normal draws by Gram and Schmidt, each projected
/// twice. There are at most `size`.
pub(crate) fn orthonormal(count: usize, size: usize, random: &mut StdRng) -> Vec<f64> {
    let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut vector: Vec<f64> = (0..size).map(|_| standard_normal(random)).collect();
        for other in vectors.iter().chain(&vectors) {
            let along: f64 = other.iter().zip(&vector).map(|(a, b)| a * b).sum();
            vector.iter_mut().zip(other).for_each(|(x, other)| *x -= along * other);
        }
        let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        vector.iter_mut().for_each(|x| *x /= norm);
        vectors.push(vector);
    }
    vectors.concat()
}

/// `‖M·Mᵀ − 1‖²` of `M [k, n]`, of which row `i` starts at `i·row` and has its numbers `step` apart; adds `weight`
/// times its gradient, `4·(M·Mᵀ − 1)·M`, to numbers that lie alike.
pub(crate) fn add_penalty<T: Float>(
    m: &[T],
    [row, step]: [usize; 2],
    k: usize,
    weight: f64,
    gradient: &mut [T],
) -> f64 {
    let n = m.len() / k;
    let rows: Vec<Vec<f64>> = (0..k).map(|i| (0..n).map(|j| m[i * row + j * step].to_f64()).collect()).collect();
    let mut penalty = 0.0;
    for i in 0..k {
        let mut slope = vec![0.0; n];
        for (j, other) in rows.iter().enumerate() {
            let product: f64 = rows[i].iter().zip(other).map(|(a, b)| a * b).sum();
            let off = product - f64::from(u8::from(i == j));
            penalty += off * off;
            slope.iter_mut().zip(other).for_each(|(slope, x)| *slope += 4.0 * off * x);
        }
        for (j, slope) in slope.iter().enumerate() {
            gradient[i * row + j * step] += T::from_f64(weight * slope);
        }
    }
    penalty
}
