//! `config.json` of a Llama-layout model, as Hugging Face writes it.
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::heads::Heads;

const MAX_LAYERS: usize = 10_000;
const MAX_HEAD_DIM: usize = 1 << 16;
const MAX_PARAMETERS: u128 = 1 << 41;

/// The shape of a model and the constants of its layers.
///
/// Read from and written to Hugging Face's `config.json`. Keys this crate has no use for survive the round trip.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Rows of the embedding, `[V]`.
    pub vocab_size: usize,
    /// Width of the residual stream, `[H]`.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The ε inside the root of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched for longer contexts.
    pub rope_scaling: RopeScaling,
    /// Positions the model was made for. Longer texts are not refused: rotary positions go on, as in transformers.
    pub max_position_embeddings: usize,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The whole file, to be written back with what is not understood here.
    raw: Map<String, Value>,
}

impl Config {
    /// The first setting in which two models of the same tensors would compute differently, by its name in `config.json`.
    pub fn computes_otherwise(&self, other: &Self) -> Option<&'static str> {
        let differs = [
            ("num_attention_heads", self.num_attention_heads != other.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads != other.num_key_value_heads),
            ("head_dim", self.head_dim != other.head_dim),
            ("rms_norm_eps", self.rms_norm_eps.to_bits() != other.rms_norm_eps.to_bits()),
            ("rope_theta", self.rope_theta.to_bits() != other.rope_theta.to_bits()),
            ("rope_scaling", self.rope_scaling != other.rope_scaling),
            ("tie_word_embeddings", self.tie_word_embeddings != other.tie_word_embeddings),
        ];
        differs.into_iter().find(|(_, differs)| *differs).map(|(name, _)| name)
    }
}

/// Stretching of rotary frequencies, under the names of Hugging Face's `rope_type`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    Default,
    /// All frequencies divided by `factor` (position interpolation, arXiv 2306.15595).
    Linear {
        /// How many times longer the context became.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Below `original / low_freq_factor` turns a frequency is low.
        low_freq_factor: f64,
        /// Above `original / high_freq_factor` turns a frequency is high.
        high_freq_factor: f64,
        /// Context length of the original training.
        original_max_position_embeddings: usize,
    },
    /// NTK-by-parts interpolation with a temperature on attention (YaRN, arXiv 2309.00071).
    Yarn {
        /// How many times longer the context became.
        factor: f64,
        /// Turns above which a frequency is kept.
        beta_fast: f64,
        /// Turns below which a frequency is divided by `factor`.
        beta_slow: f64,
        /// Context length of the original training.
        original_max_position_embeddings: usize,
        /// Scale of cosines and sines.
        attention_factor: f64,
        /// Whether the ends of the ramp are rounded to whole dimensions.
        truncate: bool,
    },
}

impl Config {
    /// A small Llama: four heads (or one when `hidden_size` is not a multiple of eight), a feed-forward block of about
    /// 8/3 of the width, tied head, 512 positions.
    pub fn llama(vocab_size: usize, hidden_size: usize, num_hidden_layers: usize) -> Self {
        let num_attention_heads = if hidden_size.is_multiple_of(8) { 4 } else { 1 };
        Self {
            vocab_size,
            hidden_size,
            intermediate_size: (hidden_size * 8 / 3).next_multiple_of(8),
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: num_attention_heads,
            head_dim: hidden_size / num_attention_heads,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: 512,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            raw: Map::new(),
        }
    }

    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// A missing or malformed file, another architecture, or an option of this one that is not built.
    pub fn from_dir(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && directory.join("adapter_config.json").exists() => {
                return Err(Error::MissingFile {
                    directory: directory.into(),
                    missing: "config.json".into(),
                    expected: "a model; this is an adapter: give its base model, and this directory as the adapter",
                });
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::MissingFile {
                    directory: directory.into(),
                    missing: "config.json".into(),
                    expected: "a Hugging Face model directory: config.json, model.safetensors (or its shards), tokenizer.json",
                });
            }
            Err(e) => return Err(Error::io(&path)(e)),
        };
        Self::from_json(&text).map_err(|e| match e {
            Error::Input(reason) => Error::config(&path, reason),
            other => other,
        })
    }

    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// As [`from_dir`](Self::from_dir).
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| Error::Input(format!("not a JSON object: {e}")))?;
        let Value::Object(raw) = value else {
            return Err(Error::Input("not a JSON object; expected the keys of a Llama configuration".into()));
        };
        let keys = Keys(&raw);
        keys.refuse_what_is_not_built()?;
        let hidden_size = keys.count("hidden_size", None)?;
        let num_attention_heads = keys.count("num_attention_heads", None)?;
        let rope = keys.rope()?;
        let head_dim = hidden_size.checked_div(num_attention_heads).unwrap_or(0);
        let max_position_embeddings = keys.count("max_position_embeddings", Some(2048))?;
        let config = Self {
            vocab_size: keys.count("vocab_size", None)?,
            hidden_size,
            intermediate_size: keys.count("intermediate_size", None)?,
            num_hidden_layers: keys.count("num_hidden_layers", None)?,
            num_attention_heads,
            num_key_value_heads: keys.count("num_key_value_heads", Some(num_attention_heads))?,
            head_dim: keys.count("head_dim", Some(head_dim))?,
            rms_norm_eps: keys.number("rms_norm_eps", Some(1e-6))?,
            rope_theta: match rope.get("rope_theta") {
                Some(_) => Keys(&rope).number("rope_theta", None)?,
                None => keys.number("rope_theta", Some(10_000.0))?,
            },
            rope_scaling: RopeScaling::parse(&Keys(&rope), max_position_embeddings)?,
            max_position_embeddings,
            tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
            initializer_range: keys.number("initializer_range", Some(0.02))?,
            bos_token_id: keys.ids("bos_token_id")?.first().copied(),
            eos_token_ids: keys.ids("eos_token_id")?,
            raw: raw.clone(),
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// A size of zero, heads that do not divide, an odd head width.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
        ] {
            if value == 0 || value > u32::MAX as usize {
                return Err(Error::Input(format!("{name} is {value}; expected a positive 32-bit number")));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(Error::Input(format!(
                "num_attention_heads is {} and num_key_value_heads {}; the first must be a multiple of the second",
                self.num_attention_heads, self.num_key_value_heads
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::Input(format!("head_dim is {}; rotary positions need an even width", self.head_dim)));
        }
        for (name, value, largest) in
            [("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS), ("head_dim", self.head_dim, MAX_HEAD_DIM)]
        {
            if value > largest {
                return Err(Error::Input(format!(
                    "{name} is {value}; expected at most {largest}; is the file damaged?"
                )));
            }
        }
        let wide = |a: usize, b: usize| a as u128 * b as u128;
        let heads = wide(self.num_attention_heads + self.num_key_value_heads, self.head_dim) as usize;
        let layer = 3 * wide(self.hidden_size, self.intermediate_size) + 2 * wide(self.hidden_size, heads);
        let parameters = 2 * wide(self.vocab_size, self.hidden_size) + self.num_hidden_layers as u128 * layer;
        if parameters > MAX_PARAMETERS {
            return Err(Error::Input(format!("the sizes ask for {parameters} parameters; is the file damaged?")));
        }
        let positive = |name: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(Error::Input(format!("{name} is {value}; expected a positive number"))),
        };
        positive("rms_norm_eps", self.rms_norm_eps)?;
        positive("rope_theta", self.rope_theta)?;
        match self.rope_scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => positive("factor", factor)?,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                positive("factor", factor)?;
                positive("high_freq_factor − low_freq_factor", high_freq_factor - low_freq_factor)?;
                positive("original_max_position_embeddings", original_max_position_embeddings as f64)?;
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings,
                attention_factor,
                ..
            } => {
                positive("factor", factor)?;
                positive("beta_fast", beta_fast)?;
                positive("beta_slow", beta_slow)?;
                positive("attention_factor", attention_factor)?;
                positive("original_max_position_embeddings", original_max_position_embeddings as f64)?;
                positive("ln rope_theta", self.rope_theta.ln())?;
            }
        }
        Ok(())
    }

    /// Whether `architectures` names a sequence classification: a score model, of which [`ScoreModel`](crate::ScoreModel) is one.
    pub fn is_score_model(&self) -> bool {
        let is_one = |name: &Value| name.as_str().is_some_and(|name| name.ends_with("ForSequenceClassification"));
        self.raw.get("architectures").and_then(Value::as_array).is_some_and(|names| names.iter().any(is_one))
    }

    /// The names of the heads of a score model; None of another model.
    ///
    /// # Errors
    /// `id2label` or what stands beside it is not what transformers writes.
    pub fn score_heads(&self) -> Result<Option<Vec<String>>> {
        self.is_score_model().then(|| Ok(Heads::of_config(self)?.names().to_vec())).transpose()
    }

    /// Every key as it was read.
    pub(crate) fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// The configuration as Hugging Face's JSON: every key that was read, brought up to date.
    pub fn to_json(&self, dtype: &str) -> Value {
        let mut raw = self.raw.clone();
        let mut set = |key: &str, value: Value| {
            raw.insert(key.to_owned(), value);
        };
        set("architectures", json!(["LlamaForCausalLM"]));
        set("model_type", json!("llama"));
        set("hidden_act", json!("silu"));
        set("attention_bias", json!(false));
        set("mlp_bias", json!(false));
        set("vocab_size", json!(self.vocab_size));
        set("hidden_size", json!(self.hidden_size));
        set("intermediate_size", json!(self.intermediate_size));
        set("num_hidden_layers", json!(self.num_hidden_layers));
        set("num_attention_heads", json!(self.num_attention_heads));
        set("num_key_value_heads", json!(self.num_key_value_heads));
        set("head_dim", json!(self.head_dim));
        set("rms_norm_eps", json!(self.rms_norm_eps));
        set("max_position_embeddings", json!(self.max_position_embeddings));
        set("tie_word_embeddings", json!(self.tie_word_embeddings));
        set("initializer_range", json!(self.initializer_range));
        set("torch_dtype", json!(dtype));
        if let Some(id) = self.bos_token_id {
            set("bos_token_id", json!(id));
        }
        match self.eos_token_ids.as_slice() {
            [] => {}
            [id] => set("eos_token_id", json!(id)),
            ids => set("eos_token_id", json!(ids)),
        }
        // Readers of either generation of the format find the rotary settings where they look for them.
        raw.remove("dtype");
        raw.remove("rope_parameters");
        raw.insert("rope_theta".into(), json!(self.rope_theta));
        raw.insert("rope_scaling".into(), self.rope_scaling.to_json());
        Value::Object(raw)
    }
}

impl RopeScaling {
    fn parse(keys: &Keys<'_>, max_positions: usize) -> Result<Self> {
        let kind = match keys.text("rope_type")?.or(keys.text("type")?) {
            Some(kind) => kind,
            None if keys.value("factor").is_none() => "default",
            None => return Err(Error::Input("rope_scaling has a factor and no rope_type; expected both".into())),
        };
        Ok(match kind {
            "default" => Self::Default,
            "linear" => Self::Linear { factor: keys.number("factor", None)? },
            "llama3" => Self::Llama3 {
                factor: keys.number("factor", None)?,
                low_freq_factor: keys.number("low_freq_factor", None)?,
                high_freq_factor: keys.number("high_freq_factor", None)?,
                original_max_position_embeddings: keys
                    .count("original_max_position_embeddings", Some(max_positions))?,
            },
            "yarn" => {
                let factor = keys.number("factor", None)?;
                if keys.0.contains_key("mscale") || keys.0.contains_key("mscale_all_dim") {
                    return Err(unsupported(
                        "yarn scaling with mscale",
                        "use a model whose rope_scaling has no mscale",
                    ));
                }
                let default_attention = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
                Self::Yarn {
                    factor,
                    beta_fast: keys.number("beta_fast", Some(32.0))?,
                    beta_slow: keys.number("beta_slow", Some(1.0))?,
                    original_max_position_embeddings: keys
                        .count("original_max_position_embeddings", Some(max_positions))?,
                    attention_factor: keys.number("attention_factor", Some(default_attention))?,
                    truncate: keys.flag("truncate", true)?,
                }
            }
            other => {
                return Err(unsupported(
                    &format!("rope_type {other:?}"),
                    "use a model with default, linear, llama3 or yarn scaling",
                ));
            }
        })
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Default => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            Self::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings,
                attention_factor,
                truncate,
            } => json!({
                "rope_type": "yarn", "factor": factor, "beta_fast": beta_fast, "beta_slow": beta_slow,
                "original_max_position_embeddings": original_max_position_embeddings,
                "attention_factor": attention_factor, "truncate": truncate,
            }),
        }
    }
}

/// Typed access to the keys of one JSON object; every error names the key.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    /// The value under `key`, `null` counting as absent.
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Error::Input(format!("{key} is {other}; expected a text"))),
        }
    }

    fn count(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.value(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::Input(format!("the key {key} is missing; expected a whole number"))),
            (Some(value), _) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| Error::Input(format!("{key} is {value}; expected a whole number"))),
        }
    }

    fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.value(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::Input(format!("the key {key} is missing; expected a number"))),
            (Some(value), _) => value
                .as_f64()
                .filter(|x| x.is_finite())
                .ok_or_else(|| Error::Input(format!("{key} is {value}; expected a number"))),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| Error::Input(format!("{key} is {value}; expected true or false")))
            }
        }
    }

    /// One id, a list of ids, or none.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let wrong = |value: &Value| Error::Input(format!("{key} is {value}; expected a token id or a list of them"));
        let id = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(|item| id(item).ok_or_else(|| wrong(item))).collect(),
            Some(value) => Ok(vec![id(value).ok_or_else(|| wrong(value))?]),
        }
    }

    /// The rotary settings, which transformers 5 keeps in `rope_parameters` and older ones in `rope_scaling`.
    fn rope(&self) -> Result<Map<String, Value>> {
        match self.value("rope_parameters").or_else(|| self.value("rope_scaling")) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(other) => Err(Error::Input(format!("rope_scaling is {other}; expected an object or null"))),
        }
    }

    fn refuse_what_is_not_built(&self) -> Result<()> {
        let model_type = self.text("model_type")?.unwrap_or("llama");
        if model_type != "llama" {
            return Err(unsupported(&format!("model_type {model_type:?}"), "use a model of type \"llama\""));
        }
        let act = self.text("hidden_act")?.unwrap_or("silu");
        if !matches!(act, "silu" | "swish") {
            return Err(unsupported(&format!("hidden_act {act:?}"), "use a model with \"silu\""));
        }
        for key in ["attention_bias", "mlp_bias"] {
            if self.flag(key, false)? {
                return Err(unsupported(&format!("{key} = true"), "use a model whose linears have no bias"));
            }
        }
        if self.number("partial_rotary_factor", Some(1.0))?.to_bits() != 1f64.to_bits() {
            return Err(unsupported("partial_rotary_factor", "use a model whose heads are rotated whole"));
        }
        if self.value("quantization_config").is_some() {
            return Err(unsupported("a quantized model", "use the unquantized weights"));
        }
        Ok(())
    }
}

fn unsupported(what: &str, instead: &str) -> Error {
    Error::Unsupported { what: what.to_owned(), instead: instead.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"model_type":"llama","vocab_size":32,"hidden_size":16,"intermediate_size":24,"num_hidden_layers":2,
        "num_attention_heads":4,"num_key_value_heads":2,"rope_theta":500000.0,"eos_token_id":[2,3],"use_cache":true,
        "rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64}}"#;

    #[test]
    fn survives_the_round_trip() {
        let config = Config::from_json(SMALL).unwrap();
        assert_eq!((config.head_dim, config.max_position_embeddings), (4, 2048));
        assert_eq!(config.eos_token_ids, [2, 3]);
        let written = config.to_json("float32");
        assert_eq!(written["use_cache"], json!(true), "unknown keys are kept");
        let again = Config::from_json(&written.to_string()).unwrap();
        assert_eq!(again.rope_scaling, config.rope_scaling);
        assert_eq!(again.rope_theta.to_bits(), 500_000f64.to_bits());
    }

    #[test]
    fn newer_files_keep_rotary_settings_elsewhere() {
        let text = SMALL
            .replace("\"rope_theta\":500000.0,", "")
            .replace("\"rope_scaling\":{", "\"rope_parameters\":{\"rope_theta\":1234.5,");
        assert_eq!(Config::from_json(&text).unwrap().rope_theta.to_bits(), 1234.5f64.to_bits());
    }

    #[test]
    fn errors_name_the_key() {
        for (from, to, expected) in [
            ("\"vocab_size\":32,", "", "vocab_size"),
            ("\"hidden_size\":16", "\"hidden_size\":\"x\"", "hidden_size"),
            ("\"num_key_value_heads\":2", "\"num_key_value_heads\":3", "num_key_value_heads"),
            ("\"model_type\":\"llama\"", "\"model_type\":\"mamba\"", "mamba"),
            ("llama3", "longrope", "longrope"),
            ("\"use_cache\":true", "\"attention_bias\":true", "attention_bias"),
            ("\"num_attention_heads\":4", "\"num_attention_heads\":0", "num_attention_heads"),
            ("\"num_hidden_layers\":2", "\"num_hidden_layers\":4000000000", "num_hidden_layers"),
            (
                "\"intermediate_size\":24,\"num_hidden_layers\":2",
                "\"intermediate_size\":4000000000,\"num_hidden_layers\":9999",
                "parameters",
            ),
            ("\"vocab_size\":32", "\"head_dim\":4294967294,\"vocab_size\":32", "head_dim"),
            ("\"llama\"", "5", "model_type"),
            ("\"rope_type\":\"llama3\",", "", "rope_type"),
            ("\"high_freq_factor\":4.0", "\"high_freq_factor\":1.0", "high_freq_factor"),
            ("500000.0", "-1.0", "rope_theta"),
        ] {
            let error = Config::from_json(&SMALL.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
        assert!(Config::from_json("[]").is_err());
        assert!(Config::from_json("{").is_err());
    }
}
