//! Masked AdamW (METHOD.md §7): only the slices have masters, so frozen weights, their moments and their decay cannot
//! move. And Adafactor, which keeps next to nothing beside the masters.

use super::backward::Sink;
use super::weights::{Place, Segments};
use super::{Backend, Batch, Engine, Objective, ParameterSlice, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
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

/// By which rule weights are updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum UpdateRule {
    /// Gradients and two moments of every trained weight are kept: 16 bytes a weight with its master.
    #[default]
    AdamW,
    /// Adafactor (Shazeer and Stern 2018, arXiv 1804.04235): no first moment, second moments by rows and columns, each
    /// matrix updated as soon as its gradient is there: 4 bytes a weight. In place of clipping the norm of all gradients,
    /// which are never there together, the update of each matrix is clipped to a root mean square of 1.
    Adafactor,
}

/// The numbers of one Adafactor update: `v` decays by `1 − t^−0.8`, and the update is
/// `u = g / (sqrt(rows·cols / mean(rows)) + eps)`, clipped, with decoupled decay.
#[derive(Debug, Clone, Copy)]
pub struct LeanStep {
    pub learning_rate: f32,
    pub weight_decay: f32,
    pub eps: f32,
    /// Share of the old means that is kept.
    pub beta2: f32,
}

/// The numbers of one update.
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

/// A training: masters of the trained slices, their moments, and the number of steps taken.
pub struct Training<T> {
    pub segments: Segments,
    /// One tensor of each kind for each segment; gradients and moments for AdamW only.
    masters: Vec<T>,
    pub gradients: Vec<T>,
    moments: Vec<(T, T)>,
    /// For Adafactor, by place and first row: means of the squares by rows and by columns.
    factored: Option<RefCell<Factored<T>>>,
    steps: i32,
}

impl<T> Training<T> {
    pub fn rule(&self) -> UpdateRule {
        if self.factored.is_some() { UpdateRule::Adafactor } else { UpdateRule::AdamW }
    }
}

type Factored<T> = HashMap<(usize, usize, usize), (T, T)>;

/// A training by value: what it takes to go on with it on another device.
pub struct TrainingState {
    /// Of each segment: masters, first and second moments.
    segments: Vec<[Vec<f32>; 3]>,
    steps: i32,
}

impl TrainingState {
    /// Bytes that the state of a training of `segments` takes.
    pub fn bytes(segments: &Segments) -> u64 {
        segments.sizes.iter().map(|(size, _)| 12 * *size as u64).sum()
    }
}

impl<B: Backend> Engine<B> {
    /// Copies a training by AdamW out, waiting for it.
    ///
    /// # Errors
    /// A device failure.
    pub async fn save(&self, training: &Training<B::Tensor>) -> Result<TrainingState> {
        let mut segments = Vec::new();
        for (master, (m, v)) in training.masters.iter().zip(&training.moments) {
            let mut read = self.backend.read(&[master, m, v]).await?.into_iter();
            segments.push([(); 3].map(|()| read.next().unwrap_or_default()));
        }
        Ok(TrainingState { segments, steps: training.steps })
    }

    /// Goes on with a training of the same slices where it was saved.
    ///
    /// # Errors
    /// As [`Engine::train`].
    pub fn resume(&self, slices: &[ParameterSlice], state: &TrainingState) -> Result<Training<B::Tensor>> {
        let mut training = self.train(slices, UpdateRule::AdamW)?;
        training.steps = state.steps;
        for (i, saved) in state.segments.iter().enumerate() {
            let (m, v) = &training.moments[i];
            for (to, values) in [&training.masters[i], m, v].into_iter().zip(saved) {
                let from = self.backend.upload(values, 1, values.len())?;
                self.backend.copy_window(to, 0, 0, &from, 0..1, 0..values.len())?;
            }
        }
        Ok(training)
    }

    /// Begins to train `slices`: their masters lie over the weights from now on, until an earlier state is restored.
    ///
    /// # Errors
    /// An unknown parameter or a device failure.
    pub fn train(&self, slices: &[ParameterSlice], rule: UpdateRule) -> Result<Training<B::Tensor>> {
        let segments = self.segments(slices)?;
        let (gradients, moments, factored) = match rule {
            UpdateRule::AdamW => {
                let (gradients, m, v) = (self.flat(&segments)?, self.flat(&segments)?, self.flat(&segments)?);
                (gradients, m.into_iter().zip(v).collect(), None)
            }
            UpdateRule::Adafactor => (Vec::new(), Vec::new(), Some(RefCell::default())),
        };
        let masters = self.lay_masters(&segments)?;
        Ok(Training { segments, masters, gradients, moments, factored, steps: 0 })
    }

    /// One Adafactor update of some rows of a place, by their gradient.
    fn update_factored(
        &self,
        training: &Training<B::Tensor>,
        place: &Place,
        first_row: usize,
        gradient: &B::Tensor,
        step: &LeanStep,
    ) -> Result<()> {
        let Some(factored) = &training.factored else { return Ok(()) };
        let (b, (rows, cols)) = (&self.backend, self.backend.shape(gradient));
        let (row_means, col_means) = match factored.borrow_mut().entry((place.segment, place.start, first_row)) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry.insert((b.zeros(rows, 1)?, b.zeros(1, cols)?)).clone(),
        };
        let master = b.view(&training.masters[place.segment], place.start + first_row * cols, rows, cols)?;
        let weight_decay = if place.slice.vector { 0.0 } else { step.weight_decay };
        b.adafactor(&master, gradient, &row_means, &col_means, &LeanStep { weight_decay, ..*step })
    }

    /// One step by the training's rule. Returns the losses before it, still on the device: nothing waits.
    ///
    /// # Errors
    /// As [`Engine::gradients`].
    pub fn train_step(
        &self,
        batch: &Batch,
        objective: Objective<'_>,
        optimiser: &AdamW,
        learning_rate: f64,
        training: &mut Training<B::Tensor>,
    ) -> Result<B::Tensor> {
        if training.factored.is_some() {
            training.steps += 1;
            let beta2 = 1.0 - f64::from(training.steps).powf(-0.8);
            let step = LeanStep {
                learning_rate: learning_rate as f32,
                weight_decay: optimiser.weight_decay as f32,
                eps: optimiser.eps as f32,
                beta2: beta2 as f32,
            };
            let update = |place: &Place, first_row: usize, gradient: &B::Tensor| {
                self.update_factored(training, place, first_row, gradient, &step)
            };
            let losses = self.backpropagate(batch, objective, &training.segments, &Sink::each(&update))?;
            self.backend.submit();
            return Ok(losses);
        }
        let losses = self.gradients(batch, objective, &training.segments, &training.gradients)?;
        let norm_squared = self.backend.sum_of_squares(&training.gradients)?;
        training.steps += 1;
        let step = Step {
            learning_rate: learning_rate as f32,
            beta1: optimiser.beta1 as f32,
            beta2: optimiser.beta2 as f32,
            eps: optimiser.eps as f32,
            weight_decay: optimiser.weight_decay as f32,
            clip: optimiser.clip as f32,
            correction1: (1.0 - optimiser.beta1.powi(training.steps)) as f32,
            correction2: (1.0 - optimiser.beta2.powi(training.steps)) as f32,
        };
        let each = training.masters.iter().zip(&training.gradients).zip(&training.moments);
        for (((master, gradient), (m, v)), (_, decayed)) in each.zip(&training.segments.sizes) {
            self.backend.adamw(master, gradient, m, v, &norm_squared, *decayed, &step)?;
        }
        self.backend.submit();
        Ok(losses)
    }
}
