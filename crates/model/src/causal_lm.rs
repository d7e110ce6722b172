//! The causal language model: a trunk with the token head.
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, WithDType};
use candlewick_kernels::attention::Segment;
use candlewick_kernels::{Buffer, Cuda, Element, Float, Workspace};

use crate::adapter::{AdapterWeights, HEAD_MODULE, Lora, LoraConfig};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::head::{HeadSaved, Keeping, QueuedScores};
use crate::layout::{HeadKind, StoredModel};
use crate::packed::{CompletionIds, ContextIds, Packed};
use crate::parameters::{Gradients, Parameters};
use crate::sketch::{GradientSink, Sketch, SketchSums, Sketches};
use crate::trained::{Trained, save_model};
use crate::trunk::{Adapter, Recompute, Trunk, TrunkSaved};
use crate::weights::SHARD_BYTES;

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
pub struct Saved<T: Element = f32> {
    trunk: TrunkSaved<T>,
    head: HeadSaved<T>,
}

/// A causal language model of Llama's layout, optionally with a LoRA adapter.
///
/// With an adapter only the adapter is trained; without one every weight is. It computes where its weights are: on the host, or on the
/// device that [`to_device`](Self::to_device) has moved it to.
#[derive(Debug, Clone)]
pub struct CausalLm<T: Element = f32> {
    pub(crate) trunk: Trunk<T>,
}

impl<T: Float + WithDType> CausalLm<T> {
    /// A model with freshly drawn weights: normal with the configuration's `initializer_range`, norms one.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn random(config: Config, seed: u64) -> Result<Self> {
        Ok(Self { trunk: Trunk::random(config, HeadKind::Tokens, seed)? })
    }

    /// Reads a Hugging Face directory: `config.json` and safetensors, sharded or not, in F32, F64, F16 or BF16.
    ///
    /// # Errors
    /// Missing or damaged files, an architecture that is not built, tensors that are missing, misshapen or unknown.
    pub fn load(directory: &Path) -> Result<Self> {
        Ok(Self { trunk: Trunk::read(StoredModel::open(directory)?, HeadKind::Tokens)? })
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
        self.trunk.check_on_host("saving a model")?;
        save_model(directory, &self.trunk.config, None, &self.trunk.base, shard_bytes)
    }

    /// A copy of what training changes: all weights, or the adapter if there is one; `base` names the model that an adapter belongs to.
    ///
    /// # Panics
    /// For a model on a device; [`trained_with`](Self::trained_with) is for those.
    pub fn trained(&self, base: &str) -> Trained<T> {
        Trained::of(&self.trunk, None, base)
    }

    /// The same model with every number converted, as for a check in f64 of a model trained in f32.
    ///
    /// # Errors
    /// Never for a model that was built; the layout is checked again.
    pub fn convert<U: Float + WithDType>(&self) -> Result<CausalLm<U>> {
        Ok(CausalLm { trunk: self.trunk.convert()? })
    }

    /// Puts a fresh adapter over the model, which leaves its outputs as they are; from now on only the adapter is
    /// trained.
    ///
    /// # Errors
    /// An adapter is there already, or `lora` names a linear the model does not have.
    pub fn add_lora(&mut self, lora: &LoraConfig, seed: u64) -> Result<()> {
        self.trunk.add_lora(lora, seed)
    }

    /// Puts a PEFT adapter over the model. Dropout of the adapter is not applied.
    ///
    /// # Errors
    /// An adapter is there already, or the files do not fit the model.
    pub fn load_adapter(&mut self, directory: &Path) -> Result<()> {
        self.trunk.load_adapter(directory)
    }

    /// Writes the adapter as PEFT does; `base` names the model it belongs to.
    ///
    /// # Errors
    /// There is no adapter, or the files cannot be written.
    pub fn save_adapter(&self, directory: &Path, base: &str) -> Result<()> {
        self.trunk.check_on_host("saving an adapter")?;
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
        self.trunk.merge_adapter(workspace)
    }

    /// Lets all passes from now on be those of another preference vector. Nothing is built again.
    ///
    /// # Errors
    /// There is no Panacea adapter, or the vector is not one number of at least 0 for each of its preferences with a sum of 1.
    pub fn set_preference(&mut self, preference: &[f64]) -> Result<()> {
        match &mut self.trunk.adapter {
            Some(adapter) => adapter.set_preference(preference),
            None => Err(Error::Input(
                "a preference is given, and the model has no Panacea adapter; load one, or leave it out".into(),
            )),
        }
    }

    /// How far the directions of a Panacea adapter are from orthonormal, `Σ ‖A·Aᵀ − 1‖² + ‖Bᵀ·B − 1‖²` over its linears; adds the
    /// gradient of that, times the weight that the adapter was made with, to `gradients`. Nothing without such an adapter, or where
    /// that weight is 0.
    pub fn add_orthogonality(&self, gradients: &mut Gradients<T>) -> Option<f64> {
        self.trunk.adapter.as_ref()?.add_orthogonality(gradients)
    }

    /// A copy that later training of this model leaves alone.
    ///
    /// # Panics
    /// Where the device that the model is on has no memory left.
    pub fn frozen_copy(&self) -> Self {
        Self { trunk: self.trunk.frozen_copy() }
    }

    /// The same model on `device`, each number rounded to the nearest of its type there; `f32` stays as it is.
    ///
    /// Its [`Workspace`] is one [`on`](Workspace::on) the device.
    ///
    /// # Errors
    /// The device has no memory left; an adapter of the head, or a Panacea adapter.
    pub fn to_device<U: Element<Wide = T>>(&self, device: &Cuda, workspace: &mut Workspace) -> Result<CausalLm<U>> {
        Ok(CausalLm { trunk: self.trunk.to_device(device, workspace)? })
    }
}

impl<T: Element> CausalLm<T> {
    /// The same model on the host, in the type that it is computed with.
    ///
    /// # Errors
    /// The driver of the device it is on reports an error.
    pub fn to_host(&self) -> Result<CausalLm<T::Wide>> {
        Ok(CausalLm { trunk: self.trunk.to_host()? })
    }

    /// Reads a PEFT adapter for a model of this shape, onto the host, and leaves the model as it is.
    ///
    /// # Errors
    /// The files do not fit the model.
    pub fn read_adapter(&self, directory: &Path) -> Result<AdapterWeights<T::Wide>>
    where
        T::Wide: WithDType,
    {
        Ok(Lora::load(&self.trunk.config, HeadKind::Tokens, directory)?.into_weights())
    }

    /// What training changes, with these numbers in the place of the model's own, to be written: `numbers` are in the layout of
    /// [`trainable`](Self::trainable); `base` names the model that an adapter belongs to.
    ///
    /// # Errors
    /// Numbers of another layout.
    pub fn trained_with(&self, numbers: Parameters<T::Wide>, base: &str) -> Result<Trained<T::Wide>>
    where
        T::Wide: WithDType,
    {
        self.trainable().check_same_layout(&numbers)?;
        Ok(Trained::with_numbers(&self.trunk, None, numbers, base))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.trunk.config
    }

    /// The preference vector at which a Panacea adapter stands, one number a preference: equal ones until
    /// [`set_preference`](Self::set_preference). Empty without such an adapter.
    pub fn preference(&self) -> &[f64] {
        self.trunk.adapter.as_ref().map_or(&[], Lora::preference)
    }

    /// Removes the adapter, leaving the base weights.
    pub fn remove_adapter(&mut self) {
        self.trunk.adapter = None;
    }

    /// Whether the model has an adapter.
    pub fn has_adapter(&self) -> bool {
        self.trunk.adapter.is_some()
    }

    /// The base weights.
    pub fn parameters(&self) -> &Parameters<T> {
        &self.trunk.base
    }

    /// The base weights, giving up the model.
    pub fn into_parameters(self) -> Parameters<T> {
        self.trunk.base
    }

    /// The adapter's weights.
    pub fn adapter(&self) -> Option<&Parameters<T>> {
        self.trunk.adapter.as_ref().map(|adapter| &adapter.parameters)
    }

    /// What each `B A` of the adapter is multiplied by, by module path; empty without an adapter.
    pub fn adapter_scales(&self) -> BTreeMap<String, f64> {
        self.trunk.adapter_scales()
    }

    /// What training changes: the adapter if there is one, else the base weights.
    pub fn trainable(&self) -> &Parameters<T> {
        self.trunk.trainable()
    }

    /// What training changes, to be changed.
    pub fn trainable_mut(&mut self) -> &mut Parameters<T> {
        self.trunk.trainable_mut()
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
    ) -> Result<HeadScores<T::Wide>> {
        self.queue_scores(packed, want, adapter, workspace)?.read()
    }

    /// As [`score`](Self::score), for which a device is not waited for: other passes may be queued behind it before the scores are read.
    /// The host is done with it.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn queue_scores(
        &self,
        packed: &Packed,
        want: Statistics,
        adapter: Adapter,
        workspace: &mut Workspace,
    ) -> Result<QueuedScores<T::Wide>> {
        let (hidden, staged) = self.trunk.hidden_states(packed, adapter, workspace)?;
        let (scores, saved) = self.head(&hidden, packed, &staged, want, adapter, Keeping::Nothing, workspace)?;
        workspace.reclaim(hidden);
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
    ) -> Result<(HeadScores<T::Wide>, Saved<T>)> {
        let trunk = self.trunk.forward(packed, recompute, workspace)?;
        let (hidden, staged) = (&trunk.hidden, &trunk.staged);
        let (scores, head) = self.head(hidden, packed, staged, want, Adapter::On, Keeping::ForBackward, workspace)?;
        Ok((scores.read()?, Saved { trunk, head }))
    }

    /// Adds the gradients of what is [`trainable`](Self::trainable) to `gradients`, given those of the scores.
    ///
    /// # Errors
    /// Cotangents or gradients of other sizes than the batch and the model.
    pub fn backward(
        &self,
        packed: &Packed,
        saved: Saved<T>,
        cotangents: &HeadCotangents<T::Wide>,
        gradients: &mut Gradients<T::Wide>,
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
        cotangents: &HeadCotangents<T::Wide>,
        gradients: &mut Gradients<T::Wide>,
        sketch: Sketch,
        workspace: &mut Workspace,
    ) -> Result<Sketches> {
        let Some(adapter) = &self.trunk.adapter else {
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
        if !adapter.preference().is_empty() {
            return Err(Error::Unsupported {
                what: "sketching the gradient of each item with a Panacea adapter".into(),
                instead: "write it at one preference as a LoRA adapter (`wick merge --preference`)".into(),
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
        cotangents: &HeadCotangents<T::Wide>,
        gradients: &mut GradientSink<'_, T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.trunk.check_gradients(gradients.whole.element_count())?;
        let Saved { trunk, head } = saved;
        let mut d_hidden = workspace.lend_zeros(packed.tokens() * self.config().hidden_size)?;
        let (hidden, staged) = (&trunk.hidden, &trunk.staged);
        self.head_backward(hidden, head, packed, staged, cotangents, &mut d_hidden, gradients.whole, workspace)?;
        self.trunk.backward(packed, trunk, d_hidden, gradients, workspace)
    }

    /// Logits `[T, V]` of one text, computed whole: for inspection, not for training.
    ///
    /// # Errors
    /// A token id beyond the vocabulary, or an empty text.
    pub fn logits(&self, ids: &[u32], workspace: &mut Workspace) -> Result<Tensor>
    where
        T::Wide: WithDType,
    {
        let hidden = self.hidden(ids, workspace)?;
        let mut logits = Buffer::<T>::zeros(ids.len() * self.config().vocab_size, workspace.device())?;
        self.project(hidden.view(), ids.len(), logits.view_mut(), workspace)?;
        workspace.reclaim(hidden);
        Ok(Tensor::from_vec(logits.into_wide()?, (ids.len(), self.config().vocab_size), &Device::Cpu)?)
    }

    /// Hidden states `[T, H]` of one text after the final norm.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn hidden_states(&self, ids: &[u32], workspace: &mut Workspace) -> Result<Tensor>
    where
        T::Wide: WithDType,
    {
        let hidden = self.hidden(ids, workspace)?;
        let numbers = hidden.to_wide()?.into_owned();
        workspace.reclaim(hidden);
        Ok(Tensor::from_vec(numbers, (ids.len(), self.config().hidden_size), &Device::Cpu)?)
    }

    /// One vector a context, `[contexts, H]`: the mean over the tokens of its prompt of the hidden states after the final
    /// norm, as for telling prompts apart. Completions do not matter.
    ///
    /// # Errors
    /// As [`score`](Self::score); a context with an empty prompt.
    pub fn prompt_means(
        &self,
        packed: &Packed,
        adapter: Adapter,
        workspace: &mut Workspace,
    ) -> Result<Vec<Vec<T::Wide>>> {
        let (states, _) = self.trunk.hidden_states(packed, adapter, workspace)?;
        let hidden = states.to_wide()?;
        let size = self.config().hidden_size;
        let mean = |segment: &Segment| {
            let rows = segment.prompt.clone();
            if rows.is_empty() {
                return Err(Error::Input("an empty prompt has no hidden states; begin it with a BOS token".into()));
            }
            let mut mean = vec![T::Wide::ZERO; size];
            let share: T::Wide = Float::from_f64(1.0 / rows.len() as f64);
            for row in hidden[rows.start * size..rows.end * size].chunks_exact(size) {
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += *x * share);
            }
            Ok(mean)
        };
        let means = packed.segments().iter().map(mean).collect();
        drop(hidden);
        workspace.reclaim(states);
        means
    }

    fn hidden(&self, ids: &[u32], workspace: &mut Workspace) -> Result<Buffer<T>> {
        if ids.is_empty() {
            return Err(Error::Input("an empty text has no hidden states; begin it with a BOS token".into()));
        }
        let packed = Packed::new(&[ContextIds {
            prompt: ids,
            prompt_scored: &[],
            completions: Vec::<CompletionIds<'_>>::new(),
        }])?;
        Ok(self.trunk.hidden_states(&packed, Adapter::On, workspace)?.0)
    }
}
