//! A linear with or without a low-rank adapter, forward and backward.
use candlewick_kernels::{Float, Workspace, linear};

use crate::adapter::LoraPair;
use crate::error::Result;
use crate::parameters::Parameters;
use crate::sketch::GradientSink;

/// One linear as the trunk sees it: its weight `[out, in]` and, when an adapter is on, the adapter's pair.
pub(crate) struct Linear<'a, T> {
    pub(crate) weight: &'a [T],
    /// Where the weight's gradient goes when the base is trained.
    pub(crate) weight_place: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) lora: Option<(&'a Parameters<T>, LoraPair)>,
    /// Whether the weight itself is trained.
    pub(crate) weight_trained: bool,
}

impl<T: Float> Linear<'_, T> {
    fn shape(&self, rows: usize) -> linear::Shape {
        linear::Shape { rows, in_features: self.inputs, out_features: self.outputs }
    }

    /// `y = x Wᵀ (+ s (x Aᵀ) Bᵀ)`; returns `x Aᵀ` `[rows, r]` (empty without an adapter), which the backward needs.
    pub(crate) fn forward(&self, x: &[T], y: &mut [T], rows: usize, workspace: &mut Workspace) -> Result<Vec<T>> {
        linear::forward(x.into(), self.weight.into(), (&mut *y).into(), self.shape(rows), T::ONE, false, workspace)?;
        let Some((parameters, pair)) = self.lora else { return Ok(Vec::new()) };
        let mut low = workspace.take(rows * pair.rank);
        let (down, up) = self.low_rank_shapes(rows, pair.rank);
        linear::forward(x.into(), parameters.tensor(pair.a).into(), (&mut low).into(), down, T::ONE, false, workspace)?;
        linear::forward(
            (&low).into(),
            parameters.tensor(pair.b).into(),
            y.into(),
            up,
            T::from_f64(pair.scale),
            true,
            workspace,
        )?;
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
        let Some((parameters, pair)) = self.lora else { return Ok(()) };
        let (down, up) = self.low_rank_shapes(rows, pair.rank);
        let scale = T::from_f64(pair.scale);
        gradients.add_product(pair.b, low, dy, up, scale, workspace)?;
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
