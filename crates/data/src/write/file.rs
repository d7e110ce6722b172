//! A file that is there whole or not at all: written under another name, synced, renamed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// A file under a name of its own beside the place it is for; removed unless it gets there.
#[derive(Debug)]
pub(crate) struct Temporary {
    place: PathBuf,
    path: PathBuf,
}

impl Temporary {
    /// Creates an empty file.
    pub(crate) fn beside(place: &Path) -> Result<(Self, File), Error> {
        const TRIES: u32 = 1000;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        for number in 0..TRIES {
            let path = place.with_file_name(format!(".{name}.{}-{number}.part", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((Self { place: place.to_owned(), path }, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::Write { path, doing: "creating", source }),
            }
        }
        let source = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(Error::Write { path: place.to_owned(), doing: "creating a temporary file for", source })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the finished file in its place.
    pub(crate) fn place(self, file: &File) -> Result<(), Error> {
        file.sync_all().map_err(failed(&self.path, "syncing"))?;
        std::fs::rename(&self.path, &self.place).map_err(failed(&self.place, "renaming the finished file to"))?;
        sync_directory(&self.place);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After it was renamed there is none of this name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The new name lasts when its directory does; where directories cannot be synced the system sees to it.
fn sync_directory(place: &Path) {
    let directory = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
}

/// An error of writing a file.
pub(crate) fn failed(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Write { path: path.to_owned(), doing, source }
}

/// How lines are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    #[cfg(feature = "zstd")]
    Zstd,
}

/// Bytes to a file, compressed or not.
pub(crate) enum Sink {
    Plain(BufWriter<File>),
    Gzip(flate2::write::GzEncoder<BufWriter<File>>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Encoder<'static, BufWriter<File>>),
}

impl Sink {
    pub(crate) fn new(file: File, compression: Compression) -> io::Result<Self> {
        let file = BufWriter::with_capacity(1 << 16, file);
        Ok(match compression {
            Compression::None => Self::Plain(file),
            Compression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::default())),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Self::Zstd(zstd::Encoder::new(file, 0)?),
        })
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(file) => file.write_all(bytes),
            #[cfg(feature = "zstd")]
            Self::Zstd(file) => file.write_all(bytes),
        }
    }

    /// Writes what is left and hands back the file.
    pub(crate) fn finish(self) -> io::Result<File> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Gzip(file) => file.finish()?,
            #[cfg(feature = "zstd")]
            Self::Zstd(file) => file.finish()?,
        };
        file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}
