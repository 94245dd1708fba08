//! All that can go wrong here: each error says where, and what to do.

use std::{io, path::Path};
use synchromesh::{
    bundle::OpenError,
    client::{AttachError, ConnectError, ProductError},
};
use thiserror::Error;

/// Why a command did not do what it was asked for.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// A file of the model is missing, or is not what it should be.
    #[error(
        "{path} cannot be used: {cause}; run scripts/fetch-minilm.sh, or name the model's folder \
         with --model"
    )]
    Model { path: String, cause: String },
    /// The tokenizer refuses a sentence.
    #[error("the tokenizer cannot take {sentence:?}: {cause}")]
    Tokens { sentence: String, cause: String },
    /// The bundle's file cannot be read.
    #[error(transparent)]
    Bundle(#[from] OpenError),
    /// The daemon's memory cannot be attached or read.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A weight cannot be multiplied.
    #[error(transparent)]
    Product(#[from] ProductError),
    /// An operation of candle failed, or one of ours within it.
    #[error("the encoder cannot go on: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A tensor that the encoder needs is not there as it should be.
    #[error("there is no tensor `{name}` {how}: pack the bundle with examples/minilm/recipe.yaml")]
    NoTensor { name: String, how: &'static str },
    /// The file is not that of the daemon.
    #[error("the daemon serves bundle {served}, but {path} is bundle {named}: name the daemon's")]
    OtherBundle { served: String, path: String, named: String },
    /// Tasks are so alike that a wrong one might not be noticed.
    #[error(
        "two tasks' embeddings of one sentence are only {nearest:.2e} apart, but {needed:.2e} is \
         needed to tell them from rounding: take a bundle whose tasks differ more"
    )]
    Alike { nearest: f32, needed: f32 },
    /// An embedding is not what the task's weights give.
    #[error(
        "{sentence:?}, task {task}, generation {generation}: {what}; the daemon's memory or the \
         product is at fault, or the bundle was not packed from this model"
    )]
    Differs { sentence: &'static str, task: String, generation: u64, what: String },
    /// The time ended before all tasks had been active under a lease.
    #[error("only {seen} of {all} tasks were seen in {seconds:.1} s: give it more --seconds")]
    TooFewTasks { seen: usize, all: usize, seconds: f64 },
    /// The process that switches tasks failed.
    #[error("the process that switches tasks ended with {0}: its message is above")]
    Switching(String),
    /// A switch was refused.
    #[error("the daemon refuses to switch to {task}: {cause}")]
    Refused { task: String, cause: String },
    /// The control socket does not answer.
    #[error(transparent)]
    Control(#[from] ConnectError),
    /// The operating system refuses something.
    #[error("{what}: {cause}")]
    Io { what: &'static str, cause: io::Error },
}

impl Error {
    pub(crate) fn model(path: &Path, cause: impl ToString) -> Self {
        Self::Model { path: path.display().to_string(), cause: cause.to_string() }
    }

    pub(crate) fn no_tensor(name: &str, how: &'static str) -> Self {
        Self::NoTensor { name: name.to_owned(), how }
    }

    /// For `map_err`: what was tried when the operating system refused.
    pub(crate) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |cause| Self::Io { what, cause }
    }
}
