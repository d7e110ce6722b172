//! The losses of this library: one file each, and one list.
//!
//! A new loss is a new file here and one line, `file::Type`, in the list below. Its configuration
//! name, aliases and summary stand in its own file; dispatch, configuration, listings and the
//! property tests follow from the list.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::loss::{Objective, forward_objective};
use crate::recipe::MIX;

builtin! {
    sft::Sft,
    dpo::Dpo,
    cdpo::Cdpo,
    robust_dpo::RobustDpo,
    ipo::Ipo,
    hinge::Hinge,
    kto::Kto,
}

/// How a loss of the list is named and described.
pub trait Named: Objective + Default + Serialize + DeserializeOwned {
    /// Its configuration name: the type's name in snake case.
    const NAME: &'static str;
    /// Other names for it, among them that of TRL's `loss_type`.
    const ALIASES: &'static [&'static str];
    /// One line about it.
    const SUMMARY: &'static str;
}

impl Builtin {
    /// A loss by name or alias with its default hyperparameters, in lower case
    /// with `_` or `-`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_fields(name, Value::Object(serde_json::Map::new()))?.ok()
    }

    /// As [`from_name`](Self::from_name), with an error that names the nearest name and lists all.
    ///
    /// # Errors
    /// If no loss has that name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::from_name(name).ok_or_else(|| Self::unknown(name))
    }

    pub(crate) fn unknown(name: &str) -> Error {
        let aliases = Self::ALIASES.iter().flat_map(|aliases| aliases.iter());
        let known = Self::NAMES.iter().chain([&MIX]).chain(aliases);
        let nearest = known
            .map(|known| (distance(name, known), *known))
            .min()
            .filter(|&(distance, known)| distance <= 1 + known.len() / 4)
            .map(|(_, known)| known.to_owned());
        let names = format!("{}, {MIX}", Self::NAMES.join(", "));
        Error::UnknownLoss { name: name.to_owned(), nearest, names }
    }
}

/// Makes the list of losses: their modules, an enum over them, their names, and dispatch.
macro_rules! builtin {
    ($($file:ident::$loss:ident),+ $(,)?) => {
        $(
            mod $file;
            pub use $file::$loss;
        )+

        /// Any loss of the list, as configuration names it.
        ///
        /// ```
        /// use candlewick_losses::Builtin;
        /// assert_eq!(Builtin::from_name("sigmoid"), Builtin::from_name("dpo"));
        /// assert!(Builtin::NAMES.contains(&"kto"));
        /// ```
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Builtin {
            $(
                #[doc = concat!("[`", stringify!($loss), "`]")]
                $loss($loss),
            )+
        }

        impl Builtin {
            /// The names of all losses, in the order of the list.
            pub const NAMES: &'static [&'static str] = &[$(<$loss as Named>::NAME),+];
            /// Other names of every loss, in the order of [`NAMES`](Self::NAMES).
            pub const ALIASES: &'static [&'static [&'static str]] = &[$(<$loss as Named>::ALIASES),+];
            /// One line about every loss, in the order of [`NAMES`](Self::NAMES).
            pub const SUMMARIES: &'static [&'static str] = &[$(<$loss as Named>::SUMMARY),+];

            /// The configuration name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$loss(_) => <$loss as Named>::NAME,)+ }
            }

            /// One line about the loss.
            pub fn summary(&self) -> &'static str {
                match self { $(Self::$loss(_) => <$loss as Named>::SUMMARY,)+ }
            }

            /// A loss from its name and its hyperparameters; `None` if nothing has that name.
            pub(crate) fn from_fields(name: &str, fields: Value) -> Option<serde_json::Result<Self>> {
                $(if is_named::<$loss>(name) {
                    return Some(serde_json::from_value(fields).map(Self::$loss));
                })+
                None
            }

            fn objective(&self) -> &dyn Objective {
                match self { $(Self::$loss(loss) => loss,)+ }
            }

            fn objective_mut(&mut self) -> &mut dyn Objective {
                match self { $(Self::$loss(loss) => loss,)+ }
            }
        }

        $(
            impl From<$loss> for Builtin {
                fn from(loss: $loss) -> Self {
                    Self::$loss(loss)
                }
            }
        )+

        forward_objective!(Builtin);
    };
}
use builtin;

fn is_named<L: Named>(name: &str) -> bool {
    let same = |known: &str| known.eq_ignore_ascii_case(&name.replace('-', "_"));
    same(L::NAME) || L::ALIASES.iter().any(|alias| same(alias))
}

/// The error of a hyperparameter unless it is in range.
fn in_range<L: Named>(parameter: &'static str, got: f64, is_in: bool, expected: &'static str) -> Result<()> {
    if is_in { Ok(()) } else { Err(Error::Parameter { loss: L::NAME.to_owned(), parameter, got, expected }) }
}

/// `beta` must be positive: it is the weight of the divergence from the reference.
fn check_beta<L: Named>(beta: f64) -> Result<()> {
    in_range::<L>("beta", beta, beta.is_finite() && beta > 0.0, "a positive number")
}

/// A rate of flipped labels: at one half the labels say nothing.
fn check_label_smoothing<L: Named>(rate: f64) -> Result<()> {
    in_range::<L>("label_smoothing", rate, (0.0..0.5).contains(&rate), "a rate in [0, 0.5)")
}

/// Edit distance: insertions, deletions and substitutions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_edit_distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("dpo", "dpo"), 0);
    }

    #[test]
    fn names_of_trl_resolve() {
        for (alias, name) in
            [("sigmoid", "dpo"), ("robust", "robust_dpo"), ("ROBUST-DPO", "robust_dpo"), ("kto", "kto")]
        {
            assert_eq!(Builtin::parse(alias).unwrap().name(), name);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_and_all() {
        let error = Builtin::parse("hinges").unwrap_err().to_string();
        assert!(error.contains("did you mean `hinge`?") && error.contains("sft, dpo, cdpo"), "{error}");
        assert!(!Builtin::parse("zzzzzz").unwrap_err().to_string().contains("did you mean"));
    }
}
