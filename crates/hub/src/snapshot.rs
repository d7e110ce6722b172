//! What a revision holds: asked of the Hub, or remembered by the cache.

use std::path::PathBuf;

use crate::cache::Cache;
use crate::client::{Client, Failure};
use crate::error::Fault;
use crate::fetch::fetch;
use crate::repo::{Repo, is_commit, is_inside};
use crate::{Error, Result};

/// More than the Hub's answer for the largest repository.
const LONGEST_LISTING: u64 = 64 << 20;
/// The Hub's own client does not trust a listing that is longer.
const MOST_LISTED: usize = 50_000;

/// The files of one commit, and the means to fetch them.
pub(crate) struct Snapshot<'a> {
    pub(crate) repo: &'a Repo,
    pub(crate) commit: String,
    /// Names of all files; of those that are here where `is_listed` is false.
    pub(crate) files: Vec<String>,
    /// Whether the Hub listed the files.
    pub(crate) is_listed: bool,
    cache: &'a Cache,
    /// Absent where only the cache may be used.
    client: Option<&'a Client>,
}

impl<'a> Snapshot<'a> {
    /// Does something with a revision: with what the cache holds of it where that is enough, else with what the Hub
    /// says.
    ///
    /// `first` names what is missing where the cache does not even know the revision.
    pub(crate) fn open<T>(
        cache: &'a Cache,
        client: Option<&'a Client>,
        repo: &'a Repo,
        first: &str,
        work: impl Fn(&Snapshot) -> Result<T>,
    ) -> Result<T> {
        let cached = Self::cached(cache, client, repo);
        let Some(client) = client else {
            return work(&cached.ok_or_else(|| not_cached(cache, repo, first))?);
        };
        if let Some(snapshot) = cached.as_ref().filter(|snapshot| snapshot.is_listed) {
            match work(snapshot) {
                // The branch may have moved, or its history may have been rewritten.
                Err(error) if error.is_absence() => {}
                outcome => return outcome,
            }
        }
        match Self::look_up(cache, client, repo) {
            Ok(snapshot) => {
                let outcome = work(&snapshot)?;
                cache.remember_commit(repo, &snapshot.commit);
                Ok(outcome)
            }
            // The network is down, and everything may be here, put there by another program.
            Err(fault) if fault.is_unreachable() => {
                let here = cached.map(|snapshot| Self { client: None, ..snapshot });
                here.and_then(|here| work(&here).ok()).ok_or_else(|| could_not_look_up(repo, fault))
            }
            Err(fault) => Err(could_not_look_up(repo, fault)),
        }
    }

    fn cached(cache: &'a Cache, client: Option<&'a Client>, repo: &'a Repo) -> Option<Self> {
        let commit = cache.commit(repo)?;
        let listing = cache.listing(repo, &commit);
        let is_listed = listing.is_some();
        let files = listing.unwrap_or_else(|| cache.present(repo, &commit));
        Some(Self { repo, commit, files, is_listed, cache, client })
    }

    fn look_up(cache: &'a Cache, client: &'a Client, repo: &'a Repo) -> std::result::Result<Self, Fault> {
        let path = repo.look_up_path();
        let (commit, files) = client.patiently(|| {
            let value = client.json(&path, LONGEST_LISTING)?;
            let listed = listed(&value).and_then(|found| of_revision(found, &repo.revision));
            listed.map_err(|what| Failure::last(Fault::Answer(format!("the answer to {path} {what}"))))
        })?;
        cache.remember_listing(repo, &commit, &files);
        Ok(Self { repo, commit, files, is_listed: true, cache, client: Some(client) })
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.files.iter().any(|known| known == file)
    }

    /// The local path of a file.
    pub(crate) fn get(&self, file: &str) -> Result<PathBuf> {
        let place = self.cache.snapshot(self.repo, &self.commit).join(file);
        if place.is_file() {
            return Ok(place);
        }
        let Some(client) = self.client else { return Err(not_cached(self.cache, self.repo, file)) };
        if !self.has(file) {
            return Err(self.repo.wrong(format!("{file} is not among its files ({})", some_of(&self.files))));
        }
        fetch(client, self.cache, self.repo, &self.commit, file).map_err(|fault| Error::Fetch {
            name: self.repo.name.clone(),
            revision: self.repo.revision.clone(),
            file: file.to_owned(),
            fault: Box::new(fault),
        })
    }

    /// The error for a file that is not here, whether or not it was ever there.
    pub(crate) fn not_cached(&self, file: &str) -> Error {
        not_cached(self.cache, self.repo, file)
    }
}

fn not_cached(cache: &Cache, repo: &Repo, file: &str) -> Error {
    Error::Offline {
        name: repo.name.clone(),
        revision: repo.revision.clone(),
        file: file.to_owned(),
        cache: cache.root.clone(),
        cached: cache.revisions(repo),
    }
}

fn could_not_look_up(repo: &Repo, fault: Fault) -> Error {
    Error::LookUp { name: repo.name.clone(), revision: repo.revision.clone(), fault: Box::new(fault) }
}

/// A few of many names.
pub(crate) fn some_of(names: &[String]) -> String {
    match names {
        [] => "it has none".to_owned(),
        few if few.len() <= 12 => few.join(", "),
        many => format!("{}, … {} in all", many.iter().take(12).cloned().collect::<Vec<_>>().join(", "), many.len()),
    }
}

/// Where a commit was asked for, the answer has to be of it: whoever names one means these very bytes.
fn of_revision(found: (String, Vec<String>), revision: &str) -> std::result::Result<(String, Vec<String>), String> {
    if is_commit(revision) && !found.0.eq_ignore_ascii_case(revision) {
        return Err(format!("is of commit {}, and {revision} was asked for", found.0));
    }
    Ok(found)
}

/// Commit and files of the Hub's description of a revision.
fn listed(value: &serde_json::Value) -> std::result::Result<(String, Vec<String>), String> {
    let commit = value["sha"].as_str().filter(|text| is_commit(text)).ok_or("has no commit under sha")?;
    let siblings = value["siblings"].as_array().ok_or("has no list of files under siblings")?;
    if siblings.len() > MOST_LISTED {
        return Err(format!(
            "lists {} files, and the hub cuts lists of more than {MOST_LISTED}: download the repository with `hf \
             download` and name the directory",
            siblings.len()
        ));
    }
    let name = |sibling: &serde_json::Value| match sibling["rfilename"].as_str() {
        // What the network says may not lead out of the cache.
        Some(name) if is_inside(name) => Ok(name.to_owned()),
        _ => Err(format!("lists {sibling}, which is no file of the repository")),
    };
    let mut files = siblings.iter().map(name).collect::<std::result::Result<Vec<_>, _>>()?;
    files.sort_unstable();
    files.dedup();
    Ok((commit.to_owned(), files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_listing_is_checked() {
        let commit = "ab".repeat(20);
        let of = |name: &str| json!({ "sha": commit, "siblings": [{ "rfilename": name }] });
        assert_eq!(listed(&of("a/b.csv")).unwrap(), (commit.clone(), vec!["a/b.csv".to_owned()]));
        for outside in ["../x", "/etc/passwd", "a/../../x", ""] {
            assert!(listed(&of(outside)).unwrap_err().contains("no file of the repository"), "{outside}");
        }
        for (bad, expected) in [
            (json!([]), "sha"),
            (json!({ "sha": "../../x", "siblings": [] }), "sha"),
            (json!({ "sha": commit }), "siblings"),
            (json!({ "sha": commit, "siblings": [3] }), "no file"),
            (json!({ "sha": commit, "siblings": vec![json!({ "rfilename": "a" }); 50_001] }), "`hf download`"),
        ] {
            assert!(listed(&bad).unwrap_err().contains(expected), "{expected}");
        }
    }

    #[test]
    fn long_lists_are_shortened() {
        let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(some_of(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … 20 in all");
        assert_eq!(some_of(&names[..2]), "0, 1");
    }
}
