//! A reference that is the policy with other values of what is trained.
use std::path::{Path, PathBuf};

use candlewick_kernels::{Cuda, Workspace};
use candlewick_model::{AdapterWeights, Parameters};

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::policy::{CausalPolicy, Trainable, other_scale};
use crate::tensor_file::Element;

/// The policy with other values of what is trained, which nothing changes: an adapter as it was when training began, or another one of the
/// same shape over the same base. To be scored they change places with those of the policy, so that there is one base in memory.
#[derive(Debug, Clone)]
pub struct AdapterReference<T: Element = f32> {
    parameters: Parameters<T>,
}

impl<T: Element> AdapterReference<T> {
    /// What is trained, as it is now.
    ///
    /// # Errors
    /// The device of the policy has no memory left.
    pub fn of<P: Trainable<Element = T>>(policy: &P) -> Result<Self> {
        Ok(Self { parameters: policy.parameters().try_copied()? })
    }

    /// The adapter of a directory over the base of the policy: PEFT's, or that of a run (`checkpoints/step-…`, `final`).
    ///
    /// # Errors
    /// A policy without an adapter; files that do not fit the model; an adapter of other linears, ranks or scales than the policy's, or of
    /// another base.
    pub fn load(policy: &CausalPolicy<T>, directory: &Path) -> Result<Self> {
        let model = policy.model();
        let refuse = |reason: String| Error::config("reference.path", format!("{}: {reason}", directory.display()));
        let Some(ours) = model.adapter() else {
            return Err(refuse("an adapter, and the policy has none to change places with".into()));
        };
        if !model.preference().is_empty() {
            return Err(refuse(
                "an adapter, and the policy's is a Panacea adapter, whose place no other takes; choose adapter_off"
                    .into(),
            ));
        }
        let AdapterWeights { parameters, scales, base, .. } = model.read_adapter(directory)?;
        let wanted = "the reference takes the place of the policy's adapter to be scored: name an adapter of the same linears, ranks and scales";
        if let Some(difference) = difference(&parameters, ours) {
            return Err(refuse(format!("{difference}; {wanted}")));
        }
        if let Some(difference) = other_scale(&scales, &model.adapter_scales()) {
            return Err(refuse(format!("{difference}; {wanted}")));
        }
        if let Some(base) = base.as_deref().map(Path::new).filter(|base| base.is_dir())
            && let (Some(theirs), Some(ours)) = (weights_of(base)?, weights_of(Path::new(policy.base_name()))?)
            && theirs != ours
        {
            return Err(refuse(format!(
                "it was trained over {}, whose weights ({theirs}) are others than those of model.path ({ours}); name an adapter of the same \
                 base",
                base.display()
            )));
        }
        Ok(Self { parameters })
    }

    /// The same on a device, for a policy there.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn to_device(&self, device: &Cuda) -> Result<Self> {
        let mut workspace = Workspace::new(1).on(device);
        Ok(Self { parameters: self.parameters.to_device(device, &mut workspace)? })
    }

    /// Its values.
    pub fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    pub(crate) fn into_parameters(self) -> Parameters<T> {
        self.parameters
    }

    pub(super) fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }
}

/// What the first tensor is in which two adapters differ.
fn difference<T: Element>(theirs: &Parameters<T>, ours: &Parameters<T>) -> Option<String> {
    let missing = ours.names().find(|name| theirs.position(name).is_none());
    let extra = theirs.names().find(|name| ours.position(name).is_none());
    let other = (0..ours.len()).find_map(|i| {
        let shape = theirs.position(ours.name(i)).map(|j| theirs.shape(j)).filter(|shape| *shape != ours.shape(i))?;
        Some(format!("its {} has shape {shape:?}, the policy's {:?}", ours.name(i), ours.shape(i)))
    });
    missing
        .map(|name| format!("it has no {name}, which the policy has"))
        .or_else(|| extra.map(|name| format!("it has {name}, which the policy has not")))
        .or(other)
}

/// What tells the weight files of a model from others; None where there are none.
fn weights_of(directory: &Path) -> Result<Option<Fingerprint>> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(None) };
    let is_weights = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("model") && name.ends_with(".safetensors")
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_weights).collect();
    files.sort();
    if files.is_empty() { Ok(None) } else { Fingerprint::of_all(&files).map(Some) }
}
