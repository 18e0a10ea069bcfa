//! What can be computed, in the method's words, by either backend.
//!
//! [`Engine`] walks the transformer once, forwards ([`forward`]) and backwards ([`backward`]), over the operations of
//! [`Backend`]. Two backends compute them: [`cpu`] (candle) and [`gpu`] (wgpu). The walk being shared, a backend
//! is right exactly if each of its operations is.

mod backend;
mod backward;
mod batch;
pub mod cpu;
mod forward;
pub mod gpu;
mod layout;
pub mod memory;
mod optimiser;
mod relevance;
mod rules;
mod weights;

pub use backend::{ALIGNMENT, Attended, Backend, GateRule, Operand, Side};
pub use backward::{LossOver, Objective};
pub use batch::{Batch, Prompt};
pub use forward::{Ablation, AnswerRows, MAX_PROMPT_TOKENS};
pub use layout::{Attention, PackedIds, PackedLayout};
pub use optimiser::{AdamW, Training, TrainingState, UpdateRule};
pub use relevance::{Head, HeadMeans, HeadSet, NO_SLOT, PoolBatch, Target, TargetDirection};
pub use rules::{ActivationRule, BiasRule, Method, Rules, Score, Trace};
pub use weights::{ParameterSlice, Place, Segments, Snapshot, Weight};

use crate::model::{Checkpoint, ModelConfig, ModelError};
use std::cell::{Cell, RefCell};
use weights::{Frozen, Tuned};

/// Why a computation could not be done.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("no usable GPU: {0}. The CPU engine needs none")]
    NoGpu(String),
    #[error("the GPU refuses: {0}")]
    Gpu(String),
    #[error("the GPU was lost and did not come back ({0}). Try again, with a smaller batch, or use the CPU engine")]
    Lost(String),
    #[error(
        "the model needs a buffer of {needed} bytes for `{what}`, and this device allows {limit}: use the CPU engine or a smaller model"
    )]
    TooLarge { what: String, needed: u64, limit: u64 },
    #[error("prompt {prompt} has {tokens} tokens, the model takes at most {limit}")]
    PromptTooLong { prompt: usize, tokens: usize, limit: usize },
    #[error("token {token} of prompt {prompt} is outside the model's vocabulary of {vocab}")]
    TokenOutOfRange { prompt: usize, token: u32, vocab: usize },
    #[error("prompt {0} is empty")]
    EmptyPrompt(usize),
    #[error("the batch has no token to predict: every sequence is one token long")]
    NothingToPredict,
    #[error("no parameter is named `{0}`")]
    UnknownParameter(String),
    #[error("a part of `{0}` can be trained only if it is whole rows or whole columns of a linear map")]
    Untrainable(String),
    #[error(
        "this rule set needs a decomposed forward pass, which {0} does not have: use the rule `linear`, or the CPU engine"
    )]
    RuleUnavailable(String),
    #[error("the magnitude score does not exist under a one-pass linear rule: choose projection, or the rule `secant`")]
    MagnitudeNeedsSweep,
    #[error(
        "{device} computes wrong numbers: {what} is off by {error:.1e} of its size. Nothing it would find could be trusted; use the CPU engine"
    )]
    Distrusted { device: String, what: String, error: f32 },
    #[error("stopped on request")]
    Cancelled,
    #[error("CPU computation failed: {0}")]
    Cpu(#[from] candle_core::Error),
}

pub type Result<T> = std::result::Result<T, EngineError>;

/// A loaded model on a backend.
pub struct Engine<B: Backend> {
    pub backend: B,
    pub config: ModelConfig,
    frozen: Frozen<B>,
    tuned: RefCell<Tuned<B>>,
    /// Cosines and sines of the rotary angles, each `[positions, d/2]`.
    rotary: (B::Tensor, B::Tensor),
    /// Bytes that all tensors together may take: layers that do not fit are not kept for the way back but computed again.
    memory_limit: Cell<u64>,
}

impl<B: Backend> Engine<B> {
    /// Moves a checkpoint's weights to the backend, piece by piece. `progress` gets (weights done, weights in all).
    ///
    /// # Errors
    /// A damaged checkpoint, or a tensor that the device cannot hold.
    pub fn load(backend: B, checkpoint: &mut Checkpoint, progress: impl FnMut(usize, usize)) -> Result<Self> {
        let frozen = Frozen::load(&backend, checkpoint, progress)?;
        let config = checkpoint.config.clone();
        let rotary = forward::rotary_tables(&backend, &config)?;
        Ok(Self { backend, config, frozen, tuned: RefCell::default(), rotary, memory_limit: Cell::new(u64::MAX) })
    }

    /// Keeps the device's memory below `bytes` by computing layers again on the way back, as far as that goes.
    pub fn limit_memory(&self, bytes: u64) {
        self.memory_limit.set(bytes);
        self.backend.limit_memory(bytes);
    }
}
