//! Accuracy, macro-F1, confusion, Wilson intervals and the majority line.

use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// How a classifier did on a labelled set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Accuracy {
    pub correct: usize,
    pub total: usize,
    pub accuracy: f64,
    /// Wilson 95 % interval of the accuracy.
    pub interval: Interval,
    pub macro_f1: f64,
    /// `confusion[label][prediction]`.
    pub confusion: Vec<Vec<usize>>,
    /// Accuracy of always saying the commonest label of this set.
    pub majority: f64,
    /// Mean full-vocabulary loss, nats.
    pub loss: f64,
}

impl Accuracy {
    /// From label logits `[n][C]`, labels and losses.
    pub fn of(logits: &[Vec<f32>], labels: &[usize], losses: &[f32]) -> Self {
        let classes = logits.first().map_or(0, Vec::len);
        let mut confusion = vec![vec![0; classes]; classes];
        for (logits, label) in logits.iter().zip(labels) {
            confusion[*label][predict(logits)] += 1;
        }
        let total = labels.len();
        let correct = (0..classes).map(|c| confusion[c][c]).sum();
        let support: Vec<usize> = confusion.iter().map(|row| row.iter().sum()).collect();
        Self {
            correct,
            total,
            accuracy: correct as f64 / total.max(1) as f64,
            interval: wilson(correct, total),
            macro_f1: macro_f1(&confusion),
            majority: support.iter().max().copied().unwrap_or(0) as f64 / total.max(1) as f64,
            loss: losses.iter().map(|x| f64::from(*x)).sum::<f64>() / total.max(1) as f64,
            confusion,
        }
    }
}

/// The label with the highest logit; ties go to the smallest label (METHOD.md §0).
pub fn predict(logits: &[f32]) -> usize {
    let mut best = 0;
    for (label, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = label;
        }
    }
    best
}

/// Wilson score interval at 95 % (Wilson 1927).
pub fn wilson(correct: usize, total: usize) -> Interval {
    if total == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let z = 1.959_963_984_540_054_f64;
    let (n, p) = (total as f64, correct as f64 / total as f64);
    let centre = p + z * z / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    Interval { low: ((centre - spread) / scale).max(0.0), high: ((centre + spread) / scale).min(1.0) }
}

/// Mean F1 over the labels that occur, as label or as prediction.
fn macro_f1(confusion: &[Vec<usize>]) -> f64 {
    let classes = confusion.len();
    let mut scores = Vec::new();
    for c in 0..classes {
        let support: usize = confusion[c].iter().sum();
        let predicted: usize = confusion.iter().map(|row| row[c]).sum();
        if support + predicted > 0 {
            scores.push(2.0 * confusion[c][c] as f64 / (support + predicted) as f64);
        }
    }
    scores.iter().sum::<f64>() / scores.len().max(1) as f64
}
