//! A reference that follows the policy.
use std::path::Path;

use candlewick_kernels::elementwise;
use candlewick_model::Parameters;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::policy::{Trainable, Tuning};
use crate::tensor_file::{Column, Columns, Element, TensorFile};

/// A reference that follows the policy: a second copy of what is trained, all weights or an adapter, never of weights that stand still.
///
/// After an optimizer step at which an update is due, `reference ← α·policy + (1 − α)·reference`, number by number
/// (Gorbatovski et al. 2024, [arXiv 2404.09656](https://arxiv.org/abs/2404.09656), eq. 4 and 5). It is part of a checkpoint. Of an adapter
/// `A` and `B` are mixed each by itself, so that after a soft update `BA` is not the mixture of the two products.
///
/// # File format, version 1
/// `moving_reference.safetensors` in a checkpoint. Its metadata MUST hold `format` = `candlewick-moving-reference`, `version` = `1` and
/// `layout`, a digest of the names and shapes of what is trained; a reader MUST refuse another version and another layout. Tensor:
/// `values` F32 or F64, all tensors one after another in the order of the policy.
#[derive(Debug, Clone)]
pub struct MovingReference<T = f32> {
    parameters: Parameters<T>,
}

impl<T: Element> MovingReference<T> {
    /// Starts as the policy is.
    pub fn of<P: Trainable<Element = T>>(policy: &P) -> Self {
        Self { parameters: policy.parameters().copied() }
    }

    /// Starts as the policy would be without its adapter: `lora_B` of each pair is zero.
    ///
    /// # Errors
    /// There is no adapter.
    pub fn of_base<P: Trainable<Element = T>>(policy: &P) -> Result<Self> {
        let mut parameters = policy.parameters().copied();
        let pairs: Vec<usize> = (0..parameters.len()).filter(|i| parameters.name(*i).contains(".lora_B.")).collect();
        if pairs.is_empty() {
            return Err(Error::Mismatch(
                "the reference is to start as the policy without its adapter, and the policy has none".into(),
            ));
        }
        pairs.into_iter().for_each(|i| parameters.tensor_mut(i).fill(T::ZERO));
        Ok(Self { parameters })
    }

    /// Starts from these values.
    ///
    /// # Errors
    /// Other names or shapes than those of what the policy trains.
    pub fn from_parameters<P: Trainable<Element = T>>(policy: &P, parameters: Parameters<T>) -> Result<Self> {
        if layout(policy.parameters()) != layout(&parameters) {
            return Err(Error::Mismatch(
                "the reference that is to move has other tensors than the policy; give a model of the same shape"
                    .into(),
            ));
        }
        Ok(Self { parameters })
    }

    /// Its values.
    pub fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    pub(super) fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    /// Moves towards the policy by `weight`.
    pub(crate) fn follow<P: Trainable<Element = T>>(&mut self, policy: &mut P, weight: f64) -> Result<()> {
        let Tuning { parameters, workspace, .. } = policy.tuning();
        elementwise::mix(self.parameters.data_mut().into(), parameters.data().into(), weight, workspace)?;
        Ok(())
    }

    pub(crate) fn file(&self) -> TensorFile<'_> {
        let metadata = [("format", MOVING), ("version", "1"), ("layout", &layout(&self.parameters))];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        TensorFile { metadata, columns: vec![("values", Column::new(self.parameters.data()))] }
    }

    /// Reads what [`file`](Self::file) holds, for the same layout.
    pub(crate) fn load(&mut self, path: &Path) -> Result<()> {
        let refuse = |reason: String| Error::checkpoint(path, reason);
        let file = Columns::read(path)?.map_err(refuse)?;
        if (file.metadata("format"), file.metadata("version")) != (Some(MOVING), Some("1")) {
            return Err(refuse("not a moving reference in format version 1".into()));
        }
        if file.metadata("layout") != Some(&layout(&self.parameters)) {
            return Err(refuse("it belongs to other tensors than those that are trained".into()));
        }
        let values = file.column::<T>("values").map_err(refuse)?;
        if values.len() != self.parameters.element_count() {
            let (found, expected) = (values.len(), self.parameters.element_count());
            return Err(refuse(format!("it holds {found} numbers; what is trained has {expected}")));
        }
        self.parameters.data_mut().copy_from_slice(&values);
        Ok(())
    }
}

/// A digest of names and shapes, in their order.
fn layout<T: Element>(parameters: &Parameters<T>) -> String {
    let mut hasher = Xxh3::new();
    for i in 0..parameters.len() {
        hasher.update(format!("{} {:?}\n", parameters.name(i), parameters.shape(i)).as_bytes());
    }
    format!("xxh3-128:{:032x}", hasher.digest128())
}

const MOVING: &str = "candlewick-moving-reference";
