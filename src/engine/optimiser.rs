//! Masked AdamW (METHOD.md §7): only the slices exist, so frozen weights, their moments and their decay cannot move.

use super::{Backend, Batch, Engine, Objective, ParameterSlice, Result};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Hyper-parameters. The learning rate is given with each step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled decay of matrices; biases and norm gains do not decay.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; 0 turns clipping off.
    pub clip: f64,
}

impl Default for AdamW {
    /// METHOD.md §7's defaults.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, clip: 1.0 }
    }
}

/// The numbers of one update of one slice.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub clip: f32,
    /// `1 − β1ᵗ` and `1 − β2ᵗ`.
    pub correction1: f32,
    pub correction2: f32,
}

/// First and second moments of the trained slices, and the number of steps taken.
pub struct Moments<T> {
    slices: Vec<ParameterSlice>,
    state: Vec<(T, T)>,
    steps: i32,
}

impl<B: Backend> Engine<B> {
    /// Zero moments for `slices`.
    ///
    /// # Errors
    /// A device failure.
    pub fn moments(&self, slices: Vec<ParameterSlice>) -> Result<Moments<B::Tensor>> {
        let zeros = |s: &ParameterSlice| {
            Ok((self.backend.zeros(s.rows.len(), s.cols.len())?, self.backend.zeros(s.rows.len(), s.cols.len())?))
        };
        let state = slices.iter().map(zeros).collect::<Result<_>>()?;
        Ok(Moments { slices, state, steps: 0 })
    }

    /// One masked AdamW step. Returns the losses before it, still on the device: nothing waits.
    ///
    /// # Errors
    /// As [`Engine::gradients`].
    pub fn train_step(
        &self,
        batch: &Batch,
        objective: Objective<'_>,
        optimiser: &AdamW,
        learning_rate: f64,
        moments: &mut Moments<B::Tensor>,
    ) -> Result<B::Tensor> {
        let (losses, gradients) = self.gradients(batch, objective, &moments.slices)?;
        let norm_squared = self.backend.sum_of_squares(&gradients)?;
        moments.steps += 1;
        for ((slice, (m, v)), gradient) in moments.slices.iter().zip(&moments.state).zip(&gradients) {
            let step = Step {
                learning_rate: learning_rate as f32,
                beta1: optimiser.beta1 as f32,
                beta2: optimiser.beta2 as f32,
                eps: optimiser.eps as f32,
                weight_decay: if slice.vector { 0.0 } else { optimiser.weight_decay as f32 },
                clip: optimiser.clip as f32,
                correction1: (1.0 - optimiser.beta1.powi(moments.steps)) as f32,
                correction2: (1.0 - optimiser.beta2.powi(moments.steps)) as f32,
            };
            self.backend.adamw(
                self.weight(&slice.name)?,
                slice.rows.start,
                slice.cols.start,
                gradient,
                m,
                v,
                &norm_squared,
                &step,
            )?;
        }
        self.backend.submit();
        Ok(losses)
    }
}
