//! A model's answers on a labelled set.

use super::Accuracy;
use crate::circuit::proceed;
use crate::engine::{Backend, Batch, Engine, Prompt, Result};
use crate::progress::Observer;

/// Answers on a set: the accuracy, and what drift is measured from.
#[derive(Debug, Clone)]
pub struct Evaluation {
    pub accuracy: Accuracy,
    /// `[n][C]`.
    pub label_logits: Vec<Vec<f32>>,
    /// Residuals at the answer positions of the first `residual_rows` examples: `[L+1][rows·D]`.
    pub residuals: Vec<Vec<f32>>,
    pub residual_rows: usize,
}

/// Evaluates the prompts; residuals are kept for at most `residual_limit` of them.
///
/// # Errors
/// A prompt the model cannot take, a device failure, or cancellation.
pub async fn evaluate<B: Backend>(
    engine: &Engine<B>,
    prompts: &[Prompt],
    verbalizer: &[u32],
    residual_limit: usize,
    observer: &impl Observer,
) -> Result<Evaluation> {
    let (mut label_logits, mut losses, mut residual_rows) = (Vec::new(), Vec::new(), 0);
    let mut residuals = vec![Vec::new(); engine.config.layers + 1];
    for run in Batch::runs(prompts, engine.backend.batch_tokens()) {
        let batch = Batch::new(&prompts[run.clone()].iter().collect::<Vec<_>>(), &engine.config)?;
        let with_residuals = run.end <= residual_limit;
        let answers = engine.answers(&batch, verbalizer, with_residuals).await?;
        label_logits.extend(answers.label_logits);
        losses.extend(answers.losses);
        if with_residuals {
            residual_rows = run.end;
        }
        for (all, new) in residuals.iter_mut().zip(answers.residuals) {
            all.extend(new);
        }
        proceed(observer, batch.prompt_tokens() as f64).await?;
    }
    let labels: Vec<usize> = prompts.iter().map(|p| p.label).collect();
    let accuracy = Accuracy::of(&label_logits, &labels, &losses);
    Ok(Evaluation { accuracy, label_logits, residuals, residual_rows })
}
