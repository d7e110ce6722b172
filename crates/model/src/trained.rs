//! A copy of what training changes, to be written while it goes on.
use std::path::Path;

use candle_core::WithDType;
use candlewick_kernels::{Element, Float};

use crate::adapter::Lora;
use crate::config::Config;
use crate::error::Result;
use crate::heads::Heads;
use crate::parameters::Parameters;
use crate::trunk::Trunk;
use crate::weights::{self, SHARD_BYTES};

/// All weights of a model, or its adapter, apart from it: see [`CausalLm::trained`](crate::CausalLm::trained) and
/// [`ScoreModel::trained`](crate::ScoreModel::trained).
#[derive(Debug, Clone)]
pub struct Trained<T: Element = f32>(Which<T>);

#[derive(Debug, Clone)]
enum Which<T: Element> {
    Model { config: Config, heads: Option<Heads>, weights: Parameters<T> },
    Adapter(Lora<T>),
}

impl<T: Float + WithDType> Trained<T> {
    pub(crate) fn of(trunk: &Trunk<T>, heads: Option<&Heads>, base: &str) -> Self {
        match &trunk.adapter {
            Some(adapter) => {
                let mut adapter = adapter.clone();
                adapter.set_base(base);
                Self(Which::Adapter(adapter))
            }
            None => {
                Self(Which::Model { config: trunk.config.clone(), heads: heads.cloned(), weights: trunk.base.clone() })
            }
        }
    }

    /// What is trained of `trunk`, with these numbers in the place of its own; `heads` are those of a score model.
    pub(crate) fn with_numbers<U: Element>(
        trunk: &Trunk<U>,
        heads: Option<&Heads>,
        numbers: Parameters<T>,
        base: &str,
    ) -> Self {
        match &trunk.adapter {
            Some(adapter) => {
                let mut adapter = adapter.with_parameters(numbers);
                adapter.set_base(base);
                Self(Which::Adapter(adapter))
            }
            None => Self(Which::Model { config: trunk.config.clone(), heads: heads.cloned(), weights: numbers }),
        }
    }

    /// Writes a Hugging Face directory, or an adapter as PEFT does.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        match &self.0 {
            Which::Model { config, heads, weights } => {
                save_model(directory, config, heads.as_ref(), weights, SHARD_BYTES)
            }
            Which::Adapter(adapter) => adapter.save(directory),
        }
    }
}

/// `config.json`, that of a score model where there are heads, and safetensors of `T` in shards of at most so many bytes.
pub(crate) fn save_model<T: Float + WithDType>(
    directory: &Path,
    config: &Config,
    heads: Option<&Heads>,
    parameters: &Parameters<T>,
    shard_bytes: u64,
) -> Result<()> {
    weights::save(directory, "model", parameters, shard_bytes, str::to_owned)?;
    let mut json = config.to_json(weights::dtype_name::<T>());
    if let (Some(heads), Some(json)) = (heads, json.as_object_mut()) {
        heads.write_into(config, json);
    }
    weights::save_json(&directory.join("config.json"), &json)
}
