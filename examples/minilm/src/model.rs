//! The model's folder: its shape, its tokenizer and its original weights.

use crate::error::Error;
use candle_core::{Device, Tensor, safetensors};
use serde::Deserialize;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};
use tokenizers::Tokenizer;

/// The shape of the encoder, under the names that `config.json` has.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Config {
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) hidden_size: usize,
    pub(crate) layer_norm_eps: f64,
}

/// A model without its weights.
pub(crate) struct Model {
    folder: PathBuf,
    pub(crate) config: Config,
    tokenizer: Tokenizer,
}

impl Model {
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("config.json");
        let text = fs::read(&path).map_err(|cause| Error::model(&path, cause))?;
        let config = serde_json::from_slice(&text).map_err(|cause| Error::model(&path, cause))?;
        let path = folder.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&path).map_err(|cause| Error::model(&path, cause))?;
        let mut model = Self { folder: folder.to_owned(), config, tokenizer };
        // Sentences are embedded one at a time, so that none needs to be filled up.
        model.tokenizer.with_padding(None);
        Ok(model)
    }

    /// The sentence as the encoder reads it; what is beyond its window is cut off.
    pub(crate) fn tokens(&self, sentence: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.tokenizer.encode(sentence, true).map_err(|cause| Error::Tokens {
            sentence: sentence.to_owned(),
            cause: cause.to_string(),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The original weights, as candle reads them.
    pub(crate) fn tensors(&self) -> Result<HashMap<String, Tensor>, Error> {
        let path = self.folder.join("model.safetensors");
        safetensors::load(&path, &Device::Cpu).map_err(|cause| Error::model(&path, cause))
    }
}
