//! Prompts packed end to end.

use super::{EngineError, PackedLayout, Result};
use crate::model::ModelConfig;

/// One labelled prompt: its tokens and the index of its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub tokens: Vec<u32>,
    pub label: usize,
}

/// Prompts that are computed together. The answer position of each is its last token.
#[derive(Debug, Clone)]
pub struct Batch {
    pub tokens: Vec<u32>,
    pub layout: PackedLayout,
    pub labels: Vec<usize>,
}

impl Batch {
    /// Packs prompts.
    ///
    /// # Errors
    /// An empty prompt, one longer than the model takes, or a token outside its vocabulary, by number.
    pub fn new(prompts: &[&Prompt], config: &ModelConfig) -> Result<Self> {
        let mut batch = Self { tokens: Vec::new(), layout: PackedLayout { starts: vec![0] }, labels: Vec::new() };
        for (number, prompt) in prompts.iter().enumerate() {
            if prompt.tokens.is_empty() {
                return Err(EngineError::EmptyPrompt(number));
            }
            let limit = config.max_positions.min(super::forward::MAX_PROMPT_TOKENS);
            if prompt.tokens.len() > limit {
                return Err(EngineError::PromptTooLong { prompt: number, tokens: prompt.tokens.len(), limit });
            }
            if let Some(&token) = prompt.tokens.iter().find(|t| **t as usize >= config.vocab) {
                return Err(EngineError::TokenOutOfRange { prompt: number, token, vocab: config.vocab });
            }
            batch.tokens.extend_from_slice(&prompt.tokens);
            batch.layout.starts.push(batch.tokens.len());
            batch.labels.push(prompt.label);
        }
        Ok(batch)
    }

    /// Splits prompts, in order, into runs of at most `limit` tokens (a longer single prompt is a run of its own).
    pub fn runs(prompts: &[Prompt], limit: usize) -> Vec<std::ops::Range<usize>> {
        let mut runs = Vec::new();
        let (mut start, mut tokens) = (0, 0);
        for (i, prompt) in prompts.iter().enumerate() {
            if i > start && tokens + prompt.tokens.len() > limit {
                runs.push(start..i);
                (start, tokens) = (i, 0);
            }
            tokens += prompt.tokens.len();
        }
        if start < prompts.len() {
            runs.push(start..prompts.len());
        }
        runs
    }
}
