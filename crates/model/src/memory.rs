//! How much memory passes take, told from a configuration and the sizes of a batch: no weight is read, no buffer made.
//!
//! The walks below take and return sizes in the order in which the passes take and return buffers, through a
//! [`Shelf`](candlewick_kernels::Shelf) as the workspace's own, so that a [`Pool`] ends with what a workspace ends
//! with. `tests/sizes.rs` compares the two, `tests/device/sizes.rs` on a device.
mod pool;

use std::collections::BTreeMap;
use std::path::Path;

use candlewick_kernels::{linear, rms_norm, token_log_probs};

use crate::adapter::{HEAD_MODULE, LoraConfig, PREFIX, modules, stored, tensors};
use crate::causal_lm::Statistics;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::head::MOST_KEPT;
use crate::layer::{LINEARS, LinearName};
use crate::layout::{HeadKind, SCORE_HEAD, layout};
use crate::packed::Packed;
use crate::panacea;
use crate::score_model::stored_heads;
use crate::staged::{LINE, Reads};
use crate::trunk::{Adapter, Recompute};
use crate::weights::WeightFiles;
use LinearName::{Down, Gate, Key, Output, Query, Up, Value};
use pool::{DeviceSizes, Lent};
pub use pool::{Part, Pool};

/// Bytes of an id, or of another number that kernels read of a batch.
const WORD: usize = size_of::<u32>();
/// Query rows of a tile of attention.
const TILE: usize = 128;
/// Blocks of rows whose parts of a norm's gradient are kept apart, and the least rows of one.
const NORM_BLOCKS: usize = 32;
const NORM_ROWS: usize = 8;

/// The sizes of a batch that decide how much memory its passes take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct BatchSize {
    /// Tokens that the model computes, each prompt once ([`Packed::tokens`]).
    pub tokens: usize,
    /// Tokens that are scored ([`Packed::targets`]).
    pub targets: usize,
    /// Completions, of each of which a score model reads one hidden state.
    pub completions: usize,
    /// The longest prompt with one completion.
    pub longest: usize,
}

impl BatchSize {
    /// The sizes of a batch.
    pub fn of(packed: &Packed) -> Self {
        let longest = |prompt: usize, most: Option<usize>| prompt + most.unwrap_or(0);
        let segments = packed.segments().iter();
        Self {
            tokens: packed.tokens(),
            targets: packed.targets().len(),
            completions: packed.completions(),
            longest: segments
                .map(|one| longest(one.prompt.len(), one.completions.iter().map(ExactSizeIterator::len).max()))
                .max()
                .unwrap_or(0),
        }
    }

    /// Large enough for either batch.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.max(other.tokens),
            targets: self.targets.max(other.targets),
            completions: self.completions.max(other.completions),
            longest: self.longest.max(other.longest),
        }
    }
}

/// A model as far as sizes go: its configuration, its heads, and the ranks of its adapter.
#[derive(Debug, Clone)]
pub struct ModelSize {
    config: Config,
    head: HeadKind,
    /// By module path, the directions of the preferences among them; None without an adapter.
    ranks: Option<BTreeMap<String, usize>>,
    /// How many preferences a Panacea adapter has; 0 without one.
    preferences: usize,
}

impl ModelSize {
    /// A causal language model without an adapter.
    pub fn new(config: Config) -> Self {
        Self { config, head: HeadKind::Tokens, ranks: None, preferences: 0 }
    }

    /// A score model of so many heads, without an adapter.
    pub fn of_scores(config: Config, heads: usize) -> Self {
        Self { config, head: HeadKind::Scores(heads), ranks: None, preferences: 0 }
    }

    /// The model of a Hugging Face directory, of which `config.json` alone is read.
    ///
    /// # Errors
    /// A missing or malformed file, or an architecture that is not built.
    pub fn from_dir(directory: &Path) -> Result<Self> {
        let config = Config::from_dir(directory)?;
        config.validate()?;
        match config.is_score_model() {
            true => {
                let heads = stored_heads(&config, directory)?.count();
                Ok(Self::of_scores(config, heads))
            }
            false => Ok(Self::new(config)),
        }
    }

    /// The same trunk with so many fresh heads of a score model in the place of its head.
    #[must_use]
    pub fn with_score_heads(self, heads: usize) -> Self {
        Self { head: HeadKind::Scores(heads), ..self }
    }

    /// The same with a fresh adapter.
    #[must_use]
    pub fn with_lora(self, lora: &LoraConfig) -> Self {
        let is_target = |path: &str| lora.targets.iter().any(|target| path.rsplit('.').next() == Some(target));
        let rank = lora.rank + lora.preferences;
        let ranks = self.modules().map(|(path, ..)| path).filter(|path| is_target(path)).map(|path| (path, rank));
        Self { ranks: Some(ranks.collect()), preferences: lora.preferences, ..self }
    }

    /// The same with the adapter of a directory, of which the headers of the weight files are read.
    ///
    /// # Errors
    /// Missing or damaged files; no pair that belongs to this model.
    pub fn with_adapter(self, directory: &Path) -> Result<Self> {
        let files = WeightFiles::open(directory, "adapter_model")?;
        let rank = |path: &str| files.shape(&stored(path, 'A')).and_then(|shape| shape.first().copied());
        let ranks: BTreeMap<_, _> =
            self.modules().filter_map(|(path, ..)| rank(&path).map(|rank| (path, rank))).collect();
        if ranks.is_empty() {
            return Err(Error::weights(directory, "it holds no pair of lora_A and lora_B for a linear of this model"));
        }
        let own = |path: &str| files.shape(&panacea::stored(path)[0]).and_then(|shape| shape.first().copied());
        let beside = ranks.iter().find_map(|(path, rank)| rank.checked_sub(own(path)?));
        Ok(Self { ranks: Some(ranks), preferences: beside.unwrap_or(0), ..self })
    }

    /// Numbers that a text being continued keeps of each token: keys and values of every layer.
    pub fn cached_per_token(&self) -> usize {
        let config = &self.config;
        2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    }

    /// Numbers of the base weights.
    pub fn base_elements(&self) -> usize {
        let config = &self.config;
        let table = config.vocab_size * config.hidden_size;
        let layers = self.modules().filter(|(path, ..)| path != HEAD_MODULE).map(|(_, out, inputs)| out * inputs);
        let norms = (2 * config.num_hidden_layers + 1) * config.hidden_size;
        let head = match self.head {
            HeadKind::Tokens if config.tie_word_embeddings => 0,
            HeadKind::Tokens => table,
            HeadKind::Scores(_) => self.score_elements(),
        };
        table + layers.sum::<usize>() + norms + head
    }

    /// Numbers of the adapter, with the heads of a score model that it holds; 0 without one.
    pub fn adapter_elements(&self) -> usize {
        let pair = |(path, outputs, inputs): (String, usize, usize)| {
            let numbers = |(_, shape): &(String, Vec<usize>)| shape.iter().product::<usize>();
            self.pair(&path, [outputs, inputs]).iter().map(numbers).sum::<usize>()
        };
        let pairs: usize = self.modules().map(pair).sum();
        if self.ranks.is_some() { pairs + self.score_elements() } else { 0 }
    }

    /// Names and shapes of what the adapter has for a linear.
    fn pair(&self, path: &str, sizes: [usize; 2]) -> Vec<(String, Vec<usize>)> {
        match self.rank(path) {
            0 => Vec::new(),
            rank => tensors(path, sizes, rank - self.preferences, self.preferences),
        }
    }

    /// Numbers of the heads of a score model.
    fn score_elements(&self) -> usize {
        match self.head {
            HeadKind::Tokens => 0,
            HeadKind::Scores(count) => count * self.config.hidden_size,
        }
    }

    /// Numbers that training changes: those of the adapter if there is one, else the base weights.
    pub fn trained_elements(&self) -> usize {
        if self.ranks.is_some() { self.adapter_elements() } else { self.base_elements() }
    }

    /// Names and shapes of the tensors that training changes, in the order in which they lie.
    ///
    /// # Errors
    /// A configuration that no model can have.
    pub fn trained_tensors(&self) -> Result<Vec<(String, Vec<usize>)>> {
        if self.ranks.is_none() {
            return Ok(layout(&self.config, self.head)?.tensors);
        }
        let pair = |(path, outputs, inputs): (String, usize, usize)| self.pair(&path, [outputs, inputs]);
        let heads = match self.head {
            HeadKind::Tokens => None,
            HeadKind::Scores(count) => Some((format!("{PREFIX}{SCORE_HEAD}"), vec![count, self.config.hidden_size])),
        };
        Ok(self.modules().flat_map(pair).chain(heads).collect())
    }

    /// Numbers of the gradient that the head's backward writes.
    pub fn head_gradient_elements(&self) -> usize {
        let config = &self.config;
        match (self.head, &self.ranks) {
            (HeadKind::Scores(_), _) => self.score_elements(),
            (HeadKind::Tokens, Some(_)) => self.rank(HEAD_MODULE) * (config.vocab_size + config.hidden_size),
            (HeadKind::Tokens, None) => config.vocab_size * config.hidden_size,
        }
    }

    /// Numbers of the largest tensor that training changes, of which a copy is made when it is written.
    pub fn largest_trained_tensor(&self) -> usize {
        let config = &self.config;
        match self.ranks {
            Some(_) => {
                let sides = self.modules().map(|(path, out, inputs)| self.rank(&path) * out.max(inputs));
                sides.max().unwrap_or(0).max(self.score_elements())
            }
            None => config.vocab_size.max(config.intermediate_size) * config.hidden_size,
        }
    }

    /// Numbers that one layer keeps for its backward, of each token; what an adapter keeps is not among them.
    pub fn kept_per_token_and_layer(&self) -> usize {
        let config = &self.config;
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        // x, x'; q, attention's output; k, v; gate, up; two 1/root-mean-square, log-sum-exp.
        let norms_and_sums = 2 + config.num_attention_heads;
        2 * config.hidden_size + 2 * queries + 2 * keys + 2 * config.intermediate_size + norms_and_sums
    }

    /// What scoring a batch for `want` without keeping anything takes.
    pub fn score(&self, batch: BatchSize, want: Statistics, adapter: Adapter, threads: usize, pool: &mut Pool) {
        let walk = Walk { size: self, batch, adapter, threads, needs_rows: of_whole_rows(want) };
        let staged = walk.stage(false, pool);
        let mut x = pool.take(Part::Passing, walk.hidden());
        for number in 0..self.config.num_hidden_layers {
            let (y, saved) = walk.layer(number, Part::Passing, pool);
            pool.give_back_all(saved);
            pool.give_back(std::mem::replace(&mut x, y));
        }
        let [hidden, rstd] = walk.norm(Part::Passing, pool);
        pool.give_back_all([x, rstd]);
        let head = walk.head(KeptByHead::Nothing, want, pool);
        pool.give_back(hidden);
        pool.give_back_all(head);
        pool.free(staged);
    }

    /// What the forward and backward pass of a batch take, for a loss that reads `want`.
    pub fn train(&self, batch: BatchSize, want: Statistics, recompute: Recompute, threads: usize, pool: &mut Pool) {
        let needs_rows = of_whole_rows(want);
        let walk = Walk { size: self, batch, adapter: Adapter::On, threads, needs_rows };
        let count = self.config.num_hidden_layers;
        let lowest = self.lowest_trained_layer();
        let of_layers = if recompute == Recompute::Layers { Part::Passing } else { Part::Layers };

        let staged = walk.stage(true, pool);
        let mut x = pool.take(Part::Layers, walk.hidden());
        let (mut inputs, mut layers) = (Vec::new(), Vec::new());
        for number in 0..count {
            let is_kept = number >= lowest;
            let (y, saved) = walk.layer(number, if is_kept { of_layers } else { Part::Passing }, pool);
            let input = std::mem::replace(&mut x, y);
            if is_kept {
                inputs.push(input);
            } else {
                pool.give_back(input);
            }
            if is_kept && recompute == Recompute::Nothing {
                layers.push(saved);
            } else {
                pool.give_back_all(saved);
            }
        }
        let [hidden, rstd] = walk.norm(Part::Head, pool);
        let trained = self.ranks.is_none() || self.rank(HEAD_MODULE) > 0;
        let kept = match trained {
            _ if self.head != HeadKind::Tokens => KeptByHead::Nothing,
            _ if needs_rows || want.given_log_probs && !trained => KeptByHead::Nothing,
            false => KeptByHead::Pulls,
            true if batch.targets > self.most_targets_kept(pool) => KeptByHead::Nothing,
            true => {
                if pool.device.is_some() {
                    KeptByHead::Logits
                } else {
                    KeptByHead::Softmax
                }
            }
        };
        let head = walk.head(kept, want, pool);

        let d_hidden = walk.head_backward(kept, head, want, pool);
        let d = pool.take(Part::Passing, walk.hidden());
        walk.norm_backward(pool);
        pool.give_back_all([x, rstd, hidden, d_hidden]);
        for number in (lowest..count).rev() {
            let saved = match recompute {
                Recompute::Nothing => layers.pop().unwrap_or_default(),
                Recompute::Layers => {
                    let (y, saved) = walk.layer(number, of_layers, pool);
                    pool.give_back(y);
                    saved
                }
            };
            walk.layer_backward(number, self.ranks.is_none() || number > lowest, pool);
            pool.give_back_all(saved.into_iter().chain(inputs.pop()));
        }
        pool.give_back(d);
        pool.free(staged);
    }

    /// The most targets of a batch whose logits (on the host, their softmax) a head that is trained keeps for its
    /// backward. It keeps none of a batch of more, which may take less memory.
    pub fn most_targets_kept(&self, pool: &Pool) -> usize {
        MOST_KEPT / self.logits_stride(pool.device)
    }

    /// From the logits of a target to those of the next.
    fn logits_stride(&self, device: Option<DeviceSizes>) -> usize {
        let vocab = self.config.vocab_size;
        device.map_or(vocab, |device| (device.logits_stride)(vocab))
    }

    /// The most numbers that factors of a product of a batch are packed into while it runs.
    pub fn packed(&self, batch: BatchSize, with_backward: bool, threads: usize) -> usize {
        let config = &self.config;
        let layers = LINEARS.iter().map(|linear| {
            let (out_features, in_features) = linear.sizes(config);
            let shape = linear::Shape { rows: batch.tokens, in_features, out_features };
            linear::most_packed::<f32>(shape, with_backward, threads)
        });
        let (hidden, vocab, targets) = (config.hidden_size, config.vocab_size, batch.targets);
        let shape = token_log_probs::Shape { rows: batch.tokens, hidden, vocab, targets, chunk: 0 };
        let trains = with_backward && (self.ranks.is_none() || self.rank(HEAD_MODULE) > 0);
        // Where statistics over whole rows are wanted nothing is kept.
        let kept = [false, trains && targets * vocab <= MOST_KEPT];
        let head = kept.map(|kept| token_log_probs::most_packed::<f32>(shape, kept, trains, threads));
        let head = head.into_iter().filter(|_| self.head == HeadKind::Tokens);
        layers.chain(head).max().unwrap_or(0)
    }

    fn rank(&self, module: &str) -> usize {
        self.ranks.as_ref().and_then(|ranks| ranks.get(module)).copied().unwrap_or(0)
    }

    fn lowest_trained_layer(&self) -> usize {
        let count = self.config.num_hidden_layers;
        let adapted = |number: &usize| LINEARS.iter().any(|linear| self.rank(&linear.module(*number)) > 0);
        if self.ranks.is_none() { 0 } else { (0..count).find(adapted).unwrap_or(count) }
    }

    /// Every linear that a pair may adapt: path, outputs, inputs.
    fn modules(&self) -> impl Iterator<Item = (String, usize, usize)> + '_ {
        modules(&self.config, self.head)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeptByHead {
    Nothing,
    /// On the host.
    Softmax,
    /// On a device.
    Logits,
    Pulls,
}

/// The passes of one batch.
struct Walk<'a> {
    size: &'a ModelSize,
    batch: BatchSize,
    adapter: Adapter,
    threads: usize,
    /// Whether statistics over whole rows of logits are wanted.
    needs_rows: bool,
}

/// Numbers of each target that a pass over the head writes; those of tokens that a teacher names are not among them.
fn scored(want: Statistics) -> usize {
    let statistics = [want.mean_log_probs, want.log_sum_sq_probs, want.entropy, want.is_top1];
    1 + statistics.into_iter().filter(|wanted| *wanted).count()
}

fn of_whole_rows(want: Statistics) -> bool {
    want.mean_log_probs || want.log_sum_sq_probs || want.entropy
}

impl Walk<'_> {
    fn rows(&self) -> usize {
        self.batch.tokens
    }

    fn hidden(&self) -> usize {
        self.rows() * self.size.config.hidden_size
    }

    /// Copies on a device of what kernels read of a batch, in bytes: of who attends to whom as many as there can be, where every
    /// sequence is a token. Tables of rotations are made on the way.
    fn stage(&self, backward: bool, pool: &mut Pool) -> usize {
        if pool.device.is_none() {
            return 0;
        }
        let Reads { targets: scored, backward, rows_of_ids } =
            Reads::of(self.size.head, backward, self.size.ranks.is_some());
        let BatchSize { tokens, targets, longest, .. } = self.batch;
        let part = |wanted: bool, words: usize| if wanted { words.next_multiple_of(LINE) } else { 0 };
        // Ids, where each begins, members.
        let buckets = |wanted: bool, ids: usize, members: usize| {
            part(wanted, ids) + part(wanted, ids + 1) + part(wanted, members)
        };
        let seen_by_others = 3 * longest.div_ceil(TILE) * tokens;
        let staged = pool.make(
            WORD * (2 * part(true, tokens)
                + part(true, 5 * tokens)
                + part(backward, 5 * tokens)
                + part(backward, 3 * tokens + seen_by_others)
                + 2 * part(scored, targets)
                + buckets(scored && backward, targets.min(tokens), targets)
                + buckets(rows_of_ids, tokens.min(self.size.config.vocab_size), tokens)),
        );
        // Cosines and sines.
        pool.rotations(longest.next_power_of_two() * self.size.config.head_dim);
        staged
    }

    fn outputs(&self, linear: LinearName) -> usize {
        self.rows() * linear.sizes(&self.size.config).0
    }

    fn low(&self, number: usize, linear: LinearName) -> usize {
        match self.adapter {
            Adapter::On => self.rows() * self.size.rank(&linear.module(number)),
            Adapter::Off => 0,
        }
    }

    fn norm(&self, part: Part, pool: &mut Pool) -> [Lent; 2] {
        [pool.take(part, self.hidden()), pool.take_wide(part, self.rows())]
    }

    fn norm_again(&self, pool: &mut Pool) -> Lent {
        let [normed, rstd] = self.norm(Part::Passing, pool);
        pool.give_back(rstd);
        normed
    }

    fn norm_backward(&self, pool: &mut Pool) {
        if self.size.ranks.is_some() {
            return;
        }
        if let Some(device) = pool.device {
            let shape = rms_norm::Shape { rows: self.rows(), hidden: self.size.config.hidden_size };
            pool.scratch((device.norm_scratch)(shape));
        } else {
            let step = self.rows().div_ceil(NORM_BLOCKS).max(NORM_ROWS);
            pool.lend(Part::Scratch, self.rows().div_ceil(step) * self.size.config.hidden_size);
        }
    }

    fn attention(&self, pool: &mut Pool) {
        if pool.device.is_none() {
            pool.lend(Part::Scratch, TILE * self.batch.longest * self.threads);
        }
    }

    fn attention_backward(&self, pool: &mut Pool) {
        match pool.device {
            None => pool.lend(Part::Scratch, 2 * TILE * self.batch.longest * self.threads),
            // Two numbers of each row and head.
            Some(device) => pool.scratch(2 * self.rows() * self.size.config.num_attention_heads * device.wide),
        }
    }

    /// A linear's outputs, and `x Aᵀ` among what is saved.
    fn apply(&self, number: usize, linear: LinearName, part: Part, saved: &mut Vec<Lent>, pool: &mut Pool) -> Lent {
        let y = pool.take(part, self.outputs(linear));
        saved.push(pool.take(part, self.low(number, linear)));
        self.scaled(number, linear, pool);
        y
    }

    /// A layer's output, and what it saves, in the order in which it comes back.
    fn layer(&self, number: usize, part: Part, pool: &mut Pool) -> (Lent, Vec<Lent>) {
        let (mut saved, mut low) = (Vec::with_capacity(17), Vec::with_capacity(7));
        let normed = pool.take(Part::Passing, self.hidden());
        saved.push(pool.take_wide(part, self.rows()));
        for linear in [Query, Key, Value] {
            saved.push(self.apply(number, linear, part, &mut low, pool));
        }
        pool.give_back(normed);
        saved.push(pool.take(part, self.outputs(Query)));
        saved.push(pool.take_wide(part, self.rows() * self.size.config.num_attention_heads));
        self.attention(pool);
        saved.push(self.apply(number, Output, part, &mut low, pool));
        let normed = pool.take(Part::Passing, self.hidden());
        saved.push(pool.take_wide(part, self.rows()));
        for linear in [Gate, Up] {
            saved.push(self.apply(number, linear, part, &mut low, pool));
        }
        pool.give_back(normed);
        let inner = pool.take(Part::Passing, self.outputs(Gate));
        let y = self.apply(number, Down, part, &mut low, pool);
        pool.give_back(inner);
        saved.append(&mut low);
        (y, saved)
    }

    fn layer_backward(&self, number: usize, onward: bool, pool: &mut Pool) {
        let passing = |len: usize, pool: &mut Pool| pool.take(Part::Passing, len);
        let inner_len = self.outputs(Gate);
        let inner = passing(inner_len, pool);
        let d_inner = passing(inner_len, pool);
        self.undo(number, Down, pool);
        pool.give_back(inner);
        let (d_gate, d_up) = (passing(inner_len, pool), passing(inner_len, pool));
        pool.give_back(d_inner);
        let normed = self.norm_again(pool);
        let d_normed = passing(self.hidden(), pool);
        self.undo(number, Gate, pool);
        self.undo(number, Up, pool);
        pool.give_back_all([normed, d_gate, d_up]);
        self.norm_backward(pool);

        let d_attended = passing(self.outputs(Query), pool);
        self.undo(number, Output, pool);
        let d_heads = [Query, Key, Value].map(|linear| passing(self.outputs(linear), pool));
        self.attention_backward(pool);
        pool.give_back(d_attended);
        let normed = self.norm_again(pool);
        [Query, Key, Value].iter().for_each(|linear| self.undo(number, *linear, pool));
        pool.give_back(normed);
        pool.give_back_all(d_heads);
        if onward {
            self.norm_backward(pool);
        }
        pool.give_back(d_normed);
    }

    fn undo(&self, number: usize, linear: LinearName, pool: &mut Pool) {
        self.scaled(number, linear, pool);
        let d_scaled = pool.take(Part::Passing, self.low(number, linear));
        self.scaled(number, linear, pool);
        pool.give_back(d_scaled);
    }

    /// `x Aᵀ` times the singular values of a Panacea adapter.
    fn scaled(&self, number: usize, linear: LinearName, pool: &mut Pool) {
        if self.size.preferences > 0 {
            pool.lend(Part::Passing, self.low(number, linear));
        }
    }

    fn chunk(&self, device: Option<DeviceSizes>) -> usize {
        let (vocab, targets) = (self.size.config.vocab_size, self.batch.targets);
        match device {
            None => token_log_probs::automatic_chunk(vocab).min(targets),
            Some(device) => (device.chunk)(vocab, targets),
        }
    }

    fn softmax(&self, kept: KeptByHead) -> usize {
        if kept == KeptByHead::Softmax { self.batch.targets * self.size.config.vocab_size } else { 0 }
    }

    /// What the head keeps.
    fn head(&self, kept: KeptByHead, want: Statistics, pool: &mut Pool) -> Vec<Lent> {
        match (self.size.head, pool.device) {
            (HeadKind::Tokens, Some(device)) => self.head_on(device, kept, want, pool),
            (HeadKind::Tokens, None) => self.head_on_host(kept, pool),
            (HeadKind::Scores(heads), Some(_)) => self.score_heads_on(heads, pool),
            (HeadKind::Scores(_), None) => Vec::new(),
        }
    }

    fn head_on_host(&self, kept: KeptByHead, pool: &mut Pool) -> Vec<Lent> {
        let config = &self.size.config;
        let targets = self.batch.targets;
        let mut saved = vec![pool.take(Part::Head, targets)];
        let weight = config.vocab_size * config.hidden_size;
        let adapted = if self.adapter == Adapter::On && self.size.rank(HEAD_MODULE) > 0 { weight } else { 0 };
        pool.beside(adapted + self.softmax(kept));
        match kept {
            KeptByHead::Nothing | KeptByHead::Logits => self.score(targets, pool),
            KeptByHead::Softmax => {
                saved.push(pool.take(Part::Head, targets * token_log_probs::blocks(config.vocab_size)));
                self.score(targets, pool);
            }
            KeptByHead::Pulls => {
                saved.push(pool.take(Part::Head, targets * config.hidden_size));
                let chunk = self.chunk(None);
                let exps = pool.take(Part::Passing, chunk * config.vocab_size);
                let factors = pool.take(Part::Passing, chunk * token_log_probs::blocks(config.vocab_size));
                for start in (0..targets).step_by(chunk.max(1)) {
                    self.score(chunk.min(targets - start), pool);
                }
                pool.give_back_all([factors, exps]);
            }
        }
        saved
    }

    /// Scores are made for the pass and read; rows that are gathered, and logits that are not kept, for a chunk.
    fn head_on(&self, device: DeviceSizes, kept: KeptByHead, want: Statistics, pool: &mut Pool) -> Vec<Lent> {
        let hidden = self.size.config.hidden_size;
        let (targets, chunk, stride) =
            (self.batch.targets, self.chunk(Some(device)), self.size.logits_stride(Some(device)));
        let scores = pool.make(targets * scored(want) * device.wide);
        let lse = pool.take_wide(Part::Head, targets);
        let (buffer, worked_in) = match kept {
            KeptByHead::Logits => (targets * stride, chunk * hidden),
            KeptByHead::Pulls => (targets * hidden, chunk * (hidden + stride)),
            KeptByHead::Nothing | KeptByHead::Softmax => (0, chunk * (hidden + stride)),
        };
        let buffer = pool.take(Part::Head, buffer);
        pool.work_in(worked_in);
        pool.free(scores);
        vec![buffer, lse]
    }

    /// The states that the heads of a score model read, in the type of the sums; which rows they are of is on the
    /// device meanwhile.
    fn score_heads_on(&self, heads: usize, pool: &mut Pool) -> Vec<Lent> {
        let (completions, hidden) = (self.batch.completions, self.size.config.hidden_size);
        let rows = pool.make(WORD * completions);
        let narrow = pool.take(Part::Passing, completions * hidden);
        let states = pool.take_wide(Part::Head, completions * hidden);
        pool.give_back(narrow);
        pool.free(rows);
        let weight = pool.take_wide(Part::Passing, heads * hidden);
        let values = pool.take_wide(Part::Passing, completions * heads);
        pool.give_back_all([weight, values]);
        vec![states]
    }

    /// The passing buffers of one pass over the vocabulary.
    fn score(&self, targets: usize, pool: &mut Pool) {
        let vocab = self.size.config.vocab_size;
        let gathered = pool.take(Part::Passing, targets * self.size.config.hidden_size);
        let width = token_log_probs::numbers_per_block(self.needs_rows);
        let sums = pool.take(Part::Passing, targets * token_log_probs::blocks(vocab) * width);
        pool.give_back_all([sums, gathered]);
    }

    /// The gradient of the hidden states; what the head kept is given back.
    fn head_backward(&self, kept: KeptByHead, head: Vec<Lent>, want: Statistics, pool: &mut Pool) -> Lent {
        if let (HeadKind::Scores(heads), Some(device)) = (self.size.head, pool.device) {
            return self.score_heads_backward(heads, device, head, pool);
        }
        let d_hidden = pool.take(Part::Passing, self.hidden());
        if self.size.head == HeadKind::Tokens {
            self.token_head_backward(kept, want, pool);
        }
        pool.give_back_all(head);
        d_hidden
    }

    /// Gradients of the states are summed row by row, and gathered; one row more is that of the states that no head
    /// reads.
    fn score_heads_backward(&self, heads: usize, device: DeviceSizes, states: Vec<Lent>, pool: &mut Pool) -> Lent {
        let (completions, hidden) = (self.batch.completions, self.size.config.hidden_size);
        let cotangents = pool.make(completions * heads * device.wide);
        let weight = pool.take_wide(Part::Passing, heads * hidden);
        // Buckets by row, and the sum of each row.
        let places = pool.make(WORD * (3 * completions + 1 + self.rows()));
        let sums = pool.take_wide(Part::Passing, (completions + 1) * hidden);
        let narrow = pool.take(Part::Passing, (completions + 1) * hidden);
        let d_hidden = pool.take(Part::Passing, self.hidden());
        pool.give_back_all([sums, narrow]);
        pool.free(places);
        pool.give_back_all(states);
        pool.give_back(weight);
        pool.free(cotangents);
        d_hidden
    }

    fn token_head_backward(&self, kept: KeptByHead, want: Statistics, pool: &mut Pool) {
        let config = &self.size.config;
        let (targets, chunk) = (self.batch.targets, self.chunk(pool.device));
        if let Some(device) = pool.device {
            let (hidden, stride) = (config.hidden_size, self.size.logits_stride(Some(device)));
            let cotangents = pool.make(targets * scored(want) * device.wide);
            pool.work_in(match kept {
                KeptByHead::Pulls => 0,
                KeptByHead::Logits => 2 * targets * hidden,
                KeptByHead::Nothing | KeptByHead::Softmax => chunk * (2 * hidden + stride),
            });
            pool.free(cotangents);
            return;
        }
        if self.size.rank(HEAD_MODULE) > 0 {
            pool.beside(2 * config.vocab_size * config.hidden_size + self.softmax(kept));
        }
        match kept {
            KeptByHead::Pulls | KeptByHead::Logits => {}
            KeptByHead::Softmax => {
                let gathered = pool.take(Part::Passing, targets * config.hidden_size);
                let d_gathered = pool.take(Part::Passing, targets * config.hidden_size);
                pool.give_back_all([d_gathered, gathered]);
            }
            KeptByHead::Nothing => {
                let gathered = pool.take(Part::Passing, chunk * config.hidden_size);
                let logits = pool.take(Part::Passing, chunk * config.vocab_size);
                let d_gathered = pool.take(Part::Passing, chunk * config.hidden_size);
                pool.give_back_all([d_gathered, logits, gathered]);
            }
        }
    }
}
