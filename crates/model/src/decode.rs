//! Greedy and sampled generation with a cache of keys and values.
use candle_core::{Device, Tensor, WithDType};
use candle_transformers::generation::{LogitsProcessor, Sampling as Draw};
use candlewick_kernels::{Float, Workspace, attention};

use crate::causal_lm::CausalLm;
use crate::error::{Error, Result};
use crate::layer::Heads;
use crate::packed::{ContextIds, Packed};
use crate::trunk::Adapter;

/// How the next token is chosen and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Tokens to generate at most.
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draw among the `k` likeliest only.
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens whose probabilities add up to `p` only.
    pub top_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
    /// Tokens that end the text; they are kept in it.
    pub stop: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { max_new_tokens: 64, temperature: 0.0, top_k: None, top_p: None, seed: 0, stop: Vec::new() }
    }
}

impl Sampling {
    fn processor(&self) -> Result<LogitsProcessor> {
        let Self { temperature, top_k, top_p, .. } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::Input(format!(
                "temperature is {temperature}; expected 0 (greedy) or a positive number"
            )));
        }
        if top_k == Some(0) {
            return Err(Error::Input("top_k is 0; expected at least 1".into()));
        }
        if let Some(p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(Error::Input(format!("top_p is {p}; expected a number above 0 and at most 1")));
        }
        let draw = match (temperature > 0.0, top_k, top_p) {
            (false, ..) => Draw::ArgMax,
            (true, None, None) => Draw::All { temperature },
            (true, Some(k), None) => Draw::TopK { k, temperature },
            (true, None, Some(p)) => Draw::TopP { p, temperature },
            (true, Some(k), Some(p)) => Draw::TopKThenTopP { k, p, temperature },
        };
        Ok(LogitsProcessor::from_sampling(self.seed, draw))
    }
}

/// A text being continued: the cache, and the logits of the next token.
#[derive(Debug)]
pub struct Generation<'a, T> {
    model: &'a CausalLm<T>,
    /// Keys and values of each layer, `[tokens so far, kv_heads, head_dim]`.
    cache: Vec<(Vec<T>, Vec<T>)>,
    tokens: usize,
    logits: Vec<T>,
}

impl<'a, T: Float + WithDType> Generation<'a, T> {
    /// Reads the prompt.
    ///
    /// # Errors
    /// An empty prompt, or a token id beyond the vocabulary.
    pub fn start(model: &'a CausalLm<T>, prompt: &[u32], workspace: &mut Workspace) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::Input("an empty prompt cannot be continued; begin it with a BOS token".into()));
        }
        let layers = model.config().num_hidden_layers;
        let mut generation = Self {
            model,
            cache: (0..layers).map(|_| (Vec::new(), Vec::new())).collect(),
            tokens: 0,
            logits: vec![T::ZERO; model.config().vocab_size],
        };
        generation.read(prompt, workspace)?;
        Ok(generation)
    }

    /// Logits `[V]` of the next token.
    pub fn logits(&self) -> &[T] {
        &self.logits
    }

    /// Appends one token.
    ///
    /// # Errors
    /// A token id beyond the vocabulary.
    pub fn push(&mut self, id: u32, workspace: &mut Workspace) -> Result<()> {
        self.read(&[id], workspace)
    }

    /// Runs the tokens through the model: the whole prompt at first, one token after that.
    fn read(&mut self, ids: &[u32], workspace: &mut Workspace) -> Result<()> {
        let (model, config) = (self.model, self.model.config());
        let packed = Packed::new(&[ContextIds { prompt: ids, prompt_scored: &[], completions: Vec::new() }])?;
        let positions: Vec<u32> = packed.positions().iter().map(|position| position + self.tokens as u32).collect();
        let tables = model.trunk.rope().tables(self.tokens + ids.len());
        let shape = |rows| attention::Shape {
            rows,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            soft_cap: None,
            window: None,
        };
        let mut x = model.trunk.embed(&packed, workspace)?;
        for (number, (keys, values)) in self.cache.iter_mut().enumerate() {
            let attend = |heads: Heads<'_, T>, workspace: &mut Workspace| {
                let Heads { q, k, v, out, lse } = heads;
                keys.extend_from_slice(k);
                values.extend_from_slice(v);
                if ids.len() == 1 {
                    attention::decode(
                        q.into(),
                        (&*keys).into(),
                        (&*values).into(),
                        out.into(),
                        shape(keys.len() / k.len()),
                        workspace,
                    )?;
                } else {
                    attention::forward(
                        q.into(),
                        k.into(),
                        v.into(),
                        out.into(),
                        lse.into(),
                        packed.segments().into(),
                        shape(ids.len()),
                        workspace,
                    )?;
                }
                Ok(())
            };
            let (y, saved) =
                model.trunk.layer(number, Adapter::On).forward_with(&x, &positions, &tables, workspace, attend)?;
            saved.release(workspace);
            workspace.give_back(std::mem::replace(&mut x, y));
        }
        let last = &x[x.len() - config.hidden_size..];
        let (hidden, rstd) = model.trunk.final_norm(last, 1, workspace)?;
        model.project(&hidden, 1, &mut self.logits, workspace)?;
        workspace.give_back_all([x, hidden, rstd]);
        self.tokens += ids.len();
        Ok(())
    }
}

impl<T: Float + WithDType> CausalLm<T> {
    /// Continues `prompt`; returns the new tokens only.
    ///
    /// # Errors
    /// Settings out of range, an empty prompt, or a token id beyond the vocabulary.
    pub fn generate(&self, prompt: &[u32], sampling: &Sampling, workspace: &mut Workspace) -> Result<Vec<u32>> {
        let mut processor = sampling.processor()?;
        let mut generation = Generation::start(self, prompt, workspace)?;
        let mut text = Vec::new();
        while text.len() < sampling.max_new_tokens {
            let logits = Tensor::from_slice(generation.logits(), generation.logits().len(), &Device::Cpu)?;
            let id = processor.sample(&logits)?;
            text.push(id);
            if sampling.stop.contains(&id) || text.len() == sampling.max_new_tokens {
                break;
            }
            generation.push(id, workspace)?;
        }
        Ok(text)
    }
}
