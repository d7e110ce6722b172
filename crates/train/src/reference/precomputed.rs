//! Log-probabilities of a reference that were computed before.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candlewick_data::Batch;
use candlewick_kernels::Float;
use candlewick_losses::{Needs, Outputs, TokenScores};
use candlewick_model::Packed;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::pack::{Micro, PackedRows, to_be_scored};
use crate::policy::{Policy, grid};
use crate::tensor_file::{self, Column, Columns, Element};

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

    pub(super) fn score<T: Element>(&self, rows: &PackedRows) -> Result<TokenScores> {
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
