//! Checkpoints on disk: written beside their place, synced, renamed into it, checked when read.
//!
//! The format is specified in `docs/checkpoints.md`; [`Checkpoint::open`] checks what it asks of a reader.
use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version written, and the greatest one read.
pub const FORMAT_VERSION: u64 = 1;

/// Everything of a run that is not a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// Digest of the weights that training started from.
    pub starting_weights: String,
    /// State of the objective, where it has one.
    pub objective: Option<serde_json::Value>,
    /// State of the schedule, where it follows evaluations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<serde_json::Value>,
    /// What the caller wants back: plan, place in the data, counters.
    pub bookmark: serde_json::Value,
    /// Every other file of the directory.
    pub files: Vec<FileRecord>,
}

/// Length and checksum of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its name in the directory.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its CRC-32, as eight hex digits.
    pub crc32: String,
}

/// A checkpoint whose every file was found whole.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub state: State,
}

/// The newest whole checkpoint of a directory, and what was wrong with newer ones.
#[derive(Debug)]
pub struct Found {
    /// The checkpoint, unless there is none.
    pub checkpoint: Option<Checkpoint>,
    /// Why newer ones were passed over.
    pub damaged: Vec<Error>,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    format_version: u64,
    crc32: String,
    state: serde_json::Value,
}

impl Checkpoint {
    /// Reads `state.json` and checks every file it lists.
    ///
    /// # Errors
    /// A directory that is no checkpoint, of a newer format, cut short or changed since.
    pub fn open(path: &Path) -> Result<Self> {
        let refuse = |reason: String| Error::checkpoint(path, reason);
        let text = match std::fs::read_to_string(path.join(STATE)) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(refuse(format!("there is no {STATE}; expected the directory of one checkpoint")));
            }
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(refuse(format!("{STATE} is not text; the checkpoint is damaged, use an earlier one")));
            }
            Err(e) => return Err(Error::io("reading", &path.join(STATE))(e)),
        };
        let damaged = |e: String| refuse(format!("{STATE} is damaged or cut short ({e}); use an earlier checkpoint"));
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        match value.get("format_version").and_then(serde_json::Value::as_u64) {
            Some(FORMAT_VERSION) => {}
            Some(version) if version > FORMAT_VERSION => {
                return Err(refuse(format!(
                    "it has format version {version}, and this program reads up to {FORMAT_VERSION}; use a newer candlewick"
                )));
            }
            _ => return Err(damaged("no format_version".into())),
        }
        let envelope: Envelope = serde_json::from_value(value).map_err(|e| damaged(e.to_string()))?;
        if hex(crc32fast::hash(envelope.state.to_string().as_bytes())) != envelope.crc32 {
            return Err(damaged("its checksum differs".into()));
        }
        // Its checksum is right: what does not fit is of another program.
        let state: State = serde_json::from_value(envelope.state).map_err(|e| {
            refuse(format!("{STATE} was not written by this version of the program ({e}); use the one that wrote it"))
        })?;
        for record in &state.files {
            record.check(path).map_err(|reason| refuse(format!("{reason}; use an earlier checkpoint")))?;
        }
        Ok(Self { path: path.to_owned(), state })
    }

    /// Whether a directory of weights, if it is a checkpoint, is whole.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn check_if_one(directory: &Path) -> Result<()> {
        if directory.join(STATE).exists() { Self::open(directory).map(|_| ()) } else { Ok(()) }
    }

    /// The newest whole checkpoint in `directory`; one that a crash left aside while it was being replaced is taken for what it was.
    ///
    /// # Errors
    /// A directory that cannot be read. A missing one holds no checkpoint.
    pub fn latest(directory: &Path) -> Result<Found> {
        let mut found = Found { checkpoint: None, damaged: Vec::new() };
        for (step, path) in steps(directory)?.into_iter().rev() {
            match Self::open_named(&path, step) {
                Ok(checkpoint) => {
                    found.checkpoint = Some(checkpoint);
                    break;
                }
                Err(e) => found.damaged.push(e),
            }
        }
        Ok(found)
    }

    /// All checkpoints in `directory`, those of fewer steps first; of one that is not whole its path and what is wrong with it.
    ///
    /// # Errors
    /// A directory that cannot be read. A missing one holds no checkpoint.
    pub fn all(directory: &Path) -> Result<Vec<(PathBuf, Result<Self>)>> {
        Ok(steps(directory)?.into_iter().map(|(step, path)| (path.clone(), Self::open_named(&path, step))).collect())
    }

    /// Of a directory whose name tells the step.
    fn open_named(path: &Path, step: u64) -> Result<Self> {
        let checkpoint = Self::open(path)?;
        match checkpoint.state.step {
            found if found == step => Ok(checkpoint),
            found => Err(Error::checkpoint(path, format!("it is that of step {found}, under the name of another"))),
        }
    }

    /// Writes what was trained as a directory of its own, whole or not at all: a Hugging Face model or a PEFT adapter, with the tokenizer
    /// and without what only a run that goes on needs.
    ///
    /// # Errors
    /// There is something at `target`; files that cannot be read or written.
    pub fn export(&self, target: &Path) -> Result<()> {
        if target.exists() {
            return Err(Error::checkpoint(target, "there is something already; name a directory that is not there"));
        }
        self.write_result(target)
    }

    /// As [`export`](Self::export), in the place of what was there.
    pub(crate) fn write_result(&self, target: &Path) -> Result<()> {
        write_directory(target, |fresh| {
            let exported = self.state.files.iter().filter(|file| !OF_RUNS.contains(&file.name.as_str()));
            copy_into(fresh, &exported.map(|file| self.path.join(&file.name)).collect::<Vec<_>>())
        })
    }
}

/// Writes a directory at `target` so that it is either whole or not there, replacing what was there before.
///
/// `fill` writes the files into the directory it is given.
///
/// # Errors
/// Those of `fill`; a directory that cannot be written or renamed. What was there before stays whole.
pub fn write_directory(target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (parent, name) = match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
        (Some(parent), Some(name)) => (parent, name),
        _ => return Err(Error::checkpoint(target, "not the path of a directory")),
    };
    let beside = |suffix: &str| parent.join(format!(".{}.{suffix}", name.to_string_lossy()));
    let (fresh, old) = (beside("new"), beside("old"));
    create_directory(parent)?;
    // A crash between the two renames below leaves the old one aside.
    if !target.exists() && old.exists() {
        std::fs::rename(&old, target).map_err(Error::io("renaming", &old))?;
    }
    remove(&fresh)?;
    let written = std::fs::create_dir(&fresh).map_err(Error::io("creating", &fresh)).and_then(|()| {
        fill(&fresh)?;
        for (_, path) in files(&fresh)? {
            sync(&path)?;
        }
        sync(&fresh)
    });
    if let Err(e) = written {
        // The first error is the one to tell; what remains is swept up by the next attempt.
        let _ = remove(&fresh);
        return Err(e);
    }
    remove(&old)?;
    if target.exists() {
        std::fs::rename(target, &old).map_err(Error::io("renaming", target))?;
    }
    std::fs::rename(&fresh, target).map_err(Error::io("renaming", &fresh))?;
    sync(parent)?;
    remove(&old)
}

/// Writes a file at `path` so that it is either whole or what it was before: beside it, synced, renamed.
///
/// # Errors
/// The directory is missing, or the file cannot be written; what was there before stays whole.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |fresh| std::fs::write(fresh, bytes).map_err(Error::io("writing", fresh)))
}

/// Writes a file so that it is either whole or as it was before.
pub(crate) fn write_file(target: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (parent, name) = match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
        (Some(parent), Some(name)) => (parent, name),
        _ => return Err(Error::config(target.display().to_string(), "not the path of a file")),
    };
    let fresh = parent.join(format!(".{}.new", name.to_string_lossy()));
    create_directory(parent)?;
    let written = write(&fresh).and_then(|()| sync(&fresh));
    if let Err(e) = written {
        let _ = std::fs::remove_file(&fresh);
        return Err(e);
    }
    std::fs::rename(&fresh, target).map_err(Error::io("renaming", &fresh))?;
    sync(parent)
}

/// Writes a checkpoint at `directory`, whole or not at all: what `fill` writes, the companions, and `state.json`.
pub(crate) fn write_checkpoint(
    directory: &Path,
    state: State,
    companions: &[PathBuf],
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    write_directory(directory, |fresh| {
        fill(fresh)?;
        copy_into(fresh, companions)?;
        write_state(fresh, state)
    })
}

/// Completes a checkpoint directory: lists the files in it and writes `state.json`.
fn write_state(directory: &Path, mut state: State) -> Result<()> {
    state.files =
        files(directory)?.into_iter().map(|(name, path)| FileRecord::of(name, &path)).collect::<Result<_>>()?;
    let path = directory.join(STATE);
    let state = sorted(serde_json::to_value(state).map_err(|e| Error::checkpoint(directory, e.to_string()))?);
    let crc32 = hex(crc32fast::hash(state.to_string().as_bytes()));
    let envelope = Envelope { format_version: FORMAT_VERSION, crc32, state };
    let text = serde_json::to_string_pretty(&envelope).map_err(|e| Error::checkpoint(directory, e.to_string()))?;
    std::fs::write(&path, text).map_err(Error::io("writing", &path))
}

/// The same with the keys of every object in the order of their bytes, so that its text does not depend on how it was made.
pub(crate) fn sorted(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let entries: std::collections::BTreeMap<String, Value> =
                map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        leaf => leaf,
    }
}

/// Copies files into a directory under their own names.
///
/// # Errors
/// A file that cannot be read or written.
pub fn copy_into(directory: &Path, files: &[PathBuf]) -> Result<()> {
    for file in files {
        let name =
            file.file_name().ok_or_else(|| Error::checkpoint(directory, format!("{} is no file", file.display())))?;
        std::fs::copy(file, directory.join(name)).map_err(Error::io("copying", file))?;
    }
    Ok(())
}

/// The directory of the checkpoint after `step` steps.
pub(crate) fn step_directory(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("step-{step:08}"))
}

/// Removes all but the newest `keep` checkpoints, never one of `spared`; 0 keeps all.
pub(crate) fn prune(checkpoints: &Path, keep: usize, spared: &[u64]) -> Result<()> {
    let all = steps(checkpoints)?;
    if keep == 0 || all.len() <= keep {
        return Ok(());
    }
    all[..all.len() - keep].iter().filter(|(step, _)| !spared.contains(step)).try_for_each(|(_, path)| remove(path))
}

/// Moves checkpoints of steps after `step` into `aside/`: a run that goes on from `step` makes them anew. Those moved there
/// before under the same names are replaced.
pub(crate) fn set_aside_after(checkpoints: &Path, step: u64) -> Result<()> {
    heal(checkpoints)?;
    let aside = checkpoints.join("aside");
    for (_, path) in steps(checkpoints)?.into_iter().filter(|(at, _)| *at > step) {
        let name = path.file_name().unwrap_or_default();
        create_directory(&aside)?;
        remove(&aside.join(name))?;
        std::fs::rename(&path, aside.join(name)).map_err(Error::io("renaming", &path))?;
        sync(&aside)?;
        sync(checkpoints)?;
    }
    Ok(())
}

/// Undoes what a crash left half done: a checkpoint aside goes back to its place, or goes where its place is taken.
fn heal(checkpoints: &Path) -> Result<()> {
    if !checkpoints.exists() {
        return Ok(());
    }
    for (name, path) in entries(checkpoints)? {
        let Some(hidden) = name.strip_prefix('.').filter(|name| name.starts_with("step-")) else { continue };
        match hidden.strip_suffix(".old").map(|name| checkpoints.join(name)) {
            Some(place) if !place.exists() => {
                std::fs::rename(&path, &place).map_err(Error::io("renaming", &path))?;
                sync(checkpoints)?;
            }
            Some(_) => remove(&path)?,
            None => {}
        }
    }
    Ok(())
}

/// Removes checkpoints half written, which only the one run of a directory may do.
pub(crate) fn sweep(checkpoints: &Path) -> Result<()> {
    if !checkpoints.exists() {
        return Ok(());
    }
    let half = |name: &str| name.starts_with(".step-") && name.ends_with(".new");
    entries(checkpoints)?.into_iter().filter(|(name, _)| half(name)).try_for_each(|(_, path)| remove(&path))
}

/// Holds a directory until it is dropped, also against other processes; one that is killed lets go. A file system without locks holds nothing.
///
/// # Errors
/// Somebody else holds it.
pub(crate) fn hold_directory(directory: &Path) -> Result<File> {
    create_directory(directory)?;
    let path = directory.join(".lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let reason = "another process trains there; wait for its end, or name another directory";
            Err(Error::config("output.dir", format!("{}: {reason}", directory.display())))
        }
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Creates a directory with its parents, each of which reaches the disk.
pub(crate) fn create_directory(directory: &Path) -> Result<()> {
    let new: Vec<&Path> =
        directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    std::fs::create_dir_all(directory).map_err(Error::io("creating", directory))?;
    new.into_iter().filter_map(Path::parent).try_for_each(|parent| match parent.as_os_str().is_empty() {
        true => sync(Path::new(".")),
        false => sync(parent),
    })
}

impl FileRecord {
    fn of(name: String, path: &Path) -> Result<Self> {
        let (length, crc) = checksum(path)?;
        Ok(Self { name, length, crc32: hex(crc) })
    }

    fn check(&self, directory: &Path) -> Result<(), String> {
        if Path::new(&self.name).components().count() != 1 || self.name.starts_with('.') {
            return Err(format!("{STATE} lists {:?}, which is not the name of a file", self.name));
        }
        let (length, crc) = checksum(&directory.join(&self.name)).map_err(|e| e.to_string())?;
        if length != self.length {
            return Err(format!(
                "{} has {length} bytes instead of {}: it was cut short or changed",
                self.name, self.length
            ));
        }
        if hex(crc) != self.crc32 {
            return Err(format!("{} has another checksum than when it was written", self.name));
        }
        Ok(())
    }
}

/// Length and CRC-32 of a file.
pub(crate) fn checksum(path: &Path) -> Result<(u64, u32)> {
    let mut file = File::open(path).map_err(Error::io("reading", path))?;
    let (mut hasher, mut length, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(Error::io("reading", path))? {
            0 => return Ok((length, hasher.finalize())),
            n => {
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
        }
    }
}

/// Checkpoints in a directory, by step.
fn steps(directory: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut all: Vec<(u64, PathBuf)> = Vec::new();
    for (name, path) in entries(directory)? {
        // A crash between two renames leaves the old one aside.
        let aside = name.strip_prefix('.').and_then(|name| name.strip_suffix(".old"));
        let named = aside.unwrap_or(&name);
        let Some(step) = named.strip_prefix("step-").and_then(|step| step.parse().ok()) else { continue };
        if aside.is_none_or(|name| !directory.join(name).exists()) {
            all.push((step, path));
        }
    }
    all.sort();
    Ok(all)
}

/// Plain files in a directory, by name.
fn files(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    Ok(entries(directory)?.into_iter().filter(|(_, path)| path.is_file()).collect())
}

fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let io = || Error::io("reading", directory);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io())? {
        let entry = entry.map_err(io())?;
        all.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    all.sort();
    Ok(all)
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", directory)(e)),
        _ => Ok(()),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", path)(e)),
        _ => Ok(()),
    }
}

/// Waits until the file or directory has reached the disk.
fn sync(path: &Path) -> Result<()> {
    // Only Unix opens a directory as a file.
    if cfg!(not(unix)) && path.is_dir() {
        return Ok(());
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("syncing", path))
}

/// A CRC-32 as it is written.
pub(crate) fn hex(crc: u32) -> String {
    format!("{crc:08x}")
}

const STATE: &str = "state.json";
/// The optimizer of a checkpoint.
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
/// The reference that follows the policy.
pub(crate) const MOVING_REFERENCE: &str = "moving_reference.safetensors";
/// The slow module beside the fast one, and its optimizer.
pub(crate) const SLOW: &str = "slow.safetensors";
pub(crate) const SLOW_OPTIMIZER: &str = "slow_optimizer.safetensors";
/// Files that only a run that goes on needs.
const OF_RUNS: [&str; 4] = [OPTIMIZER, MOVING_REFERENCE, SLOW, SLOW_OPTIMIZER];

#[cfg(test)]
mod tests {
    use super::*;

    fn write(target: &Path, step: u64) {
        write_directory(target, |directory| {
            std::fs::write(directory.join("weights.bin"), [1, 2, 3, 4]).unwrap();
            let bookmark = serde_json::json!({"rate": 0.1 + 0.2, "seed": u64::MAX});
            let state = State {
                step,
                starting_weights: "w".into(),
                objective: None,
                schedule: None,
                bookmark,
                files: Vec::new(),
            };
            write_state(directory, state)
        })
        .unwrap();
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = step_directory(directory.path(), 3);
        write(&path, 2);
        write(&path, 3);
        let state = Checkpoint::open(&path).unwrap().state;
        assert_eq!(state.step, 3);
        assert_eq!(state.bookmark["rate"].as_f64().unwrap().to_bits(), (0.1f64 + 0.2).to_bits());
        assert_eq!(state.bookmark["seed"], u64::MAX);
        assert_eq!(entries(directory.path()).unwrap().len(), 1, "nothing but the checkpoint remains");
    }

    #[test]
    fn every_byte_that_changes_and_every_cut_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = step_directory(directory.path(), 1);
        write(&path, 1);
        for name in ["weights.bin", STATE] {
            let whole = std::fs::read(path.join(name)).unwrap();
            for i in 0..whole.len() {
                std::fs::write(path.join(name), &whole[..i]).unwrap();
                assert!(Checkpoint::open(&path).is_err(), "{name} cut at {i} was taken");
                let mut changed = whole.clone();
                changed[i] ^= 0x11;
                std::fs::write(path.join(name), &changed).unwrap();
                // White space between the tokens of JSON is the one thing without meaning.
                assert!(
                    Checkpoint::open(&path).is_err() || whole[i].is_ascii_whitespace(),
                    "{name} changed at {i} was taken"
                );
            }
            std::fs::write(path.join(name), &whole).unwrap();
            Checkpoint::open(&path).unwrap();
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_version() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(STATE), r#"{"format_version": 2, "of": "the future"}"#).unwrap();
        let text = Checkpoint::open(directory.path()).unwrap_err().to_string();
        assert!(text.contains("format version 2") && text.contains("use a newer candlewick"), "{text}");
    }

    #[test]
    fn the_newest_whole_one_is_found_and_the_others_explained() {
        let directory = tempfile::tempdir().unwrap();
        for step in [1, 20, 100] {
            write(&step_directory(directory.path(), step), step);
        }
        std::fs::write(step_directory(directory.path(), 100).join("weights.bin"), [1, 2]).unwrap();
        let found = Checkpoint::latest(directory.path()).unwrap();
        assert_eq!(found.checkpoint.unwrap().state.step, 20);
        assert!(found.damaged[0].to_string().contains("weights.bin has 2 bytes instead of 4"));
        assert!(Checkpoint::latest(&directory.path().join("nowhere")).unwrap().checkpoint.is_none());

        let left = || steps(directory.path()).unwrap().iter().map(|(step, _)| *step).collect::<Vec<_>>();
        prune(directory.path(), 2, &[100]).unwrap();
        assert_eq!(left(), [20, 100]);
        prune(directory.path(), 1, &[20]).unwrap();
        assert_eq!(left(), [20, 100], "the one just written stays");
        set_aside_after(directory.path(), 20).unwrap();
        assert_eq!(left(), [20]);
        assert!(directory.path().join("aside/step-00000100").is_dir());
    }

    #[test]
    fn what_a_crash_left_half_done_is_undone() {
        let directory = tempfile::tempdir().unwrap();
        let path = step_directory(directory.path(), 5);
        write(&path, 5);
        // Between the two renames: the old one is aside, the new one not yet in its place.
        std::fs::rename(&path, directory.path().join(".step-00000005.old")).unwrap();
        std::fs::create_dir(directory.path().join(".step-00000005.new")).unwrap();
        let found = Checkpoint::latest(directory.path()).unwrap().checkpoint.unwrap();
        assert_eq!((found.state.step, found.path), (5, directory.path().join(".step-00000005.old")));
        assert_eq!(Checkpoint::all(directory.path()).unwrap().len(), 1);
        set_aside_after(directory.path(), 5).unwrap();
        assert_eq!(Checkpoint::latest(directory.path()).unwrap().checkpoint.unwrap().path, path);
        // Under the name of another step.
        let other = step_directory(directory.path(), 9);
        std::fs::rename(&path, &other).unwrap();
        let found = Checkpoint::latest(directory.path()).unwrap();
        assert!(found.checkpoint.is_none() && found.damaged[0].to_string().contains("that of step 5"));
        std::fs::rename(&other, &path).unwrap();
        // After them.
        std::fs::create_dir(directory.path().join(".step-00000005.old")).unwrap();
        heal(directory.path()).unwrap();
        sweep(directory.path()).unwrap();
        assert_eq!(entries(directory.path()).unwrap().len(), 1);
    }

    #[test]
    fn directories_are_created_with_their_parents() {
        let directory = tempfile::tempdir().unwrap();
        create_directory(&directory.path().join("a/b")).unwrap();
        create_directory(&directory.path().join("a/b")).unwrap();
        assert!(directory.path().join("a/b").is_dir());
    }

    #[test]
    fn a_failure_while_writing_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = step_directory(directory.path(), 7);
        write(&path, 7);
        let failed = write_directory(&path, |_| Err(Error::Mismatch("no".into())));
        assert!(failed.is_err());
        assert_eq!(Checkpoint::open(&path).unwrap().state.step, 7);
        assert_eq!(entries(directory.path()).unwrap().len(), 1);
    }
}
