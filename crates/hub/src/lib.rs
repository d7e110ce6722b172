//! Names on the Hugging Face Hub become local paths. Nothing else of candlewick knows the network.
//!
//! ```no_run
//! use candlewick_hub::{DatasetRequest, Hub, Options};
//!
//! let lookup = |name: &str| std::env::var(name).ok();
//! let hub = Hub::new(Options::from_lookup(lookup)?)?;
//! let model = hub.model("HuggingFaceTB/SmolLM2-135M", "main")?;
//! let request = DatasetRequest { name: "Anthropic/hh-rlhf".into(), split: Some("test".into()), ..Default::default() };
//! for file in hub.dataset(&request)?.files {
//!     println!("{}", file.display());
//! }
//! # Ok::<(), candlewick_hub::Error>(())
//! ```
//!
//! **The cache** is that of Python's `huggingface_hub`: what one has fetched the other finds, and both wait for each
//! other's locks. What is in the cache is used without asking the Hub: a branch stays what it was when it was fetched.
//! Name a commit, or empty the cache, for another. Offline, the choice of files is the one made online.
//!
//! **A data set** without a revision is what the Hub has converted to Parquet, else the repository's own files. Subsets
//! and splits of own files are told by their names, as Python's `datasets` does it; the configurations that a card may
//! hold are not read.
//!
//! **Downloads** are whole or not there. A file gets its name in one step after its length, and for large files its
//! SHA-256, agree with what the Hub announced; until then it is a part that the next call goes on from. Names, links and
//! ETags that would lead out of the cache are refused, and so is another commit than the one that was named. The token
//! goes to the endpoint alone, not to the hosts that it redirects to, and over plain http only to this machine.
//!
//! **Trouble that may pass** (429, 5xx, broken connections, silence) is met with a few more tries, see [`Options`].
//! Every error says what to do.
mod address;
mod cache;
mod client;
mod dataset;
mod error;
mod fetch;
mod model;
mod options;
mod repo;
mod snapshot;
mod splits;

use std::path::PathBuf;

pub use dataset::{Dataset, DatasetRequest};
pub use error::{Error, Fault, Result};
pub use options::Options;

use cache::Cache;
use client::Client;
use repo::{Kind, Repo};
use snapshot::Snapshot;

/// A connection to the Hub, or to its cache alone.
#[derive(Debug)]
pub struct Hub {
    client: Option<Client>,
    cache: Cache,
}

impl Hub {
    /// Sets the client up; nothing is fetched yet.
    ///
    /// # Errors
    /// An endpoint, a proxy or a token that cannot be used.
    pub fn new(options: Options) -> Result<Self> {
        let cache = Cache { root: options.cache_directory()? };
        let client = if options.offline { None } else { Some(Client::new(&options)?) };
        Ok(Self { client, cache })
    }

    /// Fetches a model (configuration, tokenizer, safetensors or all its shards) and returns its directory.
    ///
    /// # Errors
    /// The repository holds no such model, a file cannot be fetched, or in offline mode is not cached.
    pub fn model(&self, name: &str, revision: &str) -> Result<PathBuf> {
        let repo = Repo::new(Kind::Model, name, revision)?;
        Snapshot::open(&self.cache, self.client.as_ref(), &repo, model::CONFIG, model::model)
    }

    /// Fetches a PEFT adapter and returns its directory.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn adapter(&self, name: &str, revision: &str) -> Result<PathBuf> {
        let repo = Repo::new(Kind::Model, name, revision)?;
        Snapshot::open(&self.cache, self.client.as_ref(), &repo, model::ADAPTER, model::adapter)
    }

    /// Fetches the files of one split of a data set.
    ///
    /// # Errors
    /// There is no such subset or split, or several and none is named (the text lists what there is); a file cannot be
    /// fetched, or in offline mode is not cached.
    pub fn dataset(&self, request: &DatasetRequest) -> Result<Dataset> {
        dataset::dataset(&self.cache, self.client.as_ref(), request)
    }

    /// Fetches one file of a data set and returns its path.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn dataset_file(&self, name: &str, revision: &str, file: &str) -> Result<PathBuf> {
        let repo = Repo::new(Kind::Dataset, name, revision)?;
        if !repo::is_inside(file) {
            return Err(Error::Setup(format!("{file:?} is no file of {name}; expected a path inside the repository")));
        }
        Snapshot::open(&self.cache, self.client.as_ref(), &repo, file, |snapshot| snapshot.get(file))
    }
}
