//! Greedy and sampled generation with a cache of keys and values.
use candle_core::{Device, Tensor, WithDType};
use candle_transformers::generation::{LogitsProcessor, Sampling as Draw};
use candlewick_kernels::{Buffer, Cuda, Element, Float, View, Workspace, attention, elementwise};

use crate::causal_lm::CausalLm;
use crate::error::{Error, Result};
use crate::layer::Heads;
use crate::packed::{ContextIds, Packed};
use crate::staged::{Reads, Staged};
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
pub struct Generation<'a, T: Element> {
    model: &'a CausalLm<T>,
    /// Keys and values of each layer.
    cache: Vec<[Rows<T>; 2]>,
    tokens: usize,
    logits: Vec<T::Wide>,
}

/// Rows `[tokens so far, kv_heads, head_dim]`, with room for more behind them.
#[derive(Debug)]
struct Rows<T> {
    buffer: Buffer<T>,
    len: usize,
}

impl<T: Element> Rows<T> {
    fn push(&mut self, rows: View<'_, T>, device: Option<&Cuda>) -> Result<()> {
        let len = self.len + rows.len();
        if len > self.buffer.len() {
            let mut larger = Buffer::zeros(len.next_power_of_two(), device)?;
            elementwise::copy(larger.view_mut().part(0..self.len)?, self.view()?)?;
            self.buffer = larger;
        }
        elementwise::copy(self.buffer.view_mut().part(self.len..len)?, rows)?;
        self.len = len;
        Ok(())
    }

    fn view(&self) -> Result<View<'_, T>> {
        Ok(self.buffer.view().part(0..self.len)?)
    }
}

impl<'a, T: Element> Generation<'a, T> {
    /// Reads the prompt.
    ///
    /// # Errors
    /// An empty prompt, or a token id beyond the vocabulary.
    pub fn start(model: &'a CausalLm<T>, prompt: &[u32], workspace: &mut Workspace) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::Input("an empty prompt cannot be continued; begin it with a BOS token".into()));
        }
        let layers = model.config().num_hidden_layers;
        let device = model.parameters().device();
        let empty = || -> Result<Rows<T>> { Ok(Rows { buffer: Buffer::zeros(0, device)?, len: 0 }) };
        let cache = (0..layers).map(|_| Ok([empty()?, empty()?])).collect::<Result<_>>()?;
        let mut generation = Self { model, cache, tokens: 0, logits: vec![T::Wide::ZERO; model.config().vocab_size] };
        generation.read(prompt, workspace)?;
        Ok(generation)
    }

    /// Logits `[V]` of the next token.
    pub fn logits(&self) -> &[T::Wide] {
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
        let context = ContextIds { prompt: ids, prompt_scored: &[], completions: Vec::new() };
        let packed = Packed::new(&[context])?.moved_on(self.tokens);
        model.trunk.check_ids(&packed)?;
        model.trunk.check_workspace(workspace)?;
        let device = model.parameters().device();
        let staged = Staged::new(&packed, device, Reads { targets: false, backward: false, rows_of_ids: false })?;
        let rotations = model.trunk.rope().tables(self.tokens + ids.len(), device)?;
        let shape = |rows| attention::Shape {
            rows,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            soft_cap: None,
            window: None,
        };
        let mut x = model.trunk.embed(staged.ids(&packed), workspace)?;
        for (number, [keys, values]) in self.cache.iter_mut().enumerate() {
            let tokens = self.tokens + ids.len();
            let attend = |heads: Heads<'_, T>, workspace: &mut Workspace| {
                let Heads { q, k, v, out, lse } = heads;
                keys.push(k, device)?;
                values.push(v, device)?;
                if ids.len() == 1 {
                    attention::decode(q, keys.view()?, values.view()?, out, shape(tokens), workspace)?;
                } else {
                    attention::forward(q, k, v, out, lse, staged.layout(&packed), shape(ids.len()), workspace)?;
                }
                Ok(())
            };
            let (positions, layer) = (staged.positions(&packed), model.trunk.layer(number, Adapter::On));
            let (y, saved) = layer.forward_with(x.view(), positions, &rotations, workspace, attend)?;
            saved.release(workspace);
            workspace.reclaim(std::mem::replace(&mut x, y));
        }
        let last = x.view().part(x.len() - config.hidden_size..x.len())?;
        let (hidden, rstd) = model.trunk.final_norm(last, 1, workspace)?;
        let mut logits = workspace.lend(config.vocab_size)?;
        model.project(hidden.view(), 1, logits.view_mut(), workspace)?;
        self.logits.copy_from_slice(&logits.to_wide()?);
        workspace.reclaim(rstd);
        workspace.reclaim_all([x, hidden, logits]);
        self.tokens += ids.len();
        Ok(())
    }
}

impl<T: Element> CausalLm<T>
where
    T::Wide: WithDType,
{
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
