//! A copy of what training changes, to be written while it goes on.
use std::path::Path;

use candle_core::WithDType;
use candlewick_kernels::Float;

use crate::adapter::Lora;
use crate::config::Config;
use crate::error::Result;
use crate::parameters::Parameters;
use crate::weights::{self, SHARD_BYTES};

/// All weights of a model, or its adapter, apart from it: see [`CausalLm::trained`](crate::CausalLm::trained).
#[derive(Debug, Clone)]
pub struct Trained<T = f32>(pub(crate) Which<T>);

#[derive(Debug, Clone)]
pub(crate) enum Which<T> {
    Model { config: Config, weights: Parameters<T> },
    Adapter(Lora<T>),
}

impl<T: Float + WithDType> Trained<T> {
    /// Writes a Hugging Face directory, or an adapter as PEFT does.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn save(&self, directory: &Path) -> Result<()> {
        match &self.0 {
            Which::Model { config, weights } => save_model(directory, config, weights, SHARD_BYTES),
            Which::Adapter(adapter) => adapter.save(directory),
        }
    }
}

/// `config.json` and safetensors of `T`, in shards of at most so many bytes.
pub(crate) fn save_model<T: Float + WithDType>(
    directory: &Path,
    config: &Config,
    parameters: &Parameters<T>,
    shard_bytes: u64,
) -> Result<()> {
    weights::save(directory, "model", parameters, shard_bytes, str::to_owned)?;
    weights::save_json(&directory.join("config.json"), &config.to_json(weights::dtype_name::<T>()))
}
