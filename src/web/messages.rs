//! What crosses between the worker and the page. `cargo test` writes these types to `www/src/bindings`.

use crate::data::{self, Row};
use crate::engine::EngineError;
use crate::experiment::verify::VerifyError;
use crate::experiment::{Progress, Record, RunError, SetSummary, Sets, Warning};
use crate::model::ModelError;
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Why a call was refused.
#[derive(Debug, Clone, Copy, Serialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum ErrorKind {
    Model,
    Data,
    Recipe,
    /// The GPU failed or is not there; the CPU can be tried.
    Gpu,
    Engine,
    Cancelled,
}

/// A refusal in words.
#[derive(Debug, Clone, Serialize, TS)]
#[ts(export)]
pub struct ErrorMessage {
    pub kind: ErrorKind,
    pub message: String,
}

/// Which of the four tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum Role {
    SourceTrain,
    SourceTest,
    TargetTrain,
    TargetTest,
}

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum EngineKind {
    Gpu,
    Cpu,
}

/// A table as the page shows it.
#[derive(Debug, Clone, Serialize, TS)]
#[ts(export)]
pub struct TablePreview {
    pub file: String,
    pub columns: Vec<String>,
    /// The first rows.
    pub rows: Vec<Row>,
    pub total_rows: usize,
    pub encoding: String,
    pub format: String,
    pub header: bool,
    pub skipped: Vec<data::RowProblem>,
    /// Guessed columns; `None` where the user must choose.
    pub mapping: Option<data::ColumnMapping>,
    /// Labels of the guessed label column.
    pub labels: Vec<String>,
}

/// A recipe checked against the data, before anything runs.
#[derive(Debug, Clone, Serialize, TS)]
#[ts(export)]
pub struct Check {
    pub sets: Sets<SetSummary>,
    pub answer_tokens: Vec<String>,
    /// The first source prompt in tokens, as the model sees it.
    pub first_prompt: Vec<String>,
    pub warnings: Vec<Warning>,
}

/// What the worker tells the page while it works.
#[derive(Debug, Clone, Serialize, TS)]
#[serde(tag = "type", rename_all = "snake_case")]
#[ts(export)]
pub enum LabEvent {
    /// The GPU is checked against the CPU before its first run.
    SelfTest,
    /// Which kernels were fastest on the GPUs seen so far, for `Lab::recall` another time.
    Tried {
        trials: String,
    },
    /// Weights moved to the engine.
    Loading {
        done: usize,
        total: usize,
    },
    Progress {
        progress: Progress,
    },
    Record {
        record: Box<Record>,
    },
}

impl From<ModelError> for ErrorMessage {
    fn from(error: ModelError) -> Self {
        Self { kind: ErrorKind::Model, message: error.to_string() }
    }
}

impl From<data::DataError> for ErrorMessage {
    fn from(error: data::DataError) -> Self {
        Self { kind: ErrorKind::Data, message: error.to_string() }
    }
}

impl From<EngineError> for ErrorMessage {
    fn from(error: EngineError) -> Self {
        let kind = match &error {
            EngineError::Cancelled => ErrorKind::Cancelled,
            EngineError::Model(_) => ErrorKind::Model,
            EngineError::NoGpu(_)
            | EngineError::Gpu(_)
            | EngineError::Lost(_)
            | EngineError::TooLarge { .. }
            | EngineError::Distrusted { .. } => ErrorKind::Gpu,
            _ => ErrorKind::Engine,
        };
        Self { kind, message: error.to_string() }
    }
}

impl From<RunError> for ErrorMessage {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Recipe(error) => Self { kind: ErrorKind::Recipe, message: error.to_string() },
            RunError::Data(error) => error.into(),
            RunError::Engine(error) => error.into(),
            RunError::DoesNotFit { .. } | RunError::TensorDoesNotFit { .. } => {
                Self { kind: ErrorKind::Recipe, message: error.to_string() }
            }
        }
    }
}

impl From<VerifyError> for ErrorMessage {
    fn from(error: VerifyError) -> Self {
        Self { kind: ErrorKind::Engine, message: error.to_string() }
    }
}
