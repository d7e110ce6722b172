//! One query row against a cache of keys and values: the step of generation.
use super::{Shape, cuda};
use crate::{Element, Float, Result, View, ViewMut, Workspace, check};

/// out = softmax(q·kᵀ/√D)·v for one row that sees all `shape.rows` rows of the cache, or those in its window, with scores capped where
/// `shape` says so. Forward only.
///
/// `q`, `out` `[heads, D]`; `keys`, `values` `[N, kv_heads, D]` with N = `shape.rows`. Sums run in the order of the rows, on a device in
/// parts of 128 rows.
///
/// # Errors
/// A length that is not its shape's, an empty cache; on a device heads of more than 256 elements, or operands on different devices.
pub fn decode<T: Element>(
    q: View<'_, T>,
    keys: View<'_, T>,
    values: View<'_, T>,
    out: ViewMut<'_, T>,
    shape: Shape,
    ws: &mut Workspace,
) -> Result<()> {
    const OP: &str = "attention::decode";
    shape.check(OP)?;
    check::shape(OP, shape.rows > 0, || "the cache holds 0 rows, expected at least the row itself".into())?;
    check::length(OP, "q", q.len(), &[shape.heads, shape.head_dim], "heads × head_dim")?;
    shape.keys(OP, "keys", keys.len())?;
    shape.keys(OP, "values", values.len())?;
    check::length(OP, "out", out.len(), &[shape.heads, shape.head_dim], "heads × head_dim")?;
    if let Some(device) = q.device() {
        return cuda::decode(OP, device, q, keys, values, out, shape, ws);
    }
    on_cpu(q.cpu(OP)?, keys.cpu(OP)?, values.cpu(OP)?, out.cpu(OP)?, shape, ws);
    Ok(())
}

fn on_cpu<T: Float>(q: &[T], keys: &[T], values: &[T], out: &mut [T], shape: Shape, ws: &mut Workspace) {
    let (head_dim, group, width) = (shape.head_dim, shape.heads / shape.kv_heads, shape.kv_heads * shape.head_dim);
    let scale = T::from_f64(1.0 / (head_dim as f64).sqrt());
    let first_seen = shape.rows.saturating_sub(shape.window.unwrap_or(shape.rows));
    let mut weights = ws.take::<T>(shape.rows - first_seen);
    for (head, (q, out)) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)).enumerate() {
        let first = head / group * head_dim;
        let lane = |row: usize| row * width + first..row * width + first + head_dim;
        let mut highest = T::NEG_INFINITY;
        for (row, weight) in (first_seen..).zip(weights.iter_mut()) {
            let key = &keys[lane(row)];
            *weight = q.iter().zip(key).fold(T::ZERO, |sum, (a, b)| sum + *a * *b) * scale;
            if let Some(cap) = shape.soft_cap {
                *weight = T::from_f64(cap * (weight.to_f64() / cap).tanh());
            }
            if *weight > highest {
                highest = *weight;
            }
        }
        let mut total = T::ZERO;
        out.fill(T::ZERO);
        for (row, weight) in (first_seen..).zip(&weights) {
            let p = (*weight - highest).exp();
            total += p;
            for (o, v) in out.iter_mut().zip(&values[lane(row)]) {
                *o += p * *v;
            }
        }
        out.iter_mut().for_each(|o| *o /= total);
    }
    ws.give_back(weights);
}
