//! The most tokens of a micro-batch.
use std::fmt;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `train.tokens`: a number, or `"auto"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenBudget {
    /// So many tokens, each prompt counted once.
    Tokens(usize),
    /// As many as the device has memory for when the run starts, decided once.
    Auto,
}

impl TokenBudget {
    /// The number, where it is one.
    pub fn tokens(self) -> Option<usize> {
        match self {
            Self::Tokens(tokens) => Some(tokens),
            Self::Auto => None,
        }
    }
}

impl From<usize> for TokenBudget {
    fn from(tokens: usize) -> Self {
        Self::Tokens(tokens)
    }
}

impl fmt::Display for TokenBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => write!(f, "{tokens}"),
            Self::Auto => f.write_str(AUTO),
        }
    }
}

const AUTO: &str = "auto";

impl Serialize for TokenBudget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tokens(tokens) => serializer.serialize_u64(*tokens as u64),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for TokenBudget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl Visitor<'_> for Words {
            type Value = TokenBudget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of tokens, or \"auto\"")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<TokenBudget, E> {
                let tokens = usize::try_from(number);
                tokens.map(TokenBudget::Tokens).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<TokenBudget, E> {
                let tokens = usize::try_from(number);
                tokens.map(TokenBudget::Tokens).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<TokenBudget, E> {
                match word {
                    AUTO => Ok(TokenBudget::Auto),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_auto() {
        let read = |json: &str| serde_json::from_str::<TokenBudget>(json);
        assert_eq!(read("4096").unwrap(), TokenBudget::Tokens(4096));
        assert_eq!(read("\"auto\"").unwrap(), TokenBudget::Auto);
        for wrong in ["-1", "\"all\"", "1.5", "true"] {
            assert!(read(wrong).unwrap_err().to_string().contains("\"auto\""), "{wrong}");
        }
        for budget in [TokenBudget::Tokens(7), TokenBudget::Auto] {
            assert_eq!(read(&serde_json::to_string(&budget).unwrap()).unwrap(), budget);
        }
    }
}
