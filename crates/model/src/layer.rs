//! One decoder layer: forward, and its backward in the opposite order.
//!
//! ```text
//! n₁ = RMSNorm(x)         q,k,v = n₁ Wqᵀ, n₁ Wkᵀ, n₁ Wvᵀ     q,k rotated
//! x' = x + attention(q,k,v) Woᵀ
//! n₂ = RMSNorm(x')        h = SiLU(n₂ Wgᵀ) ∘ (n₂ Wuᵀ)
//! y  = x' + h Wdᵀ
//! ```
//!
//! Kept for the backward: x, x', the norms' 1/root-mean-square, rotated q and k, v, the attention's output and
//! log-sum-exp, gate and up. The normalised rows and h are cheap and computed again.
use candlewick_kernels::gated::{self, Activation};
use candlewick_kernels::rope::Direction;
use candlewick_kernels::{Buffer, Element, View, ViewMut, Workspace, attention, elementwise, rms_norm, rope};

use crate::adapter::Lora;
use crate::config::Config;
use crate::error::Result;
use crate::linear::Linear;
use crate::packed::Packed;
use crate::parameters::Parameters;
use crate::rope::Rotations;
use crate::sketch::GradientSink;
use crate::staged::Staged;

/// The linears of a layer, in the order in which they act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinearName {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

use LinearName::{Down, Gate, Key, Output, Query, Up, Value};

pub(crate) const LINEARS: [LinearName; 7] = [Query, Key, Value, Output, Gate, Up, Down];

impl LinearName {
    /// The last part of its module path.
    pub(crate) fn short_name(self) -> &'static str {
        match self {
            Query => "q_proj",
            Key => "k_proj",
            Value => "v_proj",
            Output => "o_proj",
            Gate => "gate_proj",
            Up => "up_proj",
            Down => "down_proj",
        }
    }

    /// Its module path in layer `layer`.
    pub(crate) fn module(self, layer: usize) -> String {
        let block = if matches!(self, Gate | Up | Down) { "mlp" } else { "self_attn" };
        format!("model.layers.{layer}.{block}.{}", self.short_name())
    }

    /// Outputs and inputs.
    pub(crate) fn sizes(self, config: &Config) -> (usize, usize) {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        match self {
            Query => (queries, hidden),
            Key | Value => (keys, hidden),
            Output => (hidden, queries),
            Gate | Up => (inner, hidden),
            Down => (hidden, inner),
        }
    }
}

/// Where the parameters of one layer lie.
#[derive(Debug, Clone)]
pub(crate) struct LayerPlaces {
    pub(crate) input_norm: usize,
    pub(crate) attention_norm: usize,
    pub(crate) linears: [usize; 7],
}

/// One layer with everything it needs, borrowed for a pass.
pub(crate) struct Layer<'a, T: Element> {
    pub(crate) config: &'a Config,
    pub(crate) base: &'a Parameters<T>,
    pub(crate) places: &'a LayerPlaces,
    pub(crate) lora: Option<&'a Lora<T>>,
    pub(crate) base_trained: bool,
    pub(crate) number: usize,
}

/// A batch as the layers of a pass read it.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a, W> {
    pub(crate) packed: &'a Packed,
    pub(crate) staged: &'a Staged,
    pub(crate) rotations: &'a Rotations<W>,
}

/// What attention reads and fills: q and out `[rows, heads, head_dim]`, k and v `[rows, kv_heads, head_dim]`, lse
/// `[rows, heads]`; q and k are rotated.
pub(crate) struct Heads<'a, T: Element> {
    pub(crate) q: View<'a, T>,
    pub(crate) k: View<'a, T>,
    pub(crate) v: View<'a, T>,
    pub(crate) out: ViewMut<'a, T>,
    pub(crate) lse: ViewMut<'a, T::Wide>,
}

/// What a layer's backward needs beside the layer's input.
#[derive(Debug)]
pub(crate) struct LayerSaved<T: Element> {
    rstd_input: Buffer<T::Wide>,
    q: Buffer<T>,
    k: Buffer<T>,
    v: Buffer<T>,
    attended: Buffer<T>,
    lse: Buffer<T::Wide>,
    middle: Buffer<T>,
    rstd_attention: Buffer<T::Wide>,
    gate: Buffer<T>,
    up: Buffer<T>,
    /// `x Aᵀ` of each adapted linear.
    low: [Buffer<T>; 7],
}

impl<T: Element> LayerSaved<T> {
    /// Returns the buffers to the workspace.
    pub(crate) fn release(self, workspace: &mut Workspace) {
        let Self { rstd_input, q, k, v, attended, lse, middle, rstd_attention, gate, up, low } = self;
        workspace.reclaim(rstd_input);
        workspace.reclaim_all([q, k, v, attended]);
        workspace.reclaim(lse);
        workspace.reclaim(middle);
        workspace.reclaim(rstd_attention);
        workspace.reclaim_all([gate, up]);
        workspace.reclaim_all(low);
    }
}

impl<'a, T: Element> Layer<'a, T> {
    fn linear(&self, name: LinearName) -> Linear<'a, T> {
        let place = self.places.linears[name as usize];
        let (outputs, inputs) = name.sizes(self.config);
        let lora = self.lora.and_then(|lora| Some((lora, lora.pair(&name.module(self.number))?)));
        Linear {
            weight: self.base.view(place),
            weight_place: place,
            inputs,
            outputs,
            lora,
            weight_trained: self.base_trained,
        }
    }

    /// `[rows, hidden]` in, `[rows, hidden]` out, over the segments of a batch.
    pub(crate) fn forward(
        &self,
        x: View<'_, T>,
        pass: Pass<'_, T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<(Buffer<T>, LayerSaved<T>)> {
        let Pass { packed, staged, rotations } = pass;
        let shape = self.attention_shape(packed.tokens());
        self.forward_with(x, staged.positions(packed), rotations, workspace, |heads, workspace| {
            let Heads { q, k, v, out, lse } = heads;
            Ok(attention::forward(q, k, v, out, lse, staged.layout(packed), shape, workspace)?)
        })
    }

    /// The layer around any attention: `attend` fills the output and log-sum-exp of the given heads.
    pub(crate) fn forward_with(
        &self,
        x: View<'_, T>,
        positions: View<'_, u32>,
        rotations: &Rotations<T::Wide>,
        workspace: &mut Workspace,
        attend: impl FnOnce(Heads<'_, T>, &mut Workspace) -> Result<()>,
    ) -> Result<(Buffer<T>, LayerSaved<T>)> {
        let rows = positions.len();
        let mut low: [Buffer<T>; 7] = Default::default();

        let (normed, rstd_input) = self.norm(x, self.places.input_norm, rows, workspace)?;
        let mut q = self.apply(Query, &normed, rows, &mut low, workspace)?;
        let mut k = self.apply(Key, &normed, rows, &mut low, workspace)?;
        let v = self.apply(Value, &normed, rows, &mut low, workspace)?;
        workspace.reclaim(normed);
        self.rotate(&mut q, &mut k, positions, rotations, Direction::Forward, workspace)?;

        let mut attended = workspace.lend(q.len())?;
        let mut lse = workspace.lend(rows * self.config.num_attention_heads)?;
        let heads = Heads { q: q.view(), k: k.view(), v: v.view(), out: attended.view_mut(), lse: lse.view_mut() };
        attend(heads, workspace)?;
        let mut middle = self.apply(Output, &attended, rows, &mut low, workspace)?;
        elementwise::add_assign(middle.view_mut(), x, workspace)?;

        let (normed, rstd_attention) = self.norm(middle.view(), self.places.attention_norm, rows, workspace)?;
        let gate = self.apply(Gate, &normed, rows, &mut low, workspace)?;
        let up = self.apply(Up, &normed, rows, &mut low, workspace)?;
        workspace.reclaim(normed);
        let inner = gated(&gate, &up, workspace)?;
        let mut y = self.apply(Down, &inner, rows, &mut low, workspace)?;
        workspace.reclaim(inner);
        elementwise::add_assign(y.view_mut(), middle.view(), workspace)?;

        Ok((y, LayerSaved { rstd_input, q, k, v, attended, lse, middle, rstd_attention, gate, up, low }))
    }

    /// Turns `d`, the gradient of the layer's output, into that of its input `x`; not `onward`, where nothing before the
    /// layer is trained, only what the layer's own parameters need is computed, and `d` is left as it may be.
    #[expect(clippy::too_many_arguments, reason = "the operands of one backward")]
    pub(crate) fn backward(
        &self,
        x: View<'_, T>,
        saved: &LayerSaved<T>,
        d: &mut Buffer<T>,
        onward: bool,
        pass: Pass<'_, T::Wide>,
        gradients: &mut GradientSink<'_, T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let Pass { packed, staged, rotations } = pass;
        let rows = packed.tokens();
        let hidden = self.config.hidden_size;

        // y = x' + h Wdᵀ: d already holds the gradient along the residual; the block's is added to it.
        let inner = gated(&saved.gate, &saved.up, workspace)?;
        let mut d_inner = workspace.lend(inner.len())?;
        self.undo(Down, inner.view(), saved, d.view(), Some((d_inner.view_mut(), false)), gradients, workspace)?;
        workspace.reclaim(inner);
        let (mut d_gate, mut d_up) = (workspace.lend(d_inner.len())?, workspace.lend(d_inner.len())?);
        gated::backward(
            Activation::Silu,
            saved.gate.view(),
            saved.up.view(),
            d_inner.view(),
            d_gate.view_mut(),
            d_up.view_mut(),
            workspace,
        )?;
        workspace.reclaim(d_inner);
        let normed = self.norm_again(saved.middle.view(), self.places.attention_norm, rows, workspace)?;
        let mut d_normed = workspace.lend(rows * hidden)?;
        for (name, dy, accumulate) in [(Gate, &d_gate, false), (Up, &d_up, true)] {
            let dx = Some((d_normed.view_mut(), accumulate));
            self.undo(name, normed.view(), saved, dy.view(), dx, gradients, workspace)?;
        }
        workspace.reclaim_all([normed, d_gate, d_up]);
        self.norm_backward(
            saved.middle.view(),
            &saved.rstd_attention,
            self.places.attention_norm,
            &d_normed,
            d,
            rows,
            gradients,
            workspace,
        )?;

        // x' = x + attention(q,k,v) Woᵀ
        let mut d_attended = workspace.lend(saved.attended.len())?;
        let dx = Some((d_attended.view_mut(), false));
        self.undo(Output, saved.attended.view(), saved, d.view(), dx, gradients, workspace)?;
        let (mut d_q, mut d_k, mut d_v) =
            (workspace.lend(saved.q.len())?, workspace.lend(saved.k.len())?, workspace.lend(saved.v.len())?);
        attention::backward(
            saved.q.view(),
            saved.k.view(),
            saved.v.view(),
            saved.attended.view(),
            saved.lse.view(),
            d_attended.view(),
            d_q.view_mut(),
            d_k.view_mut(),
            d_v.view_mut(),
            staged.layout(packed),
            self.attention_shape(rows),
            workspace,
        )?;
        workspace.reclaim(d_attended);
        self.rotate(&mut d_q, &mut d_k, staged.positions(packed), rotations, Direction::Backward, workspace)?;
        let normed = self.norm_again(x, self.places.input_norm, rows, workspace)?;
        for (name, dy, accumulate) in [(Query, &d_q, false), (Key, &d_k, true), (Value, &d_v, true)] {
            let dx = onward.then(|| (d_normed.view_mut(), accumulate));
            self.undo(name, normed.view(), saved, dy.view(), dx, gradients, workspace)?;
        }
        workspace.reclaim_all([normed, d_q, d_k, d_v]);
        if onward {
            let place = self.places.input_norm;
            self.norm_backward(x, &saved.rstd_input, place, &d_normed, d, rows, gradients, workspace)?;
        }
        workspace.reclaim(d_normed);
        Ok(())
    }

    fn apply(
        &self,
        name: LinearName,
        x: &Buffer<T>,
        rows: usize,
        low: &mut [Buffer<T>; 7],
        workspace: &mut Workspace,
    ) -> Result<Buffer<T>> {
        let linear = self.linear(name);
        let mut y = workspace.lend(rows * linear.outputs)?;
        low[name as usize] = linear.forward(x.view(), y.view_mut(), rows, workspace)?;
        Ok(y)
    }

    /// The backward of [`apply`](Self::apply): from `dy` to the input's gradient (added where the flag says so) and to the
    /// gradients of what is trained.
    #[expect(clippy::too_many_arguments, reason = "the operands of one backward")]
    fn undo(
        &self,
        name: LinearName,
        x: View<'_, T>,
        saved: &LayerSaved<T>,
        dy: View<'_, T>,
        dx: Option<(ViewMut<'_, T>, bool)>,
        gradients: &mut GradientSink<'_, T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.linear(name).backward(x, &saved.low[name as usize], dy, dx, gradients, workspace)
    }

    fn norm(
        &self,
        x: View<'_, T>,
        place: usize,
        rows: usize,
        workspace: &mut Workspace,
    ) -> Result<(Buffer<T>, Buffer<T::Wide>)> {
        norm(x, self.base.view(place), rows, self.config, workspace)
    }

    /// Normalised rows alone.
    fn norm_again(&self, x: View<'_, T>, place: usize, rows: usize, workspace: &mut Workspace) -> Result<Buffer<T>> {
        let (normed, rstd) = self.norm(x, place, rows, workspace)?;
        workspace.reclaim(rstd);
        Ok(normed)
    }

    #[expect(clippy::too_many_arguments, reason = "the operands of one backward")]
    fn norm_backward(
        &self,
        x: View<'_, T>,
        rstd: &Buffer<T::Wide>,
        place: usize,
        dy: &Buffer<T>,
        dx: &mut Buffer<T>,
        rows: usize,
        gradients: &mut GradientSink<'_, T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let shape = rms_norm::Shape { rows, hidden: self.config.hidden_size };
        let dw = self.base_trained.then(|| gradients.tensor_mut(place));
        let weight = self.base.view(place);
        Ok(rms_norm::backward(x, weight, rstd.view(), dy.view(), dx.view_mut(), true, dw, shape, workspace)?)
    }

    fn rotate(
        &self,
        q: &mut Buffer<T>,
        k: &mut Buffer<T>,
        positions: View<'_, u32>,
        rotations: &Rotations<T::Wide>,
        direction: Direction,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let [cos, sin] = rotations.views();
        let shape = rope::PairShape {
            rows: positions.len(),
            q_heads: self.config.num_attention_heads,
            k_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        };
        Ok(rope::apply_pair(q.view_mut(), k.view_mut(), positions, cos, sin, shape, direction, workspace)?)
    }

    fn attention_shape(&self, rows: usize) -> attention::Shape {
        attention::Shape {
            rows,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            soft_cap: None,
            window: None,
        }
    }
}

/// Normalised rows and their 1/root-mean-square.
pub(crate) fn norm<T: Element>(
    x: View<'_, T>,
    weight: View<'_, T>,
    rows: usize,
    config: &Config,
    workspace: &mut Workspace,
) -> Result<(Buffer<T>, Buffer<T::Wide>)> {
    let shape = rms_norm::Shape { rows, hidden: config.hidden_size };
    let (mut y, mut rstd) = (workspace.lend(x.len())?, workspace.lend(rows)?);
    rms_norm::forward(x, weight, y.view_mut(), rstd.view_mut(), shape, config.rms_norm_eps, workspace)?;
    Ok((y, rstd))
}

/// `SiLU(gate) ∘ up`.
pub(crate) fn gated<T: Element>(gate: &Buffer<T>, up: &Buffer<T>, workspace: &mut Workspace) -> Result<Buffer<T>> {
    let mut inner = workspace.lend(gate.len())?;
    gated::forward(Activation::Silu, gate.view(), up.view(), inner.view_mut(), workspace)?;
    Ok(inner)
}
