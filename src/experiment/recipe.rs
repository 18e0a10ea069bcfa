//! Everything that determines a run. Data never goes in: its hash stands in the record.

use crate::circuit::Scope;
use crate::data::ColumnMapping;
use crate::engine::{AdamW, GateRule, LossOver, Method, Rules, Score, UpdateRule};
use crate::tuning::{ArmKind, KvRule, NormRule, TrainSettings};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Version of the recipe's and the record's schema.
pub const SCHEMA_VERSION: u32 = 1;

/// The prompt of a recipe that names none, and of the lab model's labelled sentences.
pub const DEFAULT_TEMPLATE: &str = "Text: {text}\nSentiment:";

/// The rule sets the product offers (METHOD.md, "In the product").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum RuleSet {
    /// One reverse pass for all heads.
    #[default]
    Linear,
    /// The exact decomposition, one pass a head.
    Secant,
    /// CD-T's own code carried over.
    Published,
}

impl RuleSet {
    pub fn method(self) -> Method {
        match self {
            Self::Linear => Method::Reverse(GateRule::Tangent),
            Self::Secant => Method::Sweep(Rules::SECANT),
            Self::Published => Method::Sweep(Rules::PUBLISHED),
        }
    }
}

/// How relevance is read off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum ScoreKind {
    #[default]
    Projection,
    Magnitude,
}

impl From<ScoreKind> for Score {
    fn from(kind: ScoreKind) -> Self {
        match kind {
            ScoreKind::Projection => Self::Projection,
            ScoreKind::Magnitude => Self::Magnitude,
        }
    }
}

/// Most rows taken from each set; 0 takes all. The record says how many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Sizes {
    /// Source rows that competence tuning trains on.
    pub source_train: usize,
    /// Of those, rows that the circuit is discovered on; the same number of each label.
    pub pool: usize,
    /// Target rows that every arm trains on; the same number of each label.
    pub target_train: usize,
    /// Rows of each test set.
    pub test: usize,
    /// Of the source test rows, those that faithfulness is measured on.
    pub faithfulness: usize,
}

/// All that determines a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[serde(default, deny_unknown_fields)]
#[ts(export)]
pub struct Recipe {
    pub version: u32,
    /// Prompt with `{text}` (or `{premise}`, `{hypothesis}`).
    pub template: String,
    /// Label values as they stand in the tables.
    pub labels: Vec<String>,
    /// Answer word of each label, one token each.
    pub words: Vec<String>,
    /// Columns; `None` guesses by name.
    pub source_columns: Option<ColumnMapping>,
    pub target_columns: Option<ColumnMapping>,
    /// Longest prompt in tokens; texts are cut to fit.
    pub max_tokens: usize,
    pub sizes: Sizes,
    /// Share of a single table that becomes its test set, where no test table is given.
    pub test_share: f64,
    /// Decides sampling, order and random heads.
    #[ts(type = "number")]
    pub seed: u64,
    /// Full-parameter tuning on the source; 0 epochs skips it.
    pub competence: TrainSettings,
    pub rule: RuleSet,
    pub score: ScoreKind,
    pub ratio: f64,
    pub depth: usize,
    pub scope: Scope,
    /// Random circuits of the same size beside each depth's faithfulness.
    pub random_circuits: usize,
    pub arms: Vec<ArmKind>,
    /// Random arms, each with its own heads.
    pub random_arms: usize,
    pub kv: KvRule,
    pub norms: NormRule,
    /// Tuning of heads and norms.
    pub masked: TrainSettings,
    /// Tuning of everything.
    pub full: TrainSettings,
}

impl Default for Recipe {
    fn default() -> Self {
        let train = |epochs, learning_rate| TrainSettings {
            epochs,
            batch: 8,
            learning_rate,
            warmup: 0.1,
            optimiser: AdamW::default(),
            loss: LossOver::Vocab,
            rule: UpdateRule::AdamW,
        };
        let names = ["negative", "neutral", "positive"];
        Self {
            version: SCHEMA_VERSION,
            template: DEFAULT_TEMPLATE.into(),
            labels: names.map(str::to_string).to_vec(),
            words: names.map(|n| format!(" {n}")).to_vec(),
            source_columns: None,
            target_columns: None,
            max_tokens: 256,
            sizes: Sizes { source_train: 96, pool: 24, target_train: 48, test: 100, faithfulness: 24 },
            test_share: 0.4,
            seed: 1,
            competence: train(3, 2e-5),
            rule: RuleSet::Linear,
            score: ScoreKind::Projection,
            ratio: 0.02,
            depth: 1,
            scope: Scope::Global,
            random_circuits: 5,
            arms: vec![ArmKind::Circuit, ArmKind::NearZero, ArmKind::Random, ArmKind::Full],
            random_arms: 1,
            kv: KvRule::Any,
            norms: NormRule::All,
            masked: train(5, 1e-4),
            full: train(5, 2e-5),
        }
    }
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// A field that is unknown, of the wrong type, or out of range; a schema of another version.
    pub fn from_json(json: &str) -> Result<Self, RecipeError> {
        let recipe: Self = serde_json::from_str(json)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// The first value that makes no sense, and what would.
    pub fn check(&self) -> Result<(), RecipeError> {
        let bad = |field: &'static str, problem: String| Err(RecipeError::Value { field, problem });
        if self.version != SCHEMA_VERSION {
            return bad(
                "version",
                format!("{} is not the version {SCHEMA_VERSION} that this program reads", self.version),
            );
        }
        if self.labels.len() < 2 {
            return bad("labels", "at least two are needed".into());
        }
        if self.words.len() != self.labels.len() {
            return bad("words", format!("{} words for {} labels: give one each", self.words.len(), self.labels.len()));
        }
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return bad("ratio", format!("{} is not a share between 0 and 1", self.ratio));
        }
        if !(self.test_share > 0.0 && self.test_share < 1.0) {
            return bad("test_share", format!("{} is not a share between 0 and 1", self.test_share));
        }
        if self.score == ScoreKind::Magnitude && self.rule == RuleSet::Linear {
            return bad(
                "score",
                "`magnitude` does not exist under the rule `linear`; choose `secant` or `projection`".into(),
            );
        }
        if self.sizes.pool == 1 || (self.sizes.pool > 0 && self.sizes.pool < self.labels.len()) {
            return bad(
                "sizes.pool",
                format!("{} rows cannot hold one of each of the {} labels", self.sizes.pool, self.labels.len()),
            );
        }
        if self.sizes.source_train > 0 && self.sizes.pool > self.sizes.source_train {
            return bad(
                "sizes.pool",
                format!("{} rows cannot come out of {} source-train rows", self.sizes.pool, self.sizes.source_train),
            );
        }
        for (field, settings) in [("competence", &self.competence), ("masked", &self.masked), ("full", &self.full)] {
            let finite = settings.learning_rate.is_finite() && settings.learning_rate > 0.0;
            if !finite || settings.batch == 0 || !(0.0..=1.0).contains(&settings.warmup) {
                return bad(
                    field,
                    "learning_rate must be positive, batch at least 1, warmup a share between 0 and 1".into(),
                );
            }
        }
        Ok(())
    }
}

/// Why a recipe cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("recipe: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("recipe, `{field}`: {problem}")]
    Value { field: &'static str, problem: String },
}
