//! Split-half stability of relevances: whether another half of the pool would have chosen the same heads.

use super::relevance::balanced;
use super::{Pool, Scope, top_heads};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use ts_rs::TS;

/// Means over random label-stratified halvings of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Stability {
    /// Spearman correlation of the two halves' relevances over all heads.
    pub spearman: f64,
    /// Share of the selected heads that both halves select.
    pub overlap: f64,
    /// Number of halvings.
    pub splits: usize,
}

/// Halvings that [`split_half`] averages over.
const SPLITS: usize = 20;

/// Below this Spearman correlation a circuit is not to be trusted.
pub const POOR: f64 = 0.5;

/// Stability of iteration-0 relevances; `None` when no label has two examples.
pub fn split_half(pool: &Pool, per_example: &[Vec<f64>], heads: usize, ratio: f64, seed: u64) -> Option<Stability> {
    let mut by_label: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, prompt) in pool.prompts.iter().enumerate() {
        by_label.entry(prompt.label).or_default().push(i);
    }
    if by_label.values().all(|members| members.len() < 2) {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut correlation, mut overlap) = (0.0, 0.0);
    for _ in 0..SPLITS {
        let mut halves = [Vec::new(), Vec::new()];
        for members in by_label.values_mut() {
            members.shuffle(&mut rng);
            for (i, member) in members.iter().enumerate() {
                halves[i % 2].push(*member);
            }
        }
        let [a, b] = halves.map(|half| {
            let part = Pool { prompts: half.iter().map(|i| pool.prompts[*i].clone()).collect(), ..pool.clone() };
            balanced(&half.iter().map(|i| per_example[*i].clone()).collect::<Vec<_>>(), &part.weights())
        });
        correlation += spearman(&a, &b);
        let top = |r: &[f64]| {
            top_heads(r, heads, ratio, Scope::Global, &BTreeSet::new()).into_iter().collect::<BTreeSet<_>>()
        };
        let (a, b) = (top(&a), top(&b));
        overlap += a.intersection(&b).count() as f64 / a.len().max(1) as f64;
    }
    Some(Stability { spearman: correlation / SPLITS as f64, overlap: overlap / SPLITS as f64, splits: SPLITS })
}

/// Spearman rank correlation; ties share their mean rank. NaN for constant input.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|i, j| x[*i].total_cmp(&x[*j]));
    let mut ranks = vec![0.0; x.len()];
    let mut start = 0;
    while start < order.len() {
        let end = (start..order.len()).take_while(|k| x[order[*k]] == x[order[start]]).last().unwrap_or(start);
        for k in start..=end {
            ranks[order[k]] = (start + end) as f64 / 2.0;
        }
        start = end + 1;
    }
    ranks
}
