//! Where a run computes, and in what.
use std::fmt;
use std::str::FromStr;

use candlewick_kernels::{Cuda, Workspace, bf16};
use candlewick_model::{Adapter, CausalLm, Config, HeadScores, Packed, Sampling, Statistics};
use serde::{Deserialize, Serialize};

use crate::device_policy::DevicePolicy;
use crate::device_score_policy::DeviceScorePolicy;
use crate::error::{Error, Result};
use crate::memory_plan::readable;
use crate::model_policy::ModelPolicy;
use crate::plan::TrainPlan;
use crate::policy::{CausalPolicy, FrozenPolicy, Policy};
use crate::reference::{AdapterReference, MovingReference};
use crate::score_policy::ScorePolicy;

/// Where a run computes: `cpu`, or `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceKind {
    /// On the host.
    #[default]
    Cpu,
    /// On the CUDA device of this number.
    Cuda(usize),
}

impl DeviceKind {
    pub(crate) fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl From<DeviceKind> for String {
    fn from(kind: DeviceKind) -> Self {
        kind.to_string()
    }
}

impl TryFrom<String> for DeviceKind {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        word.parse().map_err(|expected| format!("{word:?}; {expected}"))
    }
}

impl FromStr for DeviceKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let number = match word {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            other => other.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
        };
        number.map(Self::Cuda).ok_or_else(|| "expected \"cpu\", \"cuda\" or \"cuda:N\" with a number".to_owned())
    }
}

/// What a run computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16 with sums, statistics and master weights in single precision, on a device.
    Bf16,
}

impl Dtype {
    /// What `train.dtype` says, or the default of the device.
    ///
    /// # Errors
    /// The host computes in f32 alone.
    pub fn resolve(word: Option<Self>, device: DeviceKind) -> Result<Self> {
        match (word, device) {
            (Some(Self::Bf16), DeviceKind::Cpu) => Err(Error::config(
                "train.dtype",
                "bf16 is computed on a device; give train.device = \"cuda\", or leave it out",
            )),
            (Some(dtype), _) => Ok(dtype),
            (None, DeviceKind::Cpu) => Ok(Self::F32),
            (None, DeviceKind::Cuda(_)) => Ok(Self::Bf16),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Dtype {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err("expected \"f32\" or \"bf16\"".to_owned()),
        }
    }
}

/// What the models of runs compute on: the host, or a device.
#[derive(Debug, Clone, Default)]
pub struct Hardware {
    device: Option<Cuda>,
}

impl Hardware {
    /// Opens the device, where it is not the host.
    ///
    /// # Errors
    /// There is no such device, or this build cannot use one.
    pub fn open(kind: DeviceKind) -> Result<Self> {
        let DeviceKind::Cuda(number) = kind else { return Ok(Self::default()) };
        let device = Cuda::new(number).map_err(|error| Error::config("train.device", format!("{kind}: {error}")))?;
        Ok(Self { device: Some(device) })
    }

    /// A device that is open already.
    pub fn on(device: &Cuda) -> Self {
        Self { device: Some(device.clone()) }
    }

    /// The device, where it is not the host.
    pub fn device(&self) -> Option<&Cuda> {
        self.device.as_ref()
    }

    /// The same device, with the buffers of one run counted by themselves.
    pub(crate) fn of_one_run(&self) -> Self {
        Self { device: self.device.as_ref().map(Cuda::counted_apart) }
    }

    /// In words: the device, its memory, and what multiplies its matrices; nothing of the host.
    ///
    /// # Errors
    /// The driver of the device reports an error.
    pub fn describe(&self) -> Result<Option<String>> {
        let Some(device) = &self.device else { return Ok(None) };
        let (properties, memory) = (device.properties()?, device.memory()?);
        let (major, minor) = properties.compute_capability;
        let products = match properties.has_cublas_lt {
            true => "products by cuBLASLt",
            false => {
                "products by the crate's own kernel, since no cuBLASLt was found: docs/gpu.md says where it is looked for"
            }
        };
        let (free, total) = (readable(memory.free as u64), readable(memory.total as u64));
        Ok(Some(format!("{} ({major}.{minor}), {free} of {total} free, {products}", properties.name)))
    }

    /// Whether it is what `train.device` says, whichever number the device has.
    pub(crate) fn check(&self, train: &TrainPlan) -> Result<()> {
        let reason = match (&self.device, train.device.is_cpu()) {
            (Some(_), true) => "\"cpu\", and a device is given to compute on; set it to \"cuda\"".to_owned(),
            (None, false) => format!("\"{}\", and the host is given to compute on; set it to \"cpu\"", train.device),
            _ => return Ok(()),
        };
        Err(Error::config("train.device", reason))
    }

    /// A policy in training, computing as the plan says; `base` names the base model in adapters that are saved.
    ///
    /// # Errors
    /// As [`DevicePolicy::new`].
    pub fn policy(&self, model: CausalLm, train: &TrainPlan, base: &str) -> Result<ModelPolicy> {
        let recompute = train.recompute;
        let Some(device) = &self.device else {
            let policy = CausalPolicy::new(model, recompute, train.threads.max(1));
            return Ok(ModelPolicy::Causal(policy.with_base_name(base)));
        };
        Ok(match train.dtype {
            Dtype::Bf16 => ModelPolicy::Bf16(DevicePolicy::new(&model, device, recompute)?.with_base_name(base)),
            Dtype::F32 => ModelPolicy::F32(DevicePolicy::new(&model, device, recompute)?.with_base_name(base)),
        })
    }

    /// A score model in training, computing as the plan says.
    ///
    /// # Errors
    /// As [`DeviceScorePolicy::new`].
    pub fn score_policy(&self, policy: ScorePolicy, train: &TrainPlan) -> Result<ModelPolicy> {
        let Some(device) = &self.device else { return Ok(ModelPolicy::Score(policy)) };
        let (model, recompute, base) = (policy.model(), train.recompute, policy.base_name());
        Ok(match train.dtype {
            Dtype::Bf16 => {
                ModelPolicy::ScoreBf16(DeviceScorePolicy::new(model, device, recompute)?.with_base_name(base))
            }
            Dtype::F32 => ModelPolicy::ScoreF32(DeviceScorePolicy::new(model, device, recompute)?.with_base_name(base)),
        })
    }

    /// A model that only scores.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn frozen(&self, model: CausalLm, train: &TrainPlan) -> Result<Box<dyn Policy>> {
        match &self.device {
            None => Ok(Box::new(FrozenPolicy::new(model, train.threads.max(1)))),
            Some(device) => copied_to(device, &model, train.dtype),
        }
    }

    /// A copy of a model that only scores.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn frozen_copy(&self, model: &CausalLm, train: &TrainPlan) -> Result<Box<dyn Policy>> {
        match &self.device {
            None => self.frozen(model.frozen_copy(), train),
            Some(device) => copied_to(device, model, train.dtype),
        }
    }

    /// A model that answers and is asked, and scratch memory beside it.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn place(&self, model: CausalLm, dtype: Dtype, threads: usize) -> Result<(PlacedLm, Workspace)> {
        let Some(device) = &self.device else { return Ok((PlacedLm::F32(model), Workspace::new(threads.max(1)))) };
        let mut workspace = Workspace::new(1).on(device);
        let placed = match dtype {
            Dtype::F32 => PlacedLm::F32(model.to_device(device, &mut workspace)?),
            Dtype::Bf16 => PlacedLm::Bf16(model.to_device(device, &mut workspace)?),
        };
        Ok((placed, workspace))
    }

    /// Other values of what a policy here trains.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn adapter(&self, adapter: AdapterReference) -> Result<AdapterReference> {
        match &self.device {
            None => Ok(adapter),
            Some(device) => adapter.to_device(device),
        }
    }

    /// A reference that follows a policy here.
    ///
    /// # Errors
    /// As [`MovingReference::to_device`].
    pub fn moving(&self, moving: MovingReference) -> Result<MovingReference> {
        match &self.device {
            None => Ok(moving),
            Some(device) => moving.to_device(device),
        }
    }
}

/// A causal language model that is not trained, wherever it lies.
#[derive(Debug)]
pub enum PlacedLm {
    /// In f32, on the host or a device.
    F32(CausalLm<f32>),
    /// In bf16, on a device.
    Bf16(CausalLm<bf16>),
}

impl PlacedLm {
    /// Its configuration.
    pub fn config(&self) -> &Config {
        match self {
            Self::F32(model) => model.config(),
            Self::Bf16(model) => model.config(),
        }
    }

    /// Whether it has an adapter.
    pub fn has_adapter(&self) -> bool {
        match self {
            Self::F32(model) => model.has_adapter(),
            Self::Bf16(model) => model.has_adapter(),
        }
    }

    /// Continues `prompt`; the new tokens only.
    ///
    /// # Errors
    /// As [`CausalLm::generate`].
    pub fn generate(&self, prompt: &[u32], sampling: &Sampling, workspace: &mut Workspace) -> Result<Vec<u32>> {
        Ok(match self {
            Self::F32(model) => model.generate(prompt, sampling, workspace)?,
            Self::Bf16(model) => model.generate(prompt, sampling, workspace)?,
        })
    }

    /// Scores of a batch, as [`CausalLm::score`].
    ///
    /// # Errors
    /// As [`CausalLm::score`].
    pub fn score(
        &self,
        packed: &Packed,
        want: Statistics,
        adapter: Adapter,
        workspace: &mut Workspace,
    ) -> Result<HeadScores<f32>> {
        Ok(match self {
            Self::F32(model) => model.score(packed, want, adapter, workspace)?,
            Self::Bf16(model) => model.score(packed, want, adapter, workspace)?,
        })
    }
}

fn copied_to(device: &Cuda, model: &CausalLm, dtype: Dtype) -> Result<Box<dyn Policy>> {
    let mut workspace = Workspace::new(1).on(device);
    Ok(match dtype {
        Dtype::Bf16 => Box::new(FrozenPolicy::new(model.to_device::<bf16>(device, &mut workspace)?, 1)),
        Dtype::F32 => Box::new(FrozenPolicy::new(model.to_device::<f32>(device, &mut workspace)?, 1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_devices() {
        for (word, kind) in [("cpu", DeviceKind::Cpu), ("cuda", DeviceKind::Cuda(0)), ("cuda:3", DeviceKind::Cuda(3))] {
            assert_eq!(DeviceKind::try_from(word.to_owned()), Ok(kind));
            assert_eq!(DeviceKind::try_from(kind.to_string()), Ok(kind));
        }
        for word in ["gpu", "cuda:", "cuda:-1", "mps"] {
            assert!(DeviceKind::try_from(word.to_owned()).unwrap_err().contains("cuda:N"));
        }
        assert_eq!(Dtype::resolve(None, DeviceKind::Cuda(1)).unwrap(), Dtype::Bf16);
        assert!(Dtype::resolve(Some(Dtype::Bf16), DeviceKind::Cpu).unwrap_err().to_string().contains("train.dtype"));
    }
}
