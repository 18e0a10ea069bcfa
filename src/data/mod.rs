//! What a labelled set is: tables of users' files, column mapping, checks, splits, prompt template and verbalizer.

mod dataset;
mod prompt;
mod sample;
mod table;

pub use dataset::{
    ColumnMapping, Crossing, DataReport, Dataset, Example, RowProblem, crossings, guess_mapping, label_values,
};
pub use prompt::{EncodedSet, Template, Verbalizer, encode};
pub use sample::{Balance, sample, train_and_test};
pub use table::{Row, Table, read_table};

use crate::model::ModelError;

/// Why a table or a prompt cannot be used. Each message says what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{file}: the file is empty")]
    Empty { file: String },
    #[error("{file}: only a header and no rows")]
    NoRows { file: String },
    #[error(
        "{file}, row {row}: the quote opened here is never closed; double the quotes inside a quoted field (\"\") or remove it"
    )]
    UnclosedQuote { file: String, row: usize },
    #[error("{file}, row {row}: {problem}")]
    BadRow { file: String, row: usize, problem: String },
    #[error("{file}: it is not a table of text (it starts with {start}); CSV, TSV and JSON Lines can be read")]
    NotText { file: String, start: String },
    #[error("{file}: there is no column `{column}`; its columns are {columns}")]
    NoColumn { file: String, column: String, columns: String },
    #[error("{file}: no {what} column could be guessed among {columns}; choose it by hand")]
    CannotGuess { file: String, what: &'static str, columns: String },
    #[error("{file}: no usable rows ({problems})")]
    NoUsableRows { file: String, problems: String },
    #[error("{file}: all usable rows have the label `{label}`; at least two labels are needed")]
    OneLabel { file: String, label: String },
    #[error("the template has no {{text}} (or {{premise}} and {{hypothesis}}) for the sentence to go")]
    NoPlaceholder,
    #[error("the template's {{{0}}} is not known; known are {{text}}, {{premise}} and {{hypothesis}}")]
    UnknownPlaceholder(String),
    #[error("the template has a brace that is never closed")]
    UnclosedBrace,
    #[error("the template asks for {{{placeholder}}}, but no column is mapped to it")]
    UnmappedPlaceholder { placeholder: &'static str },
    #[error("{labels} labels, but {words} answer words: give one word for each label")]
    WordCount { labels: usize, words: usize },
    #[error(
        "the answer word `{word}` becomes {tokens} tokens after the prompt; it must be one: try another word{hint}"
    )]
    WordNotOneToken { word: String, tokens: usize, hint: String },
    #[error("the answer word `{word}` changes how the prompt itself is tokenised; end the template differently{hint}")]
    WordMergesWithPrompt { word: String, hint: String },
    #[error(
        "the answer words `{first}` and `{second}` are the same token; choose words that differ in their first token"
    )]
    WordsCollide { first: String, second: String },
    #[error("the template alone takes {template} tokens, the limit is {limit}: shorten it or raise the limit")]
    TemplateTooLong { template: usize, limit: usize },
    #[error(transparent)]
    Tokenizer(#[from] ModelError),
}
