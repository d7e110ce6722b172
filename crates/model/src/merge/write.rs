//! Tensors out, one at a time.
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::weights::{replace, save_json};

/// In what numbers tensors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// 64 bits.
    F64,
    /// 32 bits.
    F32,
    /// IEEE's 16 bits.
    F16,
    /// The upper 16 bits of an F32.
    Bf16,
}

impl Stored {
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// The name in a safetensors header.
    fn header(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// The name in `config.json`.
    pub(super) fn torch(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Appends the nearest number of this kind; whether it is finite.
    fn put(self, x: f64, bytes: &mut Vec<u8>) -> bool {
        match self {
            Self::F64 => bytes.extend_from_slice(&x.to_le_bytes()),
            Self::F32 => {
                #[expect(clippy::cast_possible_truncation, reason = "rounding is what is asked for")]
                let x = x as f32;
                bytes.extend_from_slice(&x.to_le_bytes());
                return x.is_finite();
            }
            Self::F16 => {
                let x = half::f16::from_f64(x);
                bytes.extend_from_slice(&x.to_le_bytes());
                return x.is_finite();
            }
            Self::Bf16 => {
                let x = half::bf16::from_f64(x);
                bytes.extend_from_slice(&x.to_le_bytes());
                return x.is_finite();
            }
        }
        x.is_finite()
    }
}

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) stored: Stored,
}

impl Slot {
    fn bytes(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product::<u64>() * self.stored.size() as u64
    }
}

/// Writes `<stem>.safetensors`, or shards of at most `shard_bytes` with their index; `numbers` makes the tensors, each
/// once.
pub(super) fn write(
    directory: &Path,
    stem: &str,
    slots: &[Slot],
    shard_bytes: u64,
    mut numbers: impl FnMut(&Slot) -> Result<Vec<f64>>,
) -> Result<()> {
    let shards = shards(slots, shard_bytes);
    let file_name = |k: usize| match shards.len() {
        0 | 1 => format!("{stem}.safetensors"),
        n => format!("{stem}-{:05}-of-{n:05}.safetensors", k + 1),
    };
    let mut weight_map = Map::new();
    for (k, shard) in shards.iter().enumerate() {
        replace(&directory.join(file_name(k)), |path| write_shard(path, shard, &mut numbers))?;
        weight_map.extend(shard.iter().map(|slot| (slot.name.clone(), json!(file_name(k)))));
    }
    if shards.len() > 1 {
        let total: u64 = slots.iter().map(Slot::bytes).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        save_json(&directory.join(format!("{stem}.safetensors.index.json")), &index)?;
    }
    Ok(())
}

fn shards(slots: &[Slot], shard_bytes: u64) -> Vec<Vec<&Slot>> {
    let mut shards: Vec<Vec<&Slot>> = Vec::new();
    let mut filled = 0;
    for slot in slots {
        match shards.last_mut() {
            Some(shard) if filled + slot.bytes() <= shard_bytes => shard.push(slot),
            _ => {
                shards.push(vec![slot]);
                filled = 0;
            }
        }
        filled += slot.bytes();
    }
    // Readers map files: wider numbers come first, so that each lies at a multiple of its size.
    shards.iter_mut().for_each(|shard| shard.sort_by_key(|slot| std::cmp::Reverse(slot.stored.size())));
    shards
}

fn write_shard(path: &Path, slots: &[&Slot], numbers: &mut impl FnMut(&Slot) -> Result<Vec<f64>>) -> Result<()> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut start = 0;
    for slot in slots {
        let end = start + slot.bytes();
        let entry = json!({ "dtype": slot.stored.header(), "shape": slot.shape, "data_offsets": [start, end] });
        header.insert(slot.name.clone(), entry);
        start = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(path).map_err(Error::io(path))?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::io(path))?;
    file.write_all(&header).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    for slot in slots {
        for chunk in numbers(slot)?.chunks(CHUNK) {
            bytes.clear();
            for x in chunk {
                if !slot.stored.put(*x, &mut bytes) {
                    return Err(Error::Input(format!(
                        "{} becomes {x}, which {} cannot hold; smaller weights or lambda, or a wider dtype",
                        slot.name,
                        slot.stored.header()
                    )));
                }
            }
            file.write_all(&bytes).map_err(Error::io(path))?;
        }
    }
    file.flush().map_err(Error::io(path))
}

/// Numbers turned into bytes at a time.
const CHUNK: usize = 1 << 16;
