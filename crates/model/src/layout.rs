//! Which tensors a model has, where each lies among the parameters, and the files they are read from.
use std::collections::HashSet;
use std::path::Path;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::heads;
use crate::layer::{LINEARS, LayerPlaces};
use crate::weights::WeightFiles;

const EMBEDDING: &str = "model.embed_tokens.weight";
const FINAL_NORM: &str = "model.norm.weight";
const TOKEN_HEAD: &str = "lm_head.weight";
/// The weight of the heads of a score model, `[K, H]`, as Hugging Face calls it.
pub(crate) const SCORE_HEAD: &str = "score.weight";

/// What stands on a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadKind {
    /// A logit for each token of the vocabulary; its weight may be the embedding.
    Tokens,
    /// So many numbers.
    Scores(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) embedding: usize,
    pub(crate) head: usize,
    pub(crate) final_norm: usize,
    pub(crate) layers: Vec<LayerPlaces>,
}

/// Names and shapes of the base weights, in order, and where each part lies among them.
pub(crate) struct Layout {
    pub(crate) tensors: Vec<(String, Vec<usize>)>,
    pub(crate) places: Places,
}

/// The weights of the trunk, and behind them those of the head, if it has some of its own.
pub(crate) fn layout(config: &Config, head: HeadKind) -> Result<Layout> {
    config.validate()?;
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let mut tensors = vec![(EMBEDDING.to_owned(), vec![vocab, hidden])];
    let mut layers = Vec::new();
    for layer in 0..config.num_hidden_layers {
        let mut place = |name: String, shape: Vec<usize>| {
            tensors.push((name, shape));
            tensors.len() - 1
        };
        layers.push(LayerPlaces {
            input_norm: place(format!("model.layers.{layer}.input_layernorm.weight"), vec![hidden]),
            linears: LINEARS.map(|linear| {
                let (outputs, inputs) = linear.sizes(config);
                place(format!("{}.weight", linear.module(layer)), vec![outputs, inputs])
            }),
            attention_norm: place(format!("model.layers.{layer}.post_attention_layernorm.weight"), vec![hidden]),
        });
    }
    let final_norm = tensors.len();
    tensors.push((FINAL_NORM.to_owned(), vec![hidden]));
    match head {
        HeadKind::Tokens if config.tie_word_embeddings => {}
        HeadKind::Tokens => tensors.push((TOKEN_HEAD.to_owned(), vec![vocab, hidden])),
        HeadKind::Scores(count) => tensors.push((SCORE_HEAD.to_owned(), vec![count, hidden])),
    }
    // A head without a weight of its own has that of the embedding.
    let head = if tensors.len() > final_norm + 1 { final_norm + 1 } else { 0 };
    Ok(Layout { tensors, places: Places { embedding: 0, head, final_norm, layers } })
}

/// A Hugging Face directory whose files fit its configuration, before anything of their size is allocated.
pub(crate) struct StoredModel {
    pub(crate) config: Config,
    pub(crate) files: WeightFiles,
    /// In the order of the parameters.
    pub(crate) tensors: Vec<StoredTensor>,
}

/// A tensor of the model, and the name under which the files have it.
pub(crate) struct StoredTensor {
    pub(crate) name: String,
    pub(crate) stored: String,
    pub(crate) shape: Vec<usize>,
}

impl StoredModel {
    /// Opens the directory of a causal language model, and compares names and shapes with the configuration.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let config = read_config(directory)?;
        heads::refuse_score_model(&config, directory)?;
        Self::of(config, HeadKind::Tokens, directory)
    }

    /// Opens a directory of the given configuration.
    pub(crate) fn of(config: Config, head: HeadKind, directory: &Path) -> Result<Self> {
        let files = WeightFiles::open(directory, "model")?;
        let tied = config.tie_word_embeddings;
        let stored = |name: &str| match name {
            EMBEDDING if tied && files.shape(EMBEDDING).is_none() => TOKEN_HEAD.to_owned(),
            name => name.to_owned(),
        };
        // The files are compared with the configuration before anything of its size is allocated.
        let mut tensors = Vec::new();
        for (name, shape) in layout(&config, head)?.tensors {
            let stored = stored(&name);
            files.check(&stored, &shape)?;
            tensors.push(StoredTensor { name, stored, shape });
        }
        let known: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let odd = files.names().find(|name| {
            !(known.contains(name) || tied && *name == TOKEN_HEAD || name.ends_with("rotary_emb.inv_freq"))
        });
        if let Some(name) = odd {
            let reason = format!(
                "the tensor {name} has no place in this architecture; is config.json the one these weights came with?"
            );
            return Err(Error::weights(directory, reason));
        }
        Ok(Self { config, files, tensors })
    }
}

/// The configuration of a directory, which must be there.
pub(crate) fn read_config(directory: &Path) -> Result<Config> {
    if directory.is_dir() {
        return Config::from_dir(directory);
    }
    Err(Error::MissingFile {
        directory: directory.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")).into(),
        missing: directory.file_name().unwrap_or(directory.as_os_str()).to_string_lossy().into_owned(),
        expected: "the path of a local model directory (config.json, model.safetensors, tokenizer.json)",
    })
}
