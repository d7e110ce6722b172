//! The footer of a Parquet file, looked at before it is decoded: its decoder reserves what it claims, and goes as deep as the schema
//! nests, on the stack.

use std::io::{Read, Seek, SeekFrom};

use super::thrift::{Kind, Message};

/// The longest footer that is read.
const MAX_BYTES: u64 = 64 << 20;
/// The most columns, those that only hold others included.
const MAX_COLUMNS: u64 = 1 << 16;
/// The deepest that columns may nest.
const MAX_DEPTH: usize = 64;
/// The fewest bytes that a row group can be written in.
const GROUP_BYTES: u64 = 16;

/// Fields of `SchemaElement` in parquet.thrift.
const COLUMN: &[(i16, Kind)] = &[
    (1, Kind::Int32),
    (2, Kind::Int32),
    (3, Kind::Int32),
    (4, Kind::Text),
    (CHILDREN, Kind::Int32),
    (6, Kind::Int32),
    (7, Kind::Int32),
    (8, Kind::Int32),
    (9, Kind::Int32),
    (10, Kind::Struct(LOGICAL_TYPE)),
];
const CHILDREN: i16 = 5;
const EMPTY: &[(i16, Kind)] = &[];
const UNIT: Kind = Kind::Struct(&[(1, Kind::Struct(EMPTY)), (2, Kind::Struct(EMPTY)), (3, Kind::Struct(EMPTY))]);
const TIME: Kind = Kind::Struct(&[(1, Kind::Bool), (2, UNIT)]);
/// Fields of `LogicalType`; those without a field of their own need no line.
const LOGICAL_TYPE: &[(i16, Kind)] = &[
    (5, Kind::Struct(&[(1, Kind::Int32), (2, Kind::Int32)])),
    (7, TIME),
    (8, TIME),
    (10, Kind::Struct(&[(1, Kind::Byte), (2, Kind::Bool)])),
    (16, Kind::Struct(&[(1, Kind::Byte)])),
    (17, Kind::Struct(&[(1, Kind::Text)])),
    (18, Kind::Struct(&[(1, Kind::Text), (2, Kind::Int32)])),
];

/// Whether the footer can be decoded safely. What is wrong with it in other ways is left to its decoder.
pub(super) fn check(file: impl Read + Seek, length: u64) -> Result<(), String> {
    match footer(file, length).map_err(|error| error.to_string())? {
        Some(footer) if footer.len() as u64 > MAX_BYTES => Err(format!("a footer of more than {MAX_BYTES} bytes")),
        Some(footer) => look(&footer).map_err(|message| format!("the footer cannot be read: {message}")),
        None => Ok(()),
    }
}

/// The bytes of the footer, and one more than allowed of one that is too long; None where there is none.
fn footer(mut file: impl Read + Seek, length: u64) -> std::io::Result<Option<Vec<u8>>> {
    let Some(tail) = length.checked_sub(8) else { return Ok(None) };
    file.seek(SeekFrom::Start(tail))?;
    let mut count = [0; 4];
    file.read_exact(&mut count)?;
    let count = u64::from(u32::from_le_bytes(count));
    let Some(start) = tail.checked_sub(count) else { return Ok(None) };
    file.seek(SeekFrom::Start(start))?;
    let mut footer = Vec::new();
    file.take(count.min(MAX_BYTES + 1)).read_to_end(&mut footer)?;
    Ok(Some(footer))
}

fn look(footer: &[u8]) -> Result<(), String> {
    let mut message = Message::new(footer);
    message.expect(0, 1, Kind::Int32)?;
    message.integer()?;
    let columns = message.expect_list(1, 2)?;
    if columns > MAX_COLUMNS {
        return Err(format!("{columns} columns, at most {MAX_COLUMNS} are read"));
    }
    // How many columns are still to come in each group around.
    let mut open: Vec<u64> = Vec::new();
    for index in 0..columns {
        let mut children = 0;
        message.structure(COLUMN, &mut |outer, field, value| {
            if (outer, field) == (0, CHILDREN) {
                children = value;
            }
        })?;
        let children = u64::try_from(children).map_err(|_| format!("a column of {children} columns"))?;
        if children > columns - index - 1 {
            return Err(format!("a column of {children} columns, where {} are left", columns - index - 1));
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        open.push(children);
        while open.last() == Some(&0) {
            open.pop();
        }
        if open.len() > MAX_DEPTH {
            return Err(format!("columns nest deeper than {MAX_DEPTH}"));
        }
    }
    message.expect(2, 3, Kind::Int64)?;
    message.integer()?;
    let groups = message.expect_list(3, 4)?;
    let left = (footer.len() as u64).saturating_sub(message.at);
    if groups > left / GROUP_BYTES { Err(format!("{groups} row groups in {left} bytes")) } else { Ok(()) }
}
