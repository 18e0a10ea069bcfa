//! Prompts packed end to end.

use super::layout::PackedLayout;
use super::{EngineError, Result};
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
    /// Packs prompts; what all of them begin with is packed once.
    ///
    /// # Errors
    /// An empty prompt, one longer than the model takes, or a token outside its vocabulary, by number.
    pub fn new(prompts: &[&Prompt], config: &ModelConfig) -> Result<Self> {
        Self::sharing(prompts, usize::MAX, config)
    }

    /// Packs prompts; of what all of them begin with, at most `most` tokens are packed once.
    ///
    /// # Errors
    /// As [`Batch::new`].
    pub fn sharing(prompts: &[&Prompt], most: usize, config: &ModelConfig) -> Result<Self> {
        let limit = config.max_positions.min(super::forward::MAX_PROMPT_TOKENS);
        for (number, prompt) in prompts.iter().enumerate() {
            if prompt.tokens.is_empty() {
                return Err(EngineError::EmptyPrompt(number));
            }
            if prompt.tokens.len() > limit {
                return Err(EngineError::PromptTooLong { prompt: number, tokens: prompt.tokens.len(), limit });
            }
            if let Some(&token) = prompt.tokens.iter().find(|t| **t as usize >= config.vocab) {
                return Err(EngineError::TokenOutOfRange { prompt: number, token, vocab: config.vocab });
            }
        }
        let prefix = if prompts.len() > 1 { common_prefix(prompts).min(most) } else { 0 };
        let mut tokens = prompts.first().map_or_else(Vec::new, |p| p.tokens[..prefix].to_vec());
        let mut starts = vec![prefix];
        for prompt in prompts {
            tokens.extend_from_slice(&prompt.tokens[prefix..]);
            starts.push(tokens.len());
        }
        let labels = prompts.iter().map(|p| p.label).collect();
        Ok(Self { tokens, layout: PackedLayout { prefix, starts }, labels })
    }

    /// Tokens of all prompts, as if none were shared: the unit that progress is counted in.
    pub fn prompt_tokens(&self) -> usize {
        self.layout.lengths().sum()
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

/// Tokens that all prompts begin with, less than the shortest of them.
fn common_prefix(prompts: &[&Prompt]) -> usize {
    let shortest = prompts.iter().map(|p| p.tokens.len()).min().unwrap_or(0);
    let same = |t: &usize| prompts.windows(2).all(|w| w[0].tokens[*t] == w[1].tokens[*t]);
    (0..shortest.saturating_sub(1)).take_while(same).count()
}
