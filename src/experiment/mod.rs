//! Recipe in, record out; and the check of an engine against golden values.

mod golden;
mod plan;
mod recipe;
mod record;
mod runner;
pub mod self_test;
pub mod verify;

pub use plan::{PLANNED_BATCH, Plan, Room, StagePlan, Suggestion, calibrate, plan};
pub use recipe::{DEFAULT_TEMPLATE, Recipe, RecipeError, RuleSet, SCHEMA_VERSION, ScoreKind, Sizes};
pub use record::{
    Advice, ArmRecord, Both, CircuitRecord, DepthRecord, FaithfulnessRecord, FaithfulnessRow, Forgetting, ModelSummary,
    Record, SetSummary, Sets, StageTime, Warning,
};
pub use runner::{Prepared, PreparedSet, Progress, RunError, RunObserver, Stage, Tables, prepare, run};
