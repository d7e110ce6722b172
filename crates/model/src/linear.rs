//! A linear with or without a low-rank adapter, forward and backward.
use candlewick_kernels::{Buffer, Element, Float, View, ViewMut, Workspace, linear};

use crate::adapter::{Lora, LoraPair};
use crate::error::Result;
use crate::panacea::scale_columns;
use crate::sketch::GradientSink;

/// One linear as the trunk sees it: its weight `[out, in]` and, when an adapter is on, the adapter's pair.
pub(crate) struct Linear<'a, T: Element> {
    pub(crate) weight: View<'a, T>,
    /// Where the weight's gradient goes when the base is trained.
    pub(crate) weight_place: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) lora: Option<(&'a Lora<T>, LoraPair)>,
    /// Whether the weight itself is trained.
    pub(crate) weight_trained: bool,
}

impl<T: Element> Linear<'_, T> {
    fn shape(&self, rows: usize) -> linear::Shape {
        linear::Shape { rows, in_features: self.inputs, out_features: self.outputs }
    }

    /// `y = x Wᵀ (+ s (x Aᵀ) Bᵀ, of a Panacea adapter s (x Aᵀ) diag(values) Bᵀ)`; returns `x Aᵀ` `[rows, r]` (empty without an adapter), which the backward needs.
    pub(crate) fn forward(
        &self,
        x: View<'_, T>,
        mut y: ViewMut<'_, T>,
        rows: usize,
        workspace: &mut Workspace,
    ) -> Result<Buffer<T>> {
        linear::forward(x, self.weight, y.reborrow(), self.shape(rows), T::Wide::ONE, false, workspace)?;
        let Some((lora, pair)) = self.lora else { return Ok(Buffer::default()) };
        let (a, b) = (lora.parameters.view(pair.a), lora.parameters.view(pair.b));
        let mut low = workspace.lend(rows * pair.rank)?;
        let (down, up) = self.low_rank_shapes(rows, pair.rank);
        linear::forward(x, a, low.view_mut(), down, T::Wide::ONE, false, workspace)?;
        let values = lora.values(pair)?;
        let scaled = values.map(|values| scaled(low.view(), &values, workspace)).transpose()?;
        let scale = T::Wide::from_f64(pair.scale);
        linear::forward(scaled.as_ref().unwrap_or(&low).into(), b, y, up, scale, true, workspace)?;
        workspace.reclaim_all(scaled);
        Ok(low)
    }

    /// Puts `dy W (+ s (dy B) A)` into `dx` (adds it where the flag says so), if that is wanted, and adds the gradients of what
    /// is trained.
    pub(crate) fn backward(
        &self,
        x: View<'_, T>,
        low: &Buffer<T>,
        dy: View<'_, T>,
        mut dx: Option<(ViewMut<'_, T>, bool)>,
        gradients: &mut GradientSink<'_, T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let rows = dy.len() / self.outputs;
        let shape = self.shape(rows);
        if self.weight_trained {
            let dw = gradients.tensor_mut(self.weight_place);
            linear::backward_weight(x, dy, dw, shape, T::Wide::ONE, true, workspace)?;
        }
        if let Some((dx, accumulate)) = &mut dx {
            linear::backward_input(dy, self.weight, dx.reborrow(), shape, T::Wide::ONE, *accumulate, workspace)?;
        }
        let Some((lora, pair)) = self.lora else { return Ok(()) };
        let (a, b) = (lora.parameters.view(pair.a), lora.parameters.view(pair.b));
        let (down, up) = self.low_rank_shapes(rows, pair.rank);
        let scale = T::Wide::from_f64(pair.scale);
        let values = lora.values(pair)?;
        let low_scaled = values.as_ref().map(|values| scaled(low.view(), values, workspace)).transpose()?;
        gradients.add_product(pair.b, low_scaled.as_ref().unwrap_or(low).into(), dy, up, scale, workspace)?;
        workspace.reclaim_all(low_scaled);
        let mut d_low = workspace.lend(rows * pair.rank)?;
        linear::backward_input(dy, b, d_low.view_mut(), up, scale, false, workspace)?;
        if let Some(values) = &values {
            lora.add_value_gradients(pair, low, &d_low, gradients.whole)?;
            let d_scaled = scaled(d_low.view(), values, workspace)?;
            workspace.reclaim(std::mem::replace(&mut d_low, d_scaled));
        }
        gradients.add_product(pair.a, x, d_low.view(), down, T::Wide::ONE, workspace)?;
        if let Some((dx, _)) = dx {
            linear::backward_input(d_low.view(), a, dx, down, T::Wide::ONE, true, workspace)?;
        }
        workspace.reclaim(d_low);
        Ok(())
    }

    fn low_rank_shapes(&self, rows: usize, rank: usize) -> (linear::Shape, linear::Shape) {
        (
            linear::Shape { rows, in_features: self.inputs, out_features: rank },
            linear::Shape { rows, in_features: rank, out_features: self.outputs },
        )
    }
}

/// `x diag(values)`, `[rows, rank]`, on the host.
pub(crate) fn scaled<T: Element>(x: View<'_, T>, values: &[T::Wide], workspace: &mut Workspace) -> Result<Buffer<T>> {
    const OP: &str = "the singular values of a Panacea adapter";
    let mut scaled = workspace.lend(x.len())?;
    scale_columns(x.cpu(OP)?, values, scaled.view_mut().cpu(OP)?);
    Ok(scaled)
}
