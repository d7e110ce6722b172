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
use candlewick_kernels::rope::{Direction, Tables};
use candlewick_kernels::{Float, Workspace, attention, elementwise, rms_norm, rope};

use crate::adapter::Lora;
use crate::config::Config;
use crate::error::Result;
use crate::linear::Linear;
use crate::packed::Packed;
use crate::parameters::Parameters;
use crate::sketch::GradientSink;

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
pub(crate) struct Layer<'a, T> {
    pub(crate) config: &'a Config,
    pub(crate) base: &'a Parameters<T>,
    pub(crate) places: &'a LayerPlaces,
    pub(crate) lora: Option<&'a Lora<T>>,
    pub(crate) base_trained: bool,
    pub(crate) number: usize,
}

/// What attention reads and fills: q and out `[rows, heads, head_dim]`, k and v `[rows, kv_heads, head_dim]`, lse
/// `[rows, heads]`; q and k are rotated.
pub(crate) struct Heads<'a, T> {
    pub(crate) q: &'a [T],
    pub(crate) k: &'a [T],
    pub(crate) v: &'a [T],
    pub(crate) out: &'a mut [T],
    pub(crate) lse: &'a mut [T],
}

/// What a layer's backward needs beside the layer's input.
#[derive(Debug)]
pub(crate) struct LayerSaved<T> {
    rstd_input: Vec<T>,
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    attended: Vec<T>,
    lse: Vec<T>,
    middle: Vec<T>,
    rstd_attention: Vec<T>,
    gate: Vec<T>,
    up: Vec<T>,
    /// `x Aᵀ` of each adapted linear.
    low: [Vec<T>; 7],
}

impl<T: Float> LayerSaved<T> {
    /// Returns the buffers to the workspace.
    pub(crate) fn release(self, workspace: &mut Workspace) {
        let Self { rstd_input, q, k, v, attended, lse, middle, rstd_attention, gate, up, low } = self;
        workspace.give_back_all([rstd_input, q, k, v, attended, lse, middle, rstd_attention, gate, up]);
        workspace.give_back_all(low);
    }
}

impl<'a, T: Float> Layer<'a, T> {
    fn linear(&self, name: LinearName) -> Linear<'a, T> {
        let place = self.places.linears[name as usize];
        let (outputs, inputs) = name.sizes(self.config);
        let lora = self.lora.and_then(|lora| Some((lora, lora.pair(&name.module(self.number))?)));
        Linear {
            weight: self.base.tensor(place),
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
        x: &[T],
        packed: &Packed,
        tables: &Tables<T>,
        workspace: &mut Workspace,
    ) -> Result<(Vec<T>, LayerSaved<T>)> {
        let shape = self.attention_shape(packed.tokens());
        self.forward_with(x, packed.positions(), tables, workspace, |heads, workspace| {
            let Heads { q, k, v, out, lse } = heads;
            attention::forward(
                q.into(),
                k.into(),
                v.into(),
                out.into(),
                lse.into(),
                packed.segments().into(),
                shape,
                workspace,
            )?;
            Ok(())
        })
    }

    /// The layer around any attention: `attend` fills the output and log-sum-exp of the given heads.
    pub(crate) fn forward_with(
        &self,
        x: &[T],
        positions: &[u32],
        tables: &Tables<T>,
        workspace: &mut Workspace,
        attend: impl FnOnce(Heads<'_, T>, &mut Workspace) -> Result<()>,
    ) -> Result<(Vec<T>, LayerSaved<T>)> {
        let rows = positions.len();
        let mut low: [Vec<T>; 7] = Default::default();

        let (normed, rstd_input) = self.norm(x, self.places.input_norm, rows, workspace)?;
        let mut q = self.apply(Query, &normed, rows, &mut low, workspace)?;
        let mut k = self.apply(Key, &normed, rows, &mut low, workspace)?;
        let v = self.apply(Value, &normed, rows, &mut low, workspace)?;
        workspace.give_back(normed);
        self.rotate(&mut q, &mut k, positions, tables, Direction::Forward, workspace)?;

        let mut attended = workspace.take(q.len());
        let mut lse = workspace.take(rows * self.config.num_attention_heads);
        attend(Heads { q: &q, k: &k, v: &v, out: &mut attended, lse: &mut lse }, workspace)?;
        let mut middle = self.apply(Output, &attended, rows, &mut low, workspace)?;
        elementwise::add_assign((&mut middle).into(), x.into(), workspace)?;

        let (normed, rstd_attention) = self.norm(&middle, self.places.attention_norm, rows, workspace)?;
        let gate = self.apply(Gate, &normed, rows, &mut low, workspace)?;
        let up = self.apply(Up, &normed, rows, &mut low, workspace)?;
        workspace.give_back(normed);
        let inner = gated(&gate, &up, workspace)?;
        let mut y = self.apply(Down, &inner, rows, &mut low, workspace)?;
        workspace.give_back(inner);
        elementwise::add_assign((&mut y).into(), (&middle).into(), workspace)?;

        Ok((y, LayerSaved { rstd_input, q, k, v, attended, lse, middle, rstd_attention, gate, up, low }))
    }

    /// Turns `d`, the gradient of the layer's output, into that of its input `x`; not `onward`, where nothing before the
    /// layer is trained, only what the layer's own parameters need is computed, and `d` is left as it may be.
    #[expect(clippy::too_many_arguments, reason = "the operands of one backward")]
    pub(crate) fn backward(
        &self,
        x: &[T],
        saved: &LayerSaved<T>,
        d: &mut [T],
        onward: bool,
        packed: &Packed,
        tables: &Tables<T>,
        gradients: &mut GradientSink<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let rows = packed.tokens();
        let hidden = self.config.hidden_size;

        // y = x' + h Wdᵀ: d already holds the gradient along the residual; the block's is added to it.
        let inner = gated(&saved.gate, &saved.up, workspace)?;
        let mut d_inner = workspace.take(inner.len());
        self.undo(Down, &inner, saved, d, Some((&mut d_inner, false)), gradients, workspace)?;
        workspace.give_back(inner);
        let (mut d_gate, mut d_up) = (workspace.take(d_inner.len()), workspace.take(d_inner.len()));
        gated::backward(
            Activation::Silu,
            (&saved.gate).into(),
            (&saved.up).into(),
            (&d_inner).into(),
            (&mut d_gate).into(),
            (&mut d_up).into(),
            workspace,
        )?;
        workspace.give_back(d_inner);
        let normed = self.norm_again(&saved.middle, self.places.attention_norm, rows, workspace)?;
        let mut d_normed = workspace.take(rows * hidden);
        self.undo(Gate, &normed, saved, &d_gate, Some((&mut d_normed, false)), gradients, workspace)?;
        self.undo(Up, &normed, saved, &d_up, Some((&mut d_normed, true)), gradients, workspace)?;
        workspace.give_back_all([normed, d_gate, d_up]);
        self.norm_backward(
            &saved.middle,
            &saved.rstd_attention,
            self.places.attention_norm,
            &d_normed,
            d,
            rows,
            gradients,
            workspace,
        )?;

        // x' = x + attention(q,k,v) Woᵀ
        let mut d_attended = workspace.take(saved.attended.len());
        self.undo(Output, &saved.attended, saved, d, Some((&mut d_attended, false)), gradients, workspace)?;
        let (mut d_q, mut d_k, mut d_v) =
            (workspace.take(saved.q.len()), workspace.take(saved.k.len()), workspace.take(saved.v.len()));
        attention::backward(
            (&saved.q).into(),
            (&saved.k).into(),
            (&saved.v).into(),
            (&saved.attended).into(),
            (&saved.lse).into(),
            (&d_attended).into(),
            (&mut d_q).into(),
            (&mut d_k).into(),
            (&mut d_v).into(),
            packed.segments().into(),
            self.attention_shape(rows),
            workspace,
        )?;
        workspace.give_back(d_attended);
        self.rotate(&mut d_q, &mut d_k, packed.positions(), tables, Direction::Backward, workspace)?;
        let normed = self.norm_again(x, self.places.input_norm, rows, workspace)?;
        for (name, dy, accumulate) in [(Query, &d_q, false), (Key, &d_k, true), (Value, &d_v, true)] {
            let dx = onward.then_some((&mut d_normed[..], accumulate));
            self.undo(name, &normed, saved, dy, dx, gradients, workspace)?;
        }
        workspace.give_back_all([normed, d_q, d_k, d_v]);
        if onward {
            let place = self.places.input_norm;
            self.norm_backward(x, &saved.rstd_input, place, &d_normed, d, rows, gradients, workspace)?;
        }
        workspace.give_back(d_normed);
        Ok(())
    }

    fn apply(
        &self,
        name: LinearName,
        x: &[T],
        rows: usize,
        low: &mut [Vec<T>; 7],
        workspace: &mut Workspace,
    ) -> Result<Vec<T>> {
        let linear = self.linear(name);
        let mut y = workspace.take(rows * linear.outputs);
        low[name as usize] = linear.forward(x, &mut y, rows, workspace)?;
        Ok(y)
    }

    /// The backward of [`apply`](Self::apply): from `dy` to the input's gradient (added where the flag says so) and to the
    /// gradients of what is trained.
    #[expect(clippy::too_many_arguments, reason = "the operands of one backward")]
    fn undo(
        &self,
        name: LinearName,
        x: &[T],
        saved: &LayerSaved<T>,
        dy: &[T],
        dx: Option<(&mut [T], bool)>,
        gradients: &mut GradientSink<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.linear(name).backward(x, &saved.low[name as usize], dy, dx, gradients, workspace)
    }

    fn norm(&self, x: &[T], place: usize, rows: usize, workspace: &mut Workspace) -> Result<(Vec<T>, Vec<T>)> {
        norm(x, self.base.tensor(place), rows, self.config, workspace)
    }

    /// Normalised rows alone.
    fn norm_again(&self, x: &[T], place: usize, rows: usize, workspace: &mut Workspace) -> Result<Vec<T>> {
        let (normed, rstd) = self.norm(x, place, rows, workspace)?;
        workspace.give_back(rstd);
        Ok(normed)
    }

    #[expect(clippy::too_many_arguments, reason = "the operands of one backward")]
    fn norm_backward(
        &self,
        x: &[T],
        rstd: &[T],
        place: usize,
        dy: &[T],
        dx: &mut [T],
        rows: usize,
        gradients: &mut GradientSink<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let shape = rms_norm::Shape { rows, hidden: self.config.hidden_size };
        let dw = self.base_trained.then(|| gradients.tensor_mut(place).into());
        rms_norm::backward(
            x.into(),
            self.base.tensor(place).into(),
            rstd.into(),
            dy.into(),
            dx.into(),
            true,
            dw,
            shape,
            workspace,
        )?;
        Ok(())
    }

    fn rotate(
        &self,
        q: &mut [T],
        k: &mut [T],
        positions: &[u32],
        tables: &Tables<T>,
        direction: Direction,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let (rows, head_dim) = (positions.len(), self.config.head_dim);
        for (x, heads) in [(q, self.config.num_attention_heads), (k, self.config.num_key_value_heads)] {
            rope::apply(x.into(), positions, tables, rope::Shape { rows, heads, head_dim }, direction, workspace)?;
        }
        Ok(())
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
pub(crate) fn norm<T: Float>(
    x: &[T],
    weight: &[T],
    rows: usize,
    config: &Config,
    workspace: &mut Workspace,
) -> Result<(Vec<T>, Vec<T>)> {
    let shape = rms_norm::Shape { rows, hidden: config.hidden_size };
    let (mut y, mut rstd) = (workspace.take(x.len()), workspace.take(rows));
    rms_norm::forward(
        x.into(),
        weight.into(),
        (&mut y).into(),
        (&mut rstd).into(),
        shape,
        config.rms_norm_eps,
        workspace,
    )?;
    Ok((y, rstd))
}

/// `SiLU(gate) ∘ up`.
pub(crate) fn gated<T: Float>(gate: &[T], up: &[T], workspace: &mut Workspace) -> Result<Vec<T>> {
    let mut inner = workspace.take(gate.len());
    gated::forward(Activation::Silu, gate.into(), up.into(), (&mut inner).into(), workspace)?;
    Ok(inner)
}
