//! LoRA adapters and PEFT's files of them.
//!
//! A linear `y = x Wᵀ` becomes `y = x Wᵀ + s (x Aᵀ) Bᵀ` with `A [r, in]`, `B [out, r]` and `s = alpha / r`
//! (`alpha / √r` with rank-stabilised scaling); Hu et al., arXiv 2106.09685. A Panacea adapter has a diagonal between A and B
//! ([`panacea`]).
use std::collections::BTreeMap;
use std::path::Path;

use candlewick_kernels::{Buffer, Cuda, Element, Float, ViewMut, Workspace, linear};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::layer::LINEARS;
use crate::layout::{HeadKind, SCORE_HEAD};
use crate::linear::scaled;
use crate::panacea::{self, Panacea};
use crate::parameters::{Gradients, Parameters};
use crate::weights::{self, WeightFiles};

/// The output head, which may have an adapter too.
pub(crate) const HEAD_MODULE: &str = "lm_head";
/// The heads of a score model, which an adapter holds whole; PEFT counts the second name among them wherever it saves a classifier.
const SCORE_MODULES: [&str; 2] = ["score", "classifier"];
/// A wider bottleneck is no bottleneck, and a damaged file may ask for anything.
pub(crate) const MAX_RANK: usize = 1 << 16;
/// What needs the numbers of a Panacea adapter on the host.
const PANACEA: &str = "the singular values of a Panacea adapter";
pub(crate) const PREFIX: &str = "base_model.model.";
pub(crate) const CONFIG: &str = "adapter_config.json";

/// A fresh adapter: which linears get one, and how wide.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// The width `r` of the bottleneck.
    pub rank: usize,
    /// The scale is `alpha / rank`.
    pub alpha: f64,
    /// Names of the linears, as in `q_proj`; by default all seven of a layer, and not the head (`lm_head`).
    pub targets: Vec<String>,
    /// Scale by `alpha / √rank` (rsLoRA, arXiv 2312.03732).
    pub rank_stabilised: bool,
    /// With 2 or more a Panacea adapter: beside `rank` directions with learned singular values so many whose singular values are the
    /// preference vector that the model is asked for. 0 is LoRA.
    #[serde(skip_serializing_if = "is_zero")]
    pub preferences: usize,
    /// Of a Panacea adapter: the weight of the penalty that keeps its directions near-orthogonal, at least 0; by default
    /// [`LoraConfig::ORTHOGONALITY`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orthogonality: Option<f64>,
}

impl LoraConfig {
    /// The weight of the penalty of a Panacea adapter where none is given. Not verified: of the order of AdaLoRA's.
    pub const ORTHOGONALITY: f64 = 0.1;
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Default for LoraConfig {
    fn default() -> Self {
        let targets = LINEARS.iter().map(|linear| linear.short_name().to_owned()).collect();
        Self { rank: 16, alpha: 32.0, targets, rank_stabilised: false, preferences: 0, orthogonality: None }
    }
}

/// An adapter apart from a model, as its files hold it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AdapterWeights<T: Element = f32> {
    /// A `[r, in]` and B `[out, r]` of each linear, under PEFT's names.
    pub parameters: Parameters<T>,
    /// What `B A` is multiplied by, by module path, as in `model.layers.0.self_attn.q_proj`.
    pub scales: BTreeMap<String, f64>,
    /// The model it was trained over, as its files name it.
    pub base: Option<String>,
}

/// The low-rank pair of one linear: places of A and B in the adapter's parameters, and the scale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoraPair {
    pub(crate) a: usize,
    pub(crate) b: usize,
    /// Rows of A; of a Panacea adapter those of the preferences are among them.
    pub(crate) rank: usize,
    pub(crate) scale: f64,
    /// Places of the singular values, of a Panacea adapter.
    pub(crate) values: Option<panacea::Places>,
}

/// An adapter over a model of a given configuration.
#[derive(Debug, Clone)]
pub(crate) struct Lora<T: Element> {
    pub(crate) parameters: Parameters<T>,
    /// By module path, as in `model.layers.0.self_attn.q_proj`.
    pairs: BTreeMap<String, LoraPair>,
    /// The place of the heads of a score model, which are trained whole.
    score_head: Option<usize>,
    /// `adapter_config.json`, to be written back.
    config: Map<String, Value>,
    /// What a Panacea adapter has beside.
    panacea: Option<Panacea>,
}

impl<T: Element> Lora<T> {
    /// The same adapter with other numbers.
    pub(crate) fn with_parameters<U: Element>(&self, parameters: Parameters<U>) -> Lora<U> {
        let (pairs, config, panacea) = (self.pairs.clone(), self.config.clone(), self.panacea.clone());
        Lora { parameters, pairs, score_head: self.score_head, config, panacea }
    }

    /// The pair of a linear, if it has one.
    pub(crate) fn pair(&self, module: &str) -> Option<LoraPair> {
        self.pairs.get(module).copied()
    }

    /// The preference vector of a Panacea adapter; empty of another.
    pub(crate) fn preference(&self) -> &[f64] {
        self.panacea.as_ref().map_or(&[], |panacea| &panacea.preference)
    }

    /// The scale of each pair, by module path.
    pub(crate) fn scales(&self) -> BTreeMap<String, f64> {
        self.pairs.iter().map(|(module, pair)| (module.clone(), pair.scale)).collect()
    }

    /// The singular values of a pair, `[rank]`; none of LoRA.
    pub(crate) fn values(&self, pair: LoraPair) -> Result<Option<Vec<T::Wide>>> {
        let (Some(panacea), Some(places)) = (&self.panacea, pair.values) else { return Ok(None) };
        let numbers = |place| self.parameters.view(place).cpu(PANACEA);
        Ok(Some(panacea.values(numbers(places.sigma)?, numbers(places.s)?[0])))
    }

    /// Adds the gradients of the singular values of a pair, given those of `low` and of `low` times the values, `[rows, rank]`.
    pub(crate) fn add_value_gradients(
        &self,
        pair: LoraPair,
        low: &Buffer<T>,
        d_scaled: &Buffer<T>,
        gradients: &mut Gradients<T::Wide>,
    ) -> Result<()> {
        if let (Some(panacea), Some(places)) = (&self.panacea, pair.values) {
            let (low, d_scaled) = (low.view().cpu(PANACEA)?, d_scaled.view().cpu(PANACEA)?);
            panacea.add_gradients(places, &panacea::column_products(low, d_scaled, pair.rank), gradients);
        }
        Ok(())
    }

    /// `W ← W + s B A`; of a Panacea adapter with its values between B and A.
    pub(crate) fn add_product(&self, pair: LoraPair, weight: ViewMut<'_, T>, workspace: &mut Workspace) -> Result<()> {
        let (a, b) = (self.parameters.view(pair.a), self.parameters.view(pair.b));
        let scaled = self.values(pair)?.map(|values| scaled(b, &values, workspace)).transpose()?;
        let b = scaled.as_ref().map_or(b, Buffer::view);
        // Rows of B [out, r] times the matrix A [r, in].
        let (rows, in_features) = (b.len() / pair.rank, a.len() / pair.rank);
        let shape = linear::Shape { rows, in_features, out_features: pair.rank };
        linear::backward_input(b, a, weight, shape, T::Wide::from_f64(pair.scale), true, workspace)?;
        workspace.reclaim_all(scaled);
        Ok(())
    }
}

impl<T: Float> Lora<T> {
    /// The same adapter on a device.
    pub(crate) fn to_device<U: Element<Wide = T>>(&self, device: &Cuda, workspace: &mut Workspace) -> Result<Lora<U>> {
        if self.panacea.is_some() {
            return Err(Error::Unsupported {
                what: "a Panacea adapter on a device".into(),
                instead: "keep the model on the cpu, or use a LoRA adapter".into(),
            });
        }
        if self.pair(HEAD_MODULE).is_some() {
            return Err(Error::Unsupported {
                what: format!("an adapter of {HEAD_MODULE} on a device"),
                instead: "keep the model on the cpu, or leave the head out of the adapter's targets".into(),
            });
        }
        Ok(self.with_parameters(self.parameters.to_device(device, workspace)?))
    }

    /// A (uniform within ±1/√in, as PEFT draws it) and B (zero), so that the model is unchanged at first. Of a Panacea adapter
    /// both are orthonormal, and the singular values zero.
    /// The heads of a score model are zero, to be filled by the caller.
    pub(crate) fn fresh(model: &Config, head: HeadKind, lora: &LoraConfig, seed: u64) -> Result<Self> {
        if !(1..=MAX_RANK).contains(&lora.rank) {
            return Err(Error::Input(format!("lora rank is {}; expected 1 to {MAX_RANK}", lora.rank)));
        }
        if !(lora.alpha.is_finite() && lora.alpha > 0.0) {
            return Err(Error::Input(format!("lora alpha is {}; expected a positive number", lora.alpha)));
        }
        if lora.targets.is_empty() {
            return Err(Error::Input(format!("lora has no targets; expected some of {}", target_names(head))));
        }
        for target in &lora.targets {
            let is_head = target == HEAD_MODULE && head == HeadKind::Tokens;
            if !is_head && !LINEARS.iter().any(|linear| linear.short_name() == target) {
                return Err(Error::Input(format!(
                    "lora target {target:?} is no linear of this model; expected some of {}",
                    target_names(head)
                )));
            }
        }
        check_panacea(model, head, lora)?;
        let ranks: Vec<(String, usize)> = modules(model, head)
            .filter(|(path, ..)| lora.targets.iter().any(|target| path.rsplit('.').next() == Some(target)))
            .map(|(path, ..)| (path, lora.rank))
            .collect();
        let (task, saved) = match head {
            HeadKind::Tokens => ("CAUSAL_LM", Value::Null),
            HeadKind::Scores(_) => ("SEQ_CLS", json!(["score"])),
        };
        let config = json!({
            "peft_type": "LORA", "task_type": task, "base_model_name_or_path": null, "inference_mode": true,
            "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false,
            "init_lora_weights": true, "target_modules": lora.targets, "modules_to_save": saved,
            "use_rslora": lora.rank_stabilised, "use_dora": false, "rank_pattern": {}, "alpha_pattern": {},
            "layers_to_transform": null, "layers_pattern": null, "revision": null,
        });
        let Value::Object(mut config) = config else { unreachable!("the literal above is an object") };
        if lora.preferences > 0 {
            let orthogonality = lora.orthogonality.unwrap_or(LoraConfig::ORTHOGONALITY);
            config.insert("peft_type".into(), json!(panacea::PEFT_TYPE));
            config.insert("init_lora_weights".into(), json!("orthogonal"));
            config.insert(panacea::PREFERENCES.into(), json!(lora.preferences));
            config.insert(panacea::ORTHOGONALITY.into(), json!(orthogonality));
        }
        let mut lora = Self::laid_out(model, head, &ranks, config)?;
        let mut random = StdRng::seed_from_u64(seed);
        for pair in lora.pairs.clone().into_values() {
            if pair.values.is_some() {
                lora.draw_orthonormal(pair, &mut random);
                continue;
            }
            let bound = 1.0 / (lora.parameters.shape(pair.a)[1] as f64).sqrt();
            for x in lora.parameters.tensor_mut(pair.a) {
                *x = T::from_f64(random.random_range(-bound..bound));
            }
        }
        Ok(lora)
    }

    /// Reads a directory that PEFT (or [`save`](Self::save)) wrote.
    pub(crate) fn load(model: &Config, head: HeadKind, directory: &Path) -> Result<Self> {
        let path = directory.join(CONFIG);
        let config = read_config(head, directory)?;
        let panacea = Panacea::of(&config).map_err(|e| Error::config(&path, e.to_string()))?;
        if panacea.is_some() && head != HeadKind::Tokens {
            return Err(Error::Unsupported {
                what: "a Panacea adapter of a score model".into(),
                instead: "use it over a language model, or name another adapter".into(),
            });
        }
        let files = WeightFiles::open(directory, "adapter_model")?;
        let mut ranks = Vec::new();
        let mut known = 0;
        let score_head = format!("{PREFIX}{SCORE_HEAD}");
        if let HeadKind::Scores(count) = head {
            if files.shape(&score_head).is_none() {
                let reason = format!(
                    "the tensor {score_head} is not in the weight files; expected the adapter of a score model, saved with its heads \
                     (modules_to_save = [\"score\"])"
                );
                return Err(Error::weights(directory, reason));
            }
            files.check(&score_head, &[count, model.hidden_size])?;
            known += 1;
        }
        for (module, outputs, inputs) in modules(model, head) {
            let (a, b) = (stored(&module, 'A'), stored(&module, 'B'));
            let Some(shape) = files.shape(&a) else { continue };
            let rank = shape.first().copied().filter(|rank| (1..=MAX_RANK).contains(rank));
            let rank = rank.ok_or_else(|| {
                Error::weights(directory, format!("{a} has shape {shape:?}; expected [rank, {inputs}]"))
            })?;
            files.check(&a, &[rank, inputs])?;
            files.check(&b, &[outputs, rank])?;
            known += 2;
            let own = match &panacea {
                None => rank,
                Some(panacea) => {
                    let own = check_values(&files, &module, rank, panacea.preference.len())?;
                    known += 2;
                    own
                }
            };
            ranks.push((module, own));
        }
        if ranks.is_empty() || files.names().count() != known {
            let odd = files.names().filter(|name| head == HeadKind::Tokens || *name != score_head).find(|name| {
                let is_of = |m: &String| {
                    let of_panacea = panacea.is_some() && panacea::stored(m).iter().any(|value| name == value);
                    of_panacea || *name == stored(m, 'A') || *name == stored(m, 'B')
                };
                !ranks.iter().any(|(m, _)| is_of(m))
            });
            let reason = match odd {
                Some(name) => format!(
                    "the tensor {name} belongs to no linear of this model; expected names as {}",
                    stored("model.layers.0.self_attn.q_proj", 'A')
                ),
                None => "it holds no pair of lora_A and lora_B".to_owned(),
            };
            return Err(Error::weights(directory, reason));
        }
        let mut lora = Self::laid_out(model, head, &ranks, config).map_err(|e| match e {
            Error::Input(reason) => Error::config(&path, reason),
            other => other,
        })?;
        for i in 0..lora.parameters.len() {
            let name = lora.parameters.name(i).to_owned();
            files.read(&name, lora.parameters.tensor_mut(i))?;
        }
        Ok(lora)
    }

    /// Writes the adapter as PEFT does.
    pub(crate) fn save(&self, directory: &Path) -> Result<()> {
        weights::save(directory, "adapter_model", &self.parameters, u64::MAX, str::to_owned)?;
        weights::save_json(&directory.join(CONFIG), &Value::Object(self.config.clone()))
    }

    /// The place of the heads of a score model among its parameters.
    pub(crate) fn score_head(&self) -> Option<usize> {
        self.score_head
    }

    pub(crate) fn set_preference(&mut self, preference: &[f64]) -> Result<()> {
        match &mut self.panacea {
            Some(panacea) => panacea.set_preference(preference),
            None => Err(Error::Input(
                "a preference is given, and the adapter is no Panacea adapter; leave it out, or train one with lora.preferences".into(),
            )),
        }
    }

    /// `Σ ‖A·Aᵀ − 1‖² + ‖Bᵀ·B − 1‖²` over the pairs of a Panacea adapter, and adds its gradient times the weight that the adapter
    /// was made with; nothing of another adapter, or where the weight is 0.
    pub(crate) fn add_orthogonality(&self, gradients: &mut Gradients<T>) -> Option<f64> {
        let weight = self.panacea.as_ref()?.orthogonality;
        let penalty = |pair: &LoraPair| {
            let (a, b, k) = (self.parameters.tensor(pair.a), self.parameters.tensor(pair.b), pair.rank);
            panacea::add_penalty(a, [a.len() / k, 1], k, weight, gradients.tensor_mut(pair.a))
                + panacea::add_penalty(b, [1, k], k, weight, gradients.tensor_mut(pair.b))
        };
        (weight > 0.0).then(|| self.pairs.values().map(penalty).sum())
    }

    fn draw_orthonormal(&mut self, pair: LoraPair, random: &mut StdRng) {
        let (k, inputs) = (pair.rank, self.parameters.shape(pair.a)[1]);
        let rows = panacea::orthonormal(k, inputs, random);
        self.parameters.tensor_mut(pair.a).iter_mut().zip(rows).for_each(|(x, row)| *x = T::from_f64(row));
        let outputs = self.parameters.shape(pair.b)[0];
        let columns = panacea::orthonormal(k, outputs, random);
        for (i, x) in self.parameters.tensor_mut(pair.b).iter_mut().enumerate() {
            *x = T::from_f64(columns[(i % k) * outputs + i / k]);
        }
    }

    /// What the files say, given up by the adapter.
    pub(crate) fn into_weights(self) -> AdapterWeights<T> {
        let base = self.config.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned);
        AdapterWeights { scales: self.scales(), base, parameters: self.parameters }
    }

    /// The settings, for readers of the files.
    pub(crate) fn set_base(&mut self, name: &str) {
        self.config.insert("base_model_name_or_path".into(), json!(name));
    }

    fn laid_out(model: &Config, head: HeadKind, ranks: &[(String, usize)], config: Map<String, Value>) -> Result<Self> {
        let panacea = Panacea::of(&config)?;
        let preferences = panacea.as_ref().map_or(0, |panacea| panacea.preference.len());
        let mut layout = Vec::new();
        let mut pairs = BTreeMap::new();
        for (module, outputs, inputs) in modules(model, head) {
            let Some((_, own)) = ranks.iter().find(|(name, _)| *name == module) else { continue };
            let rank = own + preferences;
            let (a, b) = (layout.len(), layout.len() + 1);
            layout.extend(tensors(&module, [outputs, inputs], *own, preferences));
            let values = panacea.as_ref().map(|_| panacea::Places { sigma: b + 1, s: b + 2 });
            let scale = scale(&config, &module, *own)?;
            pairs.insert(module, LoraPair { a, b, rank, scale, values });
        }
        let score_head = match head {
            HeadKind::Tokens => None,
            HeadKind::Scores(count) => {
                layout.push((format!("{PREFIX}{SCORE_HEAD}"), vec![count, model.hidden_size]));
                Some(layout.len() - 1)
            }
        };
        Ok(Self { parameters: Parameters::zeros(layout)?, pairs, score_head, config, panacea })
    }
}

/// Reads `adapter_config.json`, and refuses what a plain LoRA adapter over a model of such a head does not have.
pub(crate) fn read_config(head: HeadKind, directory: &Path) -> Result<Map<String, Value>> {
    let path = directory.join(CONFIG);
    if !path.exists() {
        return Err(Error::MissingFile {
            directory: directory.into(),
            missing: CONFIG.into(),
            expected: "a PEFT adapter: adapter_config.json and adapter_model.safetensors",
        });
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let config: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::config(&path, format!("not a JSON object: {e}")))?;
    check_head(head, &config)?;
    refuse_what_is_not_built(&config)?;
    Ok(config)
}

/// `alpha / r`, with what the configuration says of this module.
pub(crate) fn scale(config: &Map<String, Value>, module: &str, rank: usize) -> Result<f64> {
    let number = |value: &Value| value.as_f64().filter(|x| x.is_finite());
    let pattern = config.get("alpha_pattern").and_then(Value::as_object);
    // PEFT's keys are regular expressions for the end of the module's path; plain paths are all that is read here.
    if let Some(key) = pattern
        .and_then(|map| map.keys().find(|key| key.contains(|c: char| !(c.is_alphanumeric() || "._".contains(c)))))
    {
        return Err(Error::Unsupported {
            what: format!("the regular expression {key:?} in alpha_pattern"),
            instead: "write the paths out".into(),
        });
    }
    let special = pattern.and_then(|map| {
        map.iter()
            .find(|(key, _)| module == key.as_str() || module.ends_with(&format!(".{key}")))
            .map(|(_, value)| value)
    });
    let alpha = match special.or_else(|| config.get("lora_alpha")) {
        Some(value) => {
            number(value).ok_or_else(|| Error::Input(format!("lora_alpha is {value}; expected a number")))?
        }
        None => return Err(Error::Input("lora_alpha is missing; expected a number".into())),
    };
    let stabilised = config.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
    Ok(if stabilised { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 })
}

/// Every linear of the model that a pair may adapt: path, outputs, inputs.
pub(crate) fn modules(model: &Config, head: HeadKind) -> impl Iterator<Item = (String, usize, usize)> + '_ {
    let layers = (0..model.num_hidden_layers).flat_map(move |layer| {
        LINEARS.iter().map(move |linear| {
            let (outputs, inputs) = linear.sizes(model);
            (linear.module(layer), outputs, inputs)
        })
    });
    let of_tokens = (head == HeadKind::Tokens).then(|| (HEAD_MODULE.to_owned(), model.vocab_size, model.hidden_size));
    layers.chain(of_tokens)
}

/// The name of one side of a module's pair in PEFT's files.
pub(crate) fn stored(module: &str, side: char) -> String {
    format!("{PREFIX}{module}.lora_{side}.weight")
}

/// Names and shapes of what an adapter of width `own` has for a linear of so many outputs and inputs: A and B, and of a Panacea
/// adapter the singular values.
pub(crate) fn tensors(
    module: &str,
    [outputs, inputs]: [usize; 2],
    own: usize,
    preferences: usize,
) -> Vec<(String, Vec<usize>)> {
    let rank = own + preferences;
    let mut tensors = vec![(stored(module, 'A'), vec![rank, inputs]), (stored(module, 'B'), vec![outputs, rank])];
    if preferences > 0 {
        tensors.extend(panacea::stored(module).into_iter().zip([vec![own], vec![1]]));
    }
    tensors
}

/// Checks the singular values of a linear whose A has so many rows, and says how many of them are learned.
pub(crate) fn check_values(files: &WeightFiles, module: &str, rank: usize, preferences: usize) -> Result<usize> {
    let Some(own) = rank.checked_sub(preferences).filter(|own| *own > 0) else {
        let a = stored(module, 'A');
        let reason = format!("{a} has {rank} rows; expected more than the {preferences} of the preferences");
        return Err(Error::weights(files.directory(), reason));
    };
    let [sigma, s] = panacea::stored(module);
    files.check(&sigma, &[own])?;
    files.check(&s, &[1])?;
    Ok(own)
}

/// Refuses a Panacea adapter that cannot be made, and its options on another.
fn check_panacea(model: &Config, head: HeadKind, lora: &LoraConfig) -> Result<()> {
    let orthogonality = match (lora.preferences, lora.orthogonality) {
        (0, None) => return Ok(()),
        (0, Some(weight)) => {
            return Err(Error::Input(format!(
                "lora orthogonality is {weight}, and LoRA has no such penalty; set preferences too, or leave it out"
            )));
        }
        (_, given) => given.unwrap_or(LoraConfig::ORTHOGONALITY),
    };
    Panacea::new(lora.preferences, orthogonality).map_err(|e| Error::Input(format!("lora {e}")))?;
    if head != HeadKind::Tokens || lora.targets.iter().any(|target| target == HEAD_MODULE) {
        return Err(Error::Unsupported {
            what: "a Panacea adapter (lora preferences) of a score model or of lm_head".into(),
            instead: "set preferences = 0, or name linears of the layers alone in targets".into(),
        });
    }
    let rank = lora.rank + lora.preferences;
    let is_target = |path: &str| lora.targets.iter().any(|target| path.rsplit('.').next() == Some(target));
    match modules(model, head).find(|(path, outputs, inputs)| is_target(path) && rank > *outputs.min(inputs)) {
        None => Ok(()),
        Some((path, outputs, inputs)) => Err(Error::Input(format!(
            "lora rank and preferences are {rank} together, and {path} is [{outputs}, {inputs}], which has no more than {} \
             orthogonal directions; lower the rank, or leave that linear out of targets",
            outputs.min(inputs)
        ))),
    }
}

fn target_names(head: HeadKind) -> String {
    let of_tokens = (head == HeadKind::Tokens).then_some(HEAD_MODULE);
    LINEARS.iter().map(|linear| linear.short_name()).chain(of_tokens).collect::<Vec<_>>().join(", ")
}

/// Whether the modules that the adapter holds whole are the heads of the model.
fn check_head(head: HeadKind, config: &Map<String, Value>) -> Result<()> {
    let saved: Vec<&str> = match config.get("modules_to_save") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(name)) => vec![name.as_str()],
        _ => Vec::new(),
    };
    let is_of_scores = saved.iter().any(|name| SCORE_MODULES.contains(name))
        || config.get("task_type").and_then(Value::as_str) == Some("SEQ_CLS");
    if head == HeadKind::Tokens && is_of_scores {
        return Err(Error::Unsupported {
            what: "the adapter of a score model (task_type \"SEQ_CLS\") over a language model".into(),
            instead: "use it with an objective of score heads, or name an adapter of task_type \"CAUSAL_LM\"".into(),
        });
    }
    match saved.iter().find(|name| !SCORE_MODULES.contains(name)) {
        Some(name) => Err(Error::Unsupported {
            what: format!("an adapter with {name:?} in modules_to_save"),
            instead: "use a LORA adapter of linear layers, with \"score\" alone beside it over a score model".into(),
        }),
        None => Ok(()),
    }
}

pub(crate) fn refuse_what_is_not_built(config: &Map<String, Value>) -> Result<()> {
    let on = |key: &str| match config.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    let kind = config.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
    if kind != "LORA" && !panacea::is_panacea(config) {
        return Err(Error::Unsupported {
            what: format!("an adapter of peft_type {kind:?}"),
            instead: "use a LORA adapter".into(),
        });
    }
    if let Some(bias) = config.get("bias").and_then(Value::as_str).filter(|bias| *bias != "none") {
        return Err(Error::Unsupported {
            what: format!("an adapter with bias = {bias:?}"),
            instead: "train it with bias = \"none\"".into(),
        });
    }
    let init = config.get("init_lora_weights").and_then(Value::as_str).unwrap_or("true");
    if ["pissa", "olora", "corda", "loftq", "eva", "lora_ga"].iter().any(|kind| init.starts_with(kind)) {
        return Err(Error::Unsupported {
            what: format!("an adapter with init_lora_weights = {init:?}, which changes the base weights too"),
            instead: "convert it with peft's path_initial_model_for_weight_conversion".into(),
        });
    }
    for key in [
        "use_dora",
        "fan_in_fan_out",
        "trainable_token_indices",
        "target_parameters",
        "lora_bias",
        "use_bdlora",
        "use_qalora",
        "alora_invocation_tokens",
        "layer_replication",
    ] {
        if on(key) {
            return Err(Error::Unsupported {
                what: format!("an adapter with {key}"),
                instead: "use a plain LORA adapter of linear layers".into(),
            });
        }
    }
    Ok(())
}
