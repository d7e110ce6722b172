//! Every op that is measured on a device: its operands, the bytes it has to move and the arithmetic it does, by formula.
use std::cell::Cell;

use candlewick_kernels::adamw::{self, Draws, Hyper};
use candlewick_kernels::attention::{self, Layout, Segment, TileViews, Tiles};
use candlewick_kernels::embedding::{self, BucketViews, Buckets};
use candlewick_kernels::gated::{self, Activation};
use candlewick_kernels::lora::{self, Gradients, Projection};
use candlewick_kernels::rope::{self, Direction, PairShape, Tables};
use candlewick_kernels::running_mean::{self, Correction};
use candlewick_kernels::token_log_probs::{self, Cotangents, Keep, Kept, Outputs, Targets};
use candlewick_kernels::{
    Cuda, CudaBuffer, Result, Workspace, clip, elementwise, linear, lion, rms_norm, rmsprop, schedule_free, survey,
};
use half::bf16;

const BF16: usize = 2;
const F32: usize = 4;
const F64: usize = 8;
const ID: usize = 4;
const EPS: f64 = 1e-5;

/// The sizes of a model's layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model {
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) q_heads: usize,
    pub(crate) k_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
}

/// A model's layers on so many rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub(crate) rows: usize,
    pub(crate) model: Model,
}

/// What is measured of a model. A new op is a line here and a function below.
pub(crate) fn of_model(at: At) -> Vec<Op> {
    let mut ops = vec![
        embedding_forward(at),
        embedding_backward(at, "embedding backward", |row| row / 4 * 7919),
        // As a template's tokens do: every eighth row has the same id.
        embedding_backward(at, "embedding backward, one id often", |row| if row % 8 == 0 { 0 } else { row * 7919 }),
        rms_norm_forward(at),
        rms_norm_forward_residual(at),
        rms_norm_backward(at, true),
        rms_norm_backward(at, false),
        rope_in_place(at),
        swiglu_forward(at),
        swiglu_backward(at),
        add_assign(at),
        mix(at),
        narrow(at),
        running_mean_step(at),
        linear_forward(at, false),
        linear_forward(at, true),
        linear_backward_input(at),
        linear_backward_weight(at),
        lora_forward(at),
        lora_backward(at),
        head_forward(at, false),
        head_forward(at, true),
        head_backward(at, false),
        head_backward(at, true),
        clip_by_norm(at),
        survey(at),
        adamw_masters(at),
        adamw_bf16(at),
        lion_step(at),
        rmsprop_step(at),
        schedule_free_step(at),
    ];
    ops.extend(CUTS.iter().flat_map(|&cut| [attention_forward(at, cut), attention_backward(at, cut)]));
    ops
}

/// What the memory can do: one buffer to another.
pub(crate) fn copy(len: usize) -> Op {
    Work::new("copy", format!("{} MiB", (len * BF16) >> 20)).moves(2 * BF16 * len).on(move |of| {
        let (x, mut y) = (of.random(len)?, of.random(len)?);
        Ok(move |_: &mut Workspace| y.copy_from(&x))
    })
}

/// What the arithmetic can do: a product of two square matrices.
pub(crate) fn product(side: usize) -> Op {
    let shape = linear::Shape { rows: side, in_features: side, out_features: side };
    products("product", shape, BF16 * 3 * side * side).on(move |of| {
        let (x, w, mut y) = (of.random(side * side)?, of.random(side * side)?, of.random(side * side)?);
        Ok(move |ws: &mut Workspace| linear::forward(x.view(), w.view(), y.view_mut(), shape, 1.0, false, ws))
    })
}

fn embedding_forward(At { rows, model: Model { hidden, vocab, .. } }: At) -> Op {
    let len = rows * hidden;
    // No id twice in `vocab` rows.
    let ids: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocab) as u32).collect();
    Work::new("embedding forward", format!("{rows} × {hidden}")).moves(2 * BF16 * len + ID * rows).on(move |of| {
        let (ids, table, mut y) = (of.ids(&ids)?, of.random(vocab * hidden)?, of.random(len)?);
        Ok(move |ws: &mut Workspace| embedding::gather(ids.view(), table.view(), y.view_mut(), hidden, ws))
    })
}

fn embedding_backward(
    At { rows, model: Model { hidden, vocab, .. } }: At,
    name: &'static str,
    id: impl Fn(usize) -> usize,
) -> Op {
    let len = rows * hidden;
    let ids: Vec<u32> = (0..rows).map(|row| (id(row) % vocab) as u32).collect();
    let buckets = Buckets::of(&ids);
    let found = buckets.ids.len();
    Work::new(name, format!("{rows} × {hidden} into {found} rows"))
        .moves(BF16 * len + 2 * F32 * found * hidden + ID * (rows + 2 * found))
        .computes(len)
        .on(move |of| {
            let (dy, mut dtable) = (of.random(len)?, of.sums(vocab * hidden)?);
            let (ids, starts) = (of.ids(&buckets.ids)?, of.ids(&buckets.starts)?);
            let members = of.ids(&buckets.members)?;
            Ok(move |_: &mut Workspace| {
                let buckets = BucketViews { ids: ids.view(), starts: starts.view(), members: members.view() };
                embedding::scatter(buckets, dy.view(), dtable.view_mut(), hidden)
            })
        })
}

fn rms_norm_forward(At { rows, model: Model { hidden, .. } }: At) -> Op {
    let (len, shape) = (rows * hidden, rms_norm::Shape { rows, hidden });
    Work::new("rms_norm forward", format!("{rows} × {hidden}"))
        .moves(BF16 * (2 * len + hidden) + F32 * rows)
        .computes(4 * len)
        .on(move |of| {
            let (x, weight) = (of.random(len)?, of.random(hidden)?);
            let (mut y, mut rstd) = (of.random(len)?, of.sums(rows)?);
            Ok(move |ws: &mut Workspace| {
                rms_norm::forward(x.view(), weight.view(), y.view_mut(), rstd.view_mut(), shape, EPS, ws)
            })
        })
}

fn rms_norm_forward_residual(At { rows, model: Model { hidden, .. } }: At) -> Op {
    let (len, shape) = (rows * hidden, rms_norm::Shape { rows, hidden });
    Work::new("rms_norm forward, residual", format!("{rows} × {hidden}"))
        .moves(BF16 * (4 * len + hidden) + F32 * rows)
        .computes(5 * len)
        .on(move |of| {
            let (x, residual, weight) = (of.random(len)?, of.random(len)?, of.random(hidden)?);
            let (mut sum, mut y, mut rstd) = (of.random(len)?, of.random(len)?, of.sums(rows)?);
            Ok(move |ws: &mut Workspace| {
                let (x, residual, weight) = (x.view(), residual.view(), weight.view());
                let (into_sum, into_y) = (sum.view_mut(), y.view_mut());
                rms_norm::forward_residual(x, residual, weight, into_sum, into_y, rstd.view_mut(), shape, EPS, ws)
            })
        })
}

/// Into a gradient that is there: the one that goes around the layer.
fn rms_norm_backward(At { rows, model: Model { hidden, .. } }: At, with_dw: bool) -> Op {
    let (len, shape) = (rows * hidden, rms_norm::Shape { rows, hidden });
    let name = if with_dw { "rms_norm backward" } else { "rms_norm backward, frozen" };
    Work::new(name, format!("{rows} × {hidden}"))
        .moves(BF16 * (4 * len + hidden) + F32 * (rows + if with_dw { 2 * hidden } else { 0 }))
        .computes(if with_dw { 11 } else { 8 } * len)
        .on(move |of| {
            let (x, weight, dy) = (of.random(len)?, of.random(hidden)?, of.random(len)?);
            let (rstd, mut dx, mut dw) = (of.sums(rows)?, of.random(len)?, of.sums(hidden)?);
            Ok(move |ws: &mut Workspace| {
                let into_w = with_dw.then(|| dw.view_mut());
                let (x, weight, rstd, dy) = (x.view(), weight.view(), rstd.view(), dy.view());
                rms_norm::backward(x, weight, rstd, dy, dx.view_mut(), true, into_w, shape, ws)
            })
        })
}

fn rope_in_place(At { rows, model: Model { q_heads, k_heads, head_dim, .. } }: At) -> Op {
    let shape = PairShape { rows, q_heads, k_heads, head_dim };
    let (q_len, k_len) = (rows * q_heads * head_dim, rows * k_heads * head_dim);
    let positions = rows.min(4096);
    Work::new("rope", format!("{rows} × ({q_heads} + {k_heads}) × {head_dim}"))
        .moves(2 * BF16 * (q_len + k_len) + F32 * positions * head_dim + ID * rows)
        .computes(3 * (q_len + k_len))
        .on(move |of| {
            let frequencies: Vec<f64> =
                (0..head_dim / 2).map(|pair| 1e4f64.powf(-2.0 * pair as f64 / head_dim as f64)).collect();
            let tables = Tables::<f32>::new(&frequencies, positions);
            let (mut q, mut k) = (of.random(q_len)?, of.random(k_len)?);
            let (cos, sin) = (of.table(&tables.cos)?, of.table(&tables.sin)?);
            let places: Vec<u32> = (0..rows).map(|row| (row % positions) as u32).collect();
            let places = of.ids(&places)?;
            Ok(move |ws: &mut Workspace| {
                let (places, cos, sin) = (places.view(), cos.view(), sin.view());
                rope::apply_pair(q.view_mut(), k.view_mut(), places, cos, sin, shape, Direction::Forward, ws)
            })
        })
}

fn attention_forward(at: At, cut: Cut) -> Op {
    let attention = Attention::new(at, cut);
    let Attention { q_len, k_len, numbers, .. } = attention;
    attention.work("attention forward", 4).moves(BF16 * 2 * (q_len + k_len) + F32 * numbers).on(move |of| {
        let (q, k, v) = (of.random(q_len)?, of.random(k_len)?, of.random(k_len)?);
        let (mut out, mut lse, tiles) = (of.random(q_len)?, of.sums(numbers)?, OnDevice::new(of, &attention)?);
        let (segments, shape) = (attention.segments.clone(), attention.shape);
        Ok(move |ws: &mut Workspace| {
            let layout = Layout { segments: &segments, tiles: Some(tiles.views()) };
            let (q, k, v) = (q.view(), k.view(), v.view());
            attention::forward(q, k, v, out.view_mut(), lse.view_mut(), layout, shape, ws)
        })
    })
}

fn attention_backward(at: At, cut: Cut) -> Op {
    let attention = Attention::new(at, cut);
    let Attention { q_len, k_len, numbers, .. } = attention;
    // Scores are made once more, and of each of the two products there are two gradients.
    attention.work("attention backward", 10).moves(BF16 * 4 * (q_len + k_len) + F32 * numbers).on(move |of| {
        let [q, out, dout] = [of.random(q_len)?, of.random(q_len)?, of.random(q_len)?];
        let (k, v, lse) = (of.random(k_len)?, of.random(k_len)?, of.sums(numbers)?);
        let (mut dq, mut dk, mut dv) = (of.random(q_len)?, of.random(k_len)?, of.random(k_len)?);
        let tiles = OnDevice::new(of, &attention)?;
        let (segments, shape) = (attention.segments.clone(), attention.shape);
        Ok(move |ws: &mut Workspace| {
            let layout = Layout { segments: &segments, tiles: Some(tiles.views()) };
            let (q, k, v, out, lse, dout) = (q.view(), k.view(), v.view(), out.view(), lse.view(), dout.view());
            let (dq, dk, dv) = (dq.view_mut(), dk.view_mut(), dv.view_mut());
            attention::backward(q, k, v, out, lse, dout, dq, dk, dv, layout, shape, ws)
        })
    })
}

/// Every `len` rows a prompt, and as many completions of equal lengths, which share it.
#[derive(Debug, Clone, Copy)]
struct Cut {
    len: usize,
    prompt: usize,
    completions: usize,
}

/// Sequences of several lengths, pairs, and a prompt whose keys many queries see.
const CUTS: [Cut; 5] = [
    Cut { len: 1024, prompt: 1024, completions: 0 },
    Cut { len: 2048, prompt: 2048, completions: 0 },
    Cut { len: 4096, prompt: 4096, completions: 0 },
    Cut { len: 1024, prompt: 256, completions: 2 },
    Cut { len: 4096, prompt: 1024, completions: 8 },
];

impl Cut {
    /// The segment that begins at a row, as much of it as there is.
    fn segment(self, start: usize, rows: usize) -> Segment {
        let row = |at: usize| rows.min(start + at);
        let each = (self.len - self.prompt).checked_div(self.completions).unwrap_or(0);
        let completion = |i: usize| row(self.prompt + i * each)..row(self.prompt + (i + 1) * each);
        Segment { prompt: start..row(self.prompt), completions: (0..self.completions).map(completion).collect() }
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { len, prompt, completions } = self;
        match (len - prompt).checked_div(*completions) {
            Some(each) => write!(f, "{prompt} + {completions} × {each}"),
            None => write!(f, "{prompt}"),
        }
    }
}

struct Attention {
    cut: Cut,
    segments: Vec<Segment>,
    shape: attention::Shape,
    /// Elements of queries and of keys, and numbers of one for each row and head.
    q_len: usize,
    k_len: usize,
    numbers: usize,
}

impl Attention {
    fn new(At { rows, model: Model { q_heads, k_heads, head_dim, .. } }: At, cut: Cut) -> Self {
        Self {
            cut,
            segments: (0..rows).step_by(cut.len).map(|start| cut.segment(start, rows)).collect(),
            shape: attention::Shape { rows, heads: q_heads, kv_heads: k_heads, head_dim, soft_cap: None, window: None },
            q_len: rows * q_heads * head_dim,
            k_len: rows * k_heads * head_dim,
            numbers: rows * q_heads,
        }
    }

    /// So many operations for each element of a head and each pair of rows of which one sees the other.
    fn work(&self, name: &'static str, operations: usize) -> Work {
        let causal = |rows: usize| rows * (rows + 1) / 2;
        let pairs: usize = self
            .segments
            .iter()
            .map(|Segment { prompt, completions }| {
                let of_completions = completions.iter().map(|rows| rows.len() * prompt.len() + causal(rows.len()));
                causal(prompt.len()) + of_completions.sum::<usize>()
            })
            .sum();
        let attention::Shape { rows, heads, kv_heads, head_dim, .. } = self.shape;
        Work::new(name, format!("{rows} × {heads} on {kv_heads} × {head_dim}, {}", self.cut))
            .computes(operations * pairs * heads * head_dim)
    }
}

struct OnDevice {
    tiles: Tiles,
    queries: CudaBuffer<u32>,
    keys: CudaBuffer<u32>,
    ranges: CudaBuffer<u32>,
}

impl OnDevice {
    fn new(of: &Operands<'_>, attention: &Attention) -> Result<Self> {
        let tiles = Tiles::of(&attention.segments, attention.shape.rows)?;
        let (queries, keys, ranges) = (of.ids(&tiles.queries)?, of.ids(&tiles.keys)?, of.ids(&tiles.ranges)?);
        Ok(Self { tiles, queries, keys, ranges })
    }

    fn views(&self) -> TileViews<'_> {
        self.tiles.views_of(self.queries.view(), self.keys.view(), self.ranges.view())
    }
}

fn swiglu_forward(At { rows, model: Model { intermediate, .. } }: At) -> Op {
    let len = rows * intermediate;
    Work::new("swiglu forward", format!("{rows} × {intermediate}")).moves(3 * BF16 * len).computes(5 * len).on(
        move |of| {
            let (gate, up, mut y) = (of.random(len)?, of.random(len)?, of.random(len)?);
            Ok(move |ws: &mut Workspace| gated::forward(Activation::Silu, gate.view(), up.view(), y.view_mut(), ws))
        },
    )
}

fn swiglu_backward(At { rows, model: Model { intermediate, .. } }: At) -> Op {
    let len = rows * intermediate;
    Work::new("swiglu backward", format!("{rows} × {intermediate}")).moves(5 * BF16 * len).computes(12 * len).on(
        move |of| {
            let (gate, up, dy) = (of.random(len)?, of.random(len)?, of.random(len)?);
            let (mut dgate, mut dup) = (of.random(len)?, of.random(len)?);
            Ok(move |ws: &mut Workspace| {
                gated::backward(
                    Activation::Silu,
                    gate.view(),
                    up.view(),
                    dy.view(),
                    dgate.view_mut(),
                    dup.view_mut(),
                    ws,
                )
            })
        },
    )
}

/// A residual's addition.
fn add_assign(At { rows, model: Model { hidden, .. } }: At) -> Op {
    let len = rows * hidden;
    Work::new("add_assign", format!("{rows} × {hidden}")).moves(3 * BF16 * len).computes(len).on(move |of| {
        let (mut y, x) = (of.random(len)?, of.random(len)?);
        Ok(move |ws: &mut Workspace| elementwise::add_assign(y.view_mut(), x.view(), ws))
    })
}

/// Of a reference that follows, with parameters in bf16.
fn mix(at: At) -> Op {
    let len = parameters(at);
    Work::new("mix", format!("{len}")).moves(3 * BF16 * len).computes(3 * len).on(move |of| {
        let (mut y, x) = (of.random(len)?, of.random(len)?);
        Ok(move |ws: &mut Workspace| elementwise::mix(y.view_mut(), x.view(), 0.1, ws))
    })
}

/// Parameters in bf16 of those in `f32`.
fn narrow(at: At) -> Op {
    let len = parameters(at);
    Work::new("narrow", format!("{len}")).moves((F32 + BF16) * len).on(move |of| {
        let (mut y, x) = (of.random(len)?, of.sums(len)?);
        Ok(move |ws: &mut Workspace| elementwise::narrow(y.view_mut(), x.view(), ws))
    })
}

/// A reference that follows as an average, with its correction.
fn running_mean_step(at: At) -> Op {
    let len = parameters(at);
    Work::new("running mean", format!("{len}")).moves((3 * F32 + 2 * F64) * len).computes(6 * len).on(move |of| {
        let ([mut y, x, start], mut mean) = ([of.sums(len)?, of.sums(len)?, of.sums(len)?], of.means(len)?);
        Ok(move |ws: &mut Workspace| {
            let correction = Some(Correction { start: start.view(), weight: 0.5 });
            running_mean::step(y.view_mut(), mean.view_mut(), x.view(), 0.1, correction, ws)
        })
    })
}

/// The gate projection.
fn gate(At { rows, model: Model { hidden, intermediate, .. } }: At) -> (linear::Shape, [usize; 3]) {
    let shape = linear::Shape { rows, in_features: hidden, out_features: intermediate };
    (shape, [rows * hidden, intermediate * hidden, rows * intermediate])
}

/// By cuBLASLt, or by the crate's own kernel.
fn linear_forward(at: At, is_own: bool) -> Op {
    let (shape, [x, w, y]) = gate(at);
    let name = if is_own { "linear forward, own product" } else { "linear forward" };
    products(name, shape, BF16 * (x + w + y)).on(move |of| {
        let of = if is_own { &of.with_own_products() } else { of };
        let (x, w, mut y) = (of.random(x)?, of.random(w)?, of.random(y)?);
        Ok(move |ws: &mut Workspace| linear::forward(x.view(), w.view(), y.view_mut(), shape, 1.0, false, ws))
    })
}

fn linear_backward_input(at: At) -> Op {
    let (shape, [dx, w, dy]) = gate(at);
    products("linear backward, dx", shape, BF16 * (dx + w + dy)).on(move |of| {
        let (mut dx, w, dy) = (of.random(dx)?, of.random(w)?, of.random(dy)?);
        Ok(move |ws: &mut Workspace| linear::backward_input(dy.view(), w.view(), dx.view_mut(), shape, 1.0, false, ws))
    })
}

/// Into sums of micro-batches before.
fn linear_backward_weight(at: At) -> Op {
    let (shape, [x, dw, dy]) = gate(at);
    products("linear backward, dw", shape, BF16 * (x + dy) + 2 * F32 * dw).on(move |of| {
        let (x, dy, mut dw) = (of.random(x)?, of.random(dy)?, of.sums(dw)?);
        Ok(move |ws: &mut Workspace| linear::backward_weight(x.view(), dy.view(), dw.view_mut(), shape, 1.0, true, ws))
    })
}

/// Adapters of the gate and up projections.
const ADAPTERS: usize = 2;
const RANK: usize = 16;

/// The second factors of both, as the op wants them.
fn adapters(b: &[CudaBuffer<bf16>], out_features: usize) -> Vec<Projection<'_, bf16>> {
    b.iter().map(|b| Projection { b: b.view(), rank: RANK, out_features, scale: 2.0 }).collect()
}

/// Into products that are there.
fn lora_forward(At { rows, model: Model { hidden, intermediate, .. } }: At) -> Op {
    let shape = lora::Shape { rows, in_features: hidden };
    let (x, a, u) = (rows * hidden, ADAPTERS * RANK * hidden, rows * ADAPTERS * RANK);
    let (b, y) = (intermediate * RANK, rows * intermediate);
    Work::new("lora forward", format!("{rows} × {hidden} → {RANK} → {ADAPTERS} × {intermediate}"))
        .moves(BF16 * (x + a + u + ADAPTERS * (b + 2 * y)))
        .computes(2 * u * hidden + ADAPTERS * 2 * y * RANK)
        .on(move |of| {
            let (x, a, mut u) = (of.random(x)?, of.random(a)?, of.random(u)?);
            let (b, mut y) = (of.several(ADAPTERS, b)?, of.several(ADAPTERS, y)?);
            Ok(move |ws: &mut Workspace| {
                let into = y.iter_mut().map(CudaBuffer::view_mut).collect();
                lora::forward(x.view(), a.view(), &adapters(&b, intermediate), u.view_mut(), into, shape, ws)
            })
        })
}

fn lora_backward(At { rows, model: Model { hidden, intermediate, .. } }: At) -> Op {
    let shape = lora::Shape { rows, in_features: hidden };
    let (x, a, u) = (rows * hidden, ADAPTERS * RANK * hidden, rows * ADAPTERS * RANK);
    let (b, dy) = (intermediate * RANK, rows * intermediate);
    Work::new("lora backward", format!("{rows} × {hidden} → {RANK} → {ADAPTERS} × {intermediate}"))
        .moves(BF16 * (3 * x + a + u + ADAPTERS * (b + dy)) + 2 * F32 * (a + ADAPTERS * b))
        .computes(2 * 2 * u * hidden + ADAPTERS * 2 * 2 * dy * RANK)
        .on(move |of| {
            let (x, mut dx, mut da) = (of.random(x)?, of.random(x)?, of.sums(a)?);
            let (a, u, b, dy) = (of.random(a)?, of.random(u)?, of.several(ADAPTERS, b)?, of.several(ADAPTERS, dy)?);
            let mut db = b.iter().map(|b| of.sums(b.len())).collect::<Result<Vec<_>>>()?;
            Ok(move |ws: &mut Workspace| {
                let dy: Vec<_> = dy.iter().map(CudaBuffer::view).collect();
                let into_b = db.iter_mut().map(CudaBuffer::view_mut).collect();
                let d = Gradients { x: Some(dx.view_mut()), a: da.view_mut(), b: into_b };
                lora::backward(x.view(), a.view(), &adapters(&b, intermediate), u.view(), &dy, d, shape, ws)
            })
        })
}

/// Every fourth row is scored.
fn head(At { rows, model: Model { hidden, vocab, .. } }: At) -> token_log_probs::Shape {
    token_log_probs::Shape { rows, hidden, vocab, targets: rows / 4, chunk: 0 }
}

/// Targets and what they are scored from.
struct Scored {
    hidden: CudaBuffer<bf16>,
    weight: CudaBuffer<bf16>,
    rows: CudaBuffer<u32>,
    ids: CudaBuffer<u32>,
    none: CudaBuffer<u32>,
    starts: CudaBuffer<u32>,
    members: CudaBuffer<u32>,
    lse: CudaBuffer<f32>,
    log_probs: CudaBuffer<f32>,
    shape: token_log_probs::Shape,
}

impl Scored {
    fn new(of: &Operands<'_>, shape: token_log_probs::Shape) -> Result<Self> {
        let of_all = |number: &dyn Fn(usize) -> usize| (0..shape.targets).map(|i| number(i) as u32).collect::<Vec<_>>();
        let rows = of_all(&|i| i * 4);
        let buckets = Buckets::of(&rows);
        Ok(Self {
            hidden: of.random(shape.rows * shape.hidden)?,
            weight: of.random(shape.vocab * shape.hidden)?,
            rows: of.ids(&rows)?,
            ids: of.ids(&of_all(&|i| i * 7919 % shape.vocab))?,
            none: of.ids(&[])?,
            starts: of.ids(&buckets.starts)?,
            members: of.ids(&buckets.members)?,
            lse: of.sums(shape.targets)?,
            log_probs: of.sums(shape.targets)?,
            shape,
        })
    }

    fn forward(&mut self, keep: Keep<'_, bf16>, ws: &mut Workspace) -> Result<()> {
        let Self { hidden, weight, rows, ids, none, starts, members, lse, log_probs, shape } = self;
        let targets = Self::targets([rows, ids, none, starts, members]);
        let (out, lse) = (Outputs::log_probs(log_probs.view_mut()), lse.view_mut());
        token_log_probs::forward(hidden.view(), weight.view(), targets, out, lse, keep, *shape, ws)
    }

    /// Each row is one target's, so that the rows are the buckets' ids too.
    fn targets<'a>([rows, ids, none, starts, members]: [&'a CudaBuffer<u32>; 5]) -> Targets<'a> {
        let by_row = Some(BucketViews { ids: rows.view(), starts: starts.view(), members: members.view() });
        Targets { rows: rows.view(), ids: ids.view(), given: none.view(), by_row }
    }
}

/// With the gradients of hidden states where the head is frozen.
fn head_forward(at: At, is_frozen: bool) -> Op {
    let shape = head(at);
    let (targets, weight) = (shape.targets * shape.hidden, shape.vocab * shape.hidden);
    let name = if is_frozen { "head forward, frozen" } else { "head forward" };
    let (written, products) = if is_frozen { (targets, 2) } else { (0, 1) };
    Work::new(name, format!("{} × {} → {}", shape.targets, shape.hidden, shape.vocab))
        .moves(BF16 * (targets + weight + written) + 2 * F32 * shape.targets)
        .computes(products * 2 * targets * shape.vocab)
        .on(move |of| {
            let (mut scored, mut pulls) = (Scored::new(of, shape)?, of.random(written)?);
            Ok(move |ws: &mut Workspace| {
                scored.forward(if is_frozen { Keep::Pulls(pulls.view_mut()) } else { Keep::Nothing }, ws)
            })
        })
}

/// Of a head that is trained: the logits again, unless they were kept, then two products.
fn head_backward(at: At, keeps: bool) -> Op {
    let shape = head(at);
    let (targets, weight) = (shape.targets * shape.hidden, shape.vocab * shape.hidden);
    let logits = if keeps { shape.targets * token_log_probs::logits_stride::<bf16>(shape.vocab) } else { 0 };
    let name = if keeps { "head backward, logits kept" } else { "head backward" };
    let products = if keeps { 2 } else { 3 };
    Work::new(name, format!("{} × {} → {}", shape.targets, shape.hidden, shape.vocab))
        .moves(BF16 * (3 * targets + weight + logits) + 2 * F32 * (weight + shape.targets))
        .computes(products * 2 * targets * shape.vocab)
        .on(move |of| {
            let (mut scored, mut logits) = (Scored::new(of, shape)?, of.random(logits)?);
            let keep = if keeps { Keep::Logits(logits.view_mut()) } else { Keep::Nothing };
            scored.forward(keep, &mut Workspace::new(1))?;
            let (mut d_hidden, mut d_weight) = (of.random(shape.rows * shape.hidden)?, of.sums(weight)?);
            // Gradients lie where the logits were, and are taken for logits the next time: numbers as good as any.
            Ok(move |ws: &mut Workspace| {
                let Scored { hidden, weight, rows, ids, none, starts, members, lse, log_probs, .. } = &scored;
                let targets = Scored::targets([rows, ids, none, starts, members]);
                let d = Cotangents { log_probs: Some(log_probs.view()), ..Cotangents::default() };
                let (hidden, weight, lse) = (hidden.view(), weight.view(), lse.view());
                let (into_hidden, into_weight) = (d_hidden.view_mut(), Some(d_weight.view_mut()));
                let kept = if keeps { Kept::Logits(logits.view_mut()) } else { Kept::Nothing };
                token_log_probs::backward(hidden, weight, targets, lse, kept, d, into_hidden, into_weight, shape, ws)
            })
        })
}

const HYPER: Hyper = Hyper { lr: 1e-5, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
/// The norm, the factor of gradients, and that there is to be a step.
const CLIP: [f64; clip::OUTCOME] = [1.0, 0.5, 1.0];

/// As many as a few layers have.
fn parameters(at: At) -> usize {
    4 * at.model.hidden * at.model.intermediate
}

fn clip_by_norm(at: At) -> Op {
    let len = parameters(at);
    Work::new("clip by norm", format!("{len}")).moves(F32 * len).computes(2 * len).on(move |of| {
        let (grads, mut outcome) = (of.sums(len)?, of.cuda.upload(&CLIP)?);
        Ok(move |ws: &mut Workspace| clip::by_norm(grads.view(), 1.0, outcome.view_mut(), ws))
    })
}

/// Gradients of a layer: its matrices and norms.
fn survey(at: At) -> Op {
    let (len, hidden) = (parameters(at), at.model.hidden);
    let ends = [len / 4, len / 4 + hidden, len / 2, len / 2 + hidden, len].map(|end| end as u64);
    Work::new("survey", format!("{len}")).moves(F32 * len).computes(len).on(move |of| {
        let (grads, ends, mut flags) = (of.sums(len)?, of.cuda.upload(&ends)?, of.cuda.unwritten(ends.len())?);
        Ok(move |ws: &mut Workspace| survey::flags(grads.view(), ends.view(), flags.view_mut(), ws))
    })
}

/// Parameters in f32, which are copied in bf16.
fn adamw_masters(at: At) -> Op {
    let len = parameters(at);
    Work::new("adamw, masters", format!("{len}")).moves((7 * F32 + BF16) * len).computes(15 * len).on(move |of| {
        let [mut params, grads, mut m] = [of.sums(len)?, of.sums(len)?, of.sums(len)?];
        let (mut v, mut copy, clip) = (of.squares(len)?, of.random(len)?, of.cuda.upload(&CLIP)?);
        Ok(move |ws: &mut Workspace| {
            let (params, m, v, copy) = (params.view_mut(), m.view_mut(), v.view_mut(), Some(copy.view_mut()));
            adamw::step_clipped(params, grads.view(), m, v, copy, clip.view(), 1, HYPER, None, ws)
        })
    })
}

/// Parameters in bf16 alone.
fn adamw_bf16(at: At) -> Op {
    let len = parameters(at);
    Work::new("adamw, bf16", format!("{len}")).moves((5 * F32 + 2 * BF16) * len).computes(15 * len).on(move |of| {
        let (mut params, grads, mut m) = (of.random(len)?, of.sums(len)?, of.sums(len)?);
        let (mut v, clip) = (of.squares(len)?, of.cuda.upload(&CLIP)?);
        Ok(move |ws: &mut Workspace| {
            let (params, m, v) = (params.view_mut(), m.view_mut(), v.view_mut());
            adamw::step_bf16(params, grads.view(), m, v, clip.view(), Draws { seed: 7, step: 1 }, HYPER, None, ws)
        })
    })
}

fn lion_step(at: At) -> Op {
    let len = parameters(at);
    Work::new("lion", format!("{len}")).moves(5 * F32 * len).computes(10 * len).on(move |of| {
        let [mut params, grads, mut m] = [of.sums(len)?, of.sums(len)?, of.sums(len)?];
        let hyper = lion::Hyper { lr: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
        Ok(move |ws: &mut Workspace| lion::step(params.view_mut(), grads.view(), m.view_mut(), 0.5, hyper, None, ws))
    })
}

/// The plain form.
fn rmsprop_step(at: At) -> Op {
    let len = parameters(at);
    Work::new("rmsprop", format!("{len}")).moves(5 * F32 * len).computes(12 * len).on(move |of| {
        let [mut params, grads, mut squares] = [of.sums(len)?, of.sums(len)?, of.squares(len)?];
        let hyper = rmsprop::Hyper { lr: 1e-4, alpha: 0.99, eps: 1e-8, weight_decay: 0.1, momentum: 0.0 };
        Ok(move |ws: &mut Workspace| {
            let state = rmsprop::State { mean_square: squares.view_mut(), mean: None, velocity: None };
            rmsprop::step(params.view_mut(), grads.view(), state, 0.5, hyper, None, ws)
        })
    })
}

/// What comes after the gradient.
fn schedule_free_step(at: At) -> Op {
    let len = parameters(at);
    Work::new("schedule-free adamw", format!("{len}")).moves(8 * F32 * len).computes(16 * len).on(move |of| {
        let [mut params, grads, kept] = [of.sums(len)?, of.sums(len)?, of.sums(len)?];
        let (mut z, mut v) = (of.sums(len)?, of.squares(len)?);
        let hyper = schedule_free::Hyper { lr: 1e-4, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, share: 0.5 };
        Ok(move |ws: &mut Workspace| {
            let (params, z, v) = (params.view_mut(), z.view_mut(), v.view_mut());
            schedule_free::step(params, grads.view(), kept.view(), z, v, 2, 0.5, hyper, None, ws)
        })
    })
}

/// A product of these sizes that moves so many bytes.
fn products(name: &'static str, shape: linear::Shape, bytes: usize) -> Work {
    let linear::Shape { rows, in_features, out_features } = shape;
    Work::new(name, format!("{rows} × {in_features} → {out_features}"))
        .moves(bytes)
        .computes(2 * rows * in_features * out_features)
}

/// An op on one set of operands, which it keeps.
pub(crate) type Once = Box<dyn FnMut(&mut Workspace) -> Result<()>>;
/// What makes one.
type Make = Box<dyn Fn(&Operands<'_>) -> Result<Once>>;

/// What an op at one size has to do.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) size: String,
    /// Bytes of operands that have to be read and written, each once.
    pub(crate) bytes: usize,
    /// Operations on numbers: a multiplication and an addition are two, an exponential is one.
    pub(crate) flops: usize,
}

impl Work {
    fn new(name: &'static str, size: String) -> Self {
        Self { name, size, bytes: 0, flops: 0 }
    }

    fn moves(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    fn computes(self, flops: usize) -> Self {
        Self { flops, ..self }
    }

    /// How a set of operands is made, and the op on it.
    fn on<O>(self, make: impl Fn(&Operands<'_>) -> Result<O> + 'static) -> Op
    where
        O: FnMut(&mut Workspace) -> Result<()> + 'static,
    {
        Op { work: self, make: Box::new(move |of| Ok(Box::new(make(of)?))) }
    }
}

/// An op at one size.
pub(crate) struct Op {
    pub(crate) work: Work,
    make: Make,
}

impl Op {
    /// The op on new operands of `cuda`.
    pub(crate) fn once(&self, cuda: &Cuda) -> Result<Once> {
        let Work { name, bytes, .. } = self.work;
        let counted = Cell::new(0);
        let once = (self.make)(&Operands { cuda: cuda.clone(), bytes: &counted })?;
        let held = counted.get();
        assert!(bytes <= 2 * held, "{name}: {held} bytes of operands, of which {bytes} bytes are moved");
        Ok(once)
    }
}

/// Makes operands, and counts their bytes.
struct Operands<'a> {
    cuda: Cuda,
    bytes: &'a Cell<usize>,
}

impl Operands<'_> {
    fn with_own_products(&self) -> Self {
        Self { cuda: self.cuda.with_own_products(), bytes: self.bytes }
    }

    /// Numbers in [−1, 1).
    fn random(&self, len: usize) -> Result<CudaBuffer<bf16>> {
        self.add(BF16 * len);
        self.cuda.upload(&numbers(len, bf16::from_f32))
    }

    fn several(&self, count: usize, len: usize) -> Result<Vec<CudaBuffer<bf16>>> {
        (0..count).map(|_| self.random(len)).collect()
    }

    /// Numbers in [−1, 1), of the type of sums.
    fn sums(&self, len: usize) -> Result<CudaBuffer<f32>> {
        self.table(&numbers(len, |number| number))
    }

    /// Numbers in [−1, 1), of the type of running means.
    fn means(&self, len: usize) -> Result<CudaBuffer<f64>> {
        self.add(F64 * len);
        self.cuda.upload(&numbers(len, f64::from))
    }

    /// Second moments.
    fn squares(&self, len: usize) -> Result<CudaBuffer<f32>> {
        self.table(&numbers(len, |number| number * number))
    }

    fn table(&self, numbers: &[f32]) -> Result<CudaBuffer<f32>> {
        self.add(size_of_val(numbers));
        self.cuda.upload(numbers)
    }

    fn ids(&self, ids: &[u32]) -> Result<CudaBuffer<u32>> {
        self.add(size_of_val(ids));
        self.cuda.upload(ids)
    }

    fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }
}

/// Repeats after a while, since a buffer can have billions.
fn numbers<T: Copy>(len: usize, of: impl Fn(f32) -> T) -> Vec<T> {
    const PERIOD: usize = (1 << 20) + 7;
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        of((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    };
    let few: Vec<T> = (0..len.min(PERIOD)).map(|_| next()).collect();
    few.iter().copied().cycle().take(len).collect()
}
