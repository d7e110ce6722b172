//! What stands beside `tokenizer.json`: special tokens, and the chat template.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::Error;

/// The files of a tokenizer, as bytes; what a build without a file system hands in.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`: special tokens, `add_bos_token`, `chat_template`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`: special tokens that the configuration leaves out.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `chat_template.jinja`; goes before the configuration's.
    pub chat_template: Option<&'a str>,
    /// `additional_chat_templates/tool_use.jinja`: the template of conversations with tools, beside `chat_template`.
    pub tool_use_template: Option<&'a str>,
    /// `config.json` or `generation_config.json` of the model: ids of special tokens that nothing else names. From a
    /// directory each id is that of `generation_config.json`, or else of `config.json`.
    pub model_config: Option<&'a [u8]>,
}

/// The files of a directory, read.
#[derive(Debug, Default)]
pub(crate) struct OwnedFiles {
    tokenizer: Vec<u8>,
    tokenizer_config: Option<Vec<u8>>,
    special_tokens_map: Option<Vec<u8>>,
    chat_template: Option<String>,
    tool_use_template: Option<String>,
    model_config: Option<Vec<u8>>,
}

impl OwnedFiles {
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let tokenizer = optional(dir, "tokenizer.json")?.ok_or_else(|| Error::Tokenizer {
            file: dir.join("tokenizer.json").display().to_string(),
            message: "no such file; expected the directory of a model or tokenizer in Hugging Face's layout".to_owned(),
        })?;
        let generation = optional(dir, "generation_config.json")?;
        let generation = json(generation.as_deref(), &dir.join("generation_config.json").display().to_string())?;
        let config = optional(dir, "config.json")?;
        let config = json(config.as_deref(), &dir.join("config.json").display().to_string())?;
        let ids = ["bos_token_id", "eos_token_id"].map(|key| {
            let found = [&generation[key], &config[key]].into_iter().find(|value| id(value).is_some());
            (key.to_owned(), found.cloned().unwrap_or(Value::Null))
        });
        let model_config = Some(Value::Object(ids.into_iter().collect()).to_string().into_bytes());
        Ok(Self {
            tokenizer,
            tokenizer_config: optional(dir, "tokenizer_config.json")?,
            special_tokens_map: optional(dir, "special_tokens_map.json")?,
            chat_template: optional_text(dir, "chat_template.jinja")?,
            tool_use_template: optional_text(dir, "additional_chat_templates/tool_use.jinja")?,
            model_config,
        })
    }

    pub(crate) fn borrow(&self) -> TokenizerFiles<'_> {
        TokenizerFiles {
            tokenizer: &self.tokenizer,
            tokenizer_config: self.tokenizer_config.as_deref(),
            special_tokens_map: self.special_tokens_map.as_deref(),
            chat_template: self.chat_template.as_deref(),
            tool_use_template: self.tool_use_template.as_deref(),
            model_config: self.model_config.as_deref(),
        }
    }
}

fn optional(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Tokenizer { file: path.display().to_string(), message: error.to_string() }),
    }
}

fn optional_text(dir: &Path, name: &str) -> Result<Option<String>, Error> {
    optional(dir, name)?
        .map(|bytes| {
            String::from_utf8(bytes).map_err(|_| Error::Tokenizer {
                file: dir.join(name).display().to_string(),
                message: "not UTF-8".to_owned(),
            })
        })
        .transpose()
}

/// Special tokens by their text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpecialTokens {
    /// The tokens that have a name: `bos_token` and the like, those that are given.
    pub(crate) named: BTreeMap<&'static str, String>,
    /// `additional_special_tokens`.
    pub(crate) additional: Vec<String>,
}

/// The names of special tokens.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The sources of chat templates: for every conversation, and for those with tools where that is another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TemplateSources {
    pub(crate) default: String,
    pub(crate) tool_use: Option<String>,
}

/// What the files beside the tokenizer say.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) special: SpecialTokens,
    /// Ids by the model's configuration, where no file names the token.
    pub(crate) bos_id: Option<u32>,
    pub(crate) eos_id: Option<u32>,
    /// The configuration asks for a beginning-of-sequence token.
    pub(crate) add_bos: bool,
    pub(crate) chat_template: Option<TemplateSources>,
}

impl Settings {
    pub(crate) fn read(files: &TokenizerFiles<'_>) -> Result<Self, Error> {
        let config = json(files.tokenizer_config, "tokenizer_config.json")?;
        let map = json(files.special_tokens_map, "special_tokens_map.json")?;
        let model = json(files.model_config, "config.json")?;
        let either = |key: &str| token(&config[key]).or_else(|| token(&map[key]));
        let additional = |value: &Value| {
            value
                .as_array()
                .map(|list| list.iter().filter_map(token).collect::<Vec<_>>())
                .filter(|list| !list.is_empty())
        };
        let special = SpecialTokens {
            named: SPECIAL.into_iter().filter_map(|name| Some((name, either(name)?))).collect(),
            additional: additional(&config["additional_special_tokens"])
                .or_else(|| additional(&map["additional_special_tokens"]))
                .unwrap_or_default(),
        };
        Ok(Self {
            special,
            bos_id: id(&model["bos_token_id"]),
            eos_id: id(&model["eos_token_id"]),
            add_bos: config["add_bos_token"].as_bool().unwrap_or(false),
            chat_template: match files.chat_template {
                Some(template) => Some(TemplateSources {
                    default: template.to_owned(),
                    tool_use: files.tool_use_template.map(str::to_owned),
                }),
                None => templates(&config["chat_template"])?,
            },
        })
    }
}

fn json(bytes: Option<&[u8]>, file: &str) -> Result<Value, Error> {
    bytes.map_or(Ok(Value::Null), |bytes| {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::Tokenizer { file: file.to_owned(), message: format!("not JSON: {error}") })
    })
}

/// A token is given by its text, or as an object with the text under `content`.
fn token(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

/// An id, or the first of a list of them.
fn id(value: &Value) -> Option<u32> {
    value.as_u64().or_else(|| value[0].as_u64()).and_then(|id| u32::try_from(id).ok())
}

/// A template, or those of a list that are named `default` and `tool_use`.
fn templates(value: &Value) -> Result<Option<TemplateSources>, Error> {
    let wrong =
        |message: &str| Error::Tokenizer { file: "tokenizer_config.json".to_owned(), message: message.to_owned() };
    match value {
        Value::Null => Ok(None),
        Value::String(template) => Ok(Some(TemplateSources { default: template.clone(), tool_use: None })),
        Value::Array(list) => {
            let named = |name: &str| {
                let entry = list.iter().find(|entry| entry["name"] == name)?;
                entry["template"].as_str().map(str::to_owned)
            };
            let default =
                named("default").ok_or_else(|| wrong("chat_template is a list without an entry named \"default\""))?;
            Ok(Some(TemplateSources { default, tool_use: named("tool_use") }))
        }
        _ => Err(wrong("chat_template is neither a string nor a list")),
    }
}
