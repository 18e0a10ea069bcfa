//! The training loop: the same for competence tuning and for every arm.

use crate::circuit::proceed;
use crate::engine::{
    AdamW, Backend, Batch, Engine, LossOver, Objective, ParameterSlice, Prompt, Result, Training, TrainingState,
    UpdateRule,
};
use crate::progress::Observer;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use ts_rs::TS;

/// How long and how fast to train. The rate rises linearly over `warmup` of the steps, then falls linearly to 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct TrainSettings {
    pub epochs: usize,
    pub batch: usize,
    pub learning_rate: f64,
    pub warmup: f64,
    pub optimiser: AdamW,
    pub loss: LossOver,
    #[serde(default)]
    pub rule: UpdateRule,
}

/// What is trained, on what, and how. The seed alone decides the order of the prompts.
pub struct Course<'a> {
    pub prompts: &'a [Prompt],
    pub verbalizer: &'a [u32],
    pub slices: Vec<ParameterSlice>,
    pub settings: &'a TrainSettings,
    pub seed: u64,
    /// Of a step, in forwards.
    pub cost: f64,
}

/// Where a training stands, kept in the process's own memory, so that it can go on when its device is lost. Trainings of
/// more than [`MOST_KEPT`] bytes, and those by Adafactor, are not kept: they begin again.
#[derive(Default)]
pub struct Journal(RefCell<Option<Entry>>);

struct Entry {
    state: TrainingState,
    /// Mean losses of the steps taken.
    losses: Vec<f64>,
}

/// Bytes of masters and moments that are worth a copy in the process's own memory, which in a browser is small.
const MOST_KEPT: u64 = 96 << 20;

/// Steps between two entries.
const STEPS_AN_ENTRY: usize = 8;

impl Journal {
    /// Notes where the training stands.
    async fn write<B: Backend>(
        &self,
        engine: &Engine<B>,
        training: &Training<B::Tensor>,
        losses: &[f64],
    ) -> Result<()> {
        if training.rule() == UpdateRule::AdamW && TrainingState::bytes(&training.segments) <= MOST_KEPT {
            let state = engine.save(training).await?;
            self.0.replace(Some(Entry { state, losses: losses.to_vec() }));
        }
        Ok(())
    }
}

/// Trains from where the journal stands to the end. Returns the mean loss before each step.
///
/// # Errors
/// A prompt the model cannot take, a device failure, or cancellation (the weights then keep what was trained so far).
pub async fn train<B: Backend>(
    engine: &Engine<B>,
    course: &Course<'_>,
    journal: &Journal,
    observer: &impl Observer,
) -> Result<Vec<f64>> {
    let Course { prompts, verbalizer, slices, settings, seed, cost } = course;
    let mut rng = ChaCha8Rng::seed_from_u64(*seed);
    let objective = Objective::Answer { verbalizer, over: settings.loss };
    let (mut training, mut losses) = match &*journal.0.borrow() {
        Some(entry) => (engine.resume(slices, &entry.state)?, entry.losses.clone()),
        None => (engine.train(slices, settings.rule)?, Vec::new()),
    };
    let steps = settings.epochs * prompts.len().div_ceil(settings.batch.max(1));
    let mut behind = losses.len();
    // The loss of a step is read while the next one runs.
    let mut pending: Option<B::Tensor> = None;
    let mut order: Vec<&Prompt> = prompts.iter().collect();
    for _ in 0..settings.epochs {
        order.shuffle(&mut rng);
        for chunk in order.chunks(settings.batch.max(1)) {
            let cost = cost * chunk.iter().map(|p| p.tokens.len()).sum::<usize>() as f64;
            if behind > 0 {
                behind -= 1;
                proceed(observer, cost).await?;
                continue;
            }
            let step = losses.len() + usize::from(pending.is_some());
            let batch = Batch::new(chunk, &engine.config)?;
            let rate = settings.learning_rate * learning_rate_factor(step, steps, settings.warmup);
            let loss = engine.train_step(&batch, objective, &settings.optimiser, rate, &mut training)?;
            if let Some(previous) = pending.replace(loss) {
                losses.push(read_mean(engine, &previous).await?);
            }
            if (step + 1) % STEPS_AN_ENTRY == 0
                && let Some(last) = pending.take()
            {
                losses.push(read_mean(engine, &last).await?);
                journal.write(engine, &training, &losses).await?;
            }
            proceed(observer, cost).await?;
        }
    }
    if let Some(last) = pending {
        losses.push(read_mean(engine, &last).await?);
        journal.write(engine, &training, &losses).await?;
    }
    Ok(losses)
}

async fn read_mean<B: Backend>(engine: &Engine<B>, losses: &B::Tensor) -> Result<f64> {
    let losses = engine.backend.read(&[losses]).await?.swap_remove(0);
    Ok(losses.iter().map(|x| f64::from(*x)).sum::<f64>() / losses.len().max(1) as f64)
}

/// Share of the learning rate at step `step` (from 0) of `steps`.
pub fn learning_rate_factor(step: usize, steps: usize, warmup: f64) -> f64 {
    let warm = (warmup * steps as f64).ceil() as usize;
    if step < warm { (step + 1) as f64 / warm as f64 } else { (steps - step) as f64 / (steps - warm).max(1) as f64 }
}
