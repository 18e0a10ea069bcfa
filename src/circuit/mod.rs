//! Which heads carry the task: pool and slots, means, relevance, expansion, faithfulness, stability.

mod expand;
mod faithfulness;
mod pool;
mod relevance;
mod stability;

pub use expand::{Depth, Expansion, Scope, budget, expand, near_zero, random_heads, top_heads};
pub use faithfulness::{AblationMetrics, ablation_metrics, faithfulness};
pub use pool::{Pool, Positions, SlotMap};
pub use relevance::{Relevance, means, proceed, relevance, sweep_cost};
pub use stability::{POOR, Stability, spearman, split_half};
