//! Names: of repositories, revisions and files, and what they look like in addresses and on disk.

use std::path::{Component, Path};

use crate::{Error, Result};

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Dataset,
}

/// One repository at one revision. Both names are checked, so that they can stand in addresses and paths.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) revision: String,
}

impl Repo {
    pub(crate) fn new(kind: Kind, name: &str, revision: &str) -> Result<Self> {
        let part_is_fine =
            |part: &str| !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_whitespace() || c == '\\');
        if name.split('/').count() > 2 || !name.split('/').all(part_is_fine) {
            return Err(Error::Setup(format!("{name:?} is no repository name; expected owner/name")));
        }
        if !is_inside(revision) || revision.contains(|c: char| c.is_whitespace() || c == '\\') {
            return Err(Error::Setup(format!(
                "{revision:?} is no revision of {name}; expected a branch, a tag or a commit"
            )));
        }
        Ok(Self { kind, name: name.to_owned(), revision: revision.to_owned() })
    }

    /// The folder in the cache.
    pub(crate) fn folder(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.name.replace('/', "--"))
    }

    /// Where the Hub says what the revision holds, below the endpoint.
    pub(crate) fn look_up_path(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("/api/{kind}/{}/revision/{}", escaped(&self.name, true), escaped(&self.revision, false))
    }

    /// Where a file of a commit is handed out, below the endpoint.
    pub(crate) fn file_path(&self, commit: &str, file: &str) -> String {
        let kind = match self.kind {
            Kind::Model => "",
            Kind::Dataset => "datasets/",
        };
        format!("/{kind}{}/resolve/{commit}/{}", escaped(&self.name, true), escaped(file, true))
    }

    pub(crate) fn wrong(&self, reason: String) -> Error {
        Error::Content { name: self.name.clone(), revision: self.revision.clone(), reason }
    }
}

/// Whether a relative path stays below where it starts.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\0')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Whether a text is a full commit.
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Percent-encodes what may not stand in a path of an address.
fn escaped(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slashes && byte == b'/');
        if plain { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_folders() {
        let repo = Repo::new(Kind::Dataset, "owner/a name".replace(' ', "-").as_str(), "refs/convert/parquet").unwrap();
        assert_eq!(repo.folder(), "datasets--owner--a-name");
        assert_eq!(repo.look_up_path(), "/api/datasets/owner/a-name/revision/refs%2Fconvert%2Fparquet");
        assert_eq!(repo.file_path("abc", "d é/x#1?.csv"), "/datasets/owner/a-name/resolve/abc/d%20%C3%A9/x%231%3F.csv");
        let model = Repo::new(Kind::Model, "gpt2", "main").unwrap();
        assert_eq!(model.folder(), "models--gpt2");
        assert_eq!(model.file_path("abc", "config.json"), "/gpt2/resolve/abc/config.json");
    }

    #[test]
    fn paths_that_lead_elsewhere_are_told() {
        for inside in ["a", "a/b.c", "..a/b"] {
            assert!(is_inside(inside), "{inside}");
        }
        for outside in ["", "..", "a/../b", "/a", "./a", "a/../../b", "a\0b"] {
            assert!(!is_inside(outside), "{outside}");
        }
    }
}
