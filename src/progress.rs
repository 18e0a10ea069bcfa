//! How long work reports what it did and learns that it should stop.

/// Whoever started the work.
#[allow(async_fn_in_trait)]
pub trait Observer {
    /// Called between device submissions with the tokens just processed, weighted by cost: 1 for a forward pass.
    /// Returns whether to go on. In a browser it also lets the event loop run.
    async fn advance(&self, weighted_tokens: f64) -> bool;
}

/// Nobody watches; the work runs to its end.
pub struct Unwatched;

impl Observer for Unwatched {
    async fn advance(&self, _: f64) -> bool {
        true
    }
}

// Costs in forwards of the same tokens: about what `cargo xtask bench` measured of 24 layers (docs/measurements).

/// A reverse relevance pass with its forward.
pub const REVERSE_COST: f64 = 2.0;
/// A training step of a circuit's heads and the norms.
pub const MASKED_COST: f64 = 2.4;
/// A training step of all weights.
pub const FULL_COST: f64 = 4.0;
