//! The rules of METHOD.md §2 by which β passes each operation.

use super::GateRule;

/// How β passes SwiGLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationRule {
    Secant,
    /// CD-T's own; quadratic in β and prone to overflow.
    Cdt,
    Linear(GateRule),
}

/// Who gets a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BiasRule {
    /// β takes its share by magnitude.
    Split,
    Gamma,
}

/// A rule set for the decomposed forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Patterns made from β's own queries and keys, instead of the ordinary ones as constants.
    pub query_key: bool,
    pub activation: ActivationRule,
    pub bias: BiasRule,
    /// CD-T's sign cancellation.
    pub sign: bool,
}

impl Rules {
    /// The exact comparison.
    pub const SECANT: Self =
        Self { query_key: false, activation: ActivationRule::Secant, bias: BiasRule::Split, sign: false };
    /// CD-T's published code carried over.
    pub const PUBLISHED: Self =
        Self { query_key: true, activation: ActivationRule::Cdt, bias: BiasRule::Split, sign: true };
}

/// How relevances are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One reverse pass for all heads; projection only.
    Reverse(GateRule),
    /// One decomposed forward pass a source.
    Sweep(Rules),
}

/// How a β is turned into a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// On the task direction.
    Projection,
    /// `‖β‖₁ / ‖γ‖₁`: the paper's baseline.
    Magnitude,
}

/// β (and at the end γ) at every named point of a decomposed forward pass, for one source: names as in
/// `golden/README.md` without the rule set.
pub type Trace = Vec<(String, Vec<f32>)>;
