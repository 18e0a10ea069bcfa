//! What a checkpoint is: its configuration, its named tensors and its tokenizer.

mod blocks;
mod checkpoint;
mod config;
mod gguf;
mod made_up;
mod safetensors;
mod stored;
mod tokenizer;

pub use checkpoint::{Checkpoint, ModelFile, Source, hex};
pub use config::{Architecture, EMBEDDING, FINAL_NORM, ModelConfig, Parameter, layer_parameter};
pub use safetensors::to_safetensors;
pub use stored::{Form, Rows};
pub use tokenizer::Tokenizer;

/// Why a checkpoint cannot be used. Each message says what was found, where, and what would work.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{0}: {1}")]
    Read(String, #[source] std::io::Error),
    #[error(
        "no {missing} among the files {given}: open a .gguf file, or config.json, tokenizer.json and the .safetensors files together"
    )]
    MissingFile { missing: &'static str, given: String },
    #[error("config.json: {0}")]
    ConfigSyntax(#[from] serde_json::Error),
    #[error("configuration: `{0}` is missing")]
    ConfigMissing(String),
    #[error("configuration: {0}")]
    ConfigUnsupported(String),
    #[error("{file}: {problem}")]
    BadFile { file: String, problem: String },
    #[error("tensor `{0}` is missing from the checkpoint")]
    TensorMissing(String),
    #[error("tensor `{name}` has shape {found:?}, but the configuration asks for {expected:?}")]
    TensorShape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor `{name}` is stored as {dtype}; supported are {supported}")]
    TensorType { name: String, dtype: String, supported: &'static str },
    #[error(
        "tensor `{name}` holds a non-finite weight at element {index}: the file is damaged or was saved after a failed training"
    )]
    NonFinite { name: String, index: usize },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}
