//! What can go wrong between a name and a path, each with what to do about it.

use std::path::PathBuf;
use std::time::Duration;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a name and a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Hub did not hand out a file.
    #[error("{name} at revision {revision}: {file} could not be fetched: {fault}")]
    Fetch {
        /// Repository.
        name: String,
        /// Branch, tag or commit.
        revision: String,
        /// File in it.
        file: String,
        /// What happened and what to do.
        fault: Box<Fault>,
    },
    /// The Hub did not say what a revision holds.
    #[error("{name} at revision {revision} could not be looked up: {fault}")]
    LookUp {
        /// Repository.
        name: String,
        /// Branch, tag or commit.
        revision: String,
        /// What happened and what to do.
        fault: Box<Fault>,
    },
    /// Offline, and the cache lacks a file.
    #[error(
        "{name} at revision {revision}: {file} is not in the cache {} and offline mode is on; fetch it once while \
         online{}", cache.display(), held(cached)
    )]
    Offline {
        /// Repository.
        name: String,
        /// Branch, tag or commit.
        revision: String,
        /// File in it.
        file: String,
        /// The cache that was searched.
        cache: PathBuf,
        /// The revisions of the repository that the cache knows.
        cached: Vec<String>,
    },
    /// The repository does not hold what was asked for.
    #[error("{name} at revision {revision}: {reason}")]
    Content {
        /// Repository.
        name: String,
        /// Branch, tag or commit.
        revision: String,
        /// What is missing, what there is, and what to do.
        reason: String,
    },
    /// The client could not be set up, or a name is no repository name.
    #[error("{0}")]
    Setup(String),
}

fn held(revisions: &[String]) -> String {
    match revisions {
        [] => String::new(),
        _ => format!(" (the cache holds revision {})", revisions.join(", ")),
    }
}

/// Why a request did not end with what was asked for. The texts say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// 401 or 403.
    #[error("{}", denied(*.status, *.with_token))]
    Denied {
        /// The status.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// 404.
    #[error("there is no such {what} (404); check the name and the revision")]
    Missing {
        /// `repository`, `revision`, `file`, or all of them where the server does not tell.
        what: &'static str,
    },
    /// 429.
    #[error("too many requests (429){}; try again later, or set HF_TOKEN", wait(.pause.as_ref()))]
    Limited {
        /// How long the server asks to wait.
        pause: Option<Duration>,
    },
    /// Any other status.
    #[error("the server answered {status}{}; try again later", tried(*.tries))]
    Status {
        /// The status.
        status: u16,
        /// How often it was tried.
        tries: u32,
    },
    /// No connection.
    #[error(
        "no connection to {host}{}: {reason}; check the network, the proxy and HF_ENDPOINT, or work offline with what \
         is cached (HF_HUB_OFFLINE=1)", tried(*.tries)
    )]
    Unreachable {
        /// The host.
        host: String,
        /// Why.
        reason: String,
        /// How often it was tried.
        tries: u32,
    },
    /// Connected, and then nothing came.
    #[error(
        "{host} sent nothing for {} s{}; try again later (a download goes on from where it stopped), or wait longer \
         (HF_HUB_DOWNLOAD_TIMEOUT)", timeout.as_secs_f64(), tried(*.tries)
    )]
    Silent {
        /// The host.
        host: String,
        /// How long it was waited for.
        timeout: Duration,
        /// How often it was tried.
        tries: u32,
    },
    /// The body ended early.
    #[error(
        "the connection broke after {received} of {} bytes{}; run it again: the download goes on from there",
        size(*.expected), tried(*.tries)
    )]
    Cut {
        /// Bytes that are there.
        received: u64,
        /// Bytes that were announced.
        expected: Option<u64>,
        /// How often it was tried.
        tries: u32,
    },
    /// An answer that is not what the Hub's protocol says.
    #[error("{0}; check HF_ENDPOINT, and whether a proxy changes its answers")]
    Answer(String),
    /// The bytes are not the announced ones.
    #[error(
        "its SHA-256 is {found}, and the hub announced {expected}; the broken copy was removed: run it again, and check \
         whether a proxy changes its answers"
    )]
    Digest {
        /// Of the bytes that came.
        found: String,
        /// Of the file.
        expected: String,
    },
    /// The cache cannot be written or read.
    #[error("{}: {source}; check that the cache is writable and the disk not full", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn denied(status: u16, with_token: bool) -> String {
    let token = match (status, with_token) {
        (_, false) => "set HF_TOKEN to a token that may read it",
        (401, true) => "check the token (HF_TOKEN): it is wrong, has expired, or may not read it",
        (_, true) => "use a token (HF_TOKEN) that may read it",
    };
    format!("access denied ({status}); check the name, accept the repository's terms on the hub, and {token}")
}

fn wait(pause: Option<&Duration>) -> String {
    pause.map(|pause| format!("; the server asks to wait {} s", pause.as_secs())).unwrap_or_default()
}

fn tried(tries: u32) -> String {
    if tries > 1 { format!(" ({tries} tries)") } else { String::new() }
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "an unknown number of".to_owned(), |bytes| bytes.to_string())
}

impl Fault {
    /// Whether the server could not be asked, so that what is cached is the best there is.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Silent { .. })
    }

    /// The same fault, after so many tries.
    pub(crate) fn after(mut self, count: u32) -> Self {
        if let Self::Status { tries, .. }
        | Self::Unreachable { tries, .. }
        | Self::Silent { tries, .. }
        | Self::Cut { tries, .. } = &mut self
        {
            *tries = count;
        }
        self
    }
}

impl Error {
    /// The server's refusal or silence, where that is what happened.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fetch { fault, .. } | Self::LookUp { fault, .. } => Some(fault),
            Self::Offline { .. } | Self::Content { .. } | Self::Setup(_) => None,
        }
    }

    /// Whether the Hub has no such repository, revision or file, or a revision holds something else than expected.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Content { .. }) || matches!(self.fault(), Some(Fault::Missing { .. }))
    }
}
