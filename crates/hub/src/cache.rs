//! The cache on disk, laid out as Python's `huggingface_hub` lays out its own.
//!
//! ```text
//! .locks/datasets--owner--name/ETAG.lock       held while a file is fetched
//! datasets--owner--name/refs/main              the commit a branch or tag pointed to
//! datasets--owner--name/blobs/ETAG             the bytes; ETAG.incomplete while they come in
//! datasets--owner--name/snapshots/COMMIT/PATH  a link to the bytes
//! datasets--owner--name/.candlewick/COMMIT.json  the files of a commit, ours: so that offline the choice is the same
//! ```
//! Every file gets its final name by one rename, when it is whole.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Fault;
use crate::repo::{Repo, is_commit, is_inside};

/// More files than any repository has, and few enough to walk through.
const MOST_FILES: usize = 1_000_000;

#[derive(Clone, Debug)]
pub(crate) struct Cache {
    pub(crate) root: PathBuf,
}

type Outcome<T> = std::result::Result<T, Fault>;

impl Cache {
    fn folder(&self, repo: &Repo) -> PathBuf {
        self.root.join(repo.folder())
    }

    pub(crate) fn snapshot(&self, repo: &Repo, commit: &str) -> PathBuf {
        self.folder(repo).join("snapshots").join(commit)
    }

    /// The place of the bytes with this ETag, which must be a plain name: see [`is_etag`].
    pub(crate) fn blob(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.folder(repo).join("blobs").join(etag)
    }

    /// The commit that a revision stands for, as far as the cache knows.
    pub(crate) fn commit(&self, repo: &Repo) -> Option<String> {
        let path = self.folder(repo).join("refs").join(&repo.revision);
        let stored = std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let known = is_commit(&repo.revision) && self.snapshot(repo, &repo.revision).is_dir();
        stored.filter(|text| is_commit(text)).or_else(|| known.then(|| repo.revision.clone()))
    }

    /// Notes the commit that a revision stands for. Like all notes it is left out where the cache cannot be written:
    /// what is in it is of use all the same, and a download will say so.
    pub(crate) fn remember_commit(&self, repo: &Repo, commit: &str) {
        if repo.revision != commit && self.commit(repo).as_deref() != Some(commit) {
            replace(&self.folder(repo).join("refs").join(&repo.revision), commit.as_bytes()).ok();
        }
    }

    /// The revisions that the cache knows of a repository.
    pub(crate) fn revisions(&self, repo: &Repo) -> Vec<String> {
        files_below(&self.folder(repo).join("refs"))
    }

    /// The files of a commit, as the Hub listed them.
    pub(crate) fn listing(&self, repo: &Repo, commit: &str) -> Option<Vec<String>> {
        let text = std::fs::read(self.own(repo).join(format!("{commit}.json"))).ok()?;
        let files: Vec<String> = serde_json::from_slice(&text).ok()?;
        files.iter().all(|file| is_inside(file)).then_some(files)
    }

    pub(crate) fn remember_listing(&self, repo: &Repo, commit: &str, files: &[String]) {
        let text = serde_json::json!(files).to_string();
        replace(&self.own(repo).join(format!("{commit}.json")), text.as_bytes()).ok();
    }

    /// Whether the Hub was found to have no Parquet branch of a data set.
    pub(crate) fn lacks_parquet(&self, repo: &Repo) -> bool {
        self.own(repo).join("no-parquet-branch").exists()
    }

    pub(crate) fn remember_no_parquet(&self, repo: &Repo) {
        replace(&self.own(repo).join("no-parquet-branch"), b"").ok();
    }

    fn own(&self, repo: &Repo) -> PathBuf {
        self.folder(repo).join(".candlewick")
    }

    /// The files of a commit that are here, whoever fetched them.
    pub(crate) fn present(&self, repo: &Repo, commit: &str) -> Vec<String> {
        files_below(&self.snapshot(repo, commit))
    }

    /// Waits until nobody else fetches the bytes with this ETag. `None` where the file system knows no locks.
    pub(crate) fn lock(&self, repo: &Repo, etag: &str) -> Outcome<Option<File>> {
        let path = self.root.join(".locks").join(repo.folder()).join(format!("{etag}.lock"));
        make_parent(&path)?;
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(|e| disk(&path, e))?;
            match file.lock() {
                // Whoever held it may have removed the file on the way out; a lock on a removed file locks nothing.
                Ok(()) if is_still(&file, &path) => return Ok(Some(file)),
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Makes the bytes of a blob visible as a file of a commit.
    pub(crate) fn link(&self, repo: &Repo, commit: &str, file: &str, blob: &Path) -> Outcome<PathBuf> {
        let place = self.snapshot(repo, commit).join(file);
        make_parent(&place)?;
        let ups = Path::new(file).components().count() + 1;
        let mut target: PathBuf = std::iter::repeat_n("..", ups).collect();
        target.push("blobs");
        target.push(blob.file_name().unwrap_or_default());
        if std::fs::read_link(&place).is_ok_and(|old| old == target) {
            return Ok(place);
        }
        let temporary = temporary_name(&place);
        let made = symlink(&target, &temporary)
            .or_else(|_| std::fs::hard_link(blob, &temporary))
            .or_else(|_| std::fs::copy(blob, &temporary).map(drop));
        made.and_then(|()| std::fs::rename(&temporary, &place)).map_err(|e| disk(&place, e))?;
        Ok(place)
    }
}

#[cfg(unix)]
fn symlink(target: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

#[cfg(windows)]
fn symlink(target: &Path, place: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, place)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(there)) => held.ino() == there.ino() && held.dev() == there.dev(),
        _ => false,
    }
}

// Elsewhere a file that is held open cannot be removed.
#[cfg(not(unix))]
fn is_still(_: &File, _: &Path) -> bool {
    true
}

/// Whether an ETag can name a file: what a server says may not lead out of the cache.
pub(crate) fn is_etag(etag: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !etag.starts_with('.') && (1..=128).contains(&etag.len()) && etag.bytes().all(plain)
}

pub(crate) fn disk(path: &Path, source: io::Error) -> Fault {
    Fault::Disk { path: path.to_owned(), source }
}

pub(crate) fn make_parent(path: &Path) -> Outcome<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(|e| disk(parent, e)),
        None => Ok(()),
    }
}

/// Writes a small file in one step: it is there whole, or as it was.
fn replace(path: &Path, bytes: &[u8]) -> Outcome<()> {
    make_parent(path)?;
    let temporary = temporary_name(path);
    let written = File::create_new(&temporary).and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| std::fs::rename(&temporary, path)).map_err(|e| disk(path, e))
}

/// A name beside a path that no other process or thread takes: neither here nor on another machine that shares the cache,
/// where a process may have the same number.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // The standard library's keys come from the system's random numbers.
    static OWN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{}-{:016x}-{count}.tmp", std::process::id(), *OWN))
}

/// The files below a directory, with their paths from there, sorted. Links that lead nowhere are left out.
fn files_below(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(root.join(&folder)) else { continue };
        for entry in entries.flatten().take(MOST_FILES.saturating_sub(files.len())) {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if entry.path().is_file() && !path.ends_with(".tmp") {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::Kind;

    #[test]
    fn an_etag_that_is_a_path_is_none() {
        for good in ["0123456789abcdef", "a-b_c.d"] {
            assert!(is_etag(good), "{good}");
        }
        for bad in ["", "..", ".x", "a/b", "/etc/passwd", "a\\b", "a b", "ä", "c:d", &"a".repeat(200)] {
            assert!(!is_etag(bad), "{bad}");
        }
    }

    #[test]
    fn a_reference_that_is_no_commit_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache { root: root.path().into() };
        let repo = Repo::new(Kind::Model, "a/b", "main").unwrap();
        let place = root.path().join("models--a--b/refs/main");
        for text in ["", "../../escaped", "xyz"] {
            replace(&place, text.as_bytes()).unwrap();
            assert_eq!(cache.commit(&repo), None, "{text:?}");
        }
        let commit = "ab".repeat(20);
        cache.remember_commit(&repo, &commit);
        assert_eq!(cache.commit(&repo), Some(commit));
        assert_eq!(cache.revisions(&repo), ["main"]);
    }

    #[test]
    fn a_link_that_led_elsewhere_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache { root: root.path().into() };
        let repo = Repo::new(Kind::Dataset, "a/b", "main").unwrap();
        let commit = "ab".repeat(20);
        for etag in ["one", "two", "two"] {
            let blob = cache.blob(&repo, etag);
            replace(&blob, etag.as_bytes()).unwrap();
            let place = cache.link(&repo, &commit, "deep/er/x.csv", &blob).unwrap();
            assert_eq!(std::fs::read_to_string(place).unwrap(), etag);
        }
        assert_eq!(cache.present(&repo, &commit), ["deep/er/x.csv"]);
    }

    #[test]
    fn a_temporary_name_is_told_from_those_of_other_machines() {
        let names: Vec<String> = (0..2)
            .map(|_| temporary_name(Path::new("a/b")).file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_ne!(names[0], names[1]);
        for name in &names {
            let start = format!(".{}-", std::process::id());
            let (random, _) = name.strip_prefix(&start).unwrap().split_once('-').unwrap();
            assert!(name.ends_with(".tmp") && random.len() == 16, "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("x");
        replace(&place, b"one").unwrap();
        replace(&place, b"two").unwrap();
        assert_eq!(std::fs::read(&place).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache { root: root.path().into() };
        let repo = Repo::new(Kind::Dataset, "a/b", "main").unwrap();
        let held = cache.lock(&repo, "e").unwrap().unwrap();
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| cache.lock(&repo, "e").unwrap().is_some());
            assert!(held.metadata().unwrap().is_file());
            drop(held);
            waiting.join().unwrap()
        });
        assert!(waiting);
    }
}
