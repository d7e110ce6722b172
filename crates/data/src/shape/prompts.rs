//! Splits by prompt: every row has a place in [0, 1) that only its prompt decides, and a split takes a range of places.
//!
//! `"..0.95"` to train on and `"0.95.."` to evaluate with hold about 95 and 5 of 100 prompts, and never the same one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::row::Row;
use crate::shape::content::prompt_hash;

/// The place of a row in [0, 1): the first 53 bits of [`prompt_hash`], as a fraction. Rows of one prompt have one place.
#[must_use]
pub fn prompt_place(row: &Row) -> f64 {
    const BITS: u32 = f64::MANTISSA_DIGITS;
    (prompt_hash(row) >> (u128::BITS - BITS)) as f64 / (1u64 << BITS) as f64
}

/// A half-open range of places: the rows whose prompts lie in it.
///
/// ```
/// use candlewick_data::PromptRange;
/// let train: PromptRange = "..0.95".parse()?;
/// assert_eq!((train.from, train.to), (0.0, 0.95));
/// # Ok::<(), candlewick_data::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PromptRange {
    /// The first place taken.
    pub from: f64,
    /// The first place no longer taken; 1 takes all the rest.
    pub to: f64,
}

impl Default for PromptRange {
    /// All rows.
    fn default() -> Self {
        Self { from: 0.0, to: 1.0 }
    }
}

impl PromptRange {
    /// Whether a row is taken.
    #[must_use]
    pub fn contains(&self, row: &Row) -> bool {
        let place = prompt_place(row);
        place >= self.from && place < self.to
    }

    /// The rows to train on and the rows held out when a share of the prompts is held out: those of the places before the
    /// share.
    ///
    /// # Errors
    /// A share that is not between 0 and 1.
    ///
    /// ```
    /// let (train, held_out) = candlewick_data::PromptRange::split(0.05)?;
    /// assert_eq!((train.to_string(), held_out.to_string()), ("0.05..".to_owned(), "..0.05".to_owned()));
    /// # Ok::<(), candlewick_data::Error>(())
    /// ```
    pub fn split(held_out: f64) -> Result<(Self, Self), Error> {
        if !(held_out > 0.0 && held_out < 1.0) {
            return Err(Error::Option {
                name: "held_out",
                got: held_out.to_string(),
                expected: "a share of the prompts between 0 and 1, such as 0.05",
            });
        }
        Ok((Self { from: held_out, to: 1.0 }, Self { from: 0.0, to: held_out }))
    }
}

impl FromStr for PromptRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Option {
            name: "prompts",
            got: format!("{text:?}"),
            expected: "a range of shares from 0 to 1, such as \"..0.95\", \"0.95..\" or \"0.9..0.95\", that is not empty",
        };
        let (from, to) = text.trim().split_once("..").ok_or_else(wrong)?;
        let share = |text: &str, open: f64| match text.trim() {
            "" => Ok(open),
            text => text.parse::<f64>().map_err(|_| wrong()),
        };
        let range = Self { from: share(from, 0.0)?, to: share(to, 1.0)? };
        // Written so that what is not a number is refused.
        if range.from >= 0.0 && range.from < range.to && range.to <= 1.0 { Ok(range) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for PromptRange {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<PromptRange> for String {
    fn from(range: PromptRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PromptRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from > 0.0 {
            write!(f, "{}", self.from)?;
        }
        f.write_str("..")?;
        if self.to < 1.0 {
            write!(f, "{}", self.to)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Message, Text};

    fn row(prompt: &str) -> Row {
        Row::Demonstration { prompt: Text::Plain(prompt.to_owned()), completion: Text::Plain("c".to_owned()) }
    }

    #[test]
    fn places_are_what_they_were() {
        // Made with Python's xxhash: `xxh3_128_intdigest(b"\0" + len(text).to_bytes(8, "little") + text)`.
        let chat = |messages: &[(&str, &str)]| Row::Demonstration {
            prompt: Text::Chat(messages.iter().map(|(role, content)| Message::new(*role, *content)).collect()),
            completion: Text::Chat(vec![Message::new("assistant", "c")]),
        };
        let question = ("user", "What is a candle?");
        let expected: [(Row, u128); 5] = [
            (row("What is a candle?"), 0xa082a63a_fdce2f8e_1c3954fa_733c3aa6),
            (row("蜡烛是什么？"), 0x2efefd7b_3bbaac7a_b6cb6421_7e633b2c),
            // One message of the user is the same prompt as its text.
            (chat(&[question]), 0xa082a63a_fdce2f8e_1c3954fa_733c3aa6),
            // 1, the number of messages, and role and content of each.
            (chat(&[("system", "Be brief."), question]), 0x21f6969c_48799ae7_bc3e4eab_f98198da),
            (chat(&[("assistant", "What is a candle?")]), 0x425f9b21_09add508_a0552cf5_9965852d),
        ];
        for (row, hash) in expected {
            assert_eq!(prompt_hash(&row), hash);
            let place = prompt_place(&row);
            assert!((place - hash as f64 / 2f64.powi(128)).abs() < 1e-12 && (0.0..1.0).contains(&place), "{place}");
        }
    }

    #[test]
    fn a_share_of_the_places_is_a_share_of_the_prompts() {
        let held_out = PromptRange::split(0.05).unwrap().1;
        let count = (0..20_000).filter(|number| held_out.contains(&row(&format!("prompt {number}")))).count();
        // 1000 expected, with a standard deviation of 31.
        assert!((900..1100).contains(&count), "{count}");
    }

    #[test]
    fn ranges_are_read_and_written_alike() {
        for text in ["..", "..0.95", "0.95..", "0.9..0.95", "0.000001.."] {
            assert_eq!(text.parse::<PromptRange>().unwrap().to_string(), text);
        }
        for text in ["", "0.5", "0.5..0.5", "0.9..0.1", "a..", "-0.1..", "..1.5", "nan..", "..nan", "..inf"] {
            assert!(text.parse::<PromptRange>().unwrap_err().to_string().contains("prompts: got"), "{text}");
        }
        for share in [0.0, 1.0, -0.5, f64::NAN, 5.0] {
            assert!(PromptRange::split(share).unwrap_err().to_string().contains("held_out: got"), "{share}");
        }
    }
}
