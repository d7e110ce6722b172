//! Every CPU kernel beside its naive form: the same mathematics as candle's own operations, gradients by candle's autograd.
//!
//! ```console
//! cargo bench -p candlewick-kernels                      # all, at both shapes
//! cargo bench -p candlewick-kernels -- --quick           # fewer rows and rougher times
//! cargo bench -p candlewick-kernels -- attention         # those with `attention` in their names
//! cargo bench -p candlewick-kernels -- --test            # no times: do they agree?
//! ```
//!
//! A kernel is timed only after one evaluation of both forms agreed. Both use all cores; candle multiplies by `gemm`, as the kernels do where they have no product of their own. Where the
//! naive gradient needs the forward pass's graph, both sides run forward and backward.
use std::error::Error;
use std::hint::black_box;
use std::time::Duration;

use candle_core::{D, DType, Device, Tensor, Var};
use candlewick_kernels::attention::Segment;
use candlewick_kernels::gated::{self, Activation};
use candlewick_kernels::token_log_probs::{Cotangents, Keep, Kept, KeptSoftmax, Outputs, Targets};
use candlewick_kernels::{
    View, Workspace, adafactor, adamw, adamw_8bit, attention, embedding, linear, lion, muon, rms_norm, rmsprop, rope,
    schedule_free, token_log_probs,
};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};

/// The sizes of a model's layers.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    intermediate: usize,
    vocab: usize,
}

const MODELS: [Model; 2] = [
    Model { name: "30m", hidden: 384, heads: 6, kv_heads: 6, intermediate: 1024, vocab: 50_257 },
    Model { name: "smollm2-135m", hidden: 576, heads: 9, kv_heads: 3, intermediate: 1536, vocab: 49_152 },
];
const HEAD_DIM: usize = 64;
const EPS: f64 = 1e-5;
/// ‖fused − naive‖/‖naive‖ above which a kernel is not worth timing.
const AGREEMENT: f64 = 1e-4;

type Checked = Result<(), Box<dyn Error>>;
type Naive = candle_core::Result<Vec<Tensor>>;

fn main() -> Checked {
    let is_quick = std::env::args().any(|word| word == "--quick" || word == "--test");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    for model in MODELS {
        let mut bench = Bench { model, tokens: if is_quick { 64 } else { 512 }, criterion: &mut criterion };
        bench.linear()?;
        bench.rms_norm()?;
        bench.rope()?;
        bench.swiglu()?;
        bench.attention()?;
        bench.token_log_probs()?;
        bench.embedding()?;
        bench.adamw()?;
        bench.other_optimizers()?;
        bench.muon()?;
    }
    criterion.final_summary();
    Ok(())
}

/// One model's kernels on so many tokens.
struct Bench<'a> {
    model: Model,
    tokens: usize,
    criterion: &'a mut Criterion,
}

impl Bench<'_> {
    /// The gate projection.
    fn linear(&mut self) -> Checked {
        let Self { model, tokens, .. } = *self;
        let (x, tx) = random(1, &[tokens, model.hidden])?;
        let (w, tw) = random(2, &[model.intermediate, model.hidden])?;
        let (dy, tdy) = random(3, &[tokens, model.intermediate])?;
        let shape = linear::Shape { rows: tokens, in_features: model.hidden, out_features: model.intermediate };
        let ws = &mut Workspace::new(0);

        self.compare(
            "linear/forward",
            [zeros(&dy)],
            |[y]| linear::forward((&x).into(), (&w).into(), y.into(), shape, 1.0, false, ws),
            || Ok(vec![tx.matmul(&tw.t()?)?]),
        )?;
        self.compare(
            "linear/backward",
            [zeros(&x), zeros(&w)],
            |[dx, dw]| {
                linear::backward_input((&dy).into(), (&w).into(), dx.into(), shape, 1.0, false, ws)?;
                linear::backward_weight((&x).into(), (&dy).into(), dw.into(), shape, 1.0, false, ws)
            },
            || Ok(vec![tdy.matmul(&tw)?, tdy.t()?.matmul(&tx)?]),
        )
    }

    fn rms_norm(&mut self) -> Checked {
        let Self { model, tokens, .. } = *self;
        let (x, tx) = random(1, &[tokens, model.hidden])?;
        let (w, tw) = random(2, &[model.hidden])?;
        let (dy, tdy) = random(3, &[tokens, model.hidden])?;
        let (tx, tw) = (Var::from_tensor(&tx)?, Var::from_tensor(&tw)?);
        let shape = rms_norm::Shape { rows: tokens, hidden: model.hidden };
        let ws = &mut Workspace::new(0);
        let (mut rstd, mut kept) = (vec![0.0; tokens], zeros(&x));
        let naive = |x: &Tensor, w: &Tensor| {
            let root = (x.sqr()?.mean_keepdim(D::Minus1)? + EPS)?.sqrt()?;
            x.broadcast_div(&root)?.broadcast_mul(w)
        };

        self.compare(
            "rms_norm/forward",
            [zeros(&x)],
            |[y]| rms_norm::forward((&x).into(), (&w).into(), y.into(), (&mut rstd).into(), shape, EPS, ws),
            || Ok(vec![naive(&tx.as_detached_tensor(), &tw.as_detached_tensor())?]),
        )?;
        self.compare(
            "rms_norm/forward_backward",
            [zeros(&x), zeros(&w)],
            |[dx, dw]| {
                rms_norm::forward((&x).into(), (&w).into(), (&mut kept).into(), (&mut rstd).into(), shape, EPS, ws)?;
                dw.fill(0.0);
                let (x, w, rstd, dy) = ((&x).into(), (&w).into(), (&rstd).into(), (&dy).into());
                rms_norm::backward(x, w, rstd, dy, dx.into(), false, Some(dw.into()), shape, ws)
            },
            || gradients(&naive(&tx, &tw)?, &tdy, &[&tx, &tw]),
        )
    }

    /// The queries, in place.
    fn rope(&mut self) -> Checked {
        let Self { model, tokens, .. } = *self;
        let (x, tx) = random(1, &[tokens, model.heads, HEAD_DIM])?;
        let half = HEAD_DIM / 2;
        let inv_freq: Vec<f64> = (0..half).map(|j| 10_000f64.powf(-(j as f64) / half as f64)).collect();
        let tables = rope::Tables::<f32>::new(&inv_freq, tokens);
        let positions: Vec<u32> = (0..tokens as u32).collect();
        let table = |values: &[f32]| Tensor::from_slice(values, (tokens, 1, half), &Device::Cpu);
        let (cos, sin) = (table(&tables.cos)?, table(&tables.sin)?);
        let shape = rope::Shape { rows: tokens, heads: model.heads, head_dim: HEAD_DIM };
        let ws = &mut Workspace::new(0);

        self.compare(
            "rope",
            [x],
            |[x]| rope::apply(x.into(), &positions, &tables, shape, rope::Direction::Forward, ws),
            || {
                let (a, b) = (tx.narrow(2, 0, half)?, tx.narrow(2, half, half)?);
                let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
                let right = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
                Ok(vec![Tensor::cat(&[left, right], 2)?])
            },
        )
    }

    fn swiglu(&mut self) -> Checked {
        let Self { model, tokens, .. } = *self;
        let dims = [tokens, model.intermediate];
        let (gate, tgate) = random(1, &dims)?;
        let (up, tup) = random(2, &dims)?;
        let (dy, tdy) = random(3, &dims)?;
        let (vgate, vup) = (Var::from_tensor(&tgate)?, Var::from_tensor(&tup)?);
        let ws = &mut Workspace::new(0);
        let mut kept = zeros(&gate);

        self.compare(
            "swiglu/forward",
            [zeros(&gate)],
            |[y]| gated::forward(Activation::Silu, (&gate).into(), (&up).into(), y.into(), ws),
            || Ok(vec![(tgate.silu()? * &tup)?]),
        )?;
        self.compare(
            "swiglu/forward_backward",
            [zeros(&gate), zeros(&up)],
            |[dgate, dup]| {
                gated::forward(Activation::Silu, (&gate).into(), (&up).into(), (&mut kept).into(), ws)?;
                gated::backward(
                    Activation::Silu,
                    (&gate).into(),
                    (&up).into(),
                    (&dy).into(),
                    dgate.into(),
                    dup.into(),
                    ws,
                )
            },
            || gradients(&(vgate.silu()? * vup.as_tensor())?, &tdy, &[&vgate, &vup]),
        )
    }

    /// A prompt of a quarter of the rows with two completions, beside two whole sequences with full score matrices.
    fn attention(&mut self) -> Checked {
        let Self { model, tokens, .. } = *self;
        let (prompt, completion) = (tokens / 4, 3 * tokens / 8);
        let rows = prompt + 2 * completion;
        let segments =
            [Segment { prompt: 0..prompt, completions: vec![prompt..prompt + completion, prompt + completion..rows] }];
        let (heads, kv_heads) = (model.heads, model.kv_heads);
        let shape = attention::Shape { rows, heads, kv_heads, head_dim: HEAD_DIM, soft_cap: None, window: None };
        let layout = attention::Layout::from(&segments[..]);
        let (q, tq) = random(1, &[rows, model.heads, HEAD_DIM])?;
        let (k, tk) = random(2, &[rows, model.kv_heads, HEAD_DIM])?;
        let (v, tv) = random(3, &[rows, model.kv_heads, HEAD_DIM])?;
        let (dout, tdout) = random(4, &[rows, model.heads, HEAD_DIM])?;
        let (vq, vk, vv) = (Var::from_tensor(&tq)?, Var::from_tensor(&tk)?, Var::from_tensor(&tv)?);
        let mask = causal(prompt + completion)?;
        let naive = |q: &Tensor, k: &Tensor, v: &Tensor| unshared(q, k, v, &mask, prompt, completion);
        let ws = &mut Workspace::new(0);
        let (mut kept, mut lse) = (zeros(&q), vec![0.0; rows * model.heads]);

        self.compare(
            "attention/forward",
            [zeros(&q)],
            |[out]| {
                let (q, k, v) = ((&q).into(), (&k).into(), (&v).into());
                attention::forward(q, k, v, out.into(), (&mut lse).into(), layout, shape, ws)
            },
            || Ok(vec![naive(&tq, &tk, &tv)?]),
        )?;
        self.compare(
            "attention/forward_backward",
            [zeros(&q), zeros(&k), zeros(&v)],
            |[dq, dk, dv]| {
                let (q, k, v) = ((&q).into(), (&k).into(), (&v).into());
                attention::forward(q, k, v, (&mut kept).into(), (&mut lse).into(), layout, shape, ws)?;
                let (out, lse, dout) = ((&kept).into(), (&lse).into(), (&dout).into());
                let (dq, dk, dv) = (dq.into(), dk.into(), dv.into());
                attention::backward(q, k, v, out, lse, dout, dq, dk, dv, layout, shape, ws)
            },
            || gradients(&naive(&vq, &vk, &vv)?, &tdout, &[&vq, &vk, &vv]),
        )
    }

    /// Half of the rows are targets, as many as a completion's share; with the head's gradient, and with a frozen head.
    fn token_log_probs(&mut self) -> Checked {
        let Self { model, tokens, .. } = *self;
        let targets = tokens / 2;
        // Small, as trained heads are: large logits would leave one token all the probability.
        let (h, th) = scaled(1, &[targets, model.hidden], 0.2)?;
        let (w, tw) = scaled(2, &[model.vocab, model.hidden], 0.2)?;
        let (d, td) = random(3, &[targets])?;
        let rows: Vec<u32> = (0..targets as u32).collect();
        let ids: Vec<u32> = rows.iter().map(|row| row * 7919 % model.vocab as u32).collect();
        let tids = Tensor::from_slice(&ids, (targets, 1), &Device::Cpu)?;
        let (vh, vw) = (Var::from_tensor(&th)?, Var::from_tensor(&tw)?);
        let (hidden, vocab) = (model.hidden, model.vocab);
        let shape = token_log_probs::Shape { rows: targets, hidden, vocab, targets, chunk: 0 };
        let naive = |h: &Tensor, w: &Tensor| {
            candle_nn::ops::log_softmax(&h.matmul(&w.t()?)?, D::Minus1)?.gather(&tids, 1)?.squeeze(1)
        };
        let ws = &mut Workspace::new(0);
        let (mut scores, mut lse) = (vec![0.0; targets], vec![0.0; targets]);

        self.compare(
            "token_log_probs/forward",
            [vec![0.0; targets]],
            |[log_probs]| {
                let out = Outputs::log_probs(log_probs.into());
                let (h, w, lse) = ((&h).into(), (&w).into(), (&mut lse).into());
                token_log_probs::forward(h, w, Targets::new(&rows, &ids, &[]), out, lse, Keep::Nothing, shape, ws)
            },
            || Ok(vec![naive(&th, &tw)?]),
        )?;
        let (mut exps, mut factors) = (vec![0.0; targets * vocab], vec![0.0; targets * token_log_probs::blocks(vocab)]);
        let mut pulls = zeros(&h);
        let mut both = |d_hidden: &mut Vec<f32>, d_weight: Option<&mut Vec<f32>>| {
            let out = Outputs::log_probs((&mut scores).into());
            let keep = match d_weight {
                Some(_) => Keep::Softmax(softmax(&mut exps, &mut factors)),
                None => Keep::Pulls((&mut pulls).into()),
            };
            let (h, w) = ((&h).into(), (&w).into());
            token_log_probs::forward(h, w, Targets::new(&rows, &ids, &[]), out, (&mut lse).into(), keep, shape, ws)?;
            d_hidden.fill(0.0);
            let d = Cotangents { log_probs: Some((&d).into()), ..Cotangents::default() };
            let kept = match d_weight {
                Some(_) => Kept::Softmax(softmax(&mut exps, &mut factors)),
                None => Kept::Pulls((&pulls).into()),
            };
            let d_weight = d_weight.map(|d_weight| {
                d_weight.fill(0.0);
                d_weight.into()
            });
            token_log_probs::backward(
                h,
                w,
                Targets::new(&rows, &ids, &[]),
                (&lse).into(),
                kept,
                d,
                d_hidden.into(),
                d_weight,
                shape,
                ws,
            )
        };
        self.compare(
            "token_log_probs/forward_backward",
            [zeros(&h), zeros(&w)],
            |[d_hidden, d_weight]| both(d_hidden, Some(d_weight)),
            || gradients(&naive(&vh, &vw)?, &td, &[&vh, &vw]),
        )?;
        self.compare(
            "token_log_probs/frozen_head",
            [zeros(&h)],
            |[d_hidden]| both(d_hidden, None),
            || gradients(&naive(&vh, &tw)?, &td, &[&vh]),
        )
    }

    fn embedding(&mut self) -> Checked {
        let Self { model, tokens, .. } = *self;
        // Some ids come often, as words do.
        let ids: Vec<u32> = (0..tokens as u32).map(|i| (i % 17) * (i % 31) * 97 % model.vocab as u32).collect();
        let tids = Tensor::from_slice(&ids, tokens, &Device::Cpu)?;
        let (dy, tdy) = random(1, &[tokens, model.hidden])?;
        let table = Var::zeros((model.vocab, model.hidden), DType::F32, &Device::Cpu)?;
        let ws = &mut Workspace::new(0);

        self.compare(
            "embedding/backward",
            [vec![0.0; model.vocab * model.hidden]],
            |[dtable]| embedding::backward(&ids, (&dy).into(), dtable.into(), model.hidden, ws),
            || gradients(&table.index_select(&tids, 0)?, &tdy, &[&table]),
        )
    }

    /// The parameters of one layer.
    fn adamw(&mut self) -> Checked {
        let Model { hidden, heads, kv_heads, intermediate, .. } = self.model;
        let count = hidden * (2 * HEAD_DIM * (heads + kv_heads) + 3 * intermediate + 2);
        let (p, tp) = random(1, &[count])?;
        let (g, tg) = random(2, &[count])?;
        let (m, tm) = random(3, &[count])?;
        let tv = tm.sqr()?;
        let v = tv.to_vec1::<f32>()?;
        let hyper = adamw::Hyper { lr: 1e-5, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
        let (step, scale) = (10u64, 0.5);
        let ws = &mut Workspace::new(0);

        self.compare(
            "adamw/step",
            [p, m, v],
            |[p, m, v]| adamw::step(p.into(), (&g).into(), m.into(), v.into(), step, scale, hyper, ws),
            || {
                let g = (&tg * scale)?;
                let m = ((&tm * hyper.beta1)? + (&g * (1.0 - hyper.beta1))?)?;
                let v = ((&tv * hyper.beta2)? + (g.sqr()? * (1.0 - hyper.beta2))?)?;
                let (of_m, of_v) = (1.0 - hyper.beta1.powi(10), 1.0 - hyper.beta2.powi(10));
                let update = ((&m / of_m)? / ((&v / of_v)?.sqrt()? + hyper.eps)?)?;
                let p = ((&tp * (1.0 - hyper.lr * hyper.weight_decay))? - (update * hyper.lr)?)?;
                Ok(vec![p, m, v])
            },
        )?;
        self.compare(
            "adamw/sum_squares",
            [vec![0.0]],
            |[sum]| {
                sum[0] = adamw::sum_squares(View::from(&g), ws)? as f32;
                Ok(())
            },
            || Ok(vec![tg.sqr()?.sum_all()?.reshape(1)?]),
        )
    }

    /// The weight of the gate projection.
    fn other_optimizers(&mut self) -> Checked {
        let Model { hidden, intermediate: rows, .. } = self.model;
        let (p, tp) = random(1, &[rows, hidden])?;
        let (g, tg) = random(2, &[rows, hidden])?;
        let (m, tm) = random(3, &[rows, hidden])?;
        let (x, tx) = random(4, &[rows, hidden])?;
        let tv = tm.sqr()?;
        let v = tv.flatten_all()?.to_vec1::<f32>()?;
        let ws = &mut Workspace::new(0);
        let lr = 1e-3;

        let hyper = lion::Hyper { lr, beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
        self.compare(
            "lion/step",
            [p.clone(), m.clone()],
            |[p, m]| lion::step(p.into(), (&g).into(), m.into(), 1.0, hyper, None, ws),
            || {
                let sign = ((&tm * 0.9)? + (&tg * 0.1)?)?.sign()?;
                Ok(vec![((&tp * (1.0 - 0.1 * lr))? - (sign * lr)?)?, ((&tm * 0.99)? + (&tg * 0.01)?)?])
            },
        )?;
        let hyper = rmsprop::Hyper { lr, alpha: 0.9, eps: 1e-3, weight_decay: 0.0, momentum: 0.5 };
        self.compare(
            "rmsprop/step",
            [p.clone(), v.clone(), m.clone()],
            |[p, v, m]| {
                let state = rmsprop::State { mean_square: v.into(), mean: None, velocity: Some(m.into()) };
                rmsprop::step(p.into(), (&g).into(), state, 1.0, hyper, None, ws)
            },
            || {
                let v = ((&tv * 0.9)? + (tg.sqr()? * 0.1)?)?;
                let m = ((&tm * 0.5)? + (&tg / (v.sqrt()? + 1e-3)?)?)?;
                Ok(vec![(&tp - (&m * lr)?)?, v, m])
            },
        )?;
        let hyper = schedule_free::Hyper { lr, beta2: 0.9, eps: 1e-3, weight_decay: 0.1, share: 0.25 };
        self.compare(
            "schedule_free/step",
            [p.clone(), m.clone(), v.clone()],
            |[p, z, v]| {
                let (z, v) = (z.into(), v.into());
                schedule_free::step(p.into(), (&g).into(), (&x).into(), z, v, 10, 1.0, hyper, None, ws)
            },
            || {
                let v = ((&tv * 0.9)? + (tg.sqr()? * 0.1)?)?;
                let root = ((&v / (1.0 - 0.9f64.powi(10)))?.sqrt()? + 1e-3)?;
                let z = (&tm - (((&tg / root)? + (&tp * 0.1)?)? * lr)?)?;
                Ok(vec![(&tx + ((&z - &tx)? * 0.25)?)?, z, v])
            },
        )?;
        let hyper =
            adafactor::Hyper { lr, beta2_decay: -0.8, eps1: 1e-7, eps2: 1e-3, clip_threshold: 1.0, weight_decay: 0.0 };
        self.compare(
            "adafactor/step",
            [p.clone(), vec![0.0; rows], vec![0.0; hidden]],
            |[p, rows, cols]| {
                let mean_square = adafactor::MeanSquare::Factored { rows: rows.into(), cols: cols.into() };
                adafactor::step(p.into(), (&g).into(), mean_square, 10, 1.0, hyper, ws)
            },
            || {
                let root_mean = |x: &Tensor| x.sqr()?.mean_all()?.to_scalar::<f32>().map(|mean| f64::from(mean).sqrt());
                let weight = 10f64.powf(-0.8);
                let (rows, cols) = ((tg.sqr()?.mean(1)? * weight)?, (tg.sqr()?.mean(0)? * weight)?);
                let mean = f64::from(rows.mean_all()?.to_scalar::<f32>()?);
                let v = rows.unsqueeze(1)?.broadcast_mul(&cols.unsqueeze(0)?)?;
                let update = (&tg / (v / mean)?.sqrt()?)?;
                let size = root_mean(&tp)?.max(1e-3) * lr / root_mean(&update)?.max(1.0);
                Ok(vec![(&tp - (update * size)?)?, rows, cols])
            },
        )?;
        // The naive form keeps its moments in full: what both begin with is zero, so the first update is the same.
        let hyper = adamw::Hyper { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
        let [mean, mean_square] = adamw_8bit::zero();
        let (mut mean, mut mean_square) = (vec![mean; p.len()], vec![mean_square; p.len()]);
        let blocks = p.len().div_ceil(adamw_8bit::BLOCK);
        let (mut mean_scales, mut mean_square_scales) = (vec![0.0f32; blocks], vec![0.0f32; blocks]);
        self.compare(
            "adamw_8bit/step",
            [p],
            |[p]| {
                let moments = adamw_8bit::Moments {
                    mean: (&mut mean).into(),
                    mean_square: (&mut mean_square).into(),
                    mean_scales: (&mut mean_scales).into(),
                    mean_square_scales: (&mut mean_square_scales).into(),
                };
                adamw_8bit::step(p.into(), (&g).into(), moments, 1, 1.0, hyper, ws)
            },
            || {
                let (m, v) = ((&tg * 0.1)?, (tg.sqr()? * 0.001)?);
                let update = ((m / 0.1)? / ((v / 0.001)?.sqrt()? + 1e-8)?)?;
                Ok(vec![((&tp * (1.0 - 0.1 * lr))? - (update * lr)?)?])
            },
        )
    }

    /// The weight of the gate projection.
    fn muon(&mut self) -> Checked {
        let Model { hidden, intermediate, .. } = self.model;
        let shape = muon::Shape { rows: intermediate, cols: hidden };
        let (p, tp) = random(1, &[intermediate, hidden])?;
        let (g, tg) = random(2, &[intermediate, hidden])?;
        let (m, tm) = random(3, &[intermediate, hidden])?;
        let hyper =
            muon::Hyper { lr: 1e-3, step_size: 1e-2, momentum: 0.95, nesterov: true, ns_steps: 5, weight_decay: 0.1 };
        let ws = &mut Workspace::new(0);
        self.compare(
            "muon/step",
            [p, m],
            |[p, m]| muon::step(p.into(), (&g).into(), m.into(), shape, 1.0, hyper, ws),
            || {
                let m = ((&tm * 0.95)? + (&tg * 0.05)?)?;
                let update = ((&tg * 0.05)? + (&m * 0.95)?)?;
                let norm = f64::from(update.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
                let mut x = (update.t()?.contiguous()? / norm)?;
                for _ in 0..5 {
                    let a = x.matmul(&x.t()?)?;
                    let b = ((&a * -4.7750)? + (a.matmul(&a)? * 2.0315)?)?;
                    x = ((&x * 3.4445)? + b.matmul(&x)?)?;
                }
                let p = ((&tp * (1.0 - 1e-4))? - (x.t()? * 1e-2)?)?;
                Ok(vec![p, m])
            },
        )
    }

    /// Times both forms after one evaluation of each has agreed. `outputs` is what the fused form writes or changes.
    fn compare<const N: usize>(
        &mut self,
        name: &str,
        mut outputs: [Vec<f32>; N],
        mut fused: impl FnMut(&mut [Vec<f32>; N]) -> candlewick_kernels::Result<()>,
        naive: impl Fn() -> Naive,
    ) -> Checked {
        fused(&mut outputs)?;
        let expected = naive()?;
        if expected.len() != N {
            return Err(format!("{name}: {N} results beside {} of the naive form", expected.len()).into());
        }
        for (i, (got, expected)) in outputs.iter().zip(&expected).enumerate() {
            let apart = distance(got, &expected.flatten_all()?.to_vec1()?);
            if apart.is_nan() || apart > AGREEMENT {
                return Err(
                    format!("{name}, {}: result {i} is {apart:e} away from the naive form", self.model.name).into()
                );
            }
        }
        let mut group: BenchmarkGroup<'_, WallTime> = self.criterion.benchmark_group(name);
        group.bench_function(BenchmarkId::new("fused", self.model.name), |b| b.iter(|| fused(black_box(&mut outputs))));
        group.bench_function(BenchmarkId::new("naive", self.model.name), |b| b.iter(&naive));
        group.finish();
        Ok(())
    }
}

/// softmax(q·kᵀ/√D)·v of the two sequences that the rows of a prompt and two completions stand for, each with its copy of the
/// prompt. `q` `[N, heads, D]`, `k` and `v` `[N, kv_heads, D]`, `mask` `[L, L]`; the rows' results in their order.
fn unshared(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Tensor,
    prompt: usize,
    completion: usize,
) -> candle_core::Result<Tensor> {
    let whole = |x: &Tensor, which: usize| {
        let own = x.narrow(0, prompt + which * completion, completion)?;
        Tensor::cat(&[x.narrow(0, 0, prompt)?, own], 0)?.transpose(0, 1)?.contiguous()
    };
    let heads = q.dim(1)?;
    let spread = |x: Tensor| {
        let (kv_heads, len, head_dim) = x.dims3()?;
        let wide = x.unsqueeze(1)?.broadcast_as((kv_heads, heads / kv_heads, len, head_dim))?;
        wide.contiguous()?.reshape((heads, len, head_dim))
    };
    let attend = |which: usize| {
        let (q, k, v) = (whole(q, which)?, spread(whole(k, which)?)?, spread(whole(v, which)?)?);
        let scores = (q.matmul(&k.t()?)? / (HEAD_DIM as f64).sqrt())?.broadcast_add(mask)?;
        candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?.transpose(0, 1)
    };
    Tensor::cat(&[attend(0)?, attend(1)?.narrow(0, prompt, completion)?], 0)
}

fn causal(len: usize) -> candle_core::Result<Tensor> {
    let mask = (0..len * len).map(|at| if at % len <= at / len { 0.0 } else { f32::NEG_INFINITY }).collect();
    Tensor::from_vec(mask, (len, len), &Device::Cpu)
}

/// candle's gradients of Σ out·dout.
fn gradients(out: &Tensor, dout: &Tensor, vars: &[&Var]) -> Naive {
    let grads = (out * dout)?.sum_all()?.backward()?;
    let missing = || candle_core::Error::Msg("a variable without a gradient".into());
    vars.iter().map(|var| grads.get(var).cloned().ok_or_else(missing)).collect()
}

/// Numbers in (−1, 1), the same in every run, as a buffer and as a tensor.
fn random(seed: u64, dims: &[usize]) -> candle_core::Result<(Vec<f32>, Tensor)> {
    scaled(seed, dims, 1.0)
}

fn scaled(seed: u64, dims: &[usize], scale: f32) -> candle_core::Result<(Vec<f32>, Tensor)> {
    let mut state = seed;
    let mut next = || {
        // A linear congruential generator, of which the upper bits are used.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        scale * ((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
    };
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|_| next()).collect();
    let tensor = Tensor::from_slice(&values, dims, &Device::Cpu)?;
    Ok((values, tensor))
}

fn zeros(like: &[f32]) -> Vec<f32> {
    vec![0.0; like.len()]
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b))).max(f64::MIN_POSITIVE)
}

fn softmax<'a>(exps: &'a mut Vec<f32>, factors: &'a mut Vec<f32>) -> KeptSoftmax<'a, f32> {
    KeptSoftmax { exps: exps.into(), factors: factors.into() }
}
