//! The training loop: the same for competence tuning and for every arm.

use crate::circuit::proceed;
use crate::engine::{AdamW, Backend, Batch, Engine, LossOver, Objective, ParameterSlice, Prompt, Result};
use crate::progress::{Observer, TRAIN_COST};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
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
}

/// Trains the slices on the prompts; the seed alone decides the order. Returns the mean loss before each step.
///
/// # Errors
/// A prompt the model cannot take, a device failure, or cancellation (the weights then keep what was trained so far).
pub async fn train<B: Backend>(
    engine: &Engine<B>,
    prompts: &[Prompt],
    verbalizer: &[u32],
    slices: Vec<ParameterSlice>,
    settings: &TrainSettings,
    seed: u64,
    observer: &impl Observer,
) -> Result<Vec<f64>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let objective = Objective::Answer { verbalizer, over: settings.loss };
    let mut training = engine.train(&slices)?;
    let steps = settings.epochs * prompts.len().div_ceil(settings.batch.max(1));
    let mut losses = Vec::with_capacity(steps);
    // The loss of a step is read while the next one runs.
    let mut pending: Option<B::Tensor> = None;
    let mut order: Vec<&Prompt> = prompts.iter().collect();
    for _ in 0..settings.epochs {
        order.shuffle(&mut rng);
        for chunk in order.chunks(settings.batch.max(1)) {
            let step = losses.len() + usize::from(pending.is_some());
            let batch = Batch::new(chunk, &engine.config)?;
            let rate = settings.learning_rate * learning_rate_factor(step, steps, settings.warmup);
            let loss = engine.train_step(&batch, objective, &settings.optimiser, rate, &mut training)?;
            if let Some(previous) = pending.replace(loss) {
                losses.push(read_mean(engine, &previous).await?);
            }
            proceed(observer, TRAIN_COST * batch.prompt_tokens() as f64).await?;
        }
    }
    if let Some(last) = pending {
        losses.push(read_mean(engine, &last).await?);
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
