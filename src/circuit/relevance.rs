//! Means and relevances over a pool (METHOD.md §§3, 4).

use super::Pool;
use crate::engine::{Backend, Batch, Engine, EngineError, HeadMeans, Method, Result, Score, Target};
use crate::model::ModelConfig;
use crate::progress::{Observer, REVERSE_COST};

/// Relevance of every head over a pool.
#[derive(Debug, Clone)]
pub struct Relevance {
    /// Label-balanced mean, `[L·H]`; −∞ for heads with no target above them.
    pub mean: Vec<f64>,
    /// `[examples][L·H]`.
    pub per_example: Vec<Vec<f64>>,
    /// (head, example) pairs whose relevance is not finite; such heads are never selected.
    pub non_finite: usize,
}

/// Label-balanced mean head outputs of the pool, by slot.
///
/// # Errors
/// A prompt the model cannot take, a device failure, or cancellation.
pub async fn means<B: Backend>(
    engine: &Engine<B>,
    pool: &Pool,
    observer: &impl Observer,
) -> Result<HeadMeans<B::Tensor>> {
    let slots = pool.slots.count();
    let weights = pool.token_weights();
    let mut means = engine.empty_means(slots)?;
    for run in Batch::runs(&pool.prompts, engine.backend.batch_tokens()) {
        let batch = pool.pack(run.clone(), &engine.config)?;
        let mut matrix = vec![0.0; slots * batch.tokens.len()];
        for (sequence, weights) in weights[run].iter().enumerate() {
            for (position, (slot, weight)) in weights.iter().enumerate() {
                let token = batch.layout.token(sequence, position);
                matrix[*slot as usize * batch.tokens.len() + token] += *weight as f32;
            }
        }
        engine.accumulate_means(&batch, &matrix, &mut means)?;
        proceed(observer, batch.prompt_tokens() as f64).await?;
    }
    Ok(means)
}

/// Relevance of every head to the target, over the pool.
///
/// # Errors
/// A rule the backend lacks, a device failure, or cancellation.
pub async fn relevance<B: Backend>(
    engine: &Engine<B>,
    pool: &Pool,
    means: &HeadMeans<B::Tensor>,
    method: Method,
    score: Score,
    target: Target<'_>,
    observer: &impl Observer,
) -> Result<Relevance> {
    if score == Score::Magnitude && matches!(method, Method::Reverse(_)) {
        return Err(EngineError::MagnitudeNeedsSweep);
    }
    let mut per_example = Vec::with_capacity(pool.prompts.len());
    // A sweep takes one example at a time; the reverse pass takes what fits.
    let limit = if matches!(method, Method::Sweep(_)) { 1 } else { engine.backend.batch_tokens() };
    for run in Batch::runs(&pool.prompts, limit) {
        let batch = pool.pack(run, &engine.config)?;
        let slots = pool.batch_slots(&batch);
        let pool_batch = pool.batch(&batch, &slots);
        let cost = match method {
            Method::Reverse(rule) => {
                per_example.extend(engine.linear_relevance(&pool_batch, means, target, rule).await?);
                REVERSE_COST
            }
            Method::Sweep(rules) => {
                per_example.push(B::sweep_relevance(
                    engine,
                    &pool_batch,
                    means,
                    rules,
                    score,
                    target,
                    pool.first_live(),
                )?);
                sweep_cost(&engine.config)
            }
        };
        proceed(observer, cost * batch.prompt_tokens() as f64).await?;
    }
    let mut mean = balanced(&per_example, &pool.weights());
    if let Target::Heads(heads, _) = target {
        let highest = heads.iter().map(|h| h.layer).max().unwrap_or(0);
        mean[highest * engine.config.heads..].fill(f64::NEG_INFINITY);
    }
    let non_finite = per_example.iter().flatten().filter(|r| !r.is_finite()).count();
    Ok(Relevance { mean, per_example, non_finite })
}

/// Cost of one example's sweep in forwards: `H·(L+1)/2` decomposed passes of about half a forward (METHOD.md §9).
pub fn sweep_cost(c: &ModelConfig) -> f64 {
    (c.heads * (c.layers + 1)) as f64 / 4.0
}

/// Weighted mean of the examples' relevances, in f64.
pub(super) fn balanced(per_example: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut mean = vec![0.0; per_example.first().map_or(0, Vec::len)];
    for (example, weight) in per_example.iter().zip(weights) {
        for (mean, r) in mean.iter_mut().zip(example) {
            *mean += weight * r;
        }
    }
    mean
}

/// Reports work done; an observer that wants to stop ends it here.
pub async fn proceed(observer: &impl Observer, weighted_tokens: f64) -> Result<()> {
    match observer.advance(weighted_tokens).await {
        true => Ok(()),
        false => Err(EngineError::Cancelled),
    }
}
