//! The model: trunk and token head, with weights in flat buffers.
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use candle_core::{Device, Tensor, WithDType};
use candlewick_kernels::attention::Segment;
use candlewick_kernels::{Float, Workspace, embedding, rms_norm};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::adapter::{AdapterWeights, HEAD_MODULE, Lora, LoraConfig};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::head::{HeadSaved, Keeping};
use crate::layer::{LINEARS, Layer, LayerPlaces, LayerSaved, norm};
use crate::packed::{CompletionIds, ContextIds, Packed};
use crate::parameters::{Gradients, Parameters};
use crate::rope::RopeCache;
use crate::sketch::{GradientSink, Sketch, SketchSums, Sketches};
use crate::trained::{Trained, Which, save_model};
use crate::weights::{SHARD_BYTES, WeightFiles};

const EMBEDDING: &str = "model.embed_tokens.weight";
const FINAL_NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";

/// Whether an adapter takes part in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapter {
    /// The adapter, if the model has one, is applied.
    On,
    /// The base weights alone.
    Off,
}

/// What a forward pass keeps for its backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Everything is kept; nothing is computed twice but what is cheap.
    #[default]
    Nothing,
    /// Only the input of each layer is kept; the layer is computed again in the backward (one forward more).
    Layers,
}

/// Which statistics of the vocabulary's distribution are wanted beside the token's log-probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// `(1/V) Σ_v log p_v`.
    pub mean_log_probs: bool,
    /// `log Σ_v p_v²`.
    pub log_sum_sq_probs: bool,
    /// `−Σ_v p_v log p_v`, in nats.
    pub entropy: bool,
    /// 1 where the token is the likeliest, else 0.
    pub is_top1: bool,
    /// `log p` of further tokens: those of [`Packed::with_given`], which must be there.
    pub given_log_probs: bool,
}

/// Scores of the targets of a [`Packed`], in their order.
#[derive(Debug, Clone)]
pub struct HeadScores<T> {
    /// `log p` of the token, in nats.
    pub log_probs: Vec<T>,
    /// See [`Statistics::mean_log_probs`].
    pub mean_log_probs: Option<Vec<T>>,
    /// See [`Statistics::log_sum_sq_probs`].
    pub log_sum_sq_probs: Option<Vec<T>>,
    /// See [`Statistics::entropy`].
    pub entropy: Option<Vec<T>>,
    /// See [`Statistics::is_top1`].
    pub is_top1: Option<Vec<T>>,
    /// See [`Statistics::given_log_probs`]: `[targets, K]`.
    pub given_log_probs: Option<Vec<T>>,
}

/// Derivatives of a loss with respect to [`HeadScores`], in the order of the targets. Absent means zero.
#[derive(Debug, Clone, Default)]
pub struct HeadCotangents<T> {
    /// With respect to the log-probabilities.
    pub log_probs: Option<Vec<T>>,
    /// With respect to the mean log-probability over the vocabulary.
    pub mean_log_probs: Option<Vec<T>>,
    /// With respect to `log Σ p²`.
    pub log_sum_sq_probs: Option<Vec<T>>,
    /// With respect to the entropy.
    pub entropy: Option<Vec<T>>,
    /// With respect to the log-probabilities of the further tokens of [`Packed::with_given`], `[targets, K]`.
    pub given_log_probs: Option<Vec<T>>,
}

/// What a forward pass kept.
#[derive(Debug)]
pub struct Saved<T> {
    inputs: Vec<Vec<T>>,
    layers: Option<Vec<LayerSaved<T>>>,
    last: Vec<T>,
    rstd: Vec<T>,
    hidden: Vec<T>,
    head: HeadSaved<T>,
}

#[derive(Debug, Clone)]
pub(crate) struct Places {
    embedding: usize,
    pub(crate) head: usize,
    final_norm: usize,
    layers: Vec<LayerPlaces>,
}

/// A causal language model of Llama's layout, optionally with a LoRA adapter.
///
/// With an adapter only the adapter is trained; without one every weight is.
#[derive(Debug, Clone)]
pub struct CausalLm<T = f32> {
    config: Config,
    pub(crate) base: Parameters<T>,
    pub(crate) places: Places,
    pub(crate) adapter: Option<Lora<T>>,
    rope: RopeCache<T>,
}

impl<T: Float + WithDType> CausalLm<T> {
    fn laid_out(config: Config) -> Result<Self> {
        let Layout { tensors, places } = layout(&config)?;
        let rope = RopeCache::new(&config);
        Ok(Self { base: Parameters::zeros(tensors)?, config, places, adapter: None, rope })
    }

    /// A model with freshly drawn weights: normal with the configuration's `initializer_range`, norms one.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn random(config: Config, seed: u64) -> Result<Self> {
        let mut model = Self::laid_out(config)?;
        let mut random = StdRng::seed_from_u64(seed);
        let deviation = model.config.initializer_range;
        for i in 0..model.base.len() {
            let norm = model.base.shape(i).len() == 1;
            for x in model.base.tensor_mut(i) {
                *x = if norm { T::ONE } else { Float::from_f64(deviation * standard_normal(&mut random)) };
            }
        }
        Ok(model)
    }

    /// Reads a Hugging Face directory: `config.json` and safetensors, sharded or not, in F32, F64, F16 or BF16.
    ///
    /// # Errors
    /// Missing or damaged files, an architecture that is not built, tensors that are missing, misshapen or unknown.
    pub fn load(directory: &Path) -> Result<Self> {
        let StoredModel { config, files, tensors } = StoredModel::open(directory)?;
        let mut model = Self::laid_out(config)?;
        for (i, tensor) in tensors.iter().enumerate() {
            files.read(&tensor.stored, model.base.tensor_mut(i))?;
        }
        Ok(model)
    }

    /// Writes the base weights as a Hugging Face directory: `config.json` and safetensors of `T`.
    ///
    /// # Errors
    /// The files cannot be written; what was there before stays whole.
    pub fn save(&self, directory: &Path) -> Result<()> {
        self.save_sharded(directory, SHARD_BYTES)
    }

    /// As [`save`](Self::save), in shards of at most `shard_bytes` (a single tensor may be larger).
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_sharded(&self, directory: &Path, shard_bytes: u64) -> Result<()> {
        save_model(directory, &self.config, &self.base, shard_bytes)
    }

    /// A copy of what training changes: all weights, or the adapter if there is one; `base` names the model that an adapter belongs to.
    pub fn trained(&self, base: &str) -> Trained<T> {
        match &self.adapter {
            Some(adapter) => {
                let mut adapter = adapter.clone();
                adapter.set_base(base);
                Trained(Which::Adapter(adapter))
            }
            None => Trained(Which::Model { config: self.config.clone(), weights: self.base.clone() }),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same model with every number converted, as for a check in f64 of a model trained in f32.
    ///
    /// # Errors
    /// Never for a model that was built; the layout is checked again.
    pub fn convert<U: Float + WithDType>(&self) -> Result<CausalLm<U>> {
        let mut out = CausalLm::<U>::laid_out(self.config.clone())?;
        copy(&self.base, &mut out.base);
        if let Some(adapter) = &self.adapter {
            out.adapter = Some(adapter.convert());
        }
        Ok(out)
    }

    /// Puts a fresh adapter over the model, which leaves its outputs as they are; from now on only the adapter is
    /// trained.
    ///
    /// # Errors
    /// An adapter is there already, or `lora` names a linear the model does not have.
    pub fn add_lora(&mut self, lora: &LoraConfig, seed: u64) -> Result<()> {
        self.refuse_second_adapter()?;
        self.adapter = Some(Lora::fresh(&self.config, lora, seed)?);
        Ok(())
    }

    /// Puts a PEFT adapter over the model. Dropout of the adapter is not applied.
    ///
    /// # Errors
    /// An adapter is there already, or the files do not fit the model.
    pub fn load_adapter(&mut self, directory: &Path) -> Result<()> {
        self.refuse_second_adapter()?;
        self.adapter = Some(Lora::load(&self.config, directory)?);
        Ok(())
    }

    /// Reads a PEFT adapter for a model of this shape, and leaves the model as it is.
    ///
    /// # Errors
    /// The files do not fit the model.
    pub fn read_adapter(&self, directory: &Path) -> Result<AdapterWeights<T>> {
        Ok(Lora::load(&self.config, directory)?.into_weights())
    }

    /// Writes the adapter as PEFT does; `base` names the model it belongs to.
    ///
    /// # Errors
    /// There is no adapter, or the files cannot be written.
    pub fn save_adapter(&self, directory: &Path, base: &str) -> Result<()> {
        match self.has_adapter() {
            true => self.trained(base).save(directory),
            false => Err(Error::Input("the model has no adapter to save".into())),
        }
    }

    /// Adds the adapter into the base weights and removes it: `W ← W + s B A`.
    ///
    /// # Errors
    /// There is no adapter, or it adapts a head that is also the embedding.
    pub fn merge_adapter(&mut self, workspace: &mut Workspace) -> Result<()> {
        let adapter = self.adapter.as_ref().ok_or_else(|| Error::Input("the model has no adapter to merge".into()))?;
        if self.config.tie_word_embeddings && adapter.pair(HEAD_MODULE).is_some() {
            return Err(Error::Unsupported {
                what: "merging an adapter of a head that is also the embedding".into(),
                instead: "keep the adapter, or set tie_word_embeddings = false and give lm_head weights of its own"
                    .into(),
            });
        }
        let adapter = self.adapter.take().expect("it was there a moment ago");
        if let Some(pair) = adapter.pair(HEAD_MODULE) {
            let weight = self.base.tensor_mut(self.places.head);
            adapter.add_product(pair, weight, workspace)?;
        }
        for (number, places) in self.places.layers.clone().iter().enumerate() {
            for name in LINEARS {
                let Some(pair) = adapter.pair(&name.module(number)) else { continue };
                adapter.add_product(pair, self.base.tensor_mut(places.linears[name as usize]), workspace)?;
            }
        }
        Ok(())
    }

    /// Removes the adapter, leaving the base weights.
    pub fn remove_adapter(&mut self) {
        self.adapter = None;
    }

    /// Whether the model has an adapter.
    pub fn has_adapter(&self) -> bool {
        self.adapter.is_some()
    }

    /// The base weights.
    pub fn parameters(&self) -> &Parameters<T> {
        &self.base
    }

    /// The base weights, giving up the model.
    pub fn into_parameters(self) -> Parameters<T> {
        self.base
    }

    /// The adapter's weights.
    pub fn adapter(&self) -> Option<&Parameters<T>> {
        self.adapter.as_ref().map(|adapter| &adapter.parameters)
    }

    /// What each `B A` of the adapter is multiplied by, by module path; empty without an adapter.
    pub fn adapter_scales(&self) -> BTreeMap<String, f64> {
        self.adapter.as_ref().map(Lora::scales).unwrap_or_default()
    }

    /// What training changes: the adapter if there is one, else the base weights.
    pub fn trainable(&self) -> &Parameters<T> {
        self.adapter().unwrap_or(&self.base)
    }

    /// What training changes, to be changed.
    pub fn trainable_mut(&mut self) -> &mut Parameters<T> {
        match &mut self.adapter {
            Some(adapter) => &mut adapter.parameters,
            None => &mut self.base,
        }
    }

    /// A copy that later training of this model leaves alone.
    pub fn frozen_copy(&self) -> Self {
        Self {
            config: self.config.clone(),
            base: self.base.copied(),
            places: self.places.clone(),
            adapter: self.adapter.clone(),
            rope: self.rope.clone(),
        }
    }

    /// Scores the targets and keeps nothing.
    ///
    /// # Errors
    /// A token id beyond the vocabulary; log-probabilities of further tokens wanted of a batch that names none.
    pub fn score(
        &self,
        packed: &Packed,
        want: Statistics,
        adapter: Adapter,
        workspace: &mut Workspace,
    ) -> Result<HeadScores<T>> {
        let hidden = self.trunk(packed, adapter, workspace)?;
        let (scores, saved) = self.head(&hidden, packed, want, adapter, Keeping::Nothing, workspace)?;
        workspace.give_back(hidden);
        saved.release(workspace);
        Ok(scores)
    }

    /// Scores the targets and keeps what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn forward(
        &self,
        packed: &Packed,
        want: Statistics,
        recompute: Recompute,
        workspace: &mut Workspace,
    ) -> Result<(HeadScores<T>, Saved<T>)> {
        let mut x = self.embed(packed, workspace)?;
        let tables = self.rope.tables(positions(packed));
        let lowest = self.lowest_trained_layer();
        let mut inputs = Vec::with_capacity(self.places.layers.len());
        let mut layers = Vec::new();
        for number in 0..self.places.layers.len() {
            let (y, saved) = self.layer(number, Adapter::On).forward(&x, packed, &tables, workspace)?;
            let input = std::mem::replace(&mut x, y);
            if number < lowest {
                workspace.give_back(input);
            } else {
                inputs.push(input);
            }
            if number < lowest || recompute == Recompute::Layers {
                saved.release(workspace);
            } else {
                layers.push(saved);
            }
        }
        let (hidden, rstd) = self.final_norm(&x, packed.tokens(), workspace)?;
        let (scores, head) = self.head(&hidden, packed, want, Adapter::On, Keeping::ForBackward, workspace)?;
        let layers = (recompute == Recompute::Nothing).then_some(layers);
        Ok((scores, Saved { inputs, layers, last: x, rstd, hidden, head }))
    }

    /// Adds the gradients of what is [`trainable`](Self::trainable) to `gradients`, given those of the scores.
    ///
    /// # Errors
    /// Cotangents or gradients of other sizes than the batch and the model.
    pub fn backward(
        &self,
        packed: &Packed,
        saved: Saved<T>,
        cotangents: &HeadCotangents<T>,
        gradients: &mut Gradients<T>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut sink = GradientSink { whole: gradients, by_item: None };
        self.backward_into(packed, saved, cotangents, &mut sink, workspace)
    }

    /// As [`backward`](Self::backward), with the same bits, and returns a sketch of the gradient of each context of
    /// `packed`: of that part of the adapter's gradient that comes from its rows, its prompt's included. They add up to the
    /// sketch of the whole, and each is what the context alone would have got from the same cotangents.
    ///
    /// Two items of a batch pull the adapter the same way where the inner product of their sketches is positive:
    ///
    /// ```
    /// # use candlewick_kernels::Workspace;
    /// # use candlewick_model::{CausalLm, CompletionIds, Config, ContextIds, Gradients, HeadCotangents, LoraConfig, Packed};
    /// # use candlewick_model::{Recompute, Sketch, Statistics};
    /// # fn main() -> candlewick_model::Result<()> {
    /// let mut model = CausalLm::<f32>::random(Config::llama(32, 16, 2), 7)?;
    /// model.add_lora(&LoraConfig { rank: 4, ..LoraConfig::default() }, 1)?;
    /// let context = |prompt, completion| {
    ///     let completions = vec![CompletionIds::all_scored(completion)];
    ///     ContextIds { prompt, prompt_scored: &[], completions }
    /// };
    /// let packed = Packed::new(&[context(&[1, 5, 9], &[4, 2]), context(&[1, 6], &[8, 2]), context(&[1, 5, 9], &[4, 2])])?;
    ///
    /// let mut workspace = Workspace::new(1);
    /// let mut gradients = Gradients::zeros(model.trainable());
    /// let (scores, saved) = model.forward(&packed, Statistics::default(), Recompute::Nothing, &mut workspace)?;
    /// let d = HeadCotangents { log_probs: Some(vec![-1.0; scores.log_probs.len()]), ..HeadCotangents::default() };
    /// let sketch = Sketch { dimensions: 512, seed: 0 };
    /// let sketches = model.backward_with_sketches(&packed, saved, &d, &mut gradients, sketch, &mut workspace)?;
    /// let products = sketches.inner_products(&sketches)?; // [3, 3]
    /// assert!((products[2] / products[0] - 1.0).abs() < 1e-4); // the first and the last are the same
    /// assert!(products[1] < products[0]);
    /// # Ok(()) }
    /// ```
    ///
    /// It costs what the products of the adapter's own gradients cost once more, one addition for each of its numbers and
    /// each context, and memory for `contexts × dimensions` numbers and, for each thread, for the largest tensor of the
    /// adapter. Contexts are spread over the threads; the sketches are the same for every number of them wherever the
    /// backward's own numbers are.
    ///
    /// # Errors
    /// As [`backward`](Self::backward); a model without an adapter, or with one of the head; dimensions out of bounds.
    pub fn backward_with_sketches(
        &self,
        packed: &Packed,
        saved: Saved<T>,
        cotangents: &HeadCotangents<T>,
        gradients: &mut Gradients<T>,
        sketch: Sketch,
        workspace: &mut Workspace,
    ) -> Result<Sketches> {
        let Some(adapter) = &self.adapter else {
            return Err(Error::Unsupported {
                what: "sketching the gradient of each item of a model without an adapter".into(),
                instead: "put one over it with add_lora or load_adapter".into(),
            });
        };
        // Its gradient is found by way of that of the whole head, summed over the batch by then.
        if adapter.pair(HEAD_MODULE).is_some() {
            return Err(Error::Unsupported {
                what: "sketching the gradient of each item with an adapter of the head".into(),
                instead: format!("use an adapter without {HEAD_MODULE} among its targets"),
            });
        }
        let mut sums = SketchSums::new(sketch, packed, &adapter.parameters)?;
        let mut sink = GradientSink { whole: gradients, by_item: Some(&mut sums) };
        self.backward_into(packed, saved, cotangents, &mut sink, workspace)?;
        Ok(sums.finish())
    }

    fn backward_into(
        &self,
        packed: &Packed,
        saved: Saved<T>,
        cotangents: &HeadCotangents<T>,
        gradients: &mut GradientSink<'_, T>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        if gradients.whole.data().len() != self.trainable().element_count() {
            return Err(Error::Input(format!(
                "the gradients hold {} numbers and the trainable parameters {}; make them with Gradients::zeros(model.trainable())",
                gradients.whole.data().len(),
                self.trainable().element_count()
            )));
        }
        let rows = packed.tokens();
        let hidden_size = self.config.hidden_size;
        let base_trained = self.adapter.is_none();

        let Saved { mut inputs, mut layers, last, rstd, hidden, head } = saved;
        let mut d_hidden = workspace.take_zeros(rows * hidden_size);
        self.head_backward(&hidden, head, packed, cotangents, &mut d_hidden, gradients.whole, workspace)?;
        let mut d = workspace.take(rows * hidden_size);
        let shape = rms_norm::Shape { rows, hidden: hidden_size };
        let place = self.places.final_norm;
        let dw = base_trained.then(|| gradients.tensor_mut(place).into());
        rms_norm::backward(
            (&last).into(),
            self.base.tensor(place).into(),
            (&rstd).into(),
            (&d_hidden).into(),
            (&mut d).into(),
            false,
            dw,
            shape,
            workspace,
        )?;
        workspace.give_back_all([last, rstd, hidden, d_hidden]);

        let tables = self.rope.tables(positions(packed));
        let lowest = self.lowest_trained_layer();
        for number in (lowest..self.places.layers.len()).rev() {
            let x = inputs.pop().expect("one input was kept for each layer");
            let layer = self.layer(number, Adapter::On);
            let kept = match &mut layers {
                Some(layers) => layers.pop().expect("each layer was kept"),
                None => {
                    let (y, kept) = layer.forward(&x, packed, &tables, workspace)?;
                    workspace.give_back(y);
                    kept
                }
            };
            let onward = base_trained || number > lowest;
            layer.backward(&x, &kept, &mut d, onward, packed, &tables, gradients, workspace)?;
            kept.release(workspace);
            workspace.give_back(x);
        }
        if base_trained {
            let table = gradients.tensor_mut(self.places.embedding);
            embedding::backward(packed.ids(), (&d).into(), table.into(), hidden_size, workspace)?;
        }
        workspace.give_back_all(inputs.into_iter().chain([d]));
        layers.into_iter().flatten().for_each(|kept| kept.release(workspace));
        Ok(())
    }

    /// Logits `[T, V]` of one text, computed whole: for inspection, not for training.
    ///
    /// # Errors
    /// A token id beyond the vocabulary, or an empty text.
    pub fn logits(&self, ids: &[u32], workspace: &mut Workspace) -> Result<Tensor> {
        let hidden = self.hidden(ids, workspace)?;
        let mut logits = vec![T::ZERO; ids.len() * self.config.vocab_size];
        self.project(&hidden, ids.len(), &mut logits, workspace)?;
        workspace.give_back(hidden);
        Ok(Tensor::from_vec(logits, (ids.len(), self.config.vocab_size), &Device::Cpu)?)
    }

    /// Hidden states `[T, H]` of one text after the final norm.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn hidden_states(&self, ids: &[u32], workspace: &mut Workspace) -> Result<Tensor> {
        let hidden = self.hidden(ids, workspace)?;
        let states = Tensor::from_slice(&hidden, (ids.len(), self.config.hidden_size), &Device::Cpu)?;
        workspace.give_back(hidden);
        Ok(states)
    }

    /// One vector a context, `[contexts, H]`: the mean over the tokens of its prompt of the hidden states after the final
    /// norm, as for telling prompts apart. Completions do not matter.
    ///
    /// # Errors
    /// As [`score`](Self::score); a context with an empty prompt.
    pub fn prompt_means(&self, packed: &Packed, adapter: Adapter, workspace: &mut Workspace) -> Result<Vec<Vec<T>>> {
        let hidden = self.trunk(packed, adapter, workspace)?;
        let size = self.config.hidden_size;
        let mean = |segment: &Segment| {
            let rows = segment.prompt.clone();
            if rows.is_empty() {
                return Err(Error::Input("an empty prompt has no hidden states; begin it with a BOS token".into()));
            }
            let mut mean = vec![T::ZERO; size];
            let share: T = Float::from_f64(1.0 / rows.len() as f64);
            for row in hidden[rows.start * size..rows.end * size].chunks_exact(size) {
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += *x * share);
            }
            Ok(mean)
        };
        let means = packed.segments().iter().map(mean).collect();
        workspace.give_back(hidden);
        means
    }

    /// The hidden states `[tokens, H]` of a batch after the final norm.
    fn trunk(&self, packed: &Packed, adapter: Adapter, workspace: &mut Workspace) -> Result<Vec<T>> {
        let mut x = self.embed(packed, workspace)?;
        let tables = self.rope.tables(positions(packed));
        for number in 0..self.places.layers.len() {
            let (y, saved) = self.layer(number, adapter).forward(&x, packed, &tables, workspace)?;
            saved.release(workspace);
            workspace.give_back(std::mem::replace(&mut x, y));
        }
        let (hidden, rstd) = self.final_norm(&x, packed.tokens(), workspace)?;
        workspace.give_back_all([x, rstd]);
        Ok(hidden)
    }

    fn hidden(&self, ids: &[u32], workspace: &mut Workspace) -> Result<Vec<T>> {
        if ids.is_empty() {
            return Err(Error::Input("an empty text has no hidden states; begin it with a BOS token".into()));
        }
        let packed = Packed::new(&[ContextIds {
            prompt: ids,
            prompt_scored: &[],
            completions: Vec::<CompletionIds<'_>>::new(),
        }])?;
        self.trunk(&packed, Adapter::On, workspace)
    }

    pub(crate) fn embed(&self, packed: &Packed, workspace: &mut Workspace) -> Result<Vec<T>> {
        let vocab = self.config.vocab_size;
        let beyond = packed
            .ids()
            .iter()
            .chain(packed.targets().iter().map(|target| &target.id))
            .chain(packed.given())
            .find(|id| **id as usize >= vocab);
        if let Some(id) = beyond {
            return Err(Error::Input(format!(
                "token id {id} is beyond the model's vocabulary of {vocab}; does the tokenizer belong to this model?"
            )));
        }
        let mut x = workspace.take(packed.tokens() * self.config.hidden_size);
        let table = self.base.tensor(self.places.embedding);
        embedding::forward(packed.ids(), table.into(), (&mut x).into(), self.config.hidden_size, workspace)?;
        Ok(x)
    }

    /// The first layer that holds anything trained; one past the last where only the head does.
    fn lowest_trained_layer(&self) -> usize {
        let Some(adapter) = &self.adapter else { return 0 };
        let count = self.places.layers.len();
        let adapted = |number: &usize| LINEARS.iter().any(|name| adapter.pair(&name.module(*number)).is_some());
        (0..count).find(adapted).unwrap_or(count)
    }

    pub(crate) fn layer(&self, number: usize, adapter: Adapter) -> Layer<'_, T> {
        Layer {
            config: &self.config,
            base: &self.base,
            places: &self.places.layers[number],
            lora: self.adapter.as_ref().filter(|_| adapter == Adapter::On),
            base_trained: self.adapter.is_none(),
            number,
        }
    }

    pub(crate) fn rope(&self) -> &RopeCache<T> {
        &self.rope
    }

    pub(crate) fn final_norm(&self, x: &[T], rows: usize, workspace: &mut Workspace) -> Result<(Vec<T>, Vec<T>)> {
        norm(x, self.base.tensor(self.places.final_norm), rows, &self.config, workspace)
    }

    fn refuse_second_adapter(&self) -> Result<()> {
        match self.adapter {
            None => Ok(()),
            Some(_) => Err(Error::Unsupported {
                what: "a second adapter over the first".into(),
                instead: "merge the first with merge_adapter, or remove it".into(),
            }),
        }
    }
}

/// Names and shapes of the base weights, in order, and where each part lies among them.
pub(crate) struct Layout {
    pub(crate) tensors: Vec<(String, Vec<usize>)>,
    places: Places,
}

pub(crate) fn layout(config: &Config) -> Result<Layout> {
    config.validate()?;
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let mut tensors = vec![(EMBEDDING.to_owned(), vec![vocab, hidden])];
    let mut layers = Vec::new();
    for layer in 0..config.num_hidden_layers {
        let mut place = |name: String, shape: Vec<usize>| {
            tensors.push((name, shape));
            tensors.len() - 1
        };
        layers.push(LayerPlaces {
            input_norm: place(format!("model.layers.{layer}.input_layernorm.weight"), vec![hidden]),
            linears: LINEARS.map(|linear| {
                let (outputs, inputs) = linear.sizes(config);
                place(format!("{}.weight", linear.module(layer)), vec![outputs, inputs])
            }),
            attention_norm: place(format!("model.layers.{layer}.post_attention_layernorm.weight"), vec![hidden]),
        });
    }
    let final_norm = tensors.len();
    tensors.push((FINAL_NORM.to_owned(), vec![hidden]));
    let head = if config.tie_word_embeddings {
        0
    } else {
        tensors.push((HEAD.to_owned(), vec![vocab, hidden]));
        tensors.len() - 1
    };
    Ok(Layout { tensors, places: Places { embedding: 0, head, final_norm, layers } })
}

/// A Hugging Face directory whose files fit its configuration, before anything of their size is allocated.
pub(crate) struct StoredModel {
    pub(crate) config: Config,
    pub(crate) files: WeightFiles,
    /// In the order of the parameters.
    pub(crate) tensors: Vec<StoredTensor>,
}

/// A tensor of the model, and the name under which the files have it.
pub(crate) struct StoredTensor {
    pub(crate) name: String,
    pub(crate) stored: String,
    pub(crate) shape: Vec<usize>,
}

impl StoredModel {
    /// Opens the directory and compares names and shapes with the configuration.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::MissingFile {
                directory: directory
                    .parent()
                    .filter(|parent| *parent != Path::new(""))
                    .unwrap_or(Path::new("."))
                    .into(),
                missing: directory.file_name().unwrap_or(directory.as_os_str()).to_string_lossy().into_owned(),
                expected: "the path of a local model directory (config.json, model.safetensors, tokenizer.json)",
            });
        }
        let config = Config::from_dir(directory)?;
        let files = WeightFiles::open(directory, "model")?;
        let tied = config.tie_word_embeddings;
        let stored = |name: &str| match name {
            EMBEDDING if tied && files.shape(EMBEDDING).is_none() => HEAD.to_owned(),
            name => name.to_owned(),
        };
        // The files are compared with the configuration before anything of its size is allocated.
        let mut tensors = Vec::new();
        for (name, shape) in layout(&config)?.tensors {
            let stored = stored(&name);
            files.check(&stored, &shape)?;
            tensors.push(StoredTensor { name, stored, shape });
        }
        let known: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let odd = files
            .names()
            .find(|name| !(known.contains(name) || tied && *name == HEAD || name.ends_with("rotary_emb.inv_freq")));
        if let Some(name) = odd {
            let reason = format!(
                "the tensor {name} has no place in this architecture; is config.json the one these weights came with?"
            );
            return Err(Error::weights(directory, reason));
        }
        Ok(Self { config, files, tensors })
    }
}

fn copy<T: Float, U: Float>(from: &Parameters<T>, to: &mut Parameters<U>) {
    for (to, from) in to.data_mut().iter_mut().zip(from.data()) {
        *to = U::from_f64(from.to_f64());
    }
}

impl<T: Float> Lora<T> {
    fn convert<U: Float>(&self) -> Lora<U> {
        let layout =
            (0..self.parameters.len()).map(|i| (self.parameters.name(i).to_owned(), self.parameters.shape(i).to_vec()));
        let mut parameters = Parameters::zeros(layout).expect("the names were distinct before");
        copy(&self.parameters, &mut parameters);
        self.with_parameters(parameters)
    }
}

/// One more than the largest position.
fn positions(packed: &Packed) -> usize {
    packed.positions().iter().max().map_or(0, |last| *last as usize + 1)
}

/// A draw from N(0, 1) by Box and Muller's transform.
fn standard_normal(random: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}
