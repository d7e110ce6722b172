//! Thrift's compact protocol, as far as it takes to look at a message before it is decoded.
//!
//! The decoder that reads the message afterwards goes by the numbers of fields and never looks at their types, so a message is
//! passed on only where both agree: every field of a known number has its type, and comes once, in order.

use std::io::Read;

/// How deep fields that nobody knows may nest.
const DEPTH: usize = 8;

/// What a field of a known number holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Bool,
    Byte,
    Int32,
    Int64,
    Text,
    Struct(&'static [(i16, Kind)]),
}

impl Kind {
    fn is(self, wire: u8) -> bool {
        match self {
            Self::Bool => matches!(wire, 1 | 2),
            Self::Byte => wire == 3,
            Self::Int32 => wire == 5,
            Self::Int64 => wire == 6,
            Self::Text => wire == 8,
            Self::Struct(_) => wire == STRUCT,
        }
    }
}

const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// A message being looked at.
#[derive(Debug)]
pub(super) struct Message<R> {
    reader: R,
    /// Bytes taken.
    pub(super) at: u64,
}

impl<R: Read> Message<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, at: 0 }
    }

    /// Looks at a struct. `found` is told the numbers in it: the field they stand in (0 for the struct itself), their own field, and
    /// the value.
    pub(super) fn structure(
        &mut self,
        fields: &[(i16, Kind)],
        found: &mut dyn FnMut(i16, i16, i64),
    ) -> Result<(), String> {
        self.fields(fields, 0, found)
    }

    fn fields(
        &mut self,
        fields: &[(i16, Kind)],
        outer: i16,
        found: &mut dyn FnMut(i16, i16, i64),
    ) -> Result<(), String> {
        let mut last = 0;
        while let Some((id, wire)) = self.field(last)? {
            if id <= last {
                return Err(format!("field {id} after field {last}"));
            }
            last = id;
            let Some((_, kind)) = fields.iter().find(|(known, _)| *known == id) else {
                self.skip(wire, DEPTH)?;
                continue;
            };
            if !kind.is(wire) {
                return Err(format!("field {id} is of type {wire}"));
            }
            match kind {
                Kind::Bool => {}
                Kind::Int32 | Kind::Int64 => found(outer, id, self.integer()?),
                Kind::Struct(inner) => self.fields(inner, id, found)?,
                Kind::Byte | Kind::Text => self.skip(wire, 1)?,
            }
        }
        Ok(())
    }

    /// The next field of a struct, its number and type; None at the end.
    fn field(&mut self, last: i16) -> Result<Option<(i16, u8)>, String> {
        let head = self.byte()?;
        let (delta, wire) = (head >> 4, head & 0xf);
        if wire == 0 {
            return Ok(None);
        }
        let id = match delta {
            0 => i16::try_from(self.integer()?).ok(),
            delta => last.checked_add(i16::from(delta)),
        };
        Ok(Some((id.ok_or_else(|| "a field beyond all numbers".to_owned())?, wire)))
    }

    /// A field that has to come next.
    pub(super) fn expect(&mut self, last: i16, id: i16, kind: Kind) -> Result<(), String> {
        match self.field(last)? {
            Some((found, wire)) if found == id && kind.is(wire) => Ok(()),
            _ => Err(format!("no field {id} after field {last}")),
        }
    }

    /// The length of a list of structs that has to come next.
    pub(super) fn expect_list(&mut self, last: i16, id: i16) -> Result<u64, String> {
        match self.field(last)? {
            Some((found, LIST)) if found == id => {}
            _ => return Err(format!("no field {id} after field {last}")),
        }
        let head = self.byte()?;
        match (head >> 4, head & 0xf) {
            (0, _) => Ok(0),
            (15, STRUCT) => self.varint(),
            (length, STRUCT) => Ok(u64::from(length)),
            _ => Err(format!("field {id} is no list of structs")),
        }
    }

    fn skip(&mut self, wire: u8, depth: usize) -> Result<(), String> {
        let depth = depth.checked_sub(1).ok_or_else(|| "fields nest too deep".to_owned())?;
        match wire {
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let length = self.varint()?;
                self.pass(length)
            }
            STRUCT => {
                while let Some((_, wire)) = self.field(0)? {
                    self.skip(wire, depth)?;
                }
                Ok(())
            }
            _ => Err(format!("an unknown field of type {wire}")),
        }
    }

    fn pass(&mut self, count: u64) -> Result<(), String> {
        let passed = std::io::copy(&mut (&mut self.reader).take(count), &mut std::io::sink());
        self.at += count;
        match passed {
            Ok(passed) if passed == count => Ok(()),
            Ok(_) => Err("it ends too early".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A number with its sign in the last bit.
    pub(super) fn integer(&mut self) -> Result<i64, String> {
        let bits = self.varint()?;
        Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed())
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..).step_by(7).take(9) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number too long".to_owned())
    }

    fn byte(&mut self) -> Result<u8, String> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte).map_err(|_| "it ends too early".to_owned())?;
        self.at += 1;
        let [byte] = byte;
        Ok(byte)
    }
}
