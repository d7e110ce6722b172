//! Rows of columnar files as JSON objects.

use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int16Type, Int32Type, Int64Type, RunEndIndexType};
use arrow_array::{Array, GenericListViewArray, OffsetSizeTrait, RecordBatch, RunArray, StructArray};
use arrow_json::writer::{EncoderOptions, make_encoder};
use arrow_schema::{DataType, Field, Schema};

use super::{MAX_LINE_BYTES, RawText, Start};
use crate::error::Reason;

/// Rows are written as text until they are as many bytes together.
const CHUNK: usize = 256 << 10;

/// The rows of one batch, written as text some at a time.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    batch: Option<RecordBatch>,
    /// Rows of the batch that were written or passed over.
    next: usize,
    ready: VecDeque<RawText>,
}

impl Columns {
    /// Takes a batch, from some row on.
    pub(crate) fn set(&mut self, batch: RecordBatch, from: usize) {
        self.batch = Some(batch);
        self.next = from;
        self.ready.clear();
    }

    /// The next row of the batch; None at its end.
    pub(crate) fn next_text(&mut self) -> Result<Option<RawText>, String> {
        if self.ready.is_empty()
            && let Some(batch) = &self.batch
            && self.next < batch.num_rows()
        {
            self.ready = contained(|| write(batch, self.next))?;
            self.next += self.ready.len();
        }
        if self.ready.is_empty() {
            self.batch = None;
        }
        Ok(self.ready.pop_front())
    }
}

/// Runs what reads a columnar file. The readers of Parquet and Arrow were not written for hostile files: some damaged ones make
/// them panic, which here is an error like any other. Nothing they left half done is used afterwards.
pub(crate) fn contained<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it cannot be decoded");
        Err(text.to_owned())
    })
}

/// Whether the columns can be the keys of an object.
pub(crate) fn check(schema: &Schema) -> Result<(), String> {
    let mut before = HashSet::new();
    let twice = schema.fields().iter().enumerate().find(|(_, field)| !before.insert(field.name()));
    match twice {
        Some((index, field)) => {
            Err(format!("column {} is named {:?} as one before; rename it", index + 1, field.name()))
        }
        None => Ok(()),
    }
}

/// Rows from some row on, at least one if there is one.
fn write(batch: &RecordBatch, from: usize) -> Result<VecDeque<RawText>, String> {
    let field = Arc::new(Field::new_struct("", batch.schema().fields().clone(), false));
    let rows = StructArray::from(batch.clone());
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, &rows, &options).map_err(|error| error.to_string())?;
    let mut texts = VecDeque::new();
    let mut written = 0;
    for row in from..batch.num_rows() {
        let held = size(&rows, row, row + 1);
        if held > MAX_LINE_BYTES as u64 {
            texts.push_back(RawText::TooLong(held));
            continue;
        }
        let mut bytes = Vec::new();
        encoder.encode(row, &mut bytes);
        written += bytes.len();
        texts.push_back(if bytes.len() > MAX_LINE_BYTES {
            RawText::TooLong(bytes.len() as u64)
        } else if std::str::from_utf8(&bytes).is_err() {
            RawText::Fault(Reason::NotUtf8, "a text of the row is not UTF-8".to_owned())
        } else {
            RawText::Json { bytes, start: Start::Line }
        });
        if written >= CHUNK {
            break;
        }
    }
    Ok(texts)
}

/// About how many bytes the values of some rows hold, without writing them.
fn size(array: &dyn Array, from: usize, to: usize) -> u64 {
    let offsets = |start: usize, end: usize| end.saturating_sub(start) as u64;
    let at =
        |offsets: &[i32], index: usize| offsets.get(index).map_or(0, |offset| usize::try_from(*offset).unwrap_or(0));
    let at64 =
        |offsets: &[i64], index: usize| offsets.get(index).map_or(0, |offset| usize::try_from(*offset).unwrap_or(0));
    match array.data_type() {
        DataType::Utf8 => {
            let ends = array.as_string::<i32>().value_offsets();
            offsets(at(ends, from), at(ends, to))
        }
        DataType::LargeUtf8 => {
            let ends = array.as_string::<i64>().value_offsets();
            offsets(at64(ends, from), at64(ends, to))
        }
        DataType::Binary => {
            let ends = array.as_binary::<i32>().value_offsets();
            2 * offsets(at(ends, from), at(ends, to))
        }
        DataType::LargeBinary => {
            let ends = array.as_binary::<i64>().value_offsets();
            2 * offsets(at64(ends, from), at64(ends, to))
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let ends = list.value_offsets();
            size(list.values(), at(ends, from), at(ends, to))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let ends = list.value_offsets();
            size(list.values(), at64(ends, from), at64(ends, to))
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let ends = map.value_offsets();
            size(map.entries(), at(ends, from), at(ends, to))
        }
        DataType::FixedSizeList(_, length) => {
            let length = usize::try_from(*length).unwrap_or(0);
            size(array.as_fixed_size_list().values(), from.saturating_mul(length), to.saturating_mul(length))
        }
        DataType::ListView(_) => views(array.as_list_view::<i32>(), from, to),
        DataType::LargeListView(_) => views(array.as_list_view::<i64>(), from, to),
        // The lower half of a view is the length of its text.
        DataType::Utf8View => texts(array.as_string_view().views(), from, to),
        DataType::BinaryView => 2 * texts(array.as_binary_view().views(), from, to),
        DataType::FixedSizeBinary(length) => {
            offsets(from, to).saturating_mul(2 * u64::try_from(*length).unwrap_or(0).max(1))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| size(column, from, to)).sum(),
        DataType::Dictionary(_, _) => {
            let part = array.slice(from, to.saturating_sub(from));
            let keys = part.as_any_dictionary();
            let values = keys.values();
            if values.is_empty() {
                return offsets(from, to);
            }
            sum(keys.normalized_keys().into_iter().filter(|key| *key < values.len()), values)
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => runs::<Int16Type>(array, from, to),
            DataType::Int32 => runs::<Int32Type>(array, from, to),
            _ => runs::<Int64Type>(array, from, to),
        },
        _ => 2 * offsets(from, to),
    }
}

/// What some values of an array hold together; not all are counted once they are too many.
fn sum(places: impl Iterator<Item = usize>, values: &dyn Array) -> u64 {
    let mut total = 0;
    for place in places {
        total += size(values, place, place + 1).max(1);
        if total > MAX_LINE_BYTES as u64 {
            break;
        }
    }
    total
}

fn texts(views: &[u128], from: usize, to: usize) -> u64 {
    let views = views.get(from..to).unwrap_or_default();
    views.iter().map(|view| u64::try_from(view & u128::from(u32::MAX)).unwrap_or(0)).sum()
}

fn views<O: OffsetSizeTrait>(lists: &GenericListViewArray<O>, from: usize, to: usize) -> u64 {
    let parts = lists.value_offsets().iter().zip(lists.value_sizes()).take(to).skip(from);
    let mut total = 0;
    for (start, length) in parts {
        total += size(lists.values(), start.as_usize(), start.as_usize() + length.as_usize());
        if total > MAX_LINE_BYTES as u64 {
            break;
        }
    }
    total
}

fn runs<E: RunEndIndexType>(array: &dyn Array, from: usize, to: usize) -> u64 {
    let Some(runs) = array.as_any().downcast_ref::<RunArray<E>>() else { return 0 };
    sum((from..to).map(|index| runs.get_physical_index(index)), runs.values())
}
