//! Models and adapters made of others, by their weights alone.
//!
//! | method | gives | source |
//! |---|---|---|
//! | [`Method::Linear`] | a weighted mean or sum of the weights | Wortsman et al. 2022, arXiv 2203.05482 |
//! | [`Method::TaskArithmetic`] | the base and a weighted sum of task vectors | Ilharco et al. 2022, arXiv 2212.04089 |
//! | [`Method::Slerp`] | the arc between two models or task vectors | WARP: Ramé et al. 2024, arXiv 2406.16768 |
//! | [`Method::Ties`] | trimmed task vectors, averaged where signs agree | Yadav et al. 2023, arXiv 2306.01708 |
//! | [`Method::Dare`] | task vectors with elements dropped at random | Yu et al. 2023, arXiv 2311.03099 |
//! | [`Method::IsoC`], [`Method::IsoCts`] | task matrices with equal singular values | Marczak et al. 2025, arXiv 2502.04959 |
//!
//! [`Merge::write`] reads files and writes files, one tensor of each model in memory at a time, in f64, on one thread.
//! The methods are also there as functions of numbers.

mod adapters;
mod dare;
mod iso;
mod linear;
mod method;
mod models;
mod slerp;
mod svd;
mod ties;
mod write;

pub use dare::drop_out;
pub use iso::{iso_c, iso_cts};
pub use linear::weighted_sum;
pub use method::{Method, Vector};
pub use slerp::{Angle, Between, PARALLEL};
pub use ties::{elect, trim};
pub use write::Stored;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use adapters::{Adapters, Factors, weight_of};
use method::{Angles, Tensors};
use models::Models;
use write::write;

use crate::adapter::MAX_RANK;
use crate::error::{Error, Result};
use crate::layout::StoredModel;
use crate::weights::{SHARD_BYTES, save_json};

/// What is merged, and into what.
#[derive(Debug, Clone, PartialEq)]
pub enum Merge {
    /// Whole models into a whole model.
    Models {
        /// Their directories.
        models: Vec<PathBuf>,
        /// That of the model they were all trained from.
        base: Option<PathBuf>,
    },
    /// Adapters into the weights of their base: a whole model.
    IntoBase {
        /// Their directories.
        adapters: Vec<PathBuf>,
        /// That of their base.
        base: PathBuf,
        /// The preference vector at which Panacea adapters are taken.
        preference: Option<Vec<f64>>,
    },
    /// Adapters into an adapter.
    Adapters {
        /// Their directories.
        adapters: Vec<PathBuf>,
        /// The rank of the result; without it a rank at which nothing is lost.
        rank: Option<usize>,
        /// The preference vector at which Panacea adapters are taken.
        preference: Option<Vec<f64>>,
    },
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct MergeReport {
    /// Tensors of the model, or linears of the adapter, that were written.
    pub tensors: usize,
    /// Vectors that spherical interpolation went between.
    pub vectors: usize,
    /// Those of them between which it went straight, because they have no angle.
    pub straight: Vec<String>,
    /// The rank of the adapter.
    pub rank: Option<usize>,
    /// Of the linear of which an adapter of that rank holds least: its path, and the share of the squared norm that is
    /// held.
    pub least: Option<(String, f64)>,
    /// What a careful reader should know.
    pub notes: Vec<String>,
}

/// How far a merge is: tensors done, and all.
pub type Done<'a> = &'a mut dyn FnMut(usize, usize);

impl Merge {
    /// Merges and writes a model (`config.json` and safetensors of `stored`, by default of the base's or else the first
    /// model's type) or a PEFT adapter into `directory`, which should be new: several files come one after another.
    /// Tokenizers are left alone.
    ///
    /// # Errors
    /// Options out of range; models of other tensors, or that compute otherwise; numbers that are not finite; damaged
    /// files; files that cannot be written.
    pub fn write(
        &self,
        method: &Method,
        stored: Option<Stored>,
        directory: &Path,
        done: Done<'_>,
    ) -> Result<MergeReport> {
        method.check(match self {
            Self::Models { models, .. } => models.len(),
            Self::IntoBase { adapters, .. } | Self::Adapters { adapters, .. } => adapters.len(),
        })?;
        if !matches!(self, Self::Models { .. })
            && let Method::Linear { normalize: false, .. } = method
        {
            return Err(Error::Input(
                "linear with normalize = false multiplies the base, which adapters do not hold; use task_arithmetic"
                    .into(),
            ));
        }
        match self {
            Self::Models { models, base } => of_models(models, base.as_deref(), method, stored, directory, done),
            Self::IntoBase { adapters, base, preference } => {
                let adapters = Adapters::open(adapters, preference.as_deref())?;
                into_base(&adapters, base, method, stored, directory, done)
            }
            Self::Adapters { adapters, rank, preference } => {
                let adapters = Adapters::open(adapters, preference.as_deref())?;
                of_adapters(&adapters, *rank, method, stored, directory, done)
            }
        }
    }
}

fn of_models(
    models: &[PathBuf],
    base: Option<&Path>,
    method: &Method,
    stored: Option<Stored>,
    directory: &Path,
    done: Done<'_>,
) -> Result<MergeReport> {
    let name = method.name();
    match (base, method) {
        (Some(_), Method::Linear { .. }) => {
            return Err(Error::Input("linear uses no base; leave it out, or use task_arithmetic".into()));
        }
        (None, Method::Slerp { lambda, .. }) if lambda.to_bits() != 1f64.to_bits() => {
            return Err(Error::Input("slerp without a base has no lambda; name the base".into()));
        }
        (None, _) if method.needs_base() => {
            return Err(Error::Input(format!("{name} needs the base that all models were trained from; name it")));
        }
        _ => {}
    }
    let models = Models::open(models, base)?;
    let count = models.first().tensors.len();
    let angles = angles(method, 0..count, |i| models.tensors(i, models.base(i)?.as_deref()).map(Some))?;
    let tensor = |i: usize| {
        let base = models.base(i)?;
        let merged = method.merge(models.tensors(i, base.as_deref())?, &angles)?;
        Ok(match base {
            Some(base) => added(base, &merged, method.lambda()),
            None => merged,
        })
    };
    write_model(models.first(), stored, directory, done, tensor)?;
    Ok(report(count, method, &angles))
}

fn into_base(
    adapters: &Adapters,
    base: &Path,
    method: &Method,
    stored: Option<Stored>,
    directory: &Path,
    done: Done<'_>,
) -> Result<MergeReport> {
    let base = StoredModel::open(base)?;
    adapters.check(&base)?;
    let angles = angles(method, adapters.modules(), |module| adapters.products(module))?;
    let tensor = |i: usize| {
        let numbers = base.numbers(i)?;
        let module = base.tensors[i].name.strip_suffix(".weight").unwrap_or_default();
        match adapters.products(module)? {
            None => Ok(numbers),
            Some(products) => Ok(added(numbers, &method.merge(products, &angles)?, method.lambda())),
        }
    };
    write_model(&base, stored, directory, done, tensor)?;
    let mut report = report(base.tensors.len(), method, &angles);
    report.notes.extend(adapters.bases());
    Ok(report)
}

fn of_adapters(
    adapters: &Adapters,
    rank: Option<usize>,
    method: &Method,
    stored: Option<Stored>,
    directory: &Path,
    done: Done<'_>,
) -> Result<MergeReport> {
    let whole = adapters.whole_rank();
    let rank = match (rank, method) {
        (Some(rank), _) if !(1..=MAX_RANK).contains(&rank) => {
            return Err(Error::Input(format!("rank is {rank}; expected 1 to {MAX_RANK}")));
        }
        (Some(rank), _) => rank,
        (None, Method::Ties { .. } | Method::Dare { .. }) => {
            return Err(Error::Input(format!(
                "{} leaves products of full rank, which no adapter holds: give a rank, or the base for a whole model",
                method.name()
            )));
        }
        (None, _) => whole,
    };
    let angles = angles(method, adapters.modules(), |module| adapters.products(module))?;
    let mut report = report(0, method, &angles);
    let mut pairs: BTreeMap<String, Factors> = BTreeMap::new();
    let count = adapters.modules().count();
    for module in adapters.modules() {
        let (factors, share) = match method.factors(&weight_of(module), &angles) {
            Some(factors) => {
                let factors: Vec<f64> = factors.iter().map(|factor| method.lambda() * factor).collect();
                let stacked = adapters.stacked(module, &factors)?;
                if rank >= whole { (stacked, 1.0) } else { stacked.truncated(rank)? }
            }
            None => {
                let Some(products) = adapters.products(module)? else { continue };
                let &[outputs, inputs] = &products.shape[..] else { continue };
                let merged = method.merge(products, &angles)?;
                let scaled: Vec<f64> = merged.iter().map(|x| method.lambda() * x).collect();
                Factors::of_product(&scaled, outputs, inputs, rank)?
            }
        };
        if report.least.as_ref().is_none_or(|(_, least)| share < *least) {
            report.least = Some((module.to_owned(), share));
        }
        pairs.insert(module.to_owned(), factors);
        done(pairs.len(), count);
    }
    adapters.write(directory, rank, stored, &pairs)?;
    report.tensors = pairs.len();
    report.rank = Some(rank);
    report.notes.extend(adapters.bases());
    Ok(report)
}

/// Writes a model of the tensors that `tensor` makes, by their places.
fn write_model(
    first: &StoredModel,
    stored: Option<Stored>,
    directory: &Path,
    done: Done<'_>,
    mut tensor: impl FnMut(usize) -> Result<Vec<f64>>,
) -> Result<()> {
    let slots = first.slots(stored)?;
    let places: BTreeMap<&str, usize> = slots.iter().enumerate().map(|(i, slot)| (slot.name.as_str(), i)).collect();
    let mut written = 0;
    write(directory, "model", &slots, SHARD_BYTES, |slot| {
        let numbers = tensor(places[slot.name.as_str()])?;
        written += 1;
        done(written, slots.len());
        Ok(numbers)
    })?;
    // The embedding is the first of the tensors.
    save_json(&directory.join("config.json"), &first.config.to_json(slots[0].stored.torch()))
}

/// The angles between the vectors of the two models, where the method asks for them.
fn angles<K>(
    method: &Method,
    keys: impl Iterator<Item = K>,
    mut tensors: impl FnMut(K) -> Result<Option<Tensors>>,
) -> Result<Angles> {
    let mut angles = Angles::new();
    let Method::Slerp { vector, .. } = method else { return Ok(angles) };
    for key in keys {
        let Some(tensors) = tensors(key)? else { continue };
        if let [a, b] = &tensors.data[..] {
            angles.entry(vector.of(&tensors.name).to_owned()).or_default().add(a, b);
        }
    }
    Ok(angles)
}

fn report(tensors: usize, method: &Method, angles: &Angles) -> MergeReport {
    let straight = match method {
        Method::Slerp { t, .. } => {
            angles.iter().filter(|(_, angle)| angle.at(*t).straight).map(|(name, _)| name.clone()).collect()
        }
        _ => Vec::new(),
    };
    MergeReport { tensors, vectors: angles.len(), straight, ..MergeReport::default() }
}

/// `base + λ·merged`.
fn added(mut base: Vec<f64>, merged: &[f64], lambda: f64) -> Vec<f64> {
    base.iter_mut().zip(merged).for_each(|(base, x)| *base += lambda * x);
    base
}
