//! A pool of labelled prompts whose positions are aligned by slots (METHOD.md §3).

use crate::engine::{Batch, EngineError, NO_SLOT, PoolBatch, Prompt};
use crate::model::ModelConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use ts_rs::TS;

/// How positions of prompts of different lengths are aligned: `head` from the start, `tail` from the end (the answer
/// last), everything between is one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct SlotMap {
    pub head: usize,
    pub tail: usize,
}

impl SlotMap {
    /// Longest common prefix, then suffix, of the prompts: disjoint in the shortest, tail at least 1.
    pub fn common(prompts: &[Prompt]) -> Self {
        let shortest = prompts.iter().map(|p| p.tokens.len()).min().unwrap_or(1);
        let same = |token: &dyn Fn(&Prompt) -> u32| prompts.windows(2).all(|w| token(&w[0]) == token(&w[1]));
        let mut head = 0;
        while head + 1 < shortest && same(&|p| p.tokens[head]) {
            head += 1;
        }
        let mut tail = 1;
        while tail + head < shortest && same(&|p| p.tokens[p.tokens.len() - 1 - tail]) {
            tail += 1;
        }
        Self { head, tail }
    }

    pub fn count(self) -> usize {
        self.head + 1 + self.tail
    }

    /// Slot of each position of a prompt of `length` tokens.
    pub fn slots(self, length: usize) -> Vec<u32> {
        let body = self.head;
        let slot = |t: usize| if t + self.tail >= length { body + 1 + t + self.tail - length } else { t.min(body) };
        (0..length).map(|t| slot(t) as u32).collect()
    }
}

/// Which positions are sources and are ablated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Positions {
    #[default]
    All,
    /// The answer position only.
    Last,
}

/// Labelled prompts for discovery or evaluation.
#[derive(Debug, Clone)]
pub struct Pool {
    pub prompts: Vec<Prompt>,
    /// One token a label.
    pub verbalizer: Vec<u32>,
    pub slots: SlotMap,
    pub positions: Positions,
}

impl Pool {
    /// Weights that give every label present the same share: `1 / (labels · examples of the label)`.
    pub fn weights(&self) -> Vec<f64> {
        let mut counts = BTreeMap::new();
        for prompt in &self.prompts {
            *counts.entry(prompt.label).or_insert(0usize) += 1;
        }
        self.prompts.iter().map(|p| 1.0 / (counts.len() * counts[&p.label]) as f64).collect()
    }

    /// First position that can be a source: before it all prompts are the same, so activations equal their mean.
    pub fn first_live(&self) -> usize {
        let same = |t: usize| self.prompts.windows(2).all(|w| w[0].tokens[t] == w[1].tokens[t]);
        (0..self.slots.head).take_while(|t| same(*t)).count()
    }

    /// Packs some of the prompts; only what equals its mean is shared.
    ///
    /// # Errors
    /// As [`Batch::new`].
    pub fn pack(&self, prompts: Range<usize>, config: &ModelConfig) -> Result<Batch, EngineError> {
        Batch::sharing(&self.prompts[prompts].iter().collect::<Vec<_>>(), self.first_live(), config)
    }

    /// Slot of each token of a batch that [`Pool::pack`] made, [`NO_SLOT`] where the token is neither a source nor ablated.
    pub fn batch_slots(&self, batch: &Batch) -> Vec<u32> {
        let mut slots = vec![NO_SLOT; batch.tokens.len()];
        for (sequence, length) in batch.layout.lengths().enumerate() {
            for (position, slot) in self.slots.slots(length).into_iter().enumerate() {
                if self.positions == Positions::All || position + 1 == length {
                    slots[batch.layout.token(sequence, position)] = slot;
                }
            }
        }
        slots
    }

    pub fn batch<'a>(&'a self, batch: &'a Batch, slots: &'a [u32]) -> PoolBatch<'a> {
        PoolBatch { batch, slots, verbalizer: &self.verbalizer }
    }

    /// The label-balanced mean as weights of single tokens: per example the mean over its positions in the slot, then the
    /// mean over the examples of each label that own the slot, then the mean over those labels.
    pub fn token_weights(&self) -> Vec<Vec<(u32, f64)>> {
        let slots: Vec<Vec<u32>> = self.prompts.iter().map(|p| self.slots.slots(p.tokens.len())).collect();
        let positions = |slots: &[u32], slot: u32| slots.iter().filter(|s| **s == slot).count();
        let mut owners = vec![BTreeMap::new(); self.slots.count()];
        for (prompt, own) in self.prompts.iter().zip(&slots) {
            for (slot, owners) in owners.iter_mut().enumerate() {
                if own.contains(&(slot as u32)) {
                    *owners.entry(prompt.label).or_insert(0usize) += 1;
                }
            }
        }
        let weigh = |(prompt, own): (&Prompt, &Vec<u32>)| -> Vec<(u32, f64)> {
            own.iter()
                .map(|slot| {
                    let owners = &owners[*slot as usize];
                    (*slot, 1.0 / (positions(own, *slot) * owners[&prompt.label] * owners.len()) as f64)
                })
                .collect()
        };
        self.prompts.iter().zip(&slots).map(weigh).collect()
    }
}
