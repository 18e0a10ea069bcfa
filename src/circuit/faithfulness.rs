//! Faithfulness by mean ablation (METHOD.md §6).

use super::Pool;
use super::relevance::proceed;
use crate::engine::{Ablation, Backend, Batch, Engine, Head, HeadMeans, HeadSet, Result};
use crate::progress::Observer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use ts_rs::TS;

/// What a set of kept heads still does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct AblationMetrics {
    /// M: label-balanced mean of (logit of the label − mean of the others).
    pub logit_difference: f64,
    pub accuracy: f64,
}

/// Keeps the heads of `keep`, replaces all others by their means, and measures what is left.
///
/// # Errors
/// A device failure or cancellation.
pub async fn ablation_metrics<B: Backend>(
    engine: &Engine<B>,
    pool: &Pool,
    means: &HeadMeans<B::Tensor>,
    keep: &BTreeSet<Head>,
    observer: &impl Observer,
) -> Result<AblationMetrics> {
    let remove = HeadSet::all_but(keep, engine.config.layers, engine.config.heads);
    let weights = pool.weights();
    let (mut difference, mut correct) = (0.0, 0usize);
    for run in Batch::runs(&pool.prompts, engine.backend.batch_tokens()) {
        let batch = pool.pack(run.clone(), &engine.config)?;
        let slots = pool.batch_slots(&batch);
        let ablation = Ablation { means, slots: &slots, remove: &remove };
        let logits = engine.ablated_logits(&batch, &pool.verbalizer, &ablation).await?;
        for ((logits, label), weight) in logits.iter().zip(&batch.labels).zip(&weights[run]) {
            let gold = f64::from(logits[*label]);
            let others = logits.iter().map(|x| f64::from(*x)).sum::<f64>() - gold;
            difference += weight * (gold - others / (logits.len() - 1) as f64);
            correct += usize::from(crate::measures::predict(logits) == *label);
        }
        proceed(observer, batch.prompt_tokens() as f64).await?;
    }
    Ok(AblationMetrics { logit_difference: difference, accuracy: correct as f64 / pool.prompts.len() as f64 })
}

/// `(M(C) − M(∅)) / (M(all) − M(∅))`; `None` where the model without heads does as well as with them.
pub fn faithfulness(circuit: f64, full: f64, empty: f64) -> Option<f64> {
    let span = full - empty;
    (span.abs() >= 1e-6).then(|| (circuit - empty) / span)
}
