//! Bytes that work takes on a device, before it is done. Buffers are counted as the GPU's arena makes them.

use super::UpdateRule;
use super::layout::PackedLayout;
use super::weights::{ParameterSlice, Segments};
use crate::model::{Checkpoint, ModelConfig, ModelError};

/// Sizes rounded up to an eighth of their power of two at most, so that batches of similar length share buffers.
pub fn buffer_bytes(bytes: u64) -> u64 {
    let step = (bytes.max(1).next_power_of_two() / 16).max(256);
    bytes.max(1).next_multiple_of(step)
}

/// What of a batch its memory depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchShape {
    pub tokens: usize,
    pub answers: usize,
}

impl BatchShape {
    /// Prompts of these lengths that share nothing: no batch of them takes more.
    pub fn of(lengths: &[usize]) -> Self {
        let starts = std::iter::once(0).chain(lengths.iter().scan(0, |at, n| {
            *at += n;
            Some(*at)
        }));
        (&PackedLayout { prefix: 0, starts: starts.collect() }).into()
    }

    /// The larger of both in every respect.
    pub fn max(self, other: Self) -> Self {
        Self { tokens: self.tokens.max(other.tokens), answers: self.answers.max(other.answers) }
    }
}

impl From<&PackedLayout> for BatchShape {
    fn from(layout: &PackedLayout) -> Self {
        Self { tokens: layout.tokens(), answers: layout.sequences() }
    }
}

/// All that is kept of a layer for the way back.
pub fn layer_bytes(c: &ModelConfig, batch: BatchShape) -> u64 {
    let a_token = 2 * (c.hidden + c.heads_width() + c.kv_width() + c.intermediate + c.heads) + 2;
    4 * (batch.tokens * a_token) as u64
}

/// What is kept of all layers at least: the residuals entering them.
pub fn input_bytes(c: &ModelConfig, batch: BatchShape) -> u64 {
    4 * (batch.tokens * c.hidden * c.layers) as u64
}

/// What a pass takes beside what it keeps: one layer and its gradients, and the logits.
pub fn working_bytes(c: &ModelConfig, batch: BatchShape) -> u64 {
    let gradients = batch.tokens * (3 * c.intermediate + 6 * c.hidden + 2 * c.heads_width());
    let logits = 3 * batch.answers * c.vocab;
    // Buffers are rounded up by an eighth at most.
    (layer_bytes(c, batch) + 4 * (gradients + logits) as u64) * 9 / 8
}

/// The frozen weights as they are stored, and the rotary tables.
///
/// # Errors
/// A file that cannot be read.
pub fn frozen_bytes(checkpoint: &mut Checkpoint) -> Result<u64, ModelError> {
    let mut bytes = 0;
    for p in checkpoint.config.parameters() {
        bytes += match p.vector {
            true => 4 * p.cols as u64,
            false => checkpoint.form(&p.name)?.bytes(p.rows, p.cols),
        };
    }
    let c = &checkpoint.config;
    let positions = c.max_positions.min(super::MAX_PROMPT_TOKENS);
    Ok(bytes + 4 * (positions * c.head_dim) as u64)
}

/// What masters of `slices` take as long as they lie over the weights, and what training them takes on top.
pub fn training_bytes(c: &ModelConfig, slices: &[ParameterSlice], rule: UpdateRule) -> (u64, u64) {
    let segments = Segments::new(slices, c, usize::MAX);
    let masters: u64 = segments.sizes.iter().map(|(size, _)| buffer_bytes(4 * *size as u64)).sum();
    let more = match rule {
        UpdateRule::AdamW => 3 * masters,
        UpdateRule::Adafactor => {
            // One layer's gradients, or as many rows of the embedding, wait together.
            let layer: usize = slices.iter().filter(|s| s.name.starts_with("model.layers.0.")).map(|s| s.len()).sum();
            let means: usize = slices.iter().map(|s| s.rows.len() + s.cols.len()).sum();
            (4 * (layer + means) + 4 * 4096 * c.hidden) as u64 * 9 / 8
        }
    };
    (masters, more)
}

/// Bytes of the wasm heap, which never shrinks: so the most it ever was. Unknown elsewhere.
#[cfg(target_arch = "wasm32")]
pub fn heap_bytes() -> Option<u64> {
    Some(core::arch::wasm32::memory_size(0) as u64 * 65_536)
}

/// Bytes of the wasm heap: there is none here.
#[cfg(not(target_arch = "wasm32"))]
pub fn heap_bytes() -> Option<u64> {
    None
}
