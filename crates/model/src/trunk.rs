//! The trunk: embedding, layers and final norm, with its adapter and the way back. Heads stand on its hidden states.
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::WithDType;
use candlewick_kernels::{Buffer, Cuda, Element, Float, View, Workspace, embedding, rms_norm};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::adapter::{HEAD_MODULE, Lora, LoraConfig};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::layer::{LINEARS, Layer, LayerSaved, Pass, norm};
use crate::layout::{HeadKind, Layout, Places, StoredModel, layout};
use crate::packed::Packed;
use crate::parameters::Parameters;
use crate::rope::{RopeCache, Rotations};
use crate::sketch::GradientSink;
use crate::staged::{Reads, Staged};

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

/// What a forward pass of the trunk kept.
#[derive(Debug)]
pub(crate) struct TrunkSaved<T: Element> {
    /// The batch where the pass has read it.
    pub(crate) staged: Staged,
    inputs: Vec<Buffer<T>>,
    layers: Option<Vec<LayerSaved<T>>>,
    last: Buffer<T>,
    rstd: Buffer<T::Wide>,
    /// The hidden states after the final norm, `[tokens, H]`.
    pub(crate) hidden: Buffer<T>,
}

/// Everything below the head, and the weights of the head behind its own, so that one flat buffer holds the whole model.
///
/// With an adapter only the adapter is trained; without one every weight is.
#[derive(Debug, Clone)]
pub(crate) struct Trunk<T: Element> {
    pub(crate) config: Config,
    pub(crate) head: HeadKind,
    pub(crate) base: Parameters<T>,
    pub(crate) places: Places,
    pub(crate) adapter: Option<Lora<T>>,
    rope: RopeCache<T::Wide>,
}

impl<T: Float + WithDType> Trunk<T> {
    /// A model whose weights are zero.
    pub(crate) fn laid_out(config: Config, head: HeadKind) -> Result<Self> {
        let Layout { tensors, places } = layout(&config, head)?;
        let rope = RopeCache::new(&config);
        Ok(Self { base: Parameters::zeros(tensors)?, config, head, places, adapter: None, rope })
    }

    /// Normal with the configuration's `initializer_range`, norms one; the head too.
    pub(crate) fn random(config: Config, head: HeadKind, seed: u64) -> Result<Self> {
        let mut model = Self::laid_out(config, head)?;
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

    /// Reads the stored tensors that the model has; others are left alone, and what is not stored is zero.
    pub(crate) fn read(stored: StoredModel, head: HeadKind) -> Result<Self> {
        let StoredModel { config, files, tensors } = stored;
        let mut model = Self::laid_out(config, head)?;
        for tensor in &tensors {
            if let Some(i) = model.base.position(&tensor.name) {
                files.read(&tensor.stored, model.base.tensor_mut(i))?;
            }
        }
        Ok(model)
    }

    pub(crate) fn convert<U: Float + WithDType>(&self) -> Result<Trunk<U>> {
        self.check_on_host("converting a model")?;
        let mut out = Trunk::<U>::laid_out(self.config.clone(), self.head)?;
        copy(&self.base, &mut out.base);
        if let Some(adapter) = &self.adapter {
            out.adapter = Some(adapter.convert());
        }
        Ok(out)
    }

    /// The same model on a device.
    pub(crate) fn to_device<U: Element<Wide = T>>(&self, device: &Cuda, workspace: &mut Workspace) -> Result<Trunk<U>> {
        self.check_on_host("copying a model to a device")?;
        let adapter = self.adapter.as_ref().map(|adapter| adapter.to_device(device, workspace)).transpose()?;
        Ok(Trunk {
            config: self.config.clone(),
            head: self.head,
            base: self.base.to_device(device, workspace)?,
            places: self.places.clone(),
            adapter,
            rope: RopeCache::new(&self.config),
        })
    }

    /// A copy that later training of this model leaves alone.
    pub(crate) fn frozen_copy(&self) -> Self {
        Self {
            config: self.config.clone(),
            head: self.head,
            base: self.base.copied(),
            places: self.places.clone(),
            adapter: self.adapter.clone(),
            rope: self.rope.clone(),
        }
    }

    pub(crate) fn add_lora(&mut self, lora: &LoraConfig, seed: u64) -> Result<()> {
        self.check_on_host("putting an adapter over a model")?;
        self.refuse_second_adapter()?;
        let mut adapter = Lora::fresh(&self.config, self.head, lora, seed)?;
        if let Some(place) = adapter.score_head() {
            adapter.parameters.tensor_mut(place).copy_from_slice(self.base.tensor(self.places.head));
        }
        self.adapter = Some(adapter);
        Ok(())
    }

    pub(crate) fn load_adapter(&mut self, directory: &Path) -> Result<()> {
        self.check_on_host("putting an adapter over a model")?;
        self.refuse_second_adapter()?;
        self.adapter = Some(Lora::load(&self.config, self.head, directory)?);
        Ok(())
    }

    pub(crate) fn merge_adapter(&mut self, workspace: &mut Workspace) -> Result<()> {
        self.check_on_host("merging an adapter")?;
        let adapter = self.adapter.as_ref().ok_or_else(|| Error::Input("the model has no adapter to merge".into()))?;
        if self.config.tie_word_embeddings && adapter.pair(HEAD_MODULE).is_some() {
            return Err(Error::Unsupported {
                what: "merging an adapter of a head that is also the embedding".into(),
                instead: "keep the adapter, or set tie_word_embeddings = false and give lm_head weights of its own"
                    .into(),
            });
        }
        let adapter = self.adapter.take().expect("it was there a moment ago");
        let head = self.base.tensor_mut(self.places.head);
        if let Some(pair) = adapter.pair(HEAD_MODULE) {
            adapter.add_product(pair, head.into(), workspace)?;
        } else if let Some(place) = adapter.score_head() {
            head.copy_from_slice(adapter.parameters.tensor(place));
        }
        for (number, places) in self.places.layers.clone().iter().enumerate() {
            for name in LINEARS {
                let Some(pair) = adapter.pair(&name.module(number)) else { continue };
                let weight = self.base.tensor_mut(places.linears[name as usize]);
                adapter.add_product(pair, weight.into(), workspace)?;
            }
        }
        Ok(())
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

impl<T: Element> Trunk<T> {
    /// Refuses what is done on the host of a model that is elsewhere.
    pub(crate) fn check_on_host(&self, what: &str) -> Result<()> {
        match self.base.device() {
            None => Ok(()),
            Some(_) => Err(Error::Unsupported {
                what: format!("{what} on a device"),
                instead: "do it on the host, before to_device or after to_host".into(),
            }),
        }
    }

    /// Refuses a workspace that lends buffers elsewhere than the weights are.
    pub(crate) fn check_workspace(&self, workspace: &Workspace) -> Result<()> {
        match (self.base.device().is_some(), workspace.device().is_some()) {
            (true, false) => Err(Error::Input(
                "the model is on a device, and the workspace is the host's; make it with Workspace::on".into(),
            )),
            (false, true) => Err(Error::Input(
                "the model is on the host, and the workspace is a device's; make it with Workspace::new".into(),
            )),
            _ => Ok(()),
        }
    }

    /// The same model on the host.
    pub(crate) fn to_host(&self) -> Result<Trunk<T::Wide>> {
        let adapter = match &self.adapter {
            Some(adapter) => Some(adapter.with_parameters(adapter.parameters.to_host()?)),
            None => None,
        };
        Ok(Trunk {
            config: self.config.clone(),
            head: self.head,
            base: self.base.to_host()?,
            places: self.places.clone(),
            adapter,
            rope: RopeCache::new(&self.config),
        })
    }

    /// What each `B A` of the adapter is multiplied by, by module path; empty without an adapter.
    pub(crate) fn adapter_scales(&self) -> BTreeMap<String, f64> {
        self.adapter.as_ref().map(Lora::scales).unwrap_or_default()
    }

    /// What training changes: the adapter if there is one, else the base weights.
    pub(crate) fn trainable(&self) -> &Parameters<T> {
        self.adapter.as_ref().map_or(&self.base, |adapter| &adapter.parameters)
    }

    /// What training changes, to be changed.
    pub(crate) fn trainable_mut(&mut self) -> &mut Parameters<T> {
        match &mut self.adapter {
            Some(adapter) => &mut adapter.parameters,
            None => &mut self.base,
        }
    }

    /// The batch and the rotations where this model reads them; `backward` says whether one follows.
    fn stage(&self, packed: &Packed, backward: bool, workspace: &Workspace) -> Result<(Staged, Rotations<T::Wide>)> {
        self.check_workspace(workspace)?;
        self.check_ids(packed)?;
        let reads = Reads::of(self.head, backward, self.adapter.is_some());
        Ok((Staged::new(packed, self.base.device(), reads)?, self.rotations(packed)?))
    }

    /// The rotations of all positions of a batch, where this model reads them.
    fn rotations(&self, packed: &Packed) -> Result<Rotations<T::Wide>> {
        let positions = packed.positions().iter().max().map_or(0, |last| *last as usize + 1);
        self.rope.tables(positions, self.base.device())
    }

    /// The hidden states `[tokens, H]` of a batch after the final norm, and the batch where the model has read it.
    pub(crate) fn hidden_states(
        &self,
        packed: &Packed,
        adapter: Adapter,
        workspace: &mut Workspace,
    ) -> Result<(Buffer<T>, Staged)> {
        let (staged, rotations) = self.stage(packed, false, workspace)?;
        let mut x = self.embed(staged.ids(packed), workspace)?;
        let pass = Pass { packed, staged: &staged, rotations: &rotations };
        for number in 0..self.places.layers.len() {
            let (y, saved) = self.layer(number, adapter).forward(x.view(), pass, workspace)?;
            saved.release(workspace);
            workspace.reclaim(std::mem::replace(&mut x, y));
        }
        let (hidden, rstd) = self.final_norm(x.view(), packed.tokens(), workspace)?;
        workspace.reclaim(x);
        workspace.reclaim(rstd);
        Ok((hidden, staged))
    }

    /// The hidden states of a batch, with what [`backward`](Self::backward) needs.
    pub(crate) fn forward(
        &self,
        packed: &Packed,
        recompute: Recompute,
        workspace: &mut Workspace,
    ) -> Result<TrunkSaved<T>> {
        let (staged, rotations) = self.stage(packed, true, workspace)?;
        let mut x = self.embed(staged.ids(packed), workspace)?;
        let pass = Pass { packed, staged: &staged, rotations: &rotations };
        let lowest = self.lowest_trained_layer();
        let mut inputs = Vec::with_capacity(self.places.layers.len());
        let mut layers = Vec::new();
        for number in 0..self.places.layers.len() {
            let (y, saved) = self.layer(number, Adapter::On).forward(x.view(), pass, workspace)?;
            let input = std::mem::replace(&mut x, y);
            if number < lowest {
                workspace.reclaim(input);
            } else {
                inputs.push(input);
            }
            if number < lowest || recompute == Recompute::Layers {
                saved.release(workspace);
            } else {
                layers.push(saved);
            }
        }
        let (hidden, rstd) = self.final_norm(x.view(), packed.tokens(), workspace)?;
        let layers = (recompute == Recompute::Nothing).then_some(layers);
        Ok(TrunkSaved { staged, inputs, layers, last: x, rstd, hidden })
    }

    /// Adds the gradients of what of the trunk is trained, given d(loss)/d(hidden states), `[tokens, H]` from the workspace.
    pub(crate) fn backward(
        &self,
        packed: &Packed,
        saved: TrunkSaved<T>,
        d_hidden: Buffer<T>,
        gradients: &mut GradientSink<'_, T::Wide>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let TrunkSaved { staged, mut inputs, mut layers, last, rstd, hidden } = saved;
        let rows = packed.tokens();
        let hidden_size = self.config.hidden_size;
        let base_trained = self.adapter.is_none();

        let mut d = workspace.lend(rows * hidden_size)?;
        let shape = rms_norm::Shape { rows, hidden: hidden_size };
        let place = self.places.final_norm;
        let dw = base_trained.then(|| gradients.tensor_mut(place));
        rms_norm::backward(
            last.view(),
            self.base.view(place),
            rstd.view(),
            d_hidden.view(),
            d.view_mut(),
            false,
            dw,
            shape,
            workspace,
        )?;
        workspace.reclaim(rstd);
        workspace.reclaim_all([last, hidden, d_hidden]);

        let rotations = self.rotations(packed)?;
        let pass = Pass { packed, staged: &staged, rotations: &rotations };
        let lowest = self.lowest_trained_layer();
        for number in (lowest..self.places.layers.len()).rev() {
            let x = inputs.pop().expect("one input was kept for each layer");
            let layer = self.layer(number, Adapter::On);
            let kept = match &mut layers {
                Some(layers) => layers.pop().expect("each layer was kept"),
                None => {
                    let (y, kept) = layer.forward(x.view(), pass, workspace)?;
                    workspace.reclaim(y);
                    kept
                }
            };
            let onward = base_trained || number > lowest;
            layer.backward(x.view(), &kept, &mut d, onward, pass, gradients, workspace)?;
            kept.release(workspace);
            workspace.reclaim(x);
        }
        if base_trained {
            let table = gradients.tensor_mut(self.places.embedding);
            match staged.by_id() {
                Some(buckets) => embedding::scatter(buckets, d.view(), table, hidden_size)?,
                None => {
                    const OP: &str = "embedding::backward";
                    embedding::backward(packed.ids(), d.view().cpu(OP)?.into(), table, hidden_size, workspace)?;
                }
            }
        }
        workspace.reclaim_all(inputs.into_iter().chain([d]));
        layers.into_iter().flatten().for_each(|kept| kept.release(workspace));
        Ok(())
    }

    /// Refuses gradients of another size than what is trained.
    pub(crate) fn check_gradients(&self, numbers: usize) -> Result<()> {
        let expected = self.trainable().element_count();
        if numbers == expected {
            return Ok(());
        }
        Err(Error::Input(format!(
            "the gradients hold {numbers} numbers and the trainable parameters {expected}; make them with Gradients::zeros(model.trainable())"
        )))
    }

    /// Refuses ids that the model does not know.
    pub(crate) fn check_ids(&self, packed: &Packed) -> Result<()> {
        let vocab = self.config.vocab_size;
        let beyond = packed
            .ids()
            .iter()
            .chain(packed.targets().iter().map(|target| &target.id))
            .chain(packed.given())
            .find(|id| **id as usize >= vocab);
        let Some(id) = beyond else { return Ok(()) };
        Err(Error::Input(format!(
            "token id {id} is beyond the model's vocabulary of {vocab}; does the tokenizer belong to this model?"
        )))
    }

    /// The rows of the table for ids that are known, `[ids, H]`.
    pub(crate) fn embed(&self, ids: View<'_, u32>, workspace: &mut Workspace) -> Result<Buffer<T>> {
        let hidden = self.config.hidden_size;
        let mut x = workspace.lend(ids.len() * hidden)?;
        embedding::gather(ids, self.base.view(self.places.embedding), x.view_mut(), hidden, workspace)?;
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

    pub(crate) fn rope(&self) -> &RopeCache<T::Wide> {
        &self.rope
    }

    pub(crate) fn final_norm(
        &self,
        x: View<'_, T>,
        rows: usize,
        workspace: &mut Workspace,
    ) -> Result<(Buffer<T>, Buffer<T::Wide>)> {
        norm(x, self.base.view(self.places.final_norm), rows, &self.config, workspace)
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

/// A draw from N(0, 1) by Box and Muller's transform.
pub(crate) fn standard_normal(random: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}
