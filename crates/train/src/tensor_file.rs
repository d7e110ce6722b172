//! Flat columns of numbers in a safetensors file, written without a second copy in memory.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use candle_core::WithDType;
use candlewick_kernels::{Buffer, Float};

use crate::error::{Error, Result};

/// A number that a column can hold.
pub trait Plain: Copy {
    /// Its dtype in a safetensors header.
    const NAME: &'static str;
    /// Bytes of one.
    const SIZE: usize;
    /// Appends its little-endian bytes.
    fn put(self, bytes: &mut Vec<u8>);
    /// Reads it from exactly [`SIZE`](Self::SIZE) little-endian bytes.
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! plain {
    ($($type:ty: $name:literal),*) => {$(
        impl Plain for $type {
            const NAME: &'static str = $name;
            const SIZE: usize = size_of::<$type>();
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
            fn take(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(bytes);
                Self::from_le_bytes(array)
            }
        }
    )*};
}
plain!(f32: "F32", f64: "F64", u64: "U64", u8: "U8");

/// The numbers a policy computes in: `f32` or `f64`.
pub trait Element: Float + WithDType + Plain {}
impl Element for f32 {}
impl Element for f64 {}

/// A column to be written.
pub(crate) struct Column<'a> {
    dtype: &'static str,
    length: usize,
    size: usize,
    values: Box<dyn Bytes + 'a>,
}

/// Numbers that give their bytes piece by piece.
trait Bytes {
    fn put(&self, from: usize, to: usize, bytes: &mut Vec<u8>);
}

impl<T: Plain> Bytes for &[T] {
    fn put(&self, from: usize, to: usize, bytes: &mut Vec<u8>) {
        self[from..to].iter().for_each(|value| value.put(bytes));
    }
}

impl<T: Plain> Bytes for Vec<T> {
    fn put(&self, from: usize, to: usize, bytes: &mut Vec<u8>) {
        self.as_slice().put(from, to, bytes);
    }
}

impl<'a> Column<'a> {
    pub(crate) fn new<T: Plain>(values: &'a [T]) -> Self {
        Self { dtype: T::NAME, length: values.len(), size: T::SIZE, values: Box::new(values) }
    }

    /// Of numbers wherever they are; those of a device are copied.
    pub(crate) fn of<T: Element>(values: &'a Buffer<T>) -> Result<Self> {
        Ok(match values {
            Buffer::Host(numbers) => Self::new(numbers),
            Buffer::Cuda(buffer) => Self::owned(buffer.download()?),
        })
    }

    pub(crate) fn owned<T: Plain + 'a>(values: Vec<T>) -> Self {
        Self { dtype: T::NAME, length: values.len(), size: T::SIZE, values: Box::new(values) }
    }
}

/// Writes the columns under their names. The file is not synced.
pub(crate) fn write(path: &Path, metadata: &BTreeMap<String, String>, columns: &[(&str, Column<'_>)]) -> Result<()> {
    let written = File::create(path).and_then(|file| {
        let mut file = BufWriter::new(file);
        put(&mut file, metadata, columns)?;
        file.flush()
    });
    written.map_err(Error::io("writing", path))
}

/// A file of columns that is not written yet.
pub(crate) struct TensorFile<'a> {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) columns: Vec<(&'a str, Column<'a>)>,
}

impl TensorFile<'_> {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        write(path, &self.metadata, &self.columns)
    }

    /// What [`write`](Self::write) writes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let numbers: usize = self.columns.iter().map(|(_, column)| column.length * column.size).sum();
        let mut bytes = Vec::with_capacity(numbers + 1024);
        put(&mut bytes, &self.metadata, &self.columns).expect("memory takes every byte");
        bytes
    }
}

fn put(
    file: &mut impl Write,
    metadata: &BTreeMap<String, String>,
    columns: &[(&str, Column<'_>)],
) -> std::io::Result<()> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut offset = 0;
    for (name, column) in columns {
        let end = offset + column.length * column.size;
        let entry = serde_json::json!({"dtype": column.dtype, "shape": [column.length], "data_offsets": [offset, end]});
        header.insert((*name).to_owned(), entry);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut bytes = Vec::new();
    for (_, column) in columns {
        for from in (0..column.length).step_by(CHUNK) {
            bytes.clear();
            column.values.put(from, (from + CHUNK).min(column.length), &mut bytes);
            file.write_all(&bytes)?;
        }
    }
    Ok(())
}

/// A file of columns, read whole.
pub(crate) struct Columns {
    bytes: Vec<u8>,
    metadata: BTreeMap<String, String>,
}

impl Columns {
    /// Reads the file; a malformed one is an error with the parser's reason.
    pub(crate) fn read(path: &Path) -> Result<std::result::Result<Self, String>> {
        let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
        Ok(Self::parse(bytes))
    }

    fn parse(bytes: Vec<u8>) -> std::result::Result<Self, String> {
        let damaged = |e: safetensors::SafeTensorError| format!("not a whole safetensors file ({e})");
        safetensors::SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Self { bytes, metadata })
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The column called `name`, which must hold numbers of this type.
    pub(crate) fn column<T: Plain>(&self, name: &str) -> std::result::Result<Vec<T>, String> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).map_err(|e| e.to_string())?;
        let tensor = file.tensor(name).map_err(|_| format!("the tensor {name} is missing"))?;
        let dtype = format!("{:?}", tensor.dtype());
        if dtype != T::NAME {
            return Err(format!("the tensor {name} is {dtype}; expected {}", T::NAME));
        }
        Ok(tensor.data().chunks_exact(T::SIZE).map(T::take).collect())
    }
}

/// A file of columns, of which only the header is held in memory.
#[derive(Debug)]
pub(crate) struct ColumnFile {
    file: File,
    /// Where the first column begins.
    start: u64,
    header: safetensors::tensor::Metadata,
}

impl ColumnFile {
    /// Opens the file and reads its header; a malformed one is an error with the reason.
    pub(crate) fn open(path: &Path) -> Result<std::result::Result<Self, String>> {
        let io = || Error::io("reading", path);
        let mut file = File::open(path).map_err(io())?;
        let length = file.metadata().map_err(io())?.len();
        let damaged = |reason: &str| Ok(Err(format!("not a whole safetensors file ({reason})")));
        let mut size = [0; 8];
        if length < 8 {
            return damaged("it has no header");
        }
        file.read_exact(&mut size).map_err(io())?;
        let size = u64::from_le_bytes(size);
        let Some(columns) = (length - 8).checked_sub(size).filter(|_| size <= LONGEST_HEADER) else {
            return damaged("its header is longer than the file, or than any header");
        };
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header).map_err(io())?;
        let header: safetensors::tensor::Metadata = match serde_json::from_slice(&header) {
            Ok(header) => header,
            Err(e) => return damaged(&e.to_string()),
        };
        if header.data_len() as u64 != columns {
            return damaged("its header speaks of more or fewer bytes than there are");
        }
        Ok(Ok(Self { file, start: 8 + size, header }))
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The dtype of a column, where it begins in the file, and how many numbers it has.
    pub(crate) fn place(&self, name: &str) -> std::result::Result<(String, u64, usize), String> {
        let info = self.header.info(name).ok_or_else(|| format!("the tensor {name} is missing"))?;
        let begin = self.start + info.data_offsets.0 as u64;
        Ok((format!("{:?}", info.dtype), begin, info.shape.iter().product()))
    }

    /// The column called `name`, which must hold numbers of this type.
    pub(crate) fn column<T: Plain>(&self, name: &str) -> std::result::Result<Vec<T>, String> {
        let (dtype, begin, count) = self.place(name)?;
        if dtype != T::NAME {
            return Err(format!("the tensor {name} is {dtype}; expected {}", T::NAME));
        }
        let mut values = Vec::with_capacity(count);
        for from in (0..count).step_by(CHUNK) {
            let piece = self.read::<T>(begin + (from * T::SIZE) as u64, CHUNK.min(count - from));
            values.extend(piece.map_err(|e| e.to_string())?);
        }
        Ok(values)
    }

    /// So many numbers from byte `begin` of the file.
    pub(crate) fn read<T: Plain>(&self, begin: u64, count: usize) -> std::io::Result<Vec<T>> {
        let mut bytes = vec![0; count * T::SIZE];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes.chunks_exact(T::SIZE).map(T::take).collect())
    }
}

/// The longest header that is read, as in the safetensors library.
const LONGEST_HEADER: u64 = 100_000_000;
/// Values turned into bytes at a time.
const CHUNK: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_back_to_the_bit_and_damage_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("columns.safetensors");
        let metadata = BTreeMap::from([("kind".to_owned(), "test".to_owned())]);
        let floats = vec![0.1f32, -0.0, f32::MIN_POSITIVE, f32::INFINITY];
        let wide: Vec<f64> = (0..CHUNK + 3).map(|i| (i as f64).sqrt()).collect();
        let whole = [u64::MAX, 0];
        let columns = [("a", Column::new(&floats)), ("b", Column::new(&wide)), ("c", Column::new(&whole))];
        write(&path, &metadata, &columns).unwrap();

        let read = Columns::read(&path).unwrap().unwrap();
        assert_eq!(read.metadata("kind"), Some("test"));
        let bits: Vec<u32> = read.column::<f32>("a").unwrap().iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        assert!(read.column::<f64>("b").unwrap().iter().zip(&wide).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(read.column::<u64>("c").unwrap(), whole);
        assert!(read.column::<f64>("a").unwrap_err().contains("expected F64"));
        assert!(read.column::<f64>("z").unwrap_err().contains("missing"));

        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 7, 8, 20, bytes.len() - 1] {
            assert!(Columns::parse(bytes[..cut].to_vec()).is_err(), "a file cut at {cut} was taken");
        }
    }
}
