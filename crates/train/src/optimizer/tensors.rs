//! How an optimizer treats each tensor: what it is, whether it decays, how fast it learns.
use std::ops::Range;

use candlewick_kernels::{Buffer, Cuda, Float, Groups};
use candlewick_model::Parameters;

use crate::error::Result;

/// A tensor of what is trained.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    /// Where it lies among all numbers.
    pub(crate) range: Range<usize>,
    /// Rows and columns, where it has two dimensions.
    pub(crate) matrix: Option<(usize, usize)>,
    pub(crate) role: Role,
    /// What the learning rate is multiplied by.
    pub(crate) rate: f64,
}

/// What a tensor is, as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A norm or a bias.
    NormOrBias,
    /// The table of embeddings.
    Embedding,
    /// The head, or the heads of a score model.
    Head,
    /// LoRA's A.
    LoraA,
    /// LoRA's B.
    LoraB,
    /// A weight of a layer.
    Weight,
}

impl Role {
    pub(crate) fn of(name: &str) -> Self {
        match name {
            _ if name.contains(".lora_A.") => Self::LoraA,
            _ if name.contains(".lora_B.") => Self::LoraB,
            // The names that transformers' trainer spares from decay.
            _ if name.contains("norm") || name.ends_with("bias") => Self::NormOrBias,
            _ if name.contains("embed_tokens") => Self::Embedding,
            _ if name.contains("lm_head") || name.ends_with("score.weight") => Self::Head,
            _ => Self::Weight,
        }
    }
}

impl Tensor {
    pub(crate) fn weight_decay(&self, decay: f64) -> f64 {
        if self.role == Role::NormOrBias { 0.0 } else { decay }
    }

    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }
}

/// The tensors of a layout, in order. With LoRA+ those of LoRA's B learn `lora_plus_ratio` times as fast.
pub(crate) fn tensors<'a>(
    layout: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    lora_plus_ratio: Option<f64>,
) -> Vec<Tensor> {
    let mut start = 0;
    let tensor = |(name, shape): (&str, &[usize])| {
        let range = start..start + shape.iter().product::<usize>();
        start = range.end;
        let role = Role::of(name);
        let matrix = match shape {
            [rows, cols] => Some((*rows, *cols)),
            _ => None,
        };
        let rate = if role == Role::LoraB { lora_plus_ratio.unwrap_or(1.0) } else { 1.0 };
        Tensor { range, matrix, role, rate }
    };
    layout.into_iter().map(tensor).collect()
}

/// Names and shapes of parameters, in order.
pub(crate) fn layout<T: Float>(parameters: &Parameters<T>) -> impl Iterator<Item = (&str, &[usize])> {
    (0..parameters.len()).map(|i| (parameters.name(i), parameters.shape(i)))
}

/// A stretch of neighbouring tensors that are treated alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    pub(crate) range: Range<usize>,
    pub(crate) weight_decay: f64,
    pub(crate) rate: f64,
}

/// The fewest stretches, for an optimizer that works number by number.
pub(crate) fn spans(tensors: &[Tensor], decay: f64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let same = |a: f64, b: f64| a.to_bits() == b.to_bits();
    for tensor in tensors {
        let (range, weight_decay, rate) = (tensor.range.clone(), tensor.weight_decay(decay), tensor.rate);
        match spans.last_mut() {
            Some(span) if same(span.weight_decay, weight_decay) && same(span.rate, rate) => span.range.end = range.end,
            _ => spans.push(Span { range, weight_decay, rate }),
        }
    }
    spans
}

/// Stretches where kernels read them. Held between steps, so that an update asks for no memory.
#[derive(Debug)]
pub(crate) struct Stretches {
    ends: Buffer<u64>,
    rates: Buffer<f64>,
    weight_decays: Buffer<f64>,
}

impl Stretches {
    /// On the device of the parameters, or on the host.
    pub(crate) fn new(spans: &[Span], device: Option<&Cuda>) -> Result<Self> {
        let ends: Vec<u64> = spans.iter().map(|span| span.range.end as u64).collect();
        let rates: Vec<f64> = spans.iter().map(|span| span.rate).collect();
        let decays: Vec<f64> = spans.iter().map(|span| span.weight_decay).collect();
        let Some(device) = device else {
            return Ok(Self { ends: ends.into(), rates: rates.into(), weight_decays: decays.into() });
        };
        Ok(Self {
            ends: Buffer::upload(&ends, device)?,
            rates: Buffer::upload(&rates, device)?,
            weight_decays: Buffer::upload(&decays, device)?,
        })
    }

    /// For a step whose own rate those of the stretches multiply, and whose own decay is 1; none where nothing is trained.
    pub(crate) fn groups(&self) -> Option<Groups<'_>> {
        let Self { ends, rates, weight_decays } = self;
        let groups = Groups { ends: ends.view(), lr: rates.view(), weight_decay: weight_decays.view() };
        (!ends.is_empty()).then_some(groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_tensor_is() {
        for (name, role) in [
            ("model.embed_tokens.weight", Role::Embedding),
            ("model.layers.0.input_layernorm.weight", Role::NormOrBias),
            ("model.layers.0.self_attn.q_proj.weight", Role::Weight),
            ("model.layers.0.self_attn.q_proj.bias", Role::NormOrBias),
            ("model.norm.weight", Role::NormOrBias),
            ("lm_head.weight", Role::Head),
            ("base_model.model.lm_head.lora_A.weight", Role::LoraA),
            ("base_model.model.model.layers.0.mlp.up_proj.lora_B.weight", Role::LoraB),
        ] {
            assert_eq!(Role::of(name), role, "{name}");
        }
    }

    #[test]
    fn neighbours_that_are_treated_alike_are_one_stretch() {
        let layout: [(&str, &[usize]); 4] =
            [("a.weight", &[2, 3]), ("b.weight", &[2]), ("norm.weight", &[3]), ("c.lora_B.weight", &[1, 2])];
        let all = tensors(layout, Some(16.0));
        assert_eq!((all[0].matrix, all[1].matrix), (Some((2, 3)), None));
        let span = |range, weight_decay, rate| Span { range, weight_decay, rate };
        assert_eq!(spans(&all, 0.1), [span(0..8, 0.1, 1.0), span(8..11, 0.0, 1.0), span(11..13, 0.1, 16.0)]);
        assert_eq!(spans(&tensors(layout, None), 0.0), [span(0..13, 0.0, 1.0)]);
    }
}
