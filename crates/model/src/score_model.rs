//! The score model: a trunk with heads that give each completion, or each token, a few numbers.
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::WithDType;
use candlewick_kernels::{Buffer, Cuda, Element, Float, View, Workspace};

use crate::adapter::{AdapterWeights, Lora, LoraConfig};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::heads::{Heads, Normaliser};
use crate::layout::{HeadKind, StoredModel, read_config};
use crate::packed::Packed;
use crate::parameters::{Gradients, Parameters};
use crate::score_head::{self, GatheredStates, Numbers, Operands, ScoredAt};
use crate::sketch::GradientSink;
use crate::trained::{Trained, save_model};
use crate::trunk::{Adapter, Recompute, Trunk, TrunkSaved};
use crate::weights::SHARD_BYTES;

/// What a forward pass of a [`ScoreModel`] kept.
#[derive(Debug)]
pub struct ScoreSaved<T: Element = f32> {
    trunk: TrunkSaved<T>,
    rows: Vec<u32>,
    gathered: GatheredStates<T::Wide>,
    /// The width of a hidden state.
    size: usize,
}

impl<T: Element> ScoreSaved<T> {
    /// The hidden states that the heads read, `[rows, H]`.
    ///
    /// # Errors
    /// The driver of the device that they are on reports an error.
    pub fn states(&self) -> Result<Vec<T::Wide>> {
        score_head::states(&self.trunk.hidden, &self.rows, self.size, &self.gathered)
    }
}

/// A model of Llama's layout that gives texts numbers: a reward, a cost, a value. Several heads, each with a name, stand on one
/// trunk; a head is a row of `score.weight` `[K, H]`, without a bias.
///
/// Its directories are those of `LlamaForSequenceClassification`: the heads are the labels. With an adapter, the adapter and the
/// heads are trained, and saved as PEFT saves `task_type = "SEQ_CLS"` with `modules_to_save = ["score"]`.
///
/// It computes where its weights are: on the host, or on the device that [`to_device`](Self::to_device) has moved it to. A model of
/// `bf16` gives numbers in `f32`, as the products of its heads are summed.
///
/// transformers finds the last token of a text as the last that is not `pad_token_id`; here it is the last there is. The two agree
/// unless texts end with the padding token, so a `pad_token_id` that is among `eos_token_id` is written as null: transformers then
/// scores texts one by one, and refuses batches until the key names another token.
///
/// ```
/// # use candlewick_kernels::Workspace;
/// # use candlewick_model::{Adapter, CausalLm, CompletionIds, Config, ContextIds, Packed, ScoreModel, ScoredAt};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// CausalLm::<f32>::random(Config::llama(32, 16, 2), 7)?.save(directory.path())?;
/// let model = ScoreModel::<f32>::from_causal(directory.path(), &["reward".into(), "cost".into()])?;
/// let packed = Packed::new(&[ContextIds {
///     prompt: &[1, 5, 9],
///     prompt_scored: &[],
///     completions: vec![CompletionIds::all_scored(&[4, 2]), CompletionIds::all_scored(&[8, 8, 2])],
/// }])?;
/// let values = model.score(&packed, ScoredAt::Completions, Adapter::On, &mut Workspace::new(1))?;
/// assert_eq!(values, [0.0; 4]); // two completions, two heads that start at zero
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ScoreModel<T: Element = f32> {
    trunk: Trunk<T>,
    heads: Heads,
}

impl<T: Float + WithDType> ScoreModel<T> {
    /// A model with freshly drawn weights, the heads too: normal with the configuration's `initializer_range`, norms one.
    ///
    /// # Errors
    /// Sizes that do not fit together; names that are empty or the same.
    pub fn random(config: Config, names: &[String], seed: u64) -> Result<Self> {
        let heads = Heads::named(names)?;
        Ok(Self { trunk: Trunk::random(config, HeadKind::Scores(heads.count()), seed)?, heads })
    }

    /// The trunk of a causal language model's directory, with fresh heads of the given names.
    ///
    /// The heads start at zero. Every text then has the score 0, so that a loss of differences starts at its value there,
    /// which a run can check, and no random direction of the hidden states is preferred at first. They learn from the first
    /// step on, the trunk from the second.
    ///
    /// # Errors
    /// As [`CausalLm::load`](crate::CausalLm::load); names that are empty or the same.
    pub fn from_causal(directory: &Path, names: &[String]) -> Result<Self> {
        let heads = Heads::named(names)?;
        let trunk = Trunk::read(StoredModel::open(directory)?, HeadKind::Scores(heads.count()))?;
        Ok(Self { trunk, heads })
    }

    /// Reads a Hugging Face directory of a `LlamaForSequenceClassification`, with its heads and their names.
    ///
    /// # Errors
    /// As [`CausalLm::load`](crate::CausalLm::load); a directory of another kind of model; labels that are no list of names.
    pub fn load(directory: &Path) -> Result<Self> {
        let config = read_config(directory)?;
        let heads = stored_heads(&config, directory)?;
        let head = HeadKind::Scores(heads.count());
        Ok(Self { trunk: Trunk::read(StoredModel::of(config, head, directory)?, head)?, heads })
    }

    /// Writes the base weights as a Hugging Face directory, which transformers and [`load`](Self::load) read.
    ///
    /// # Errors
    /// The files cannot be written; what was there before stays whole.
    pub fn save(&self, directory: &Path) -> Result<()> {
        self.trunk.check_on_host("saving a model")?;
        save_model(directory, &self.trunk.config, Some(&self.heads), &self.trunk.base, SHARD_BYTES)
    }

    /// A copy of what training changes: all weights, or the adapter with the heads; `base` names the model that an adapter belongs to.
    ///
    /// # Panics
    /// For a model on a device; [`trained_with`](Self::trained_with) is for those.
    pub fn trained(&self, base: &str) -> Trained<T> {
        Trained::of(&self.trunk, Some(&self.heads), base)
    }

    /// The same model with every number converted.
    ///
    /// # Errors
    /// Never for a model that was built; the layout is checked again.
    pub fn convert<U: Float + WithDType>(&self) -> Result<ScoreModel<U>> {
        Ok(ScoreModel { trunk: self.trunk.convert()?, heads: self.heads.clone() })
    }

    /// Puts a fresh adapter over the model, which leaves its numbers as they are; from now on the adapter and the heads are trained.
    ///
    /// # Errors
    /// An adapter is there already, or `lora` names a linear the model does not have.
    pub fn add_lora(&mut self, lora: &LoraConfig, seed: u64) -> Result<()> {
        self.trunk.add_lora(lora, seed)
    }

    /// Puts a PEFT adapter with its heads over the model. Dropout of the adapter is not applied.
    ///
    /// # Errors
    /// An adapter is there already, the files do not fit the model, or they lack the heads.
    pub fn load_adapter(&mut self, directory: &Path) -> Result<()> {
        self.trunk.load_adapter(directory)
    }

    /// Writes the adapter and the heads as PEFT does; `base` names the model they belong to.
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

    /// Adds the adapter into the base weights, puts its heads in the place of theirs, and removes it.
    ///
    /// # Errors
    /// There is no adapter.
    pub fn merge_adapter(&mut self, workspace: &mut Workspace) -> Result<()> {
        self.trunk.merge_adapter(workspace)
    }

    /// A copy that later training of this model leaves alone.
    ///
    /// # Panics
    /// Where the device that the model is on has no memory left.
    pub fn frozen_copy(&self) -> Self {
        Self { trunk: self.trunk.frozen_copy(), heads: self.heads.clone() }
    }

    /// The same model on `device`, each number rounded to the nearest of its type there; `f32` stays as it is.
    ///
    /// Its [`Workspace`] is one [`on`](Workspace::on) the device.
    ///
    /// # Errors
    /// The device has no memory left, or its driver reports an error; the model is on a device already.
    pub fn to_device<U: Element<Wide = T>>(&self, device: &Cuda, workspace: &mut Workspace) -> Result<ScoreModel<U>> {
        Ok(ScoreModel { trunk: self.trunk.to_device(device, workspace)?, heads: self.heads.clone() })
    }
}

impl<T: Element> ScoreModel<T> {
    /// The same model on the host, in the type that it is computed with.
    ///
    /// # Errors
    /// The driver of the device it is on reports an error.
    pub fn to_host(&self) -> Result<ScoreModel<T::Wide>> {
        Ok(ScoreModel { trunk: self.trunk.to_host()?, heads: self.heads.clone() })
    }

    /// Reads a PEFT adapter with its heads for a model of this shape, onto the host, and leaves the model as it is.
    ///
    /// # Errors
    /// The files do not fit the model, or they lack the heads.
    pub fn read_adapter(&self, directory: &Path) -> Result<AdapterWeights<T::Wide>>
    where
        T::Wide: WithDType,
    {
        Ok(Lora::load(&self.trunk.config, self.trunk.head, directory)?.into_weights())
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
        Ok(Trained::with_numbers(&self.trunk, Some(&self.heads), numbers, base))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.trunk.config
    }

    /// The names of the heads, in the order of their numbers.
    pub fn heads(&self) -> &[String] {
        self.heads.names()
    }

    /// How the numbers of a head are normalised, if the model says so.
    pub fn normaliser(&self, head: usize) -> Option<Normaliser> {
        self.heads.normaliser(head)
    }

    /// Sets how the numbers of a head are normalised. It is kept in `config.json`, and no number changes but by
    /// [`normalise`](Self::normalise).
    ///
    /// # Errors
    /// A head that is not there; a mean that is not finite, a deviation that is not positive.
    pub fn set_normaliser(&mut self, head: usize, normaliser: Option<Normaliser>) -> Result<()> {
        self.heads.set_normaliser(head, normaliser)
    }

    /// Normalises numbers `[rows, K]`; those of heads without a [`Normaliser`] stay as they are.
    pub fn normalise(&self, values: &mut [T::Wide]) {
        self.heads.normalise(values);
    }

    /// Removes the adapter, leaving the base weights.
    pub fn remove_adapter(&mut self) {
        self.trunk.adapter = None;
    }

    /// Whether the model has an adapter.
    pub fn has_adapter(&self) -> bool {
        self.trunk.adapter.is_some()
    }

    /// The base weights, the heads last.
    pub fn parameters(&self) -> &Parameters<T> {
        &self.trunk.base
    }

    /// The adapter's weights, the heads last.
    pub fn adapter(&self) -> Option<&Parameters<T>> {
        self.trunk.adapter.as_ref().map(|adapter| &adapter.parameters)
    }

    /// What each `B A` of the adapter is multiplied by, by module path; empty without an adapter.
    pub fn adapter_scales(&self) -> BTreeMap<String, f64> {
        self.trunk.adapter_scales()
    }

    /// The base weights, the heads last, giving up the model.
    pub fn into_parameters(self) -> Parameters<T> {
        self.trunk.base
    }

    /// What training changes: the adapter and the heads if there is one, else the base weights. The heads are the last tensor.
    pub fn trainable(&self) -> &Parameters<T> {
        self.trunk.trainable()
    }

    /// What training changes, to be changed.
    pub fn trainable_mut(&mut self) -> &mut Parameters<T> {
        self.trunk.trainable_mut()
    }

    /// The place of the heads among what is [`trainable`](Self::trainable).
    pub fn head_place(&self) -> usize {
        self.trainable().len() - 1
    }

    /// The numbers of the completions or targets, `[rows, K]` as [`ScoredAt`] says. Nothing is kept.
    ///
    /// # Errors
    /// A token id beyond the vocabulary; a completion that is empty after an empty prompt; a workspace elsewhere than the model; no
    /// memory left on the device, or an error of its driver.
    pub fn score(
        &self,
        packed: &Packed,
        at: ScoredAt,
        adapter: Adapter,
        workspace: &mut Workspace,
    ) -> Result<Vec<T::Wide>> {
        Ok(self.score_rows(packed, at, adapter, false, workspace)?.0)
    }

    /// As [`score`](Self::score), with the hidden states that the heads read, `[rows, H]`.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn score_with_states(
        &self,
        packed: &Packed,
        at: ScoredAt,
        adapter: Adapter,
        workspace: &mut Workspace,
    ) -> Result<(Numbers<T>, Numbers<T>)> {
        self.score_rows(packed, at, adapter, true, workspace)
    }

    /// Numbers, and hidden states where they are wanted.
    fn score_rows(
        &self,
        packed: &Packed,
        at: ScoredAt,
        adapter: Adapter,
        with_states: bool,
        workspace: &mut Workspace,
    ) -> Result<(Numbers<T>, Numbers<T>)> {
        let rows = at.rows(packed)?;
        let (hidden, _) = self.trunk.hidden_states(packed, adapter, workspace)?;
        let head = self.head(&hidden, &rows, adapter);
        let (values, gathered) = head.forward(workspace)?;
        let size = self.config().hidden_size;
        let states = if with_states { score_head::states(&hidden, &rows, size, &gathered)? } else { Vec::new() };
        workspace.reclaim(hidden);
        workspace.reclaim_all(gathered);
        Ok((values, states))
    }

    /// As [`score`](Self::score) with the adapter, keeping what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn forward(
        &self,
        packed: &Packed,
        at: ScoredAt,
        recompute: Recompute,
        workspace: &mut Workspace,
    ) -> Result<(Vec<T::Wide>, ScoreSaved<T>)> {
        let rows = at.rows(packed)?;
        let trunk = self.trunk.forward(packed, recompute, workspace)?;
        let (values, gathered) = self.head(&trunk.hidden, &rows, Adapter::On).forward(workspace)?;
        Ok((values, ScoreSaved { trunk, rows, gathered, size: self.config().hidden_size }))
    }

    /// Adds the gradients of what is [`trainable`](Self::trainable) to `gradients`, given those of the numbers, `[rows, K]`.
    ///
    /// # Errors
    /// Cotangents or gradients of other sizes than the batch and the model; no memory left on the device, or an error of its driver.
    pub fn backward(
        &self,
        packed: &Packed,
        saved: ScoreSaved<T>,
        cotangents: &[T::Wide],
        gradients: &mut Gradients<T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let ScoreSaved { trunk, rows, gathered, size: _ } = saved;
        self.trunk.check_gradients(gradients.element_count())?;
        let expected = rows.len() * self.heads.count();
        if cotangents.len() != expected {
            return Err(Error::Input(format!(
                "the cotangents hold {} numbers; expected {expected}, {} of each of {} rows",
                cotangents.len(),
                self.heads.count(),
                rows.len()
            )));
        }
        let head = self.head(&trunk.hidden, &rows, Adapter::On);
        let d_hidden = head.backward(gathered, cotangents, gradients.view_mut(self.head_place()), workspace)?;
        let mut sink = GradientSink { whole: gradients, by_item: None };
        self.trunk.backward(packed, trunk, d_hidden, &mut sink, workspace)
    }

    /// The heads over rows of hidden states.
    fn head<'a>(&'a self, hidden: &'a Buffer<T>, rows: &'a [u32], adapter: Adapter) -> Operands<'a, T> {
        Operands { weight: self.head_weight(adapter), hidden, rows, size: self.config().hidden_size }
    }

    /// `[K, H]`.
    fn head_weight(&self, adapter: Adapter) -> View<'_, T> {
        match adapter {
            Adapter::On => self.trainable().view(self.head_place()),
            Adapter::Off => self.trunk.base.view(self.trunk.places.head),
        }
    }
}

/// The heads of a directory, of whose kind nothing is known yet.
pub(crate) fn stored_heads(config: &Config, directory: &Path) -> Result<Heads> {
    let path = directory.join("config.json");
    if !config.is_score_model() {
        let reason = "architectures names no sequence classification, and a score model is expected; a causal language model becomes \
                      one with fresh heads";
        return Err(Error::config(path, reason));
    }
    Heads::of_config(config).map_err(|e| match e {
        Error::Input(reason) => Error::config(&path, reason),
        other => other,
    })
}
