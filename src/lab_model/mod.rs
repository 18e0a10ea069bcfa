//! The built-in lab model: two made-up languages, the program that makes the model, and what it is measured by.
//!
//! [`lexicon`] invents the words, [`grammar`] says what sentences mean, [`corpus`] draws the sets, [`pretrain`] makes
//! the model, [`files`] writes it all, and [`report`] measures it.

pub mod bag_of_words;
pub mod corpus;
pub mod files;
pub mod grammar;
pub mod grammar_page;
pub mod lexicon;
pub mod pretrain;
pub mod report;
mod tokens;

use crate::data::DataError;
use crate::engine::EngineError;
use crate::experiment::RunError;
use crate::model::ModelError;

/// Why the lab model could not be made or measured.
#[derive(Debug, thiserror::Error)]
pub enum LabModelError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("tokenizer: {0}")]
    Tokenizer(tokenizers::Error),
    #[error("the tokenizer cuts the answer word `{0}`: give it a larger vocabulary")]
    AnswerWordCut(String),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the lab model has no tokenizer.json")]
    NoTokenizer,
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    #[error(transparent)]
    Csv(#[from] csv::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
