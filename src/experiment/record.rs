//! Everything a run found. No text of the data is in it.

use super::{Recipe, Stage};
use crate::circuit::{AblationMetrics, SlotMap, Stability};
use crate::data::{Crossing, DataReport};
use crate::engine::Head;
use crate::measures::Accuracy;
use crate::model::{Checkpoint, ModelConfig};
use crate::tuning::ArmKind;
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// What was run on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct ModelSummary {
    pub name: String,
    pub hash: String,
    pub format: String,
    pub config: ModelConfig,
    pub parameters: usize,
}

impl ModelSummary {
    /// What an opened checkpoint is, under the name of its files.
    pub fn of(name: &str, checkpoint: &Checkpoint) -> Self {
        Self {
            name: name.into(),
            hash: checkpoint.hash.clone(),
            format: checkpoint.format.clone(),
            parameters: checkpoint.config.parameter_count(),
            config: checkpoint.config.clone(),
        }
    }
}

/// A set as it was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct SetSummary {
    pub report: DataReport,
    /// Rows of the sample that was used.
    pub used: usize,
    /// Used rows of each label.
    pub label_counts: Vec<usize>,
    pub mean_tokens: f64,
    pub longest_tokens: usize,
    /// Rows whose text was cut to fit.
    pub cut_rows: Vec<usize>,
}

/// The four sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Sets<T> {
    pub source_train: T,
    pub source_test: T,
    pub target_train: T,
    pub target_test: T,
}

/// Accuracy on both languages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Both {
    pub source: Accuracy,
    pub target: Accuracy,
}

/// One iteration of the expansion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct DepthRecord {
    pub heads: Vec<Head>,
    /// `[L][H]`; `None` where there is no target above the head.
    pub relevance: Vec<Vec<Option<f64>>>,
    pub non_finite: usize,
}

/// Faithfulness of the circuit at one depth, by mean ablation at all positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct FaithfulnessRow {
    pub depth: usize,
    pub heads: usize,
    pub metrics: AblationMetrics,
    /// `None` where the model without heads does as well as with them.
    pub faithfulness: Option<f64>,
    /// Faithfulness of random circuits of the same size.
    pub random: Vec<Option<f64>>,
    /// What is left when the circuit alone is ablated.
    pub without: AblationMetrics,
    /// The same for each of those random circuits.
    pub without_random: Vec<AblationMetrics>,
}

/// Faithfulness of the circuit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct FaithfulnessRecord {
    pub examples: usize,
    pub all_heads: AblationMetrics,
    pub no_heads: AblationMetrics,
    pub rows: Vec<FaithfulnessRow>,
}

/// The circuit and how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct CircuitRecord {
    pub pool: usize,
    pub slots: SlotMap,
    pub depths: Vec<DepthRecord>,
    pub stability: Option<Stability>,
    pub faithfulness: Option<FaithfulnessRecord>,
}

/// What tuning did to the source language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Forgetting {
    /// Source accuracy before − after.
    pub accuracy_drop: f64,
    /// Mean KL divergence over the label tokens, nats.
    pub kl: f64,
    /// Linear CKA of the answer-position residuals, entering each layer and leaving the last; `None` where they do not
    /// vary.
    pub cka: Vec<Option<f64>>,
    pub cka_rows: usize,
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct ArmRecord {
    pub kind: ArmKind,
    #[ts(type = "number")]
    pub seed: u64,
    pub heads: Vec<Head>,
    /// Distinct key/value groups of those heads.
    pub kv_groups: usize,
    pub trained_weights: usize,
    /// Mean loss before each step, nats.
    pub losses: Vec<f64>,
    pub result: Both,
    pub forgetting: Forgetting,
    pub seconds: f64,
}

/// Which arm the rule of METHOD.md §8 advises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum Advice {
    /// The target is weak: edit the circuit.
    Edit,
    /// The target is good already: preserve the circuit, train heads near zero.
    Preserve,
    /// Too close to call, or not competent.
    Undecided,
}

/// Something the reader of the numbers must know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[ts(export)]
pub enum Warning {
    /// The source accuracy's interval reaches the majority line, or it is hardly better than chance.
    NotCompetent { accuracy: f64, majority: f64 },
    /// Halves of the pool do not agree on the relevances.
    UnstableRelevance { spearman: f64 },
    /// Relevances that were not finite, and so never selected.
    NonFinite { count: usize },
    /// Rows that stand in a training and a test set.
    Crossing { rows: usize, example: Crossing },
    /// Texts cut to the token limit.
    Cut { set: String, rows: usize },
    /// The device was lost in this stage and opened again; the run went on from what was kept.
    DeviceLost { stage: Stage },
}

/// Seconds of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct StageTime {
    pub stage: String,
    pub seconds: f64,
}

/// Everything a run found. Fields fill as it proceeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Record {
    pub version: u32,
    /// Version of this program.
    pub program: String,
    pub recipe: Recipe,
    pub model: ModelSummary,
    /// The device that computed.
    pub device: String,
    /// Most bytes that tensors held on the device at once, where it has a memory of its own.
    #[ts(type = "number | null")]
    pub peak_device_bytes: Option<u64>,
    /// In a browser, bytes of the wasm heap, which never shrinks.
    #[serde(default)]
    #[ts(type = "number | null")]
    pub heap_bytes: Option<u64>,
    /// Milliseconds since 1970.
    pub started: f64,
    pub sets: Sets<SetSummary>,
    pub answer_tokens: Vec<u32>,
    pub zero_shot: Option<Both>,
    /// Mean loss before each step of competence tuning, nats.
    pub competence_losses: Vec<f64>,
    pub competent: Option<Both>,
    pub circuit: Option<CircuitRecord>,
    pub advice: Option<Advice>,
    pub arms: Vec<ArmRecord>,
    pub warnings: Vec<Warning>,
    pub times: Vec<StageTime>,
    /// Whether the run came to its end.
    pub finished: bool,
}
