//! Objectives as configuration names them.

use serde::de::Error as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::builtin::Builtin;
use crate::error::{Error, Result};
use crate::loss::{Objective, forward_objective};
use crate::mix::Mix;

/// An objective that configuration can name: a table with a `type` and the
/// hyperparameters of that loss, or `type = "mix"` and its `parts`.
///
/// ```
/// use candlewick_losses::{Builtin, Dpo, Recipe};
/// let recipe: Recipe = serde_json::from_str(r#"{ "type": "dpo", "beta": 0.2 }"#)?;
/// assert_eq!(recipe, Recipe::Builtin(Builtin::Dpo(Dpo { beta: 0.2, ..Dpo::default() })));
/// let typo = serde_json::from_str::<Recipe>(r#"{ "type": "dppo" }"#).unwrap_err();
/// assert!(typo.to_string().contains("did you mean `dpo`?"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Recipe {
    /// One loss of the list.
    Builtin(Builtin),
    /// A weighted sum.
    Mix(Mix),
}

impl Recipe {
    /// The name that configuration gives it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Builtin(loss) => loss.name(),
            Self::Mix(_) => MIX,
        }
    }

    /// A loss by name or alias with its default hyperparameters.
    ///
    /// # Errors
    /// If no loss has that name: the error names the nearest and lists all. A mix has no default parts.
    pub fn from_name(name: &str) -> Result<Self> {
        if name.eq_ignore_ascii_case(MIX) {
            return Err(Error::Config(format!(
                "a {MIX} is made of its parts: write them out, each with weight and loss"
            )));
        }
        Ok(Self::Builtin(Builtin::parse(name)?))
    }

    fn objective(&self) -> &dyn Objective {
        match self {
            Self::Builtin(loss) => loss,
            Self::Mix(mix) => mix,
        }
    }

    fn objective_mut(&mut self) -> &mut dyn Objective {
        match self {
            Self::Builtin(loss) => loss,
            Self::Mix(mix) => mix,
        }
    }
}

forward_objective!(Recipe);

impl From<Builtin> for Recipe {
    fn from(loss: Builtin) -> Self {
        Self::Builtin(loss)
    }
}

impl From<Mix> for Recipe {
    fn from(mix: Mix) -> Self {
        Self::Mix(mix)
    }
}

impl Serialize for Recipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Builtin(loss) => loss.serialize(serializer),
            Self::Mix(mix) => {
                let mut fields = serializer.serialize_struct("Mix", 2)?;
                fields.serialize_field(TYPE, MIX)?;
                fields.serialize_field("parts", &mix.parts)?;
                fields.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Recipe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        Self::from_fields(fields).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Builtin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Recipe::deserialize(deserializer)? {
            Recipe::Builtin(loss) => Ok(loss),
            Recipe::Mix(_) => Err(D::Error::custom("got a mix, expected a single loss")),
        }
    }
}

impl Recipe {
    // By hand and not by serde's tag: aliases and the nearest name come from the list of losses.
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        let name = match fields.remove(TYPE) {
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(Error::Config(format!("type: got {other}, expected the name of a loss")));
            }
            None => {
                let names = Builtin::NAMES.join(", ");
                return Err(Error::Config(format!("`type` is missing, expected one of {names}, {MIX}")));
            }
        };
        let fields = Value::Object(fields);
        if name.eq_ignore_ascii_case(MIX) {
            let mix = serde_json::from_value(fields).map_err(|error| Error::Config(format!("{MIX}: {error}")))?;
            return Ok(Self::Mix(mix));
        }
        let Some(loss) = Builtin::from_fields(&name, fields) else {
            return Err(Builtin::unknown(&name));
        };
        loss.map(Self::Builtin).map_err(|error| Error::Config(format!("{name}: {error}")))
    }
}

const TYPE: &str = "type";
/// The name of a weighted sum.
pub(crate) const MIX: &str = "mix";
