//! PEFT adapters in and out.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use faer::{Mat, MatRef};
use serde_json::{Map, Value, json};

use super::method::Tensors;
use super::models::{dtype, numbers};
use super::svd::{Svd, matrix, row_major};
use super::write::{Slot, Stored, write};
use crate::adapter::{self, CONFIG, MAX_RANK, PREFIX};
use crate::error::{Error, Result};
use crate::layout::{HeadKind, StoredModel};
use crate::panacea::{self, Panacea};
use crate::weights::{WeightFiles, save_json};

/// Adapters of one base.
pub(super) struct Adapters {
    adapters: Vec<Adapter>,
    /// Every linear that one of them changes, by path: outputs and inputs.
    modules: BTreeMap<String, [usize; 2]>,
}

struct Adapter {
    config: Map<String, Value>,
    files: WeightFiles,
    pairs: BTreeMap<String, Pair>,
    /// Of a Panacea adapter, at the preference that was asked for.
    panacea: Option<Panacea>,
}

/// The pair of one linear.
#[derive(Clone, Copy)]
struct Pair {
    rank: usize,
    scale: f64,
    /// Outputs and inputs of the linear.
    size: [usize; 2],
}

/// A pair with its numbers.
struct Sides {
    pair: Pair,
    a: Vec<f64>,
    b: Vec<f64>,
}

/// `B·A` with `a [rank, inputs]` and `b [outputs, rank]`.
pub(super) struct Factors {
    pub(super) a: Vec<f64>,
    pub(super) b: Vec<f64>,
    rank: usize,
    outputs: usize,
    inputs: usize,
}

impl Adapters {
    /// Panacea adapters at a preference.
    pub(super) fn open(directories: &[PathBuf], preference: Option<&[f64]>) -> Result<Self> {
        let mut adapters = Vec::new();
        let mut modules: BTreeMap<String, [usize; 2]> = BTreeMap::new();
        for directory in directories {
            let adapter = Adapter::open(directory, preference)?;
            for (module, Pair { size, .. }) in &adapter.pairs {
                let known = modules.entry(module.clone()).or_insert(*size);
                if known != size {
                    return Err(Error::weights(
                        directory,
                        format!(
                            "{module} is {size:?}, and {known:?} in one before it; only adapters of one base can be merged"
                        ),
                    ));
                }
            }
            adapters.push(adapter);
        }
        if preference.is_some() && adapters.iter().all(|adapter| adapter.panacea.is_none()) {
            return Err(Error::Input("a preference is given, and there is no Panacea adapter; leave it out".into()));
        }
        Ok(Self { adapters, modules })
    }

    pub(super) fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Refuses an adapter of linears that the model does not have, or cannot change alone.
    pub(super) fn check(&self, base: &StoredModel) -> Result<()> {
        for adapter in &self.adapters {
            for module in adapter.pairs.keys() {
                let size = self.modules[module];
                let weight = base.tensors.iter().find(|tensor| tensor.name == weight_of(module));
                let reason = match weight {
                    Some(tensor) if tensor.shape == size => continue,
                    Some(tensor) => format!("{module} is {size:?}, and {:?} in the base", tensor.shape),
                    None if base.config.tie_word_embeddings && module == adapter::HEAD_MODULE => {
                        return Err(Error::Unsupported {
                            what: "merging an adapter of a head that is also the embedding".into(),
                            instead: "keep the adapter, or give a base whose lm_head has weights of its own".into(),
                        });
                    }
                    None => format!("{module} is no linear of the base"),
                };
                let base = base.files.directory().display();
                let directory = adapter.files.directory();
                return Err(Error::weights(directory, format!("{reason} {base}; give the base it was trained on")));
            }
        }
        Ok(())
    }

    /// Names of bases in the adapters' files, where they differ.
    pub(super) fn bases(&self) -> Option<String> {
        let names: BTreeSet<&str> = self
            .adapters
            .iter()
            .filter_map(|adapter| adapter.config.get("base_model_name_or_path").and_then(Value::as_str))
            .collect();
        (names.len() > 1).then(|| {
            let names: Vec<&str> = names.into_iter().collect();
            format!("the adapters name different bases ({}); they must be one model", names.join(", "))
        })
    }

    /// `s·B·A` of every adapter, zero where it has none, under the name of the weight that it changes.
    pub(super) fn products(&self, module: &str) -> Result<Option<Tensors>> {
        let Some([outputs, inputs]) = self.modules.get(module).copied() else { return Ok(None) };
        let product = |adapter: &Adapter| match adapter.pair(module)? {
            None => Ok(vec![0.0; outputs * inputs]),
            Some(Sides { pair, a, b }) => {
                let product = matrix(&b, outputs, pair.rank) * matrix(&a, pair.rank, inputs) * faer::Scale(pair.scale);
                Ok(row_major(product.as_ref()))
            }
        };
        let data = self.adapters.iter().map(product).collect::<Result<_>>()?;
        Ok(Some(Tensors { name: weight_of(module), shape: vec![outputs, inputs], data }))
    }

    /// The largest sum of ranks over the linears: what holds every weighted sum without loss.
    pub(super) fn whole_rank(&self) -> usize {
        let of = |module: &String| self.adapters.iter().filter_map(|a| a.pairs.get(module)).map(|pair| pair.rank).sum();
        self.modules.keys().map(of).max().unwrap_or(0)
    }

    /// `Σ cᵢ·sᵢ·Bᵢ·Aᵢ` as one pair, whose rank is the sum of theirs: nothing is lost.
    pub(super) fn stacked(&self, module: &str, factors: &[f64]) -> Result<Factors> {
        let [outputs, inputs] = self.modules[module];
        let (mut a, mut columns) = (Vec::new(), Vec::new());
        for (adapter, factor) in self.adapters.iter().zip(factors) {
            let Some(Sides { pair, a: own, b }) = adapter.pair(module)? else { continue };
            a.extend(own);
            let column = |j: usize| (0..outputs).map(|i| factor * pair.scale * b[i * pair.rank + j]).collect();
            columns.extend((0..pair.rank).map(column).collect::<Vec<Vec<f64>>>());
        }
        let b = (0..outputs).flat_map(|i| columns.iter().map(move |column| column[i])).collect();
        Ok(Factors { a, b, rank: columns.len(), outputs, inputs })
    }

    /// Writes one adapter of a pair a module, each padded with zeros to `rank`, whose scale is 1.
    pub(super) fn write(
        &self,
        directory: &Path,
        rank: usize,
        stored: Option<Stored>,
        pairs: &BTreeMap<String, Factors>,
    ) -> Result<()> {
        let first = &self.adapters[0];
        let stored = match (stored, first.files.names().next()) {
            (Some(stored), _) => stored,
            (None, Some(name)) => dtype(&first.files, name)?,
            (None, None) => Stored::F32,
        };
        let mut slots = Vec::new();
        let mut tensors: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (module, factors) in pairs {
            let (a, b) = factors.padded(rank);
            let sides = [('A', vec![rank, factors.inputs], a), ('B', vec![factors.outputs, rank], b)];
            for (side, shape, numbers) in sides {
                let name = adapter::stored(module, side);
                slots.push(Slot { name: name.clone(), shape, stored });
                tensors.insert(name, numbers);
            }
        }
        write(directory, "adapter_model", &slots, u64::MAX, |slot| Ok(tensors.remove(&slot.name).unwrap_or_default()))?;
        save_json(&directory.join(CONFIG), &Value::Object(self.config(rank)))
    }

    /// The first adapter's settings, brought up to date.
    fn config(&self, rank: usize) -> Map<String, Value> {
        let first = &self.adapters[0];
        let mut config = first.config.clone();
        let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
        set("peft_type", json!("LORA"));
        if first.panacea.is_some() {
            set("init_lora_weights", json!(true));
        }
        set("r", json!(rank));
        set("lora_alpha", json!(rank));
        set("use_rslora", json!(false));
        set("rank_pattern", json!({}));
        set("alpha_pattern", json!({}));
        // Short names stand for that linear in every layer, which is right only as long as no other adapter adds some.
        if first.pairs.len() != self.modules.len() {
            set("target_modules", json!(self.modules().collect::<Vec<_>>()));
            for key in ["layers_to_transform", "layers_pattern", "exclude_modules"] {
                set(key, Value::Null);
            }
        }
        if first.panacea.is_some() {
            config.remove(panacea::PREFERENCES);
            config.remove(panacea::ORTHOGONALITY);
        }
        config
    }
}

impl Adapter {
    fn open(directory: &Path, preference: Option<&[f64]>) -> Result<Self> {
        let config = adapter::read_config(HeadKind::Tokens, directory)?;
        let mut panacea =
            Panacea::of(&config).map_err(|error| Error::config(directory.join(CONFIG), error.to_string()))?;
        match (&mut panacea, preference) {
            (Some(panacea), Some(preference)) => panacea.set_preference(preference)?,
            (Some(panacea), None) => {
                return Err(Error::Input(format!(
                    "{} is a Panacea adapter; say at which preference it is to be taken, {} numbers with a sum of 1",
                    directory.display(),
                    panacea.preference.len()
                )));
            }
            (None, _) => {}
        }
        let files = WeightFiles::open(directory, "adapter_model")?;
        let mut pairs = BTreeMap::new();
        for name in files.names() {
            // The singular values are checked with the pair that they belong to.
            if panacea.is_some() && (name.ends_with(".lora_sigma") || name.ends_with(".lora_s")) {
                continue;
            }
            let side = |side: char| {
                name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(&format!(".lora_{side}.weight")))
            };
            let module = match (side('A'), side('B')) {
                (Some(module), _) => module,
                (None, Some(module)) if files.shape(&adapter::stored(module, 'A')).is_some() => continue,
                _ => {
                    let example = adapter::stored("model.layers.0.self_attn.q_proj", 'A');
                    return Err(Error::weights(
                        directory,
                        format!("the tensor {name} is no part of a pair; expected names as {example}"),
                    ));
                }
            };
            let (a, b) = (files.shape(name).unwrap_or_default(), adapter::stored(module, 'B'));
            let &[rank @ 1..=MAX_RANK, inputs @ 1..=usize::MAX] = a else {
                return Err(Error::weights(directory, format!("{name} has shape {a:?}; expected [rank, inputs]")));
            };
            let outputs = files.shape(&b).and_then(|shape| shape.first()).copied().unwrap_or(0).max(1);
            files.check(&b, &[outputs, rank])?;
            let own = match &panacea {
                None => rank,
                Some(panacea) => adapter::check_values(&files, module, rank, panacea.preference.len())?,
            };
            let scale = adapter::scale(&config, module, own).map_err(|error| match error {
                Error::Input(reason) => Error::config(directory.join(CONFIG), reason),
                other => other,
            })?;
            pairs.insert(module.to_owned(), Pair { rank, scale, size: [outputs, inputs] });
        }
        if pairs.is_empty() {
            return Err(Error::weights(directory, "it holds no pair of lora_A and lora_B"));
        }
        if panacea.is_some() && files.names().count() != 4 * pairs.len() {
            let reason = "it holds singular values without a pair; expected lora_A, lora_B, lora_sigma and lora_s of each linear";
            return Err(Error::weights(directory, reason));
        }
        Ok(Self { config, files, pairs, panacea })
    }

    /// The pair of a linear with its A and B, if it has one.
    fn pair(&self, module: &str) -> Result<Option<Sides>> {
        let Some(pair) = self.pairs.get(module).copied() else { return Ok(None) };
        let side = |side| numbers(&self.files, &adapter::stored(module, side));
        let (a, mut b) = (side('A')?, side('B')?);
        if let Some(panacea) = &self.panacea {
            let [sigma, s] = panacea::stored(module);
            let values = panacea.values(&numbers(&self.files, &sigma)?, numbers(&self.files, &s)?[0]);
            panacea::scale_columns(&b.clone(), &values, &mut b);
        }
        Ok(Some(Sides { pair, a, b }))
    }
}

impl Factors {
    /// The nearest pair of `rank` to a matrix `[outputs, inputs]`, and the share of its squared norm that it holds.
    pub(super) fn of_product(product: &[f64], outputs: usize, inputs: usize, rank: usize) -> Result<(Self, f64)> {
        Ok(Self::of_svd(&Svd::of(matrix(product, outputs, inputs))?, rank))
    }

    /// The nearest pair of a smaller rank, and the share of the squared norm that it holds; the product is never
    /// formed.
    pub(super) fn truncated(&self, rank: usize) -> Result<(Self, f64)> {
        let left = Svd::of(matrix(&self.b, self.outputs, self.rank))?;
        let right = Svd::of(matrix(&self.a, self.rank, self.inputs).transpose())?;
        // B·A = U₁·(S₁·V₁ᵀ·V₂·S₂)·U₂ᵀ, and what is between the orthogonal factors is small.
        let between = left.v.transpose() * &right.v;
        let scaled =
            Mat::from_fn(between.nrows(), between.ncols(), |i, j| left.values[i] * between[(i, j)] * right.values[j]);
        let core = Svd::of(scaled.as_ref())?;
        let whole = Svd { u: &left.u * &core.u, values: core.values, v: &right.u * &core.v };
        Ok(Self::of_svd(&whole, rank))
    }

    fn of_svd(svd: &Svd, rank: usize) -> (Self, f64) {
        let kept = rank.min(svd.values.len());
        let roots: Vec<f64> = svd.values[..kept].iter().map(|value| value.sqrt()).collect();
        let scaled = |side: MatRef<'_, f64>| Mat::from_fn(side.nrows(), kept, |i, j| side[(i, j)] * roots[j]);
        let squares = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let total = squares(&svd.values);
        let share = if total > 0.0 { squares(&svd.values[..kept]) / total } else { 1.0 };
        let factors = Self {
            a: row_major(scaled(svd.v.as_ref()).transpose()),
            b: row_major(scaled(svd.u.as_ref()).as_ref()),
            rank: kept,
            outputs: svd.u.nrows(),
            inputs: svd.v.nrows(),
        };
        (factors, share)
    }

    /// A and B with rows and columns of zeros after their own, `rank` in all.
    fn padded(&self, rank: usize) -> (Vec<f64>, Vec<f64>) {
        let mut a = self.a.clone();
        a.resize(rank * self.inputs, 0.0);
        let zeros = vec![0.0; rank - self.rank];
        let b =
            (0..self.outputs).flat_map(|i| self.b[i * self.rank..(i + 1) * self.rank].iter().chain(&zeros).copied());
        (a, b.collect())
    }
}

/// The name of a linear's weight.
pub(super) fn weight_of(module: &str) -> String {
    format!("{module}.weight")
}
