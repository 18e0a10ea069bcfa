//! What came of it: accuracy with its uncertainty, and how far the model moved.

mod accuracy;
mod drift;
mod evaluate;

pub use accuracy::{Accuracy, Interval, predict, wilson};
pub use drift::{kl_divergence, linear_cka};
pub use evaluate::{Evaluation, evaluate};
