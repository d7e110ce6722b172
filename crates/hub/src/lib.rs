//! Names on the Hugging Face Hub become local paths. Nothing else of candlewick knows the network.
//!
//! Files land in the cache that Python's `huggingface_hub` uses, so what one has fetched the other finds.
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a name and a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Hub did not hand out a file.
    #[error("{name} at revision {revision}: {file} could not be fetched: {reason}")]
    Fetch {
        /// Repository.
        name: String,
        /// Branch, tag or commit.
        revision: String,
        /// File in it.
        file: String,
        /// What happened and what to do.
        reason: String,
    },
    /// Offline, and the cache lacks a file.
    #[error("{name} at revision {revision}: {file} is not in the cache {} and offline mode is on; fetch it once while online", cache.display())]
    Offline {
        /// Repository.
        name: String,
        /// Branch, tag or commit.
        revision: String,
        /// File in it.
        file: String,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// The client could not be set up, or a name is no repository name.
    #[error("{0}")]
    Setup(String),
}

/// Where to fetch from and where to keep it. The caller reads the environment, not this crate.
#[derive(Clone, Default)]
pub struct Options {
    /// The cache (`$HF_HOME/hub`); the library's default place when absent.
    pub cache: Option<PathBuf>,
    /// Address of the Hub (`$HF_ENDPOINT`); the public one when absent.
    pub endpoint: Option<String>,
    /// Access token (`$HF_TOKEN`).
    pub token: Option<String>,
    /// Use the cache only (`$HF_HUB_OFFLINE`).
    pub offline: bool,
}

// A token is nobody's business in a log.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        let Self { cache, endpoint, offline, .. } = self;
        let mut options = f.debug_struct("Options");
        options
            .field("cache", cache)
            .field("endpoint", endpoint)
            .field("token", &token)
            .field("offline", offline)
            .finish()
    }
}

/// A connection to the Hub, or to its cache alone.
#[derive(Debug)]
pub struct Hub {
    api: Option<Api>,
    cache: Cache,
}

/// Where `huggingface_hub` keeps its files unless told otherwise.
fn default_cache() -> Result<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let home =
        home.ok_or_else(|| Error::Setup("there is no home directory to keep files in; name a cache (HF_HOME)".into()))?;
    Ok(home.join(".cache/huggingface/hub"))
}

/// Files a model directory may do without.
const OPTIONAL: [&str; 5] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "added_tokens.json",
];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Hub {
    /// Sets the client up; nothing is fetched yet.
    ///
    /// # Errors
    /// An endpoint or token that cannot be used.
    pub fn new(options: Options) -> Result<Self> {
        let cache = match options.cache {
            Some(cache) => Cache::new(cache),
            // hf-hub's default panics where there is no home directory.
            None => Cache::new(default_cache()?),
        };
        if options.offline {
            return Ok(Self { api: None, cache });
        }
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_progress(false).with_retries(3);
        if let Some(endpoint) = options.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        // Also where there is none: a token that lies about in the cache is not sent unasked.
        builder = builder.with_token(options.token);
        let api = builder.build().map_err(|e| Error::Setup(format!("the hub client could not be set up: {e}")))?;
        Ok(Self { api: Some(api), cache })
    }

    /// Fetches a model (configuration, tokenizer, safetensors or all its shards) and returns its directory.
    ///
    /// A branch that is cached is not looked up again: what it pointed to when it was fetched stays. Name a commit, or
    /// empty the cache, for another.
    ///
    /// # Errors
    /// A file cannot be fetched, or in offline mode is not cached.
    pub fn model(&self, name: &str, revision: &str) -> Result<PathBuf> {
        let files = self.files(name, revision, RepoType::Model)?;
        let config = files.get("config.json")?;
        files.get("tokenizer.json")?;
        for file in OPTIONAL {
            files.get_optional(file)?;
        }
        match files.get_optional(INDEX)? {
            None => {
                files.get(WEIGHTS)?;
            }
            Some(index) => {
                for shard in shards(&index)? {
                    files.get(&shard)?;
                }
            }
        }
        Ok(config.parent().map(Path::to_path_buf).unwrap_or_default())
    }

    /// Fetches a PEFT adapter and returns its directory.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn adapter(&self, name: &str, revision: &str) -> Result<PathBuf> {
        let files = self.files(name, revision, RepoType::Model)?;
        files.get("adapter_model.safetensors")?;
        let config = files.get("adapter_config.json")?;
        Ok(config.parent().map(Path::to_path_buf).unwrap_or_default())
    }

    /// Fetches one file of a data set and returns its path.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn dataset_file(&self, name: &str, revision: &str, file: &str) -> Result<PathBuf> {
        self.files(name, revision, RepoType::Dataset)?.get(file)
    }

    fn files<'a>(&'a self, name: &'a str, revision: &'a str, kind: RepoType) -> Result<Files<'a>> {
        let well_formed = !name.is_empty()
            && name.split('/').count() <= 2
            && name
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_whitespace));
        if !well_formed {
            return Err(Error::Setup(format!("{name:?} is no repository name; expected owner/name")));
        }
        if revision.is_empty() || !is_inside(revision) || revision.contains(char::is_whitespace) {
            return Err(Error::Setup(format!(
                "{revision:?} is no revision of {name}; expected a branch, a tag or a commit"
            )));
        }
        let repo = Repo::with_revision(name.to_owned(), kind, revision.to_owned());
        let api = self.api.as_ref().map(|api| api.repo(repo.clone()));
        Ok(Files { name, revision, api, cache: &self.cache, repo })
    }
}

/// One repository at one revision.
struct Files<'a> {
    name: &'a str,
    revision: &'a str,
    api: Option<ApiRepo>,
    cache: &'a Cache,
    repo: Repo,
}

impl Files<'_> {
    fn get(&self, file: &str) -> Result<PathBuf> {
        self.get_optional(file)?.ok_or_else(|| {
            let (name, revision, file) = (self.name.to_owned(), self.revision.to_owned(), file.to_owned());
            match self.api {
                None => Error::Offline { name, revision, file, cache: self.cache.path().clone() },
                Some(_) => Error::Fetch {
                    name,
                    revision,
                    file,
                    reason: "there is no such file or repository (404); check the name, the revision, and that the model is in safetensors form".into(),
                },
            }
        })
    }

    /// `None` where the repository has no such file (or, offline, the cache lacks it).
    fn get_optional(&self, file: &str) -> Result<Option<PathBuf>> {
        let Some(api) = &self.api else { return Ok(self.cache.repo(self.repo.clone()).get(file)) };
        match api.get(file) {
            Ok(path) => Ok(Some(path)),
            Err(e) => match status(&e) {
                Some(404) => Ok(None),
                // The network is down and everything needed may be here: what is missing will be said by who needs it.
                None if OPTIONAL.contains(&file) => Ok(self.cache.repo(self.repo.clone()).get(file)),
                status => Err(Error::Fetch {
                    name: self.name.into(),
                    revision: self.revision.into(),
                    file: file.into(),
                    reason: explain(&e, status),
                }),
            },
        }
    }
}

/// The HTTP status behind an error.
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(request) => match **request {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        ApiError::TooManyRetries(inner) => status(inner),
        _ => None,
    }
}

fn explain(error: &ApiError, status: Option<u16>) -> String {
    match status {
        Some(code @ (401 | 403)) => {
            format!("access denied ({code}); set HF_TOKEN to a token that may read it, and accept its terms on the hub")
        }
        Some(429) => "too many requests (429); wait, or set HF_TOKEN".into(),
        Some(code) => format!("the hub answered {code}; try again later"),
        None => format!("{error}; check the network and HF_ENDPOINT, or work offline from a local path"),
    }
}

/// The files an index of shards names.
fn shards(index: &Path) -> Result<Vec<String>> {
    let wrong = |reason: String| Error::Setup(format!("{}: {reason}", index.display()));
    let text = std::fs::read_to_string(index).map_err(|e| wrong(e.to_string()))?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(format!("not JSON: {e}")))?;
    let map = value["weight_map"]
        .as_object()
        .ok_or_else(|| wrong("no weight_map; expected the index of a sharded model".into()))?;
    let mut names = Vec::with_capacity(map.len());
    for file in map.values() {
        // What the network says may not lead out of the cache.
        let name = file.as_str().filter(|name| is_inside(name));
        names.push(
            name.ok_or_else(|| wrong(format!("weight_map holds {file}, which is no file of the repository")))?
                .to_owned(),
        );
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Whether a relative path stays below where it starts.
fn is_inside(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}
