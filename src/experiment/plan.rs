//! What a run will take, known before it starts: memory stage by stage, and time from a short calibration.

use super::runner::{Prepared, RunError, planned_work};
use super::{Recipe, Stage};
use crate::circuit::budget;
use crate::engine::memory::{self, BatchShape};
use crate::engine::{Backend, Batch, Engine, Head, ParameterSlice, Prompt, UpdateRule};
use crate::model::{Checkpoint, ModelConfig, ModelError};
use crate::tuning::{TrainSettings, full_slices, head_slices};
use serde::Serialize;
use std::collections::BTreeSet;
use ts_rs::TS;
use web_time::Instant;

/// Tokens of a batch that memory is planned for: no engine packs more.
pub const PLANNED_BATCH: usize = 1024;

/// The device that a run is planned for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes that the run may take on it.
    pub limit: u64,
    /// Bytes of the largest tensor that it takes; none where it takes any.
    pub largest_tensor: Option<u64>,
    /// [`Backend::batch_tokens`].
    pub batch_tokens: usize,
    /// Seconds that a token takes through the model, where that was measured.
    pub seconds_a_token: Option<f64>,
}

/// A stage of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, TS)]
#[ts(export)]
pub struct StagePlan {
    pub stage: Stage,
    /// Least bytes on the device: with more, less is computed twice.
    #[ts(type = "number")]
    pub bytes: u64,
    /// Bytes of the largest master that it trains.
    #[ts(type = "number")]
    pub tensor: u64,
    pub fits: bool,
    pub seconds: Option<f64>,
}

/// A change by which the run would fit, or come closer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, TS)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[ts(export)]
pub enum Suggestion {
    /// Update this stage's weights by Adafactor; it then takes so much.
    Adafactor {
        stage: Stage,
        #[ts(type = "number")]
        bytes: u64,
    },
    /// Leave the arm out.
    WithoutArm { stage: Stage },
    /// Do not tune competence: the model is taken as it is.
    WithoutCompetence,
    /// Allow the run this much.
    Limit {
        #[ts(type = "number")]
        bytes: u64,
    },
}

/// What a run will take.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
#[ts(export)]
pub struct Plan {
    #[ts(type = "number")]
    pub limit: u64,
    /// Bytes of the largest tensor that the device takes; none where it takes any.
    #[ts(type = "number | null")]
    pub largest_tensor: Option<u64>,
    pub stages: Vec<StagePlan>,
    /// Of all stages, estimated.
    pub seconds: Option<f64>,
    /// Empty where all stages fit.
    pub suggestions: Vec<Suggestion>,
}

impl Plan {
    /// Bytes of the largest stage.
    pub fn bytes(&self) -> u64 {
        self.stages.iter().map(|s| s.bytes).max().unwrap_or(0)
    }

    /// # Errors
    /// The first stage that does not fit, and what would.
    pub fn check(&self) -> Result<(), RunError> {
        let Some(stage) = self.stages.iter().find(|s| !s.fits) else { return Ok(()) };
        let size = |bytes: u64| match bytes {
            0..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
            _ => format!("{:.2} GB", bytes as f64 / 1e9),
        };
        let advice = self.suggestions.iter().map(|suggestion| match suggestion {
            Suggestion::Adafactor { stage, bytes } => format!("{stage:?} by Adafactor ({})", size(*bytes)),
            Suggestion::WithoutArm { stage } => format!("a run without {stage:?}"),
            Suggestion::WithoutCompetence => "0 epochs of competence".into(),
            Suggestion::Limit { bytes } => format!("a limit of {}", size(*bytes)),
        });
        let advice = advice.collect::<Vec<_>>().join(", or ");
        Err(match self.largest_tensor {
            Some(limit) if stage.tensor > limit => RunError::TensorDoesNotFit {
                stage: stage.stage,
                needed: size(stage.tensor),
                limit: size(limit),
                advice,
            },
            _ => {
                RunError::DoesNotFit { stage: stage.stage, needed: size(stage.bytes), limit: size(self.limit), advice }
            }
        })
    }
}

/// Plans a run. `frozen` is [`memory::frozen_bytes`] of the model.
pub fn plan(c: &ModelConfig, frozen: u64, recipe: &Recipe, prepared: &Prepared, room: &Room) -> Plan {
    let sets = &prepared.sets;
    let pass = |shape: BatchShape| memory::working_bytes(c, shape);
    let way_back = |shape: BatchShape| memory::input_bytes(c, shape) + pass(shape);
    let tests = shape_of_runs(&sets.source_test.prompts, room.batch_tokens)
        .max(shape_of_runs(&sets.target_test.prompts, room.batch_tokens));
    let pool = shape_of_runs(&sets.source_train.prompts, room.batch_tokens);

    // Every weight's master lies over the frozen ones from the competence tuning on.
    let all = full_slices(c);
    let (masters, _) = memory::training_bytes(c, &all, UpdateRule::AdamW);
    let competent = if recipe.competence.epochs > 0 { frozen + masters } else { frozen };
    let count = (budget(recipe.ratio, c.total_heads()) * (recipe.depth + 1)).min(c.total_heads());
    let some = head_slices(c, &spread_heads(c, count), recipe.kv, recipe.norms);
    let training = |below: u64, slices: &[_], settings: &TrainSettings, rule: UpdateRule, prompts: &[Prompt]| {
        let (masters, more) = memory::training_bytes(c, slices, rule);
        below + masters + more + way_back(largest_batch(prompts, settings.batch))
    };
    let bytes_of = |stage: Stage, rule: Option<UpdateRule>| match stage {
        Stage::ZeroShot => frozen + pass(tests),
        Stage::Competence => {
            let rule = rule.unwrap_or(recipe.competence.rule);
            training(frozen, &all, &recipe.competence, rule, &sets.source_train.prompts)
        }
        Stage::CompetentEvaluation | Stage::Faithfulness => competent + pass(tests),
        Stage::Means | Stage::Relevance => competent + way_back(pool),
        Stage::ArmFull => {
            let rule = rule.unwrap_or(recipe.full.rule);
            training(competent, &all, &recipe.full, rule, &sets.target_train.prompts)
        }
        Stage::ArmCircuit | Stage::ArmNearZero | Stage::ArmRandom => {
            training(competent, &some, &recipe.masked, recipe.masked.rule, &sets.target_train.prompts)
        }
    };
    let largest_master = |stage: Stage| {
        let slices: &[ParameterSlice] = match stage {
            Stage::Competence | Stage::ArmFull => &all,
            Stage::ArmCircuit | Stage::ArmNearZero | Stage::ArmRandom => &some,
            _ => &[],
        };
        slices.iter().map(|s| 4 * s.len() as u64).max().unwrap_or(0)
    };
    let too_wide = |tensor: u64| room.largest_tensor.is_some_and(|largest| tensor > largest);
    let stages: Vec<StagePlan> = planned_work(c, recipe, prepared)
        .into_iter()
        .map(|(stage, work)| {
            let (bytes, tensor) = (bytes_of(stage, None), largest_master(stage));
            let seconds = room.seconds_a_token.map(|seconds| seconds * work);
            let fits = bytes <= room.limit && !too_wide(tensor);
            StagePlan { stage, bytes, tensor, fits, seconds }
        })
        .collect();
    let mut suggestions = Vec::new();
    for tight in stages.iter().filter(|s| !s.fits) {
        let rule = match tight.stage {
            Stage::Competence => recipe.competence.rule,
            Stage::ArmFull => recipe.full.rule,
            _ => continue,
        };
        let lean = bytes_of(tight.stage, Some(UpdateRule::Adafactor));
        // Another rule trains the same masters.
        if rule == UpdateRule::AdamW && !too_wide(tight.tensor) {
            suggestions.push(Suggestion::Adafactor { stage: tight.stage, bytes: lean });
        }
        suggestions.push(match tight.stage {
            Stage::Competence => Suggestion::WithoutCompetence,
            stage => Suggestion::WithoutArm { stage },
        });
    }
    if let Some(bytes) = stages.iter().map(|s| s.bytes).filter(|bytes| *bytes > room.limit).max() {
        suggestions.push(Suggestion::Limit { bytes });
    }
    let seconds = stages.iter().map(|s| s.seconds).sum();
    Plan { limit: room.limit, largest_tensor: room.largest_tensor, stages, seconds, suggestions }
}

/// The largest shape of the batches that a set is evaluated in.
fn shape_of_runs(prompts: &[Prompt], batch_tokens: usize) -> BatchShape {
    let shape =
        |run: std::ops::Range<usize>| BatchShape::of(&prompts[run].iter().map(|p| p.tokens.len()).collect::<Vec<_>>());
    Batch::runs(prompts, batch_tokens).into_iter().map(shape).fold(BatchShape::default(), BatchShape::max)
}

/// The batch of a training that takes most: its longest prompts.
fn largest_batch(prompts: &[Prompt], batch: usize) -> BatchShape {
    let mut lengths: Vec<usize> = prompts.iter().map(|p| p.tokens.len()).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.truncate(batch);
    BatchShape::of(&lengths)
}

/// So many heads, of as many key/value groups as can be: no circuit of that size trains more weights.
fn spread_heads(c: &ModelConfig, count: usize) -> BTreeSet<Head> {
    let by_group = (0..c.group()).flat_map(|member| {
        (0..c.layers)
            .flat_map(move |layer| (0..c.kv_heads).map(move |kv| Head { layer, head: kv * c.group() + member }))
    });
    by_group.take(count).collect()
}

/// Prompts, and tokens of a prompt, that a calibration times.
const CALIBRATION: (usize, usize) = (8, 32);

/// Seconds that a token takes through a model of this shape on a backend, which is given back: timed on made-up layers,
/// two more of them against one.
///
/// # Errors
/// A device failure.
pub async fn calibrate<B: Backend>(mut backend: B, c: &ModelConfig) -> Result<(B, f64), RunError> {
    let prompt =
        |i: usize| Prompt { tokens: (0..CALIBRATION.1).map(|t| ((31 * i + t) % 64) as u32).collect(), label: 0 };
    let prompts: Vec<Prompt> = (0..CALIBRATION.0).map(prompt).collect();
    let mut seconds = [0.0; 2];
    for (seconds, layers) in seconds.iter_mut().zip([1, 3]) {
        let small = ModelConfig { layers, vocab: 64, tied: true, ..c.clone() };
        let engine = Engine::load(backend, &mut Checkpoint::made_up(small)?, |_, _| {})?;
        let batch = Batch::new(&prompts.iter().collect::<Vec<_>>(), &engine.config)?;
        // The first compiles.
        engine.answers(&batch, &[0, 1], false).await?;
        let started = Instant::now();
        engine.answers(&batch, &[0, 1], false).await?;
        *seconds = started.elapsed().as_secs_f64();
        backend = engine.backend;
    }
    let layer = (seconds[1] - seconds[0]).max(0.0) / 2.0;
    Ok((backend, layer * c.layers as f64 / (CALIBRATION.0 * CALIBRATION.1) as f64))
}

impl From<ModelError> for RunError {
    fn from(error: ModelError) -> Self {
        Self::Engine(error.into())
    }
}
