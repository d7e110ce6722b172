//! Samples on which every loss of the list can be evaluated.

use candle_core::{DType, Device, Tensor, Var};
use candlewick_losses::{
    Context, Groups, MismatchedScores, Objective, Phase, Recipe, Scores, Solo, StepScores, TokenScores,
};

/// A batch on the host.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) policy: Vec<Vec<f64>>,
    pub(crate) reference: Vec<Vec<f64>>,
    pub(crate) mask: Vec<Vec<f64>>,
    pub(crate) groups: Groups,
}

impl Sample {
    pub(crate) fn new(groups: Groups) -> Self {
        let lengths = [5, 3, 4, 1, 2, 5, 3, 4];
        let mut numbers = numbers();
        let mut rows = |low: f64, high: f64| -> Vec<Vec<f64>> {
            lengths.iter().map(|_| (0..5).map(|_| low + (high - low) * numbers()).collect()).collect()
        };
        let (policy, reference) = (rows(-3.0, -0.1), rows(-3.0, -0.1));
        let mask = lengths.iter().map(|&length| (0..5).map(|slot| f64::from(u8::from(slot < length))).collect());
        Self { policy, reference, mask: mask.collect(), groups }
    }

    pub(crate) fn scores(&self, dtype: DType) -> (Var, Scores) {
        let log_probs = Var::from_tensor(&tensor(&self.policy, dtype)).unwrap();
        let mask = tensor(&self.mask, dtype);
        let policy = TokenScores::new(log_probs.as_tensor().clone(), mask.clone()).unwrap();
        let reference = TokenScores::new(tensor(&self.reference, dtype), mask).unwrap();
        let groups = self.groups.clone();
        (log_probs, Scores::new(policy, Some(reference), groups))
    }

    /// The loss with the context of its own step.
    pub(crate) fn loss(&self, recipe: &Recipe) -> f64 {
        self.loss_in(recipe, &context(recipe))
    }

    pub(crate) fn loss_in(&self, recipe: &Recipe, context: &Context) -> f64 {
        self.evaluate(recipe, context, DType::F64).0
    }

    /// Loss and gradient with respect to every log-probability.
    pub(crate) fn evaluate(&self, recipe: &Recipe, context: &Context, dtype: DType) -> (f64, Vec<f64>) {
        let (log_probs, scores) = self.scores(dtype);
        let loss = recipe.evaluate(&scores, context).unwrap().loss(&scores.totals()).unwrap();
        let gradient = loss.backward().unwrap().remove(&log_probs).unwrap();
        let gradient = gradient.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (loss.to_dtype(DType::F64).unwrap().to_scalar().unwrap(), gradient)
    }
}

/// What the objective prepares from two micro-batches of mismatched completions with a positive mean.
pub(crate) fn context(recipe: &Recipe) -> Context {
    let mismatched = |policy: [[f64; 2]; 2], reference: [[f64; 2]; 2]| {
        let scores = |rows: [[f64; 2]; 2]| TokenScores::unmasked(Tensor::new(&rows, &Device::Cpu).unwrap()).unwrap();
        let mismatched = MismatchedScores { policy: scores(policy), reference: scores(reference) };
        let (_, scores) = Sample::new(Groups::of_labelled(&[true, false])).scores(DType::F64);
        Scores { mismatched: Some(mismatched), ..scores }
    };
    let micro = [
        mismatched([[-1.0, -2.0], [-0.5, -1.0]], [[-1.5, -2.5], [-1.0, -1.0]]),
        mismatched([[-3.0, -2.0], [-0.5, -1.0]], [[-2.5, -2.0], [-1.0, -1.5]]),
    ];
    let step = StepScores { micro: &micro, collective: &Solo };
    recipe.clone().prepare(&step, Phase::Train).unwrap()
}

fn tensor(rows: &[Vec<f64>], dtype: DType) -> Tensor {
    Tensor::new(rows.to_vec(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Numbers in [0, 1) by a multiplicative congruence: the same on every machine.
fn numbers() -> impl FnMut() -> f64 {
    let mut state: u64 = 20_231_218;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}
