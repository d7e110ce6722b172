//! Log-probabilities of a reference that were computed before.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candlewick_data::Batch;
use candlewick_kernels::Float;
use candlewick_losses::{Needs, Outputs, TokenScores};
use candlewick_model::{CausalLm, Packed};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::cache::{Lock, Manifest, Segment, SegmentRecord, refuse};
use crate::error::{Error, Result};
use crate::pack::{Micro, PackedRows, to_be_scored};
use crate::policy::{Policy, grid, weights_digest};
use crate::tensor_file::Element;

/// Log-probabilities of scored tokens, found again by the hash of reference, prompt, completion and mask.
///
/// They lie in a directory, the cache: in memory there are 32 bytes for each row of this reference, and values are read from the files
/// when they are asked for. The format is described in `docs/reference-cache.md`. Files of the format before it are read, and not
/// added to.
#[derive(Debug)]
pub struct PrecomputedReference {
    path: PathBuf,
    reference: String,
    /// Ascending by key, each key once.
    index: Vec<Place>,
    segments: Vec<Segment>,
    /// Names of the segments that are in the index.
    known: BTreeSet<String>,
    /// Rows that are not on the disk yet.
    fresh: BTreeMap<u128, Vec<f64>>,
    /// A file of version 1, to which nothing is added.
    is_file: bool,
}

/// Where the values of a row lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: u128,
    /// The first of its values, counted in those of its segment.
    from: u64,
    length: u32,
    segment: u32,
}

impl PrecomputedReference {
    /// An empty table of a reference with this [`reference_digest`]. `path` names it in errors, and is where it is written.
    pub fn new(reference: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            reference: reference.into(),
            index: Vec::new(),
            segments: Vec::new(),
            known: BTreeSet::new(),
            fresh: BTreeMap::new(),
            is_file: false,
        }
    }

    /// Opens what there is at `path` of a reference with this [`reference_digest`]: a cache, a file of the format before, or nothing yet.
    /// Every segment of this reference is read once and compared with its checksum; those of others are left alone.
    ///
    /// # Errors
    /// Files that cannot be read, are damaged, or of a newer format; a directory of something else; unless `shared`, a cache that holds
    /// other references only.
    pub fn open(path: &Path, reference: &str, shared: bool) -> Result<Self> {
        let mut table = Self::new(reference, path);
        if path.is_file() {
            table.is_file = true;
            if reference.ends_with(IN_BF16) {
                let reason = "a file of format version 1, which holds log-probabilities in f32, and this run computes in bf16; leave \
                              reference.path out or name a directory, or set train.dtype = \"f32\"";
                return Err(refuse(path, reason.into()));
            }
            let weights = reference.split('/').next().unwrap_or_default();
            let mut segment = Segment::of_version_1(path, weights)?;
            segment.keys.iter_mut().for_each(|key| *key = of_reference(reference, *key));
            table.take_in(segment);
            table.index.sort_unstable();
            return Ok(table);
        }
        let manifest = Manifest::read(path)?;
        table.take_in_new(&manifest)?;
        if !shared && table.segments.is_empty() && !manifest.segments.is_empty() {
            let others: BTreeSet<&str> = manifest.segments.iter().map(|segment| segment.reference.as_str()).collect();
            let others = others.into_iter().collect::<Vec<_>>().join(", ");
            return Err(refuse(
                path,
                format!(
                    "it was made with other weights, adapters or settings of the model ({others}) than this run starts from \
                     ({reference}); name another directory in reference.path, or set reference.shared = true to keep both in it"
                ),
            ));
        }
        Ok(table)
    }

    /// Adds the rows of a batch, mismatched ones included, as `reference` scores them. Rows already there are skipped.
    ///
    /// # Errors
    /// Rows that the objective cannot use, or that the model does not know.
    pub fn add<P: Policy>(&mut self, reference: &mut P, batch: &Batch, needs: &Needs) -> Result<()> {
        let micro = Micro::new(batch, &to_be_scored(needs))?;
        for rows in std::iter::once(&micro.rows).chain(&micro.mismatched) {
            let keys: Vec<u128> = rows.keys.iter().map(|key| of_reference(&self.reference, *key)).collect();
            if keys.iter().all(|key| self.has(*key)) {
                continue;
            }
            let scores = reference.score(&rows.packed, Outputs::default())?;
            for (key, values) in keys.into_iter().zip(targets_by_row(&rows.packed, &scores)?) {
                if !self.has(key) {
                    self.fresh.insert(key, values);
                }
            }
        }
        Ok(())
    }

    /// Writes the rows that are not on the disk yet, as one segment more. Processes may do so at once; each waits for the others. One that
    /// is killed meanwhile leaves what was there before.
    ///
    /// # Errors
    /// The files cannot be written, or what others wrote there cannot be read; the rows stay in memory. A file of version 1.
    pub fn append(&mut self) -> Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        if self.is_file {
            return Err(refuse(
                &self.path,
                "a file of format version 1, which is read and not added to; name a directory in reference.path".into(),
            ));
        }
        let _lock = Lock::take(&self.path)?;
        let mut manifest = Manifest::read(&self.path)?;
        if manifest.segments.is_empty() {
            // There is a manifest before there is a segment.
            manifest.write(&self.path)?;
        }
        self.take_in_new(&manifest)?;
        let (index, fresh) = (&self.index, &mut self.fresh);
        fresh.retain(|key, _| find(index, *key).is_none());
        if fresh.is_empty() {
            return Ok(());
        }
        manifest.append(&self.path, &self.reference, fresh)?;
        self.take_in_new(&manifest)?;
        self.fresh.clear();
        Ok(())
    }

    /// As [`append`](Self::append), once there are enough rows for a segment: 1,024, or a sixteenth of those that are there.
    pub(crate) fn append_when_due(&mut self) -> Result<()> {
        if self.fresh.len() >= LEAST_SEGMENT.max(self.index.len() / 16) { self.append() } else { Ok(()) }
    }

    /// Whether every row of a micro-batch is there; the first that is not, as the error.
    pub(crate) fn check_holds(&self, micro: &Micro) -> Result<()> {
        for rows in std::iter::once(&micro.rows).chain(&micro.mismatched) {
            let lacks = |((key, length), _): &((&u128, &usize), &String)| {
                self.length(of_reference(&self.reference, **key)) != Some(**length)
            };
            if let Some((_, place)) = rows.keys.iter().zip(&rows.lengths).zip(&rows.places).find(lacks) {
                return Err(self.lacks(place));
            }
        }
        Ok(())
    }

    /// The log-probabilities `[N,T]` of the completions of a batch, without mismatched ones, as [`Policy::score`] lays them out.
    ///
    /// # Errors
    /// Rows that are not there; files that cannot be read.
    pub fn scores<T: Element>(&self, batch: &Batch) -> Result<TokenScores> {
        self.score::<T>(&PackedRows::of_examples(&batch.examples)?)
    }

    pub(super) fn score<T: Element>(&self, rows: &PackedRows) -> Result<TokenScores> {
        let mut values: Vec<T> = Vec::with_capacity(rows.packed.targets().len());
        for ((key, length), place) in rows.keys.iter().zip(&rows.lengths).zip(&rows.places) {
            let found = self.values(of_reference(&self.reference, *key))?.filter(|values| values.len() == *length);
            let found = found.ok_or_else(|| self.lacks(place))?;
            values.extend(found.into_iter().map(<T as Float>::from_f64));
        }
        let ones = vec![T::ONE; values.len()];
        Ok(TokenScores::new(grid(&rows.packed, &values)?, grid(&rows.packed, &ones)?)?)
    }

    fn lacks(&self, place: &str) -> Error {
        let reason = format!(
            "it has nothing for {place}: it was made from other rows, another order, tokenizer, mask or fewer steps; {}",
            match self.is_file {
                true =>
                    "a file of format version 1 is not added to: remove it, and leave reference.path out or name a directory",
                false => "start anew to have what is missing added",
            }
        );
        refuse(&self.path, reason)
    }

    /// The values of a row.
    fn values(&self, key: u128) -> Result<Option<Vec<f64>>> {
        if let Some(values) = self.fresh.get(&key) {
            return Ok(Some(values.clone()));
        }
        let Some(place) = find(&self.index, key) else { return Ok(None) };
        let segment = &self.segments[place.segment as usize];
        let values = segment.values.read(place.from, place.from + u64::from(place.length));
        values.map(Some).map_err(Error::io("reading", &segment.path))
    }

    fn length(&self, key: u128) -> Option<usize> {
        let stored = || find(&self.index, key).map(|place| place.length as usize);
        self.fresh.get(&key).map(Vec::len).or_else(stored)
    }

    fn has(&self, key: u128) -> bool {
        self.length(key).is_some()
    }

    /// Takes in the segments of this reference that are not in the index.
    fn take_in_new(&mut self, manifest: &Manifest) -> Result<()> {
        let is_new =
            |segment: &&SegmentRecord| segment.reference == self.reference && !self.known.contains(&segment.name);
        for record in manifest.segments.iter().filter(is_new).cloned().collect::<Vec<_>>() {
            let segment = record.open(&self.path)?;
            self.take_in(segment);
            self.known.insert(record.name);
        }
        // Of a row that two processes wrote, the first one counts.
        self.index.sort_unstable_by_key(|place| (place.key, place.segment));
        self.index.dedup_by_key(|place| place.key);
        self.index.shrink_to_fit();
        Ok(())
    }

    fn take_in(&mut self, mut segment: Segment) {
        let number = u32::try_from(self.segments.len()).expect("fewer segments than files can be open");
        let mut from = 0;
        for (key, end) in std::mem::take(&mut segment.keys).into_iter().zip(std::mem::take(&mut segment.ends)) {
            let length = u32::try_from(end - from).expect("a row is shorter than a context");
            self.index.push(Place { key, from, length, segment: number });
            from = end;
        }
        self.segments.push(segment);
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.index.len() + self.fresh.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is a file of format version 1, which is read and not added to.
    pub(crate) fn is_file(&self) -> bool {
        self.is_file
    }
}

/// The end of the [`reference_digest`] of a model that scores in bf16, which says other numbers than in f32.
pub(crate) const IN_BF16: &str = "-bf16";

/// What the log-probabilities of a model depend on beside the tokens: a digest of its weights and adapter, `/`, and one of the settings by
/// which models of the same weights compute differently.
pub fn reference_digest<T: Element>(model: &CausalLm<T>) -> String {
    let config = model.config();
    let settings = format!(
        "{} {} {} {:?} {:?} {:?} {} {:?}",
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.rms_norm_eps,
        config.rope_theta,
        config.rope_scaling,
        config.tie_word_embeddings,
        model.adapter_scales(),
    );
    format!("{}/xxh3-128:{:032x}", weights_digest(model), xxh3_128(settings.as_bytes()))
}

/// The key of a row among those of all references.
fn of_reference(reference: &str, row: u128) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(reference.as_bytes());
    hasher.update(&row.to_le_bytes());
    hasher.digest128()
}

fn find(index: &[Place], key: u128) -> Option<&Place> {
    index.binary_search_by_key(&key, |place| place.key).ok().map(|found| &index[found])
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

/// Rows of the smallest segment that is written before the last.
const LEAST_SEGMENT: usize = 1024;
