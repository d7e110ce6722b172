//! The heads of a score model as `config.json` holds them: names, and how their numbers are normalised.
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use candlewick_kernels::Float;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::error::{Error, Result};

/// More heads than anybody has, and a damaged file may ask for anything.
const MAX_HEADS: usize = 1 << 16;
/// What transformers takes where `config.json` names no labels.
const DEFAULT_LABELS: usize = 2;
const ARCHITECTURE: &str = "LlamaForSequenceClassification";
const NORMALISERS: &str = "candlewick_normalisers";

/// How the numbers of a head are brought to a scale on which they can be compared; training does not see it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Normaliser {
    /// `(x − mean) / deviation`, as of rewards, of which only differences mean something.
    Affine {
        /// The mean over some texts.
        mean: f64,
        /// The standard deviation over them.
        deviation: f64,
    },
    /// `x / deviation`, as of costs, whose zero parts safe from harmful.
    Scale {
        /// The standard deviation over some texts.
        deviation: f64,
    },
}

impl Normaliser {
    /// The normalised number.
    pub fn apply(&self, x: f64) -> f64 {
        match self {
            Self::Affine { mean, deviation } => (x - mean) / deviation,
            Self::Scale { deviation } => x / deviation,
        }
    }

    fn check(&self, head: &str) -> Result<()> {
        let (mean, deviation) = match *self {
            Self::Affine { mean, deviation } => (mean, deviation),
            Self::Scale { deviation } => (0.0, deviation),
        };
        if mean.is_finite() && deviation.is_finite() && deviation > 0.0 {
            return Ok(());
        }
        Err(Error::Input(format!(
            "the normaliser of the head {head:?} has mean {mean} and deviation {deviation}; expected a finite mean and a positive \
             deviation"
        )))
    }
}

/// The heads of a score model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heads {
    names: Vec<String>,
    normalisers: BTreeMap<String, Normaliser>,
}

impl Heads {
    /// Heads of the given names.
    pub(crate) fn named(names: &[String]) -> Result<Self> {
        check_names(names)?;
        Ok(Self { names: names.to_vec(), normalisers: BTreeMap::new() })
    }

    /// Those that a `config.json` of a sequence classification model lists.
    pub(crate) fn of_config(config: &Config) -> Result<Self> {
        let raw = config.raw();
        let names = match raw.get("id2label") {
            None | Some(Value::Null) => numbered(raw)?,
            Some(labels) => labelled(labels)?,
        };
        check_names(&names)?;
        let normalisers: BTreeMap<String, Normaliser> = match raw.get(NORMALISERS) {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|e| Error::Input(format!("{NORMALISERS} is {value} ({e}); expected a normaliser a head")))?,
        };
        for (head, normaliser) in &normalisers {
            if !names.contains(head) {
                return Err(Error::Input(format!(
                    "{NORMALISERS} names the head {head:?}; the heads are {}",
                    names.join(", ")
                )));
            }
            normaliser.check(head)?;
        }
        Ok(Self { names, normalisers })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn normaliser(&self, head: usize) -> Option<Normaliser> {
        self.normalisers.get(self.names.get(head)?).copied()
    }

    pub(crate) fn set_normaliser(&mut self, head: usize, normaliser: Option<Normaliser>) -> Result<()> {
        let name = self.names.get(head).ok_or_else(|| {
            Error::Input(format!("head {head} is asked for; the model has {}, counted from 0", self.names.len()))
        })?;
        match normaliser {
            Some(normaliser) => {
                normaliser.check(name)?;
                self.normalisers.insert(name.clone(), normaliser);
            }
            None => {
                self.normalisers.remove(name);
            }
        }
        Ok(())
    }

    /// Normalises `values` `[rows, K]`; those of heads without a normaliser stay as they are.
    pub(crate) fn normalise<T: Float>(&self, values: &mut [T]) {
        let normalisers: Vec<_> = (0..self.count()).map(|head| self.normaliser(head)).collect();
        for row in values.chunks_exact_mut(normalisers.len()) {
            for (x, normaliser) in row.iter_mut().zip(&normalisers) {
                if let Some(normaliser) = normaliser {
                    *x = T::from_f64(normaliser.apply(x.to_f64()));
                }
            }
        }
    }

    /// Makes of the `config.json` of a causal model, or an older one of a score model, that of a score model with these heads.
    ///
    /// transformers scores the last token that is not `pad_token_id`. Where that token ends texts too, it would take the token
    /// before the end, and another score: the key is then null, so that batches that need padding are refused there.
    pub(crate) fn write_into(&self, config: &Config, json: &mut Map<String, Value>) {
        let labels = |pairs: Vec<(String, Value)>| Value::Object(pairs.into_iter().collect());
        let names = self.names.iter().enumerate();
        json.insert("architectures".into(), json!([ARCHITECTURE]));
        json.insert("id2label".into(), labels(names.clone().map(|(i, name)| (i.to_string(), json!(name))).collect()));
        json.insert("label2id".into(), labels(names.map(|(i, name)| (name.clone(), json!(i))).collect()));
        json.remove("num_labels");
        let pad = json.get("pad_token_id").and_then(Value::as_u64);
        if pad.is_some_and(|pad| config.eos_token_ids.iter().any(|eos| u64::from(*eos) == pad)) {
            json.insert("pad_token_id".into(), Value::Null);
        }
        match self.normalisers.is_empty() {
            true => json.remove(NORMALISERS),
            false => json.insert(NORMALISERS.into(), json!(self.normalisers)),
        };
    }
}

/// Refuses the directory of a score model where a language model is wanted.
pub(crate) fn refuse_score_model(config: &Config, directory: &Path) -> Result<()> {
    if !config.is_score_model() {
        return Ok(());
    }
    let reason = "this is a score model (architectures names a sequence classification), which gives texts numbers and predicts no \
                  tokens; name a causal language model, or train it on with an objective of score heads";
    Err(Error::config(directory.join("config.json"), reason))
}

/// Names of heads that no label names.
fn numbered(raw: &Map<String, Value>) -> Result<Vec<String>> {
    let count = match raw.get("num_labels") {
        None | Some(Value::Null) => Some(DEFAULT_LABELS),
        Some(value) => value.as_u64().and_then(|count| usize::try_from(count).ok()),
    };
    match count.filter(|count| (1..=MAX_HEADS).contains(count)) {
        Some(count) => Ok((0..count).map(|i| format!("LABEL_{i}")).collect()),
        None => {
            let found = raw.get("num_labels").unwrap_or(&Value::Null);
            Err(Error::Input(format!("num_labels is {found}; expected 1 to {MAX_HEADS}")))
        }
    }
}

/// `{"0": "reward", "1": "cost"}` in the order of the numbers.
fn labelled(labels: &Value) -> Result<Vec<String>> {
    let wrong = || Error::Input(format!("id2label is {labels}; expected a name for each of \"0\", \"1\", …"));
    let map = labels.as_object().ok_or_else(wrong)?;
    (0..map.len()).map(|i| Some(map.get(&i.to_string())?.as_str()?.to_owned())).collect::<Option<_>>().ok_or_else(wrong)
}

fn check_names(names: &[String]) -> Result<()> {
    if !(1..=MAX_HEADS).contains(&names.len()) {
        return Err(Error::Input(format!("a score model has {} heads; expected 1 to {MAX_HEADS}", names.len())));
    }
    let mut met = HashSet::new();
    match names.iter().find(|name| name.trim().is_empty() || !met.insert(name.as_str())) {
        Some(name) => {
            Err(Error::Input(format!("a head is named {name:?}; expected names that differ and are not empty")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &str) -> Config {
        let text = format!(
            r#"{{"vocab_size":32,"hidden_size":16,"intermediate_size":24,"num_hidden_layers":1,"num_attention_heads":4{keys}}}"#
        );
        Config::from_json(&text).unwrap()
    }

    #[test]
    fn names_are_in_the_order_of_their_numbers() {
        let labels = (0..11).map(|i| format!("\"{i}\":\"head {i}\"")).collect::<Vec<_>>().join(",");
        let heads = Heads::of_config(&config(&format!(",\"id2label\":{{{labels}}}"))).unwrap();
        assert_eq!((heads.count(), heads.names()[2].as_str(), heads.names()[10].as_str()), (11, "head 2", "head 10"));
        assert_eq!(Heads::of_config(&config("")).unwrap().names(), ["LABEL_0", "LABEL_1"]);
        assert_eq!(Heads::of_config(&config(",\"num_labels\":1")).unwrap().names(), ["LABEL_0"]);
    }

    #[test]
    fn errors_name_the_key() {
        for (keys, expected) in [
            (",\"id2label\":[\"a\"]", "id2label"),
            (",\"id2label\":{\"1\":\"a\"}", "id2label"),
            (",\"id2label\":{\"0\":\"a\",\"1\":\"a\"}", "names that differ"),
            (",\"id2label\":{}", "0 heads"),
            (",\"num_labels\":0", "num_labels"),
            (",\"num_labels\":1000000000000", "num_labels"),
            (",\"candlewick_normalisers\":{\"LABEL_7\":{\"kind\":\"scale\",\"deviation\":1}}", "LABEL_7"),
            (",\"candlewick_normalisers\":{\"LABEL_0\":{\"kind\":\"scale\",\"deviation\":0}}", "positive"),
            (",\"candlewick_normalisers\":{\"LABEL_0\":{\"kind\":\"odd\"}}", "candlewick_normalisers"),
        ] {
            let error = Heads::of_config(&config(keys)).unwrap_err().to_string();
            assert!(error.contains(expected), "{keys}: {error}");
        }
    }

    #[test]
    fn a_padding_that_ends_texts_is_not_written() {
        let heads = Heads::named(&["reward".into()]).unwrap();
        for (keys, expected) in [
            (",\"pad_token_id\":0,\"eos_token_id\":2", json!(0)),
            (",\"pad_token_id\":2,\"eos_token_id\":[3,2]", Value::Null),
        ] {
            let config = config(keys);
            let Value::Object(mut json) = config.to_json("float32") else { panic!("no object") };
            heads.write_into(&config, &mut json);
            assert_eq!(json["pad_token_id"], expected);
            assert_eq!((&json["id2label"]["0"], &json["label2id"]["reward"]), (&json!("reward"), &json!(0)));
        }
    }

    #[test]
    fn a_normaliser_changes_its_own_head_alone() {
        let mut heads = Heads::named(&["reward".into(), "cost".into(), "other".into()]).unwrap();
        heads.set_normaliser(0, Some(Normaliser::Affine { mean: 1.0, deviation: 2.0 })).unwrap();
        heads.set_normaliser(1, Some(Normaliser::Scale { deviation: 4.0 })).unwrap();
        let mut values = [5.0, 0.0, 7.0, 1.0, -8.0, 0.5];
        heads.normalise(&mut values);
        assert_eq!(values.map(f64::to_bits), [2.0, 0.0, 7.0, 0.0, -2.0, 0.5].map(f64::to_bits));
        assert!(heads.set_normaliser(3, None).unwrap_err().to_string().contains("head 3"));
    }
}
