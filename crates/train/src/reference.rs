//! Where reference log-probabilities come from.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candlewick_data::Batch;
use candlewick_kernels::{Float, elementwise};
use candlewick_losses::{Needs, Outputs, TokenScores};
use candlewick_model::{Packed, Parameters};
use xxhash_rust::xxh3::Xxh3;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::pack::{Micro, PackedRows, to_be_scored};
use crate::policy::{Policy, Trainable, Tuning, grid};
use crate::tensor_file::{self, Column, Columns, Element};

/// The policy that an objective compares with. Its scores carry no gradient.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reference<T = f32> {
    /// There is none.
    None,
    /// A policy that nothing changes: a copy of the starting one, or another model.
    Frozen(Box<dyn Policy>),
    /// The policy without its adapter.
    AdapterOff,
    /// Log-probabilities computed before.
    Precomputed(PrecomputedReference),
    /// The policy with other values of what is trained, which follow it as the objective's
    /// [`ReferenceUpdate`](candlewick_losses::ReferenceUpdate) says.
    Moving(MovingReference<T>),
}

impl<T: Element> Reference<T> {
    /// Scores the rows; the one place where references are detached.
    pub(crate) fn score<P>(&mut self, policy: &mut P, rows: &PackedRows) -> Result<Option<TokenScores>>
    where
        P: Trainable<Element = T>,
    {
        let scores = match self {
            Self::None => return Ok(None),
            Self::Frozen(reference) => reference.score(&rows.packed, Outputs::default())?,
            Self::AdapterOff => policy.score_without_adapter(&rows.packed, Outputs::default())?,
            Self::Precomputed(table) => table.score::<P::Element>(rows)?,
            Self::Moving(moving) => policy.score_with(&mut moving.parameters, &rows.packed, Outputs::default())?,
        };
        Ok(Some(scores.detach()))
    }
}

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

    /// Moves towards the policy by `weight`.
    pub(crate) fn follow<P: Trainable<Element = T>>(&mut self, policy: &mut P, weight: f64) -> Result<()> {
        let Tuning { parameters, workspace, .. } = policy.tuning();
        elementwise::mix(self.parameters.data_mut().into(), parameters.data().into(), weight, workspace)?;
        Ok(())
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let metadata = [("format", MOVING), ("version", "1"), ("layout", &layout(&self.parameters))];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        tensor_file::write(path, &metadata, &[("values", Column::new(self.parameters.data()))])
    }

    /// Reads what [`save`](Self::save) wrote, for the same layout.
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

/// Log-probabilities of scored tokens, found again by the hash of prompt, completion and mask.
///
/// # File format, version 1
/// A safetensors file. Its metadata MUST hold `format` = `candlewick-reference`, `version` = `1` and `weights`, the digest of
/// the reference's weights; a reader MUST refuse another version and another digest. Tensors: `keys` U64 `[2K]`, low and high
/// half of the 128-bit key of each row, ascending by key; `ends` U64 `[K]`, ascending, where each row's values end; `log_probs`
/// F64, the values.
#[derive(Debug, Clone)]
pub struct PrecomputedReference {
    path: PathBuf,
    weights: String,
    rows: BTreeMap<u128, Vec<f64>>,
}

impl PrecomputedReference {
    /// An empty table of a reference whose [`digest`](Trainable::digest) is `weights`. `path` names it in errors.
    pub fn new(weights: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), weights: weights.into(), rows: BTreeMap::new() }
    }

    /// Adds the rows of a batch, mismatched ones included, as `reference` scores them. Rows already there are skipped.
    ///
    /// # Errors
    /// Rows that the objective cannot use, or that the model does not know.
    pub fn add<P: Policy>(&mut self, reference: &mut P, batch: &Batch, needs: &Needs) -> Result<()> {
        let micro = Micro::new(batch, &to_be_scored(needs))?;
        for rows in std::iter::once(&micro.rows).chain(&micro.mismatched) {
            if rows.keys.iter().all(|key| self.rows.contains_key(key)) {
                continue;
            }
            let scores = reference.score(&rows.packed, Outputs::default())?;
            for (key, values) in rows.keys.iter().zip(targets_by_row(&rows.packed, &scores)?) {
                self.rows.entry(*key).or_insert(values);
            }
        }
        Ok(())
    }

    /// Whether every row of a micro-batch is there; the first that is not, as the error.
    pub(crate) fn check_holds(&self, micro: &Micro) -> Result<()> {
        std::iter::once(&micro.rows).chain(&micro.mismatched).try_for_each(|rows| self.find(rows).map(|_| ()))
    }

    /// The values of each row.
    fn find(&self, rows: &PackedRows) -> Result<Vec<&[f64]>> {
        let found = rows.keys.iter().zip(&rows.lengths).zip(&rows.places).map(|((key, length), place)| {
            let stored = self.rows.get(key).filter(|stored| stored.len() == *length);
            stored.map(Vec::as_slice).ok_or_else(|| Error::Reference {
                path: self.path.clone(),
                reason: format!("it has nothing for {place}: it was made from other rows, another order, tokenizer, mask or fewer steps; remove the file and start anew to have it made again"),
            })
        });
        found.collect()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the table to its path.
    ///
    /// # Errors
    /// The file cannot be written; what was there before stays whole.
    pub fn save(&self) -> Result<()> {
        let keys: Vec<u64> = self.rows.keys().flat_map(|key| [*key as u64, (*key >> 64) as u64]).collect();
        let ends: Vec<u64> = self
            .rows
            .values()
            .scan(0, |end, values| {
                *end += values.len() as u64;
                Some(*end)
            })
            .collect();
        let log_probs: Vec<f64> = self.rows.values().flatten().copied().collect();
        let metadata = [("format", FORMAT), ("version", "1"), ("weights", &self.weights)];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let columns =
            [("keys", Column::new(&keys)), ("ends", Column::new(&ends)), ("log_probs", Column::new(&log_probs))];
        checkpoint::write_file(&self.path, |path| tensor_file::write(path, &metadata, &columns))
    }

    /// Reads a table made with a reference whose digest is `weights`.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, of another format version, or made with other weights.
    pub fn load(path: &Path, weights: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Reference { path: path.to_owned(), reason };
        let again = "remove the file to have it made again";
        let file = Columns::read(path)?.map_err(|reason| refuse(format!("{reason}; {again}")))?;
        match (file.metadata("format"), file.metadata("version")) {
            (Some(FORMAT), Some("1")) => {}
            (Some(FORMAT), version) => {
                return Err(refuse(format!(
                    "format version {}, and this program reads 1; {again}",
                    version.unwrap_or("unknown")
                )));
            }
            _ => {
                return Err(refuse(
                    "not a file of reference log-probabilities; name another one in reference.path".into(),
                ));
            }
        }
        let made_with = file.metadata("weights").unwrap_or("unknown");
        if made_with != weights {
            return Err(refuse(format!(
                "made with the weights {made_with}, and this run starts from {weights}; {again}"
            )));
        }
        let damaged = |reason: String| refuse(format!("{reason}; {again}"));
        let keys = file.column::<u64>("keys").map_err(damaged)?;
        let ends = file.column::<u64>("ends").map_err(damaged)?;
        let log_probs = file.column::<f64>("log_probs").map_err(damaged)?;
        let mut rows = BTreeMap::new();
        let mut start = 0;
        for (key, end) in keys.chunks_exact(2).zip(&ends) {
            let end = usize::try_from(*end).unwrap_or(usize::MAX);
            let values = log_probs.get(start..end).ok_or_else(|| damaged("rows lie beyond the values".into()))?;
            rows.insert(u128::from(key[0]) | (u128::from(key[1]) << 64), values.to_vec());
            start = end;
        }
        if keys.len() != 2 * ends.len() || rows.len() != ends.len() || start != log_probs.len() {
            return Err(damaged("keys, rows and values do not match in number".into()));
        }
        Ok(Self { path: path.to_owned(), weights: weights.to_owned(), rows })
    }

    fn score<T: Element>(&self, rows: &PackedRows) -> Result<TokenScores> {
        let values: Vec<T> = self.find(rows)?.concat().into_iter().map(<T as Float>::from_f64).collect();
        let ones = vec![T::ONE; values.len()];
        Ok(TokenScores::new(grid(&rows.packed, &values)?, grid(&rows.packed, &ones)?)?)
    }
}

/// The log-probabilities of the targets, row by row.
fn targets_by_row(packed: &Packed, scores: &TokenScores) -> Result<Vec<Vec<f64>>> {
    let grid = scores.log_probs().to_dtype(candle_core::DType::F64)?.to_vec2::<f64>()?;
    let mut rows = vec![Vec::new(); packed.completions()];
    for target in packed.targets() {
        rows[target.completion as usize].push(grid[target.completion as usize][target.slot as usize]);
    }
    Ok(rows)
}

const FORMAT: &str = "candlewick-reference";
const MOVING: &str = "candlewick-moving-reference";
