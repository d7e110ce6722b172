//! safetensors files in and out.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candlewick_kernels::Float;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::parameters::Parameters;

/// The bytes of one weight file.
enum Bytes {
    #[cfg(not(target_arch = "wasm32"))]
    Mapped(memmap2::Mmap),
    #[cfg(target_arch = "wasm32")]
    Read(Vec<u8>),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            #[cfg(not(target_arch = "wasm32"))]
            Self::Mapped(map) => map,
            #[cfg(target_arch = "wasm32")]
            Self::Read(bytes) => bytes,
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn open(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(Error::io(path))?;
    if file.metadata().map_err(Error::io(path))?.len() == 0 {
        return Err(Error::weights(path, "the file is empty; copy it again"));
    }
    // SAFETY: the map is only read, to copy numbers into our own buffers, and dropped with the files. A file that another
    // process shortens meanwhile faults, as it would for every reader of mapped weights; nothing is written through the map.
    #[expect(unsafe_code, reason = "the one place that maps weight files")]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    Ok(Bytes::Mapped(map))
}

#[cfg(target_arch = "wasm32")]
fn open(path: &Path) -> Result<Bytes> {
    std::fs::read(path).map(Bytes::Read).map_err(Error::io(path))
}

/// Where each tensor of a model or adapter directory lies.
pub(crate) struct WeightFiles {
    directory: PathBuf,
    places: BTreeMap<String, Place>,
    files: Vec<(PathBuf, Bytes)>,
}

/// One stored tensor.
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl WeightFiles {
    /// Opens `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` lists; `stem` is `model` or
    /// `adapter_model`.
    pub(crate) fn open(directory: &Path, stem: &str) -> Result<Self> {
        let single = directory.join(format!("{stem}.safetensors"));
        let index = directory.join(format!("{stem}.safetensors.index.json"));
        let paths = if single.exists() {
            vec![single]
        } else if index.exists() {
            shards(directory, &index)?
        } else {
            return Err(Error::MissingFile {
                directory: directory.into(),
                missing: format!("{stem}.safetensors"),
                expected: "weights as safetensors (pickled .bin and .pt files are not read: convert them first)",
            });
        };
        let mut files = Vec::with_capacity(paths.len());
        let mut places = BTreeMap::new();
        for path in paths {
            let bytes = open(&path)?;
            let whole = bytes.as_ref();
            let (header, metadata) = SafeTensors::read_metadata(whole)
                .map_err(|e| Error::weights(&path, format!("not a whole safetensors file ({e}); copy it again")))?;
            let first = header + size_of::<u64>();
            for (name, info) in metadata.tensors() {
                let (start, end) = (first + info.data_offsets.0, first + info.data_offsets.1);
                if end > whole.len() {
                    return Err(Error::weights(&path, format!("{name} ends beyond the file; copy it again")));
                }
                let place =
                    Place { file: files.len(), dtype: info.dtype, shape: info.shape.clone(), bytes: start..end };
                if places.insert(name.clone(), place).is_some() {
                    return Err(Error::weights(directory, format!("two shards hold the tensor {name}")));
                }
            }
            files.push((path, bytes));
        }
        Ok(Self { directory: directory.into(), places, files })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The shape of a tensor, if it is there.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.places.get(name).map(|place| place.shape.as_slice())
    }

    /// The stored type of a tensor, if it is there.
    pub(crate) fn dtype(&self, name: &str) -> Option<Dtype> {
        self.places.get(name).map(|place| place.dtype)
    }

    /// The directory they were opened in.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Refuses a tensor that is missing or has another shape: nothing has to be allocated to find out.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let place = self.place(name)?;
        if place.shape != shape {
            let stored = &place.shape;
            let reason = format!("{name} has shape {stored:?}; the configuration asks for {shape:?}");
            return Err(Error::weights(&self.files[place.file].0, reason));
        }
        Ok(())
    }

    /// Copies a tensor into `out`, converting it.
    pub(crate) fn read<T: Float>(&self, name: &str, out: &mut [T]) -> Result<()> {
        let place = self.place(name)?;
        let (path, bytes) = &self.files[place.file];
        convert(place.dtype, &bytes.as_ref()[place.bytes.clone()], out).map_err(|dtype| {
            Error::weights(path, format!("{name} is stored as {dtype:?}; expected F32, F64, F16 or BF16"))
        })
    }

    fn place(&self, name: &str) -> Result<&Place> {
        let missing = || Error::weights(&self.directory, format!("the tensor {name} is not in the weight files"));
        self.places.get(name).ok_or_else(missing)
    }
}

/// The shard files an index names, each once.
fn shards(directory: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| Error::config(index, format!("not JSON: {e}")))?;
    let map = value["weight_map"]
        .as_object()
        .ok_or_else(|| Error::config(index, "no weight_map; expected the index of a sharded model"))?;
    let mut names: Vec<&str> = Vec::new();
    for file in map.values() {
        let name =
            file.as_str().ok_or_else(|| Error::config(index, "weight_map holds something that is no file name"))?;
        if Path::new(name).components().count() != 1 || name == ".." {
            return Err(Error::config(index, format!("the shard {name:?} lies outside the model directory")));
        }
        names.push(name);
    }
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

/// Stored numbers as `T`.
fn convert<T: Float>(dtype: Dtype, data: &[u8], out: &mut [T]) -> std::result::Result<(), Dtype> {
    match dtype {
        Dtype::F32 => fill(out, data, |b: [u8; 4]| f64::from(f32::from_le_bytes(b))),
        Dtype::F64 => fill(out, data, f64::from_le_bytes),
        Dtype::F16 => fill(out, data, |b| half::f16::from_le_bytes(b).to_f64()),
        Dtype::BF16 => fill(out, data, |b| half::bf16::from_le_bytes(b).to_f64()),
        other => return Err(other),
    }
    Ok(())
}

fn fill<T: Float, const N: usize>(out: &mut [T], data: &[u8], number: impl Fn([u8; N]) -> f64) {
    let (chunks, _) = data.as_chunks::<N>();
    for (slot, bytes) in out.iter_mut().zip(chunks) {
        *slot = T::from_f64(number(*bytes));
    }
}

/// One tensor on its way to a file.
struct Outgoing<'a, T> {
    shape: &'a [usize],
    data: &'a [T],
}

impl<T: Float> safetensors::View for Outgoing<'_, T> {
    fn dtype(&self) -> Dtype {
        if size_of::<T>() == 8 { Dtype::F64 } else { Dtype::F32 }
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        let mut bytes = Vec::with_capacity(self.data_len());
        for x in self.data {
            if size_of::<T>() == 8 {
                bytes.extend_from_slice(&x.to_f64().to_le_bytes());
            } else {
                #[expect(clippy::cast_possible_truncation, reason = "T is f32 here: the value is one")]
                bytes.extend_from_slice(&(x.to_f64() as f32).to_le_bytes());
            }
        }
        bytes.into()
    }
    fn data_len(&self) -> usize {
        size_of_val(self.data)
    }
}

/// The largest file of weights, as Hugging Face cuts them.
pub(crate) const SHARD_BYTES: u64 = 5_000_000_000;

/// The name Hugging Face gives the stored precision.
pub(crate) fn dtype_name<T>() -> &'static str {
    if size_of::<T>() == 8 { "float64" } else { "float32" }
}

/// Writes parameters as `<stem>.safetensors`, or as shards of at most `shard_bytes` with their index.
///
/// Names are passed through `rename`. Every file is written beside its place, synced and renamed; several files are replaced
/// one after the other, so a caller who may be interrupted writes into a fresh directory and renames that.
pub(crate) fn save<T: Float>(
    directory: &Path,
    stem: &str,
    parameters: &Parameters<T>,
    shard_bytes: u64,
    rename: impl Fn(&str) -> String,
) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
    let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
    let mut filled = 0u64;
    for i in 0..parameters.len() {
        let bytes = size_of_val(parameters.tensor(i)) as u64;
        if filled > 0 && filled + bytes > shard_bytes {
            groups.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        groups.last_mut().expect("there is always a last group").push(i);
    }
    let single = groups.len() == 1;
    let file_name = |k: usize| match single {
        true => format!("{stem}.safetensors"),
        false => format!("{stem}-{:05}-of-{:05}.safetensors", k + 1, groups.len()),
    };
    let mut weight_map = serde_json::Map::new();
    for (k, group) in groups.iter().enumerate() {
        let tensors = group.iter().map(|&i| {
            (rename(parameters.name(i)), Outgoing { shape: parameters.shape(i), data: parameters.tensor(i) })
        });
        let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        replace(&directory.join(file_name(k)), |temporary| {
            safetensors::serialize_to_file(tensors, Some(metadata), temporary)
                .map_err(|e| Error::weights(temporary, format!("could not be written: {e}")))
        })?;
        for &i in group {
            weight_map.insert(rename(parameters.name(i)), json!(file_name(k)));
        }
    }
    let index = directory.join(format!("{stem}.safetensors.index.json"));
    if single {
        return remove(&index);
    }
    let total = (parameters.element_count() * size_of::<T>()) as u64;
    save_json(&index, &json!({"metadata": {"total_size": total}, "weight_map": weight_map}))?;
    // Readers prefer a single file over an index: one from before would win.
    remove(&directory.join(format!("{stem}.safetensors")))
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// Writes JSON beside its place, syncs it, and renames it there.
pub(crate) fn save_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value always serialises");
    text.push('\n');
    replace(path, |temporary| {
        let mut file = File::create(temporary).map_err(Error::io(temporary))?;
        file.write_all(text.as_bytes()).map_err(Error::io(temporary))
    })
}

/// Lets `write` fill a temporary file, syncs it and renames it to `path`; on failure the temporary file is removed.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().expect("the path ends in a file name").to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let done = write(&temporary)
        .and_then(|()| File::options().append(true).open(&temporary).map_err(Error::io(&temporary)))
        .and_then(|file| file.sync_all().map_err(Error::io(&temporary)))
        .and_then(|()| std::fs::rename(&temporary, path).map_err(Error::io(path)));
    if done.is_err() {
        // The first error is the one worth telling.
        let _ = std::fs::remove_file(&temporary);
    }
    done
}
