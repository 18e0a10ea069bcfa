//! Which weights are trained, and how: masks, schedule, trainer, arms.

mod arms;
mod mask;
mod trainer;

pub use arms::{Arm, ArmKind};
pub use mask::{KvRule, NormRule, full_slices, head_slices, trained_weights};
pub use trainer::{Course, Journal, TrainSettings, learning_rate_factor, train};
