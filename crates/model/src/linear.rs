//! A linear with or without a low-rank adapter, forward and backward.
use candlewick_kernels::{Float, Workspace, linear};

use crate::adapter::{Lora, LoraPair};
use crate::error::Result;
use crate::panacea::scale_columns;
use crate::sketch::GradientSink;

/// One linear as the trunk sees it: its weight `[out, in]` and, when an adapter is on, the adapter's pair.
pub(crate) struct Linear<'a, T> {
    pub(crate) weight: &'a [T],
    /// Where the weight's gradient goes when the base is trained.
    pub(crate) weight_place: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) lora: Option<(&'a Lora<T>, LoraPair)>,
    /// Whether the weight itself is trained.
    pub(crate) weight_trained: bool,
}

impl<T: Float> Linear<'_, T> {
    fn shape(&self, rows: usize) -> linear::Shape {
        linear::Shape { rows, in_features: self.inputs, out_features: self.outputs }
    }

    /// `y = x Wᵀ (+ s (x Aᵀ) Bᵀ, of a Panacea adapter s (x Aᵀ) diag(values) Bᵀ)`; returns `x Aᵀ` `[rows, r]` (empty without an adapter), which the backward needs.
    pub(crate) fn forward(&self, x: &[T], y: &mut [T], rows: usize, workspace: &mut Workspace) -> Result<Vec<T>> {
        linear::forward(x.into(), self.weight.into(), (&mut *y).into(), self.shape(rows), T::ONE, false, workspace)?;
        let Some((lora, pair)) = self.lora else { return Ok(Vec::new()) };
        let parameters = &lora.parameters;
        let mut low = workspace.take(rows * pair.rank);
        let (down, up) = self.low_rank_shapes(rows, pair.rank);
        linear::forward(x.into(), parameters.tensor(pair.a).into(), (&mut low).into(), down, T::ONE, false, workspace)?;
        let scaled = lora.values(pair).map(|values| scaled(&low, &values, workspace));
        linear::forward(
            scaled.as_ref().unwrap_or(&low).into(),
            parameters.tensor(pair.b).into(),
            y.into(),
            up,
            T::from_f64(pair.scale),
            true,
            workspace,
        )?;
        workspace.give_back_all(scaled);
        Ok(low)
    }

    /// Puts `dy W (+ s (dy B) A)` into `dx` (adds it where the flag says so), if that is wanted, and adds the gradients of what
    /// is trained.
    pub(crate) fn backward(
        &self,
        x: &[T],
        low: &[T],
        dy: &[T],
        mut dx: Option<(&mut [T], bool)>,
        gradients: &mut GradientSink<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let rows = dy.len() / self.outputs;
        let shape = self.shape(rows);
        if self.weight_trained {
            let dw = gradients.tensor_mut(self.weight_place);
            linear::backward_weight(x.into(), dy.into(), dw.into(), shape, T::ONE, true, workspace)?;
        }
        if let Some((dx, accumulate)) = &mut dx {
            let weight = self.weight.into();
            linear::backward_input(dy.into(), weight, (&mut **dx).into(), shape, T::ONE, *accumulate, workspace)?;
        }
        let Some((lora, pair)) = self.lora else { return Ok(()) };
        let parameters = &lora.parameters;
        let (down, up) = self.low_rank_shapes(rows, pair.rank);
        let scale = T::from_f64(pair.scale);
        let values = lora.values(pair);
        let scaled = values.as_ref().map(|values| scaled(low, values, workspace));
        gradients.add_product(pair.b, scaled.as_deref().unwrap_or(low), dy, up, scale, workspace)?;
        workspace.give_back_all(scaled);
        let mut d_low = workspace.take(rows * pair.rank);
        linear::backward_input(
            dy.into(),
            parameters.tensor(pair.b).into(),
            (&mut d_low).into(),
            up,
            scale,
            false,
            workspace,
        )?;
        if let Some(values) = &values {
            lora.add_value_gradients(pair, low, &d_low, gradients.whole);
            let d_scaled = std::mem::replace(&mut d_low, workspace.take(rows * pair.rank));
            scale_columns(&d_scaled, values, &mut d_low);
            workspace.give_back(d_scaled);
        }
        gradients.add_product(pair.a, x, &d_low, down, T::ONE, workspace)?;
        if let Some((dx, _)) = dx {
            let a = parameters.tensor(pair.a).into();
            linear::backward_input((&d_low).into(), a, dx.into(), down, T::ONE, true, workspace)?;
        }
        workspace.give_back(d_low);
        Ok(())
    }

    fn low_rank_shapes(&self, rows: usize, rank: usize) -> (linear::Shape, linear::Shape) {
        (
            linear::Shape { rows, in_features: self.inputs, out_features: rank },
            linear::Shape { rows, in_features: rank, out_features: self.outputs },
        )
    }
}

/// `low diag(values)`, `[rows, rank]`.
fn scaled<T: Float>(low: &[T], values: &[T], workspace: &mut Workspace) -> Vec<T> {
    let mut scaled = workspace.take(low.len());
    scale_columns(low, values, &mut scaled);
    scaled
}
