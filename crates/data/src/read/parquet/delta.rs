//! Texts whose lengths are written as differences: a page tells how many there are before the first of them, and its decoder
//! reserves as many.

use ::parquet::basic::Encoding;
use ::parquet::column::page::Page;

/// Whether a page has no more lengths than values.
pub(super) fn check(page: &Page, levels: [i16; 2]) -> Result<(), String> {
    let lists = match page.encoding() {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Ok(()),
    };
    let mut bytes = values(page, levels).ok_or_else(|| "its levels end too late".to_owned())?;
    for _ in 0..lists {
        bytes = lengths(bytes, u64::from(page.num_values()))
            .ok_or_else(|| format!("its lengths end too early, or are more than its {} values", page.num_values()))?;
    }
    Ok(())
}

/// The bytes behind the levels.
fn values(page: &Page, levels: [i16; 2]) -> Option<&[u8]> {
    match page {
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
            buf.get(usize::try_from(def_levels_byte_len.checked_add(*rep_levels_byte_len)?).ok()?..)
        }
        Page::DataPage { buf, def_level_encoding, rep_level_encoding, .. } => {
            let mut bytes: &[u8] = buf;
            for (level, encoding) in levels.into_iter().zip([rep_level_encoding, def_level_encoding]) {
                if level > 0 {
                    // Nobody writes the other encoding of levels together with these.
                    (*encoding == Encoding::RLE).then_some(())?;
                    let (length, rest) = bytes.split_at_checked(4)?;
                    let length = u32::from_le_bytes(length.try_into().ok()?);
                    bytes = rest.get(usize::try_from(length).ok()?..)?;
                }
            }
            Some(bytes)
        }
        Page::DictionaryPage { .. } => None,
    }
}

/// The bytes behind one list of at most so many lengths; "Delta encoding" of the format's Encodings.md.
fn lengths(bytes: &[u8], most: u64) -> Option<&[u8]> {
    let (block, bytes) = varint(bytes)?;
    let (blocks, bytes) = varint(bytes)?;
    let (count, bytes) = varint(bytes)?;
    let (_, mut bytes) = varint(bytes)?;
    if count > most || blocks == 0 || block > 1 << 20 {
        return None;
    }
    let of_each = block / blocks;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        let (_, rest) = varint(bytes)?;
        let (widths, rest) = rest.split_at_checked(usize::try_from(blocks).ok()?)?;
        bytes = rest;
        for width in widths {
            if left == 0 {
                break;
            }
            // The last ones may be cut off behind the last length.
            let held = usize::try_from(u64::from(*width) * of_each / 8).ok()?.min(bytes.len());
            bytes = bytes.get(held..)?;
            left = left.saturating_sub(of_each.max(1));
        }
    }
    Some(bytes)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}
