//! Where a run computes, and in what.
use std::fmt;

use candlewick_kernels::Cuda;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(crate) fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }

    /// The device, where it is not the host.
    ///
    /// # Errors
    /// There is no such device, or this build cannot use one.
    pub fn open(self) -> Result<Option<Cuda>> {
        let Self::Cuda(number) = self else { return Ok(None) };
        let device = Cuda::new(number);
        Ok(Some(device.map_err(|error| Error::config("train.device", format!("{self}: {error}")))?))
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
        let number = match word.as_str() {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            other => other.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
        };
        number.map(Self::Cuda).ok_or_else(|| format!("{word:?}; expected \"cpu\", \"cuda\" or \"cuda:N\" with a number"))
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
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(crate) fn is_f32(&self) -> bool {
        *self == Self::F32
    }

    /// What `train.dtype` says, or the default of the device.
    pub(crate) fn resolve(word: Option<Self>, device: DeviceKind) -> Result<Self> {
        match (word, device) {
            (Some(Self::Bf16), DeviceKind::Cpu) => {
                Err(Error::config("train.dtype", "bf16 is computed on a device; give train.device = \"cuda\", or leave it out"))
            }
            (Some(dtype), _) => Ok(dtype),
            (None, DeviceKind::Cpu) => Ok(Self::F32),
            (None, DeviceKind::Cuda(_)) => Ok(Self::Bf16),
        }
    }
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
