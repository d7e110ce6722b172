//! What a path stands for: files in order, each with its format.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::array::Array;
use super::input::{self, Input, beyond};
use super::lines::Lines;
use super::sniff::{self, Compression, Format};
use super::table::Table;
use super::{Position, Raw, Reader, Rows, places};
use crate::error::Error;

/// The files of a source in the order they are read, or one stream; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    name: Arc<str>,
    list: Arc<[DataFile]>,
    /// Of a stream, until its pass is taken.
    stream: Option<Arc<Mutex<Option<Reader>>>>,
}

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct DataFile {
    path: PathBuf,
    name: Arc<str>,
    format: Format,
    compression: Compression,
    /// Names of the columns of a table that has no header.
    names: Option<Arc<[String]>>,
}

impl Files {
    /// The same, of tables without a header, whose columns are these.
    pub(crate) fn without_header(self, names: &[String]) -> Result<Self, Error> {
        let names: Arc<[String]> = names.into();
        let mut list = self.list.to_vec();
        for file in &mut list {
            if !matches!(file.format, Format::Table { .. } | Format::Empty) {
                return Err(Error::Option {
                    name: "header",
                    got: format!("names of columns for {}, which is no table in text", file.name),
                    expected: "none: the columns of such a file have their names; leave it out",
                });
            }
            file.names = Some(Arc::clone(&names));
        }
        Ok(Self { list: list.into(), ..self })
    }

    /// What a path stands for: a file, every data file below a directory, the files of a glob, or `-` for standard input;
    /// of these, where a split is named, those of the split.
    pub(crate) fn open(path: &Path, split: Option<&str>) -> Result<Self, Error> {
        let name: Arc<str> = path.to_string_lossy().into();
        if path.as_os_str() == "-" {
            return Self::of_reader(BufReader::with_capacity(1 << 18, io::stdin()), "<stdin>");
        }
        let list = places::find(path, split)?.into_iter().map(DataFile::open).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { name, list: list.into(), stream: None })
    }

    /// Files that were found by other means, under one name; of these, where a split is named, those of the split.
    pub(crate) fn of_list(name: &Path, list: &[PathBuf], split: Option<&str>) -> Result<Self, Error> {
        let place = name.to_string_lossy();
        let list = match split {
            Some(split) => super::splits::of_list(&place, list, split)?,
            None => list.to_vec(),
        };
        let list = list.into_iter().map(DataFile::open).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { name: place.into(), list: list.into(), stream: None })
    }

    /// Refuses what chooses among files, where rows come from a stream.
    pub(crate) fn check_stream(split: Option<&str>, list: &[PathBuf]) -> Result<(), Error> {
        let expected = "none of it: a stream is one file without a name, which has no splits; leave it out";
        let refuse = |name, got: &str| Err(Error::Option { name, got: format!("{got:?} of a stream"), expected });
        match (split, list) {
            (Some(split), _) => refuse("split", split),
            (None, [first, ..]) => refuse("files", &first.to_string_lossy()),
            (None, []) => Ok(()),
        }
    }

    /// A reader, which can be read once.
    pub(crate) fn of_reader(reader: impl BufRead + Send + 'static, name: &str) -> Result<Self, Error> {
        let name: Arc<str> = name.into();
        let (file, input) = DataFile::of(PathBuf::from(&*name), Box::new(reader))?;
        let list: Arc<[DataFile]> = [file.clone()].into();
        let reader = Reader::of_rows(Arc::clone(&list), file.rows_of_input(input)?);
        Ok(Self { name, list, stream: Some(Arc::new(Mutex::new(Some(reader)))) })
    }

    /// The path as it was given, for messages.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where its files are; none of a stream.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        if self.stream.is_some() {
            return Vec::new();
        }
        self.list.iter().map(|file| file.path.clone()).collect()
    }

    #[cfg(test)]
    pub(crate) fn list(&self) -> &[DataFile] {
        &self.list
    }

    /// The first rows, which the pass will give again: of a stream one, of files as many as tell their columns.
    pub(crate) fn head(&self) -> Result<Vec<Raw>, Error> {
        const ROWS: usize = 32;
        const BYTES: usize = 1 << 20;
        let Some(stream) = &self.stream else {
            let mut reader = self.pass()?;
            let mut head: Vec<Raw> = reader.next_raw()?.into_iter().collect();
            while head.len() < ROWS && head.iter().map(|raw| raw.text().len()).sum::<usize>() < BYTES {
                // What cannot be read on is said when it is reached.
                let Ok(Some(raw)) = reader.next_raw() else { break };
                head.push(raw);
            }
            return Ok(head);
        };
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        match stream.as_mut() {
            Some(reader) => Ok(reader.peek()?.cloned().into_iter().collect()),
            None => Err(Error::SinglePass { file: Arc::clone(&self.name) }),
        }
    }

    /// A pass from the first row on.
    pub(crate) fn pass(&self) -> Result<Reader, Error> {
        self.pass_at(Position::default())
    }

    /// A pass from a place on that a [`Reader`] of these files told.
    pub(crate) fn pass_at(&self, at: Position) -> Result<Reader, Error> {
        if usize::try_from(at.file).map_or(true, |file| file >= self.list.len()) {
            return Err(beyond(&self.name, u64::from(at.file) + 1, self.list.len() as u64));
        }
        let Some(stream) = &self.stream else {
            return Reader::at(Arc::clone(&self.list), at);
        };
        let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut reader = taken.ok_or_else(|| Error::SinglePass { file: Arc::clone(&self.name) })?;
        reader.pass_over(at)?;
        Ok(reader)
    }
}

impl DataFile {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let opened = BufReader::with_capacity(sniff::HEAD, input::open(&path)?);
        Ok(Self::of(path, Box::new(opened))?.0)
    }

    /// What a file is, told from its beginning, and its bytes.
    fn of(path: PathBuf, inner: Box<dyn BufRead + Send>) -> Result<(Self, Input), Error> {
        let name: Arc<str> = path.to_string_lossy().into();
        let (head, inner) = input::head(inner);
        let compression = sniff::compression(&head);
        let mut input = Input::new(&name, inner, compression)?;
        let format = sniff::format(&name, &path, &input.head(), compression)?;
        Ok((Self { path, name, format, compression, names: None }, input))
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its rows from a place on.
    pub(crate) fn rows(&self, offset: u64, line: u64) -> Result<Box<dyn Rows>, Error> {
        let input = |offset| Input::open(&self.path, &self.name, self.compression, offset);
        match self.format {
            Format::Empty | Format::Lines => Ok(Box::new(Lines::new(input(offset)?, line))),
            Format::Array => Ok(Box::new(Array::new(input(offset)?, line))),
            Format::Table { delimiter } => {
                let mut table = match &self.names {
                    Some(names) => Table::without_header(input(0)?, delimiter, names)?,
                    None => Table::new(input(0)?, delimiter)?,
                };
                if offset > 0 {
                    table.go_to(input(offset)?, line);
                }
                Ok(Box::new(table))
            }
            Format::Parquet | Format::ArrowFile | Format::ArrowStream => self.columnar(offset),
        }
    }

    /// Rows of a stream from its start.
    fn rows_of_input(&self, input: Input) -> Result<Box<dyn Rows>, Error> {
        match self.format {
            Format::Empty | Format::Lines => Ok(Box::new(Lines::new(input, 0))),
            Format::Array => Ok(Box::new(Array::new(input, 0))),
            Format::Table { delimiter } => Ok(Box::new(Table::new(input, delimiter)?)),
            Format::Parquet | Format::ArrowFile | Format::ArrowStream => self.columnar_of_input(input),
        }
    }

    #[cfg(feature = "columnar")]
    fn columnar(&self, row: u64) -> Result<Box<dyn Rows>, Error> {
        use super::{arrow::Messages, parquet::Groups};
        match (self.format, self.compression) {
            (Format::Parquet, _) => Ok(Box::new(Groups::open(&self.path, &self.name, row)?)),
            (_, compression) => {
                let input = Input::open(&self.path, &self.name, compression, 0)?;
                Ok(Box::new(Messages::new(input, row)?))
            }
        }
    }

    #[cfg(feature = "columnar")]
    fn columnar_of_input(&self, input: Input) -> Result<Box<dyn Rows>, Error> {
        match self.format {
            Format::Parquet => Err(Error::Format {
                file: Arc::clone(&self.name),
                message: "Parquet is read from its end and cannot be read from a stream; save it to a file".to_owned(),
            }),
            _ => Ok(Box::new(super::arrow::Messages::new(input, 0)?)),
        }
    }

    // Without the feature no file has such a format: `sniff` refuses it.
    #[cfg(not(feature = "columnar"))]
    fn columnar(&self, _: u64) -> Result<Box<dyn Rows>, Error> {
        Err(self.no_columnar())
    }

    #[cfg(not(feature = "columnar"))]
    fn columnar_of_input(&self, _: Input) -> Result<Box<dyn Rows>, Error> {
        Err(self.no_columnar())
    }

    #[cfg(not(feature = "columnar"))]
    fn no_columnar(&self) -> Error {
        Error::Format { file: Arc::clone(&self.name), message: "build with the feature `columnar`".to_owned() }
    }
}
