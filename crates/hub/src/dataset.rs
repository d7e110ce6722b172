//! A data set by name, subset and split.

use std::path::PathBuf;

use crate::cache::Cache;
use crate::client::Client;
use crate::repo::{Kind, Repo};
use crate::snapshot::{Snapshot, some_of};
use crate::splits::{choose, missing_shard, of_own_files, of_parquet_branch};
use crate::{Error, Fault, Result};

/// The branch on which the Hub keeps every data set as Parquet.
const PARQUET: &str = "refs/convert/parquet";
const MAIN: &str = "main";

/// Which part of which data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatasetRequest {
    /// `owner/name`.
    pub name: String,
    /// Branch, tag or commit of the repository's own files. When absent: what the Hub has converted to Parquet
    /// (`refs/convert/parquet`), or the branch `main` where it has converted nothing.
    pub revision: Option<String>,
    /// The subset (what `datasets` calls a configuration). When absent: `default`, or the only one.
    pub subset: Option<String>,
    /// The split; `train` when absent. Where there is none of this name, one that means the same is taken (`dev`, `val` and
    /// `validation`; `test` and `eval`), if there is only one.
    pub split: Option<String>,
}

/// The files of one split.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dataset {
    /// Local paths, in the order of their names: that of the rows.
    pub files: Vec<PathBuf>,
    /// The revision that was chosen.
    pub revision: String,
    /// The commit it stands for: name it as the revision to get the same files for ever.
    pub commit: String,
    /// The subset that was chosen.
    pub subset: String,
    /// The split that was chosen.
    pub split: String,
}

pub(crate) fn dataset(cache: &Cache, client: Option<&Client>, request: &DatasetRequest) -> Result<Dataset> {
    let at = |revision: &str| Repo::new(Kind::Dataset, &request.name, revision);
    if let Some(revision) = &request.revision {
        let repo = at(revision)?;
        let found = open(cache, client, &repo, request)?;
        return found.ok_or_else(|| repo.wrong("there are no data files of the form SUBSET/SPLIT/0000.parquet".into()));
    }
    let (parquet, main) = (at(PARQUET)?, at(MAIN)?);
    let is_known_to_lack = cache.commit(&parquet).is_none() && cache.lacks_parquet(&parquet);
    if !(is_known_to_lack && cache.commit(&main).is_some()) {
        match open(cache, client, &parquet, request) {
            Ok(Some(dataset)) => return Ok(dataset),
            Ok(None) => {}
            Err(Error::LookUp { fault, .. }) if is_no_branch(&fault) => {}
            Err(error) => return Err(error),
        }
    }
    let found = open(cache, client, &main, request)?;
    if cache.commit(&parquet).is_none() {
        // Offline the choice shall be the same.
        cache.remember_no_parquet(&parquet);
    }
    found.ok_or_else(|| main.wrong("there are no data files".into()))
}

fn is_no_branch(fault: &Fault) -> bool {
    matches!(fault, Fault::Missing { what } if *what != "repository")
}

/// The files of a revision; `None` where the Parquet branch is there and empty.
fn open(cache: &Cache, client: Option<&Client>, repo: &Repo, request: &DatasetRequest) -> Result<Option<Dataset>> {
    Snapshot::open(cache, client, repo, "a list of its files", |snapshot| files(snapshot, request))
}

fn files(snapshot: &Snapshot, request: &DatasetRequest) -> Result<Option<Dataset>> {
    let repo = snapshot.repo;
    let is_converted = repo.revision == PARQUET;
    let entries = if is_converted { of_parquet_branch(&snapshot.files) } else { of_own_files(&snapshot.files) };
    if entries.is_empty() && is_converted && snapshot.is_listed {
        return Ok(None);
    }
    let choice = choose(&entries, request.subset.as_deref(), request.split.as_deref()).map_err(|reason| {
        let all = if entries.is_empty() { format!("; its files: {}", some_of(&snapshot.files)) } else { String::new() };
        repo.wrong(format!("{reason}{all}"))
    })?;
    // Another program has cached this, perhaps in part.
    if !snapshot.is_listed
        && let Some(missing) = missing_shard(&choice.files)
    {
        return Err(snapshot.not_cached(&missing));
    }
    let files = choice.files.iter().map(|file| snapshot.get(file)).collect::<Result<_>>()?;
    let (revision, commit) = (repo.revision.clone(), snapshot.commit.clone());
    Ok(Some(Dataset { files, revision, commit, subset: choice.subset, split: choice.split }))
}
