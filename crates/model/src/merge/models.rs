//! Whole models in.
use std::path::{Path, PathBuf};

use super::method::Tensors;
use super::write::{Slot, Stored};
use crate::error::{Error, Result};
use crate::layout::StoredModel;
use crate::weights::WeightFiles;

/// Models of the same tensors that compute alike, and the one that they are compared with.
pub(super) struct Models {
    base: Option<StoredModel>,
    models: Vec<StoredModel>,
}

impl Models {
    pub(super) fn open(models: &[PathBuf], base: Option<&Path>) -> Result<Self> {
        let base = base.map(StoredModel::open).transpose()?;
        let models = models.iter().map(|path| StoredModel::open(path)).collect::<Result<Vec<_>>>()?;
        let opened = Self { base, models };
        opened.models.iter().try_for_each(|model| same(opened.first(), model))?;
        Ok(opened)
    }

    /// The base, or else the first model: what is written has its configuration and its types.
    pub(super) fn first(&self) -> &StoredModel {
        self.base.as_ref().unwrap_or(&self.models[0])
    }

    /// The numbers of the base's tensor `i`.
    pub(super) fn base(&self, i: usize) -> Result<Option<Vec<f64>>> {
        self.base.as_ref().map(|base| base.numbers(i)).transpose()
    }

    /// Tensor `i` of every model, less `base`.
    pub(super) fn tensors(&self, i: usize, base: Option<&[f64]>) -> Result<Tensors> {
        let mut data = Vec::with_capacity(self.models.len());
        for model in &self.models {
            let mut numbers = model.numbers(i)?;
            numbers.iter_mut().zip(base.unwrap_or_default()).for_each(|(x, base)| *x -= base);
            data.push(numbers);
        }
        let tensor = &self.first().tensors[i];
        Ok(Tensors { name: tensor.name.clone(), shape: tensor.shape.clone(), data })
    }
}

impl StoredModel {
    /// The numbers of tensor `i`, all finite.
    pub(super) fn numbers(&self, i: usize) -> Result<Vec<f64>> {
        numbers(&self.files, &self.tensors[i].stored)
    }

    /// What is written: every tensor as `stored`, or as it is here.
    pub(super) fn slots(&self, stored: Option<Stored>) -> Result<Vec<Slot>> {
        self.tensors
            .iter()
            .map(|tensor| {
                let stored = stored.map_or_else(|| dtype(&self.files, &tensor.stored), Ok)?;
                Ok(Slot { name: tensor.name.clone(), shape: tensor.shape.clone(), stored })
            })
            .collect()
    }
}

/// A tensor in f64; what is not finite is an error that names it.
pub(super) fn numbers(files: &WeightFiles, name: &str) -> Result<Vec<f64>> {
    let length = files.shape(name).map_or(0, |shape| shape.iter().product());
    let mut numbers = vec![0.0f64; length];
    files.read(name, &mut numbers)?;
    match numbers.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(Error::weights(
            files.directory(),
            format!("{name} holds {} at element {i}; a merge would spread it: leave this one out", numbers[i]),
        )),
        None => Ok(numbers),
    }
}

/// In what numbers a tensor is stored.
pub(super) fn dtype(files: &WeightFiles, name: &str) -> Result<Stored> {
    let found = files.dtype(name);
    found.and_then(Stored::of).ok_or_else(|| {
        Error::weights(files.directory(), format!("{name} is stored as {found:?}; expected F32, F64, F16 or BF16"))
    })
}

/// Refuses a model that has other tensors than the first, or computes otherwise with them.
fn same(first: &StoredModel, other: &StoredModel) -> Result<()> {
    let (here, there) = (other.files.directory(), first.files.directory().display());
    for i in 0..first.tensors.len().max(other.tensors.len()) {
        let reason = match (first.tensors.get(i), other.tensors.get(i)) {
            (Some(a), Some(b)) if a.name == b.name && a.shape == b.shape => continue,
            (Some(a), Some(b)) if a.name == b.name => {
                format!("{} has shape {:?}, and in {there} {:?}", b.name, b.shape, a.shape)
            }
            (Some(a), _) if !other.tensors.iter().any(|tensor| tensor.name == a.name) => {
                format!("{} is not there, and {there} has it", a.name)
            }
            (_, other) => format!("{} is not in {there}", other.map_or("", |tensor| &tensor.name)),
        };
        return Err(Error::weights(here, format!("{reason}; only models of one architecture and size can be merged")));
    }
    match first.config.computes_otherwise(&other.config) {
        Some(key) => {
            let reason = format!("{key} is not what it is in {there}; models that compute otherwise cannot be merged");
            Err(Error::config(here.join("config.json"), reason))
        }
        None => Ok(()),
    }
}
