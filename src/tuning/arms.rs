//! The arms that are compared (METHOD.md §8).

use crate::engine::Head;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use ts_rs::TS;

/// Ways of tuning on the target language, all from the competent checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum ArmKind {
    /// The circuit's heads: CT-SFT.
    Circuit,
    /// As many heads whose relevance is nearest to zero.
    NearZero,
    /// As many heads drawn at random outside the circuit.
    Random,
    /// Every weight.
    Full,
}

/// An arm with the heads it trains (none named for [`ArmKind::Full`]).
#[derive(Debug, Clone)]
pub struct Arm {
    pub kind: ArmKind,
    pub heads: BTreeSet<Head>,
    /// Decides the order of the examples, and for [`ArmKind::Random`] the heads.
    pub seed: u64,
}
