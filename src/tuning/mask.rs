//! Head-level gradient masking (METHOD.md §7): the weights that a set of heads owns.

use crate::engine::{Head, ParameterSlice};
use crate::model::{Architecture, FINAL_NORM, ModelConfig, layer_parameter};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use ts_rs::TS;

/// Whether a key/value pair is trained that query heads share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum KvRule {
    /// When any of its heads is in the circuit; its other heads change too.
    #[default]
    Any,
    /// Never: strict isolation.
    None,
}

/// Whether the RMSNorm gains are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum NormRule {
    /// All 2L+1.
    #[default]
    All,
    Off,
}

/// The weights that training `heads` may change.
pub fn head_slices(config: &ModelConfig, heads: &BTreeSet<Head>, kv: KvRule, norms: NormRule) -> Vec<ParameterSlice> {
    let (d, hidden) = (config.head_dim, config.hidden);
    let biased = config.architecture == Architecture::Qwen2;
    let mut slices = Vec::new();
    for l in 0..config.layers {
        let mut add = |suffix: &str, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>, vector| {
            slices.push(ParameterSlice { name: layer_parameter(l, suffix), rows, cols, vector });
        };
        let mut rows_of = |letter: &str, span: std::ops::Range<usize>| {
            add(&format!("self_attn.{letter}_proj.weight"), span.clone(), 0..hidden, false);
            if biased {
                add(&format!("self_attn.{letter}_proj.bias"), 0..1, span, true);
            }
        };
        let mine: Vec<usize> = heads.iter().filter(|h| h.layer == l).map(|h| h.head).collect();
        for head in &mine {
            rows_of("q", head * d..(head + 1) * d);
        }
        if kv == KvRule::Any {
            let groups: BTreeSet<usize> = mine.iter().map(|head| head / config.group()).collect();
            for group in groups {
                rows_of("k", group * d..(group + 1) * d);
                rows_of("v", group * d..(group + 1) * d);
            }
        }
        for head in &mine {
            add("self_attn.o_proj.weight", 0..hidden, head * d..(head + 1) * d, false);
        }
        if norms == NormRule::All {
            add("input_layernorm.weight", 0..1, 0..hidden, true);
            add("post_attention_layernorm.weight", 0..1, 0..hidden, true);
        }
    }
    if norms == NormRule::All {
        slices.push(ParameterSlice { name: FINAL_NORM.into(), rows: 0..1, cols: 0..hidden, vector: true });
    }
    slices
}

/// Every weight of the model.
pub fn full_slices(config: &ModelConfig) -> Vec<ParameterSlice> {
    let whole = |p: crate::model::Parameter| ParameterSlice {
        rows: 0..p.rows,
        cols: 0..p.cols,
        vector: p.vector,
        name: p.name,
    };
    config.parameters().into_iter().map(whole).collect()
}

/// Number of weights in the slices.
pub fn trained_weights(slices: &[ParameterSlice]) -> usize {
    slices.iter().map(ParameterSlice::len).sum()
}
