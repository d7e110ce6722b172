//! Objectives as configuration names them.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::builtin::Builtin;
use crate::error::{Error, Result};
use crate::humanline::Humanline;
use crate::loss::{Objective, forward_objective};
use crate::mix::Mix;
use crate::ordered::Ordered;
use crate::panacea::Panacea;
use crate::tchebycheff::Tchebycheff;
use crate::trust_region::TrustRegion;
use crate::wpo::Wpo;

recipes! {
    /// A weighted sum.
    "mix" => Mix,
    /// Pairs weighted by how likely the policy would write them.
    "wpo" => Wpo,
    /// Log-ratios of single tokens held within bounds.
    "humanline" => Humanline,
    /// A reference that follows the policy.
    "trust_region" => TrustRegion,
    /// The worst of several.
    "tchebycheff" => Tchebycheff,
    /// Several, weighted by a preference that the model is told.
    "panacea" => Panacea,
    /// Pairs in the order that a number says.
    "ordered" => Ordered,
}

/// Makes [`Recipe`]: a single loss, or one of the objectives that are made of others, in the list above.
macro_rules! recipes {
    ($($(#[$doc:meta])* $name:literal => $composite:ident),+ $(,)?) => {
        /// An objective that configuration can name: a table with a `type` and the hyperparameters of that loss, or
        /// the `type` of an objective that is made of others, which are written out in it.
        ///
        /// ```
        /// use candlewick_losses::{Builtin, Dpo, Recipe};
        /// let recipe: Recipe = serde_json::from_str(r#"{ "type": "dpo", "beta": 0.2 }"#)?;
        /// assert_eq!(recipe, Recipe::Builtin(Builtin::Dpo(Dpo { beta: 0.2, ..Dpo::default() })));
        /// let wrapped: Recipe = serde_json::from_str(r#"{ "type": "wpo", "loss": { "type": "ipo" } }"#)?;
        /// assert_eq!(wrapped.name(), "wpo");
        /// let typo = serde_json::from_str::<Recipe>(r#"{ "type": "dppo" }"#).unwrap_err();
        /// assert!(typo.to_string().contains("did you mean `dpo`?"));
        /// # Ok::<(), serde_json::Error>(())
        /// ```
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "type")]
        pub enum Recipe {
            $(
                $(#[$doc])*
                #[serde(rename = $name)]
                $composite($composite),
            )+
            /// One loss of the list, which writes its `type` itself.
            #[serde(untagged)]
            Builtin(Builtin),
        }

        impl Recipe {
            /// The name that configuration gives it.
            pub fn name(&self) -> &'static str {
                match self {
                    Self::Builtin(loss) => loss.name(),
                    $(Self::$composite(_) => $name,)+
                }
            }

            fn composite(name: &str, fields: &Value) -> Option<serde_json::Result<Self>> {
                $(
                    if name.eq_ignore_ascii_case($name) {
                        return Some($composite::deserialize(fields).map(Self::$composite));
                    }
                )+
                None
            }

            fn objective(&self) -> &dyn Objective {
                match self {
                    Self::Builtin(loss) => loss,
                    $(Self::$composite(composite) => composite,)+
                }
            }

            fn objective_mut(&mut self) -> &mut dyn Objective {
                match self {
                    Self::Builtin(loss) => loss,
                    $(Self::$composite(composite) => composite,)+
                }
            }
        }

        $(
            impl From<$composite> for Recipe {
                fn from(composite: $composite) -> Self {
                    Self::$composite(composite)
                }
            }
        )+

        /// The names of the objectives that are made of others.
        pub(crate) const COMPOSITES: &[&str] = &[$($name),+];
    };
}
use recipes;

impl Recipe {
    /// A loss by name or alias with its default hyperparameters.
    ///
    /// # Errors
    /// If no loss has that name: the error names the nearest and lists all. An objective that is made of others has no
    /// default.
    pub fn from_name(name: &str) -> Result<Self> {
        if let Some(name) = COMPOSITES.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            return Err(Error::Config(format!("{name} is made of other losses: write them out in it")));
        }
        Ok(Self::Builtin(Builtin::parse(name)?))
    }

    // By hand and not by serde's tag: aliases and the nearest name come from the list of losses.
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        let name = match fields.remove(TYPE) {
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(Error::Config(format!("type: got {other}, expected the name of a loss")));
            }
            None => {
                let names = [Builtin::NAMES, COMPOSITES].concat().join(", ");
                return Err(Error::Config(format!("`type` is missing, expected one of {names}")));
            }
        };
        let fields = Value::Object(fields);
        let read = match Self::composite(&name, &fields) {
            Some(composite) => composite,
            None => Builtin::from_fields(&name, fields).ok_or_else(|| Builtin::unknown(&name))?.map(Self::Builtin),
        };
        read.map_err(|error| Error::Config(format!("{name}: {error}")))
    }
}

forward_objective!(Recipe);

impl From<Builtin> for Recipe {
    fn from(loss: Builtin) -> Self {
        Self::Builtin(loss)
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
            other => Err(D::Error::custom(format!("got a {}, expected a single loss", other.name()))),
        }
    }
}

const TYPE: &str = "type";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, Dpo, Kto, Needs, Scores, Sft, TokenScores};
    use candle_core::{Device, Tensor};

    const NESTED: &str = r#"
        type = "mix"
        [[parts]]
        weight = 0.5
        loss = { type = "wpo", loss = { type = "humanline", high = 2.0, loss = { type = "sigmoid", beta = 0.3 } } }
        [[parts]]
        loss = { type = "sft" }
    "#;

    #[test]
    fn composites_nest_and_survive_a_round_trip() {
        let nested: Recipe = toml::from_str(NESTED).unwrap();
        nested.validate().unwrap();
        let dpo = Recipe::Builtin(Dpo { beta: 0.3, ..Dpo::default() }.into());
        let clamped = Humanline { low: -1.0, high: 2.0, loss: Box::new(dpo.clone()) };
        let weighted = Recipe::from(Wpo { loss: Box::new(clamped.clone().into()) });
        let Recipe::Mix(Mix { parts }) = &nested else { panic!("it is a mix") };
        assert_eq!(parts[0].loss, weighted);
        let mixed = Wpo { loss: Box::new(Mix { parts: vec![crate::Part { weight: 2.0, loss: dpo }] }.into()) };
        for recipe in [nested, weighted, clamped.into(), mixed.into()] {
            let json = serde_json::to_string(&recipe).unwrap();
            assert!(json.starts_with(&format!(r#"{{"type":"{}""#, recipe.name())), "{json}");
            assert_eq!(serde_json::from_str::<Recipe>(&json).unwrap(), recipe);
            assert_eq!(toml::from_str::<Recipe>(&toml::to_string(&recipe).unwrap()).unwrap(), recipe);
        }
    }

    #[test]
    fn needs_and_values_pass_through_all_layers() {
        let nested: Recipe = toml::from_str(NESTED).unwrap();
        let needs: Needs = nested.needs();
        assert!(needs.reference && needs.rows.pairs && needs.outputs.log_sum_sq_probs && !needs.rows.labelled);
        let rows = Tensor::new(&[[-1.0f64], [-2.0]], &Device::Cpu).unwrap();
        let policy = TokenScores::unmasked(rows.clone()).unwrap().with_log_sum_sq_probs(rows).unwrap();
        let scores = Scores::of_pairs(policy.clone(), Some(policy));
        let loss = nested.evaluate(&scores, &Context::default()).unwrap().loss(&scores.totals()).unwrap();
        // Half of ln 2 at weight 1, and 1 nat a chosen token.
        let got = loss.to_scalar::<f64>().unwrap();
        assert!((got - (0.5 * std::f64::consts::LN_2 + 1.0)).abs() < 1e-15, "{got}");
    }

    #[test]
    fn wrong_words_are_named_with_the_nearest() {
        let wrong = |json: &str| serde_json::from_str::<Recipe>(json).unwrap_err().to_string();
        let typo = wrong(r#"{ "type": "wpoo" }"#);
        assert!(typo.contains("did you mean `wpo`?") && typo.contains("mix, wpo, humanline, trust_region"), "{typo}");
        assert!(wrong(r#"{ "type": "humanlin" }"#).contains("did you mean `humanline`?"));
        let inner = wrong(r#"{ "type": "wpo", "loss": { "type": "dpo", "bta": 1 } }"#);
        assert!(inner.contains("wpo: ") && inner.contains("bta"), "{inner}");
        assert!(wrong(r#"{ "type": "wpo" }"#).contains("missing field `loss`"));
        assert!(wrong(r#"{ "type": "humanline", "los": 1 }"#).contains("los"));
        assert!(Recipe::from_name("WPO").unwrap_err().to_string().contains("wpo is made of other losses"));
        let single = serde_json::from_str::<Builtin>(r#"{ "type": "wpo", "loss": { "type": "dpo" } }"#).unwrap_err();
        assert!(single.to_string().contains("got a wpo, expected a single loss"), "{single}");
    }

    #[test]
    fn a_wrapped_objective_is_checked() {
        let kto = Recipe::Builtin(Kto::default().into());
        let error = Wpo { loss: Box::new(kto) }.validate().unwrap_err().to_string();
        assert!(error.starts_with("wpo cannot wrap Kto"), "{error}");
        let sft = Recipe::Builtin(Sft {}.into());
        Recipe::from(Humanline::new(Box::new(sft))).validate().unwrap();
    }
}
