//! Backward expansion (METHOD.md §5): the best heads for the output, then the best for those heads, and so on.

use super::{Pool, Relevance, relevance};
use crate::engine::{Backend, Engine, Head, HeadMeans, Method, Result, Score, Target, TargetDirection};
use crate::progress::Observer;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use ts_rs::TS;

/// Over what the best heads are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum Scope {
    /// All heads of the model together.
    #[default]
    Global,
    /// Each layer for itself.
    Layer,
}

/// How a circuit is grown.
#[derive(Debug, Clone, Copy)]
pub struct Expansion {
    pub max_depth: usize,
    /// ρ: share of all heads (or of a layer's heads) added each iteration.
    pub ratio: f64,
    pub scope: Scope,
    pub method: Method,
    pub score: Score,
    pub direction: TargetDirection,
}

/// One iteration: the heads it added and the relevances it chose them by.
#[derive(Debug, Clone)]
pub struct Depth {
    pub heads: Vec<Head>,
    pub relevance: Relevance,
}

/// Grows the circuit. The circuit at depth `i` is the union of the first `i+1` results' heads.
///
/// # Errors
/// A rule the backend lacks, a device failure, or cancellation.
pub async fn expand<B: Backend>(
    engine: &Engine<B>,
    pool: &Pool,
    means: &HeadMeans<B::Tensor>,
    how: &Expansion,
    observer: &impl Observer,
) -> Result<Vec<Depth>> {
    let mut depths: Vec<Depth> = Vec::new();
    let mut chosen = BTreeSet::new();
    for _ in 0..=how.max_depth {
        let frontier: Option<BTreeSet<Head>> = depths.last().map(|d| d.heads.iter().copied().collect());
        let target = match &frontier {
            None => Target::Output,
            Some(heads) if heads.iter().all(|h| h.layer == 0) => break,
            Some(heads) => Target::Heads(heads, how.direction),
        };
        let relevance = relevance(engine, pool, means, how.method, how.score, target, observer).await?;
        let heads = top_heads(&relevance.mean, engine.config.heads, how.ratio, how.scope, &chosen);
        if heads.is_empty() {
            break;
        }
        chosen.extend(heads.iter().copied());
        depths.push(Depth { heads, relevance });
    }
    Ok(depths)
}

/// `max(1, ⌈ratio · n⌉)`.
pub fn budget(ratio: f64, n: usize) -> usize {
    ((ratio * n as f64 - 1e-9).ceil() as usize).max(1)
}

/// The best heads outside `exclude`: highest relevance first, ties by layer, then head; non-finite ones never.
pub fn top_heads(relevance: &[f64], heads: usize, ratio: f64, scope: Scope, exclude: &BTreeSet<Head>) -> Vec<Head> {
    let mut candidates = ranked(relevance, heads, exclude, |r| -r);
    match scope {
        Scope::Global => candidates.truncate(budget(ratio, relevance.len())),
        Scope::Layer => {
            let each = budget(ratio, heads);
            let mut taken = vec![0; relevance.len() / heads];
            candidates.retain(|head| {
                taken[head.layer] += 1;
                taken[head.layer] <= each
            });
            candidates.sort();
        }
    }
    candidates
}

/// The `n` heads outside `exclude` whose relevance is nearest to zero, ties by layer, then head.
pub fn near_zero(relevance: &[f64], heads: usize, n: usize, exclude: &BTreeSet<Head>) -> Vec<Head> {
    let mut candidates = ranked(relevance, heads, exclude, f64::abs);
    candidates.truncate(n);
    candidates
}

/// `n` heads outside `exclude`, uniformly.
pub fn random_heads(
    layers: usize,
    heads: usize,
    n: usize,
    exclude: &BTreeSet<Head>,
    rng: &mut ChaCha8Rng,
) -> Vec<Head> {
    let all = (0..layers).flat_map(|layer| (0..heads).map(move |head| Head { layer, head }));
    let mut candidates: Vec<Head> = all.filter(|head| !exclude.contains(head)).collect();
    candidates.shuffle(rng);
    candidates.truncate(n);
    candidates.sort();
    candidates
}

/// Finite heads outside `exclude` in rising order of `key`.
fn ranked(relevance: &[f64], heads: usize, exclude: &BTreeSet<Head>, key: impl Fn(f64) -> f64) -> Vec<Head> {
    let mut candidates: Vec<(f64, Head)> = relevance
        .iter()
        .enumerate()
        .map(|(i, r)| (*r, Head { layer: i / heads, head: i % heads }))
        .filter(|(r, head)| r.is_finite() && !exclude.contains(head))
        .map(|(r, head)| (key(r), head))
        .collect();
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    candidates.into_iter().map(|(_, head)| head).collect()
}
