//! Head-output means and the `linear` relevance of all heads by one reverse pass (METHOD.md §§3, 4, 9).

use super::forward::{Activations, Kept, LastLayer, Layer, Packed};
use super::{Backend, Batch, Engine, GateRule, PackedIds, Result};
use crate::model::{FINAL_NORM, layer_parameter};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use ts_rs::TS;

/// A head: a pair (layer, head). Its order, layer first, is the one ties are broken by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct Head {
    pub layer: usize,
    pub head: usize,
}

/// A set of heads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadSet(pub BTreeSet<Head>);

impl HeadSet {
    /// All heads of the model that are not in `keep`.
    pub fn all_but(keep: &BTreeSet<Head>, layers: usize, heads: usize) -> Self {
        let all = (0..layers).flat_map(|layer| (0..heads).map(move |head| Head { layer, head }));
        Self(all.filter(|head| !keep.contains(head)).collect())
    }

    /// 1 for each head of layer `l` in the set; `None` when there is none.
    pub(super) fn flags(&self, l: usize, heads: usize) -> Option<Vec<f32>> {
        let mut flags = vec![0.0; heads];
        for head in self.0.range(Head { layer: l, head: 0 }..Head { layer: l + 1, head: 0 }) {
            flags[head.head] = 1.0;
        }
        flags.contains(&1.0).then_some(flags)
    }
}

/// Slot of a token that the method leaves alone: not a source, not ablated.
pub const NO_SLOT: u32 = u32::MAX;

/// μ: mean head outputs by slot, each layer `[slots, H·d]` on the device.
pub struct HeadMeans<T> {
    pub layers: Vec<T>,
    pub slots: usize,
}

/// What the relevance is to (METHOD.md §4).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target<'a> {
    /// Iteration 0: the task direction of the final hidden state.
    Output,
    /// Later iterations: these heads' outputs at the answer position.
    Heads(&'a BTreeSet<Head>, TargetDirection),
}

/// The vector a target head's output is projected on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetDirection {
    /// What the head's own write does to the task direction.
    Direct,
    /// The head's whole downstream effect, under the linear rules.
    Adjoint,
    /// The head's deviation from its mean.
    Dot,
}

/// A batch's place in a discovery pool.
pub struct PoolBatch<'a> {
    pub batch: &'a Batch,
    /// Slot of each packed token, [`NO_SLOT`] where the token is no source.
    pub slots: &'a [u32],
    pub verbalizer: &'a [u32],
}

impl<B: Backend> Engine<B> {
    /// Zero means with `slots` slots, to be filled by [`Engine::accumulate_means`].
    ///
    /// # Errors
    /// A device failure.
    pub fn empty_means(&self, slots: usize) -> Result<HeadMeans<B::Tensor>> {
        let layer = |_| self.backend.zeros(slots, self.config.heads_width());
        Ok(HeadMeans { layers: (0..self.config.layers).map(layer).collect::<Result<_>>()?, slots })
    }

    /// Means given by value, each layer `[slots, H·d]`.
    ///
    /// # Errors
    /// A device failure.
    pub fn means_from(&self, layers: &[Vec<f32>], slots: usize) -> Result<HeadMeans<B::Tensor>> {
        let upload = |layer: &Vec<f32>| self.backend.upload(layer, slots, self.config.heads_width());
        Ok(HeadMeans { layers: layers.iter().map(upload).collect::<Result<_>>()?, slots })
    }

    /// Adds a batch's head outputs to the means: row `s` gets `Σ_t weights[s·N+t] · z[t]`.
    ///
    /// # Errors
    /// A device failure.
    pub fn accumulate_means(&self, batch: &Batch, weights: &[f32], means: &mut HeadMeans<B::Tensor>) -> Result<()> {
        let b = &self.backend;
        let packed = self.pack(batch, LastLayer::AllRows)?;
        let weights = b.upload(weights, means.slots, packed.rows)?;
        self.forward(&packed, None, false, |l, layer| {
            means.layers[l] = b.matmul(self.all(&weights), self.all(&layer.z), Some(&means.layers[l]))?;
            Ok(())
        })?;
        b.submit();
        Ok(())
    }

    /// The means by value, each layer `[slots, H·d]`.
    ///
    /// # Errors
    /// A device failure.
    pub async fn read_means(&self, means: &HeadMeans<B::Tensor>) -> Result<Vec<Vec<f32>>> {
        self.backend.read(&means.layers.iter().collect::<Vec<_>>()).await
    }

    /// Relevance of every head on each example of the batch under the linear rules: one forward, one reverse pass in
    /// which patterns and norm factors are constants: `[B][L·H]`. Heads with no target above them get 0 here.
    ///
    /// # Errors
    /// A device failure.
    pub async fn linear_relevance(
        &self,
        pool: &PoolBatch<'_>,
        means: &HeadMeans<B::Tensor>,
        target: Target<'_>,
        rule: GateRule,
    ) -> Result<Vec<Vec<f64>>> {
        let b = &self.backend;
        let c = &self.config;
        let products = self.reverse(pool, means, target, rule)?;
        let products = b.read(&products.iter().collect::<Vec<_>>()).await?;
        let starts = &pool.batch.layout.starts;
        let examples = pool.batch.labels.len();
        let mut per_example = vec![vec![0.0; c.total_heads()]; examples];
        for (l, products) in products.iter().enumerate() {
            // Shared tokens are left out: they are what their mean is.
            let answers: Vec<usize> = (0..=examples).collect();
            let starts = if l + 1 == c.layers { &answers } else { starts };
            for (example, span) in starts.windows(2).enumerate() {
                for row in products[span[0] * c.heads..span[1] * c.heads].chunks(c.heads) {
                    for (h, product) in row.iter().enumerate() {
                        per_example[example][l * c.heads + h] += f64::from(*product);
                    }
                }
            }
        }
        Ok(per_example)
    }

    /// `⟨a(t) − μ, G(t)⟩` of every head at every token (in the last layer, the answer positions): `[N, H]` for each layer,
    /// lowest first.
    fn reverse(
        &self,
        pool: &PoolBatch<'_>,
        means: &HeadMeans<B::Tensor>,
        target: Target<'_>,
        rule: GateRule,
    ) -> Result<Vec<B::Tensor>> {
        let (b, c) = (&self.backend, &self.config);
        let packed = self.pack(pool.batch, LastLayer::AnswerRows)?;
        let slots = self.slots(&packed, pool.slots)?;
        let activations = self.forward(&packed, None, true, |_, _| Ok(()))?;
        let (start, seeds) = match target {
            Target::Output => (self.task_gradient(pool, &activations)?, vec![None; c.layers]),
            Target::Heads(heads, direction) => (
                b.zeros(pool.batch.labels.len(), c.hidden)?,
                self.target_vectors(pool, &packed, &activations, means, heads, direction, rule)?,
            ),
        };
        let mut products = Vec::new();
        self.reverse_layers(&packed, &activations.layers, start, rule, |l, layer, dz| {
            let slots = self.slots_of(&packed, l, &slots);
            products.push(b.head_products(&layer.z, &means.layers[l], slots, dz, c.head_dim)?);
            Ok(seeds[l].clone())
        })?;
        products.reverse();
        Ok(products)
    }

    /// For each layer with targets, the vectors their outputs are projected on at the answer position, zero for
    /// the layer's other heads: `[B, H·d]`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn target_vectors(
        &self,
        pool: &PoolBatch<'_>,
        packed: &Packed<B>,
        activations: &Activations<B::Tensor>,
        means: &HeadMeans<B::Tensor>,
        heads: &BTreeSet<Head>,
        direction: TargetDirection,
        rule: GateRule,
    ) -> Result<Vec<Option<B::Tensor>>> {
        let (b, c) = (&self.backend, &self.config);
        let v_final = self.task_gradient(pool, activations)?;
        let mut adjoints = vec![None; c.layers];
        if direction == TargetDirection::Adjoint {
            self.reverse_layers(packed, &activations.layers, v_final.clone(), rule, |l, _, dz| {
                adjoints[l] = Some(self.answers_of(packed, l, dz)?);
                Ok(None)
            })?;
        }
        let answer_slots = b.ids(PackedIds::new(vec![means.slots as u32 - 1; pool.batch.labels.len()]))?;
        let mut vectors = Vec::with_capacity(c.layers);
        for (l, adjoint) in adjoints.into_iter().enumerate() {
            let Some(flags) = HeadSet(heads.clone()).flags(l, c.heads) else {
                vectors.push(None);
                continue;
            };
            let vector = match (direction, adjoint) {
                (TargetDirection::Adjoint, Some(adjoint)) => adjoint,
                (TargetDirection::Dot, _) => {
                    let layer = self.again(packed, l, &activations.layers[l])?;
                    let z = self.answers_of(packed, l, &layer.z)?;
                    let mean = b.gather_rows(&means.layers[l], &answer_slots)?;
                    b.add(&z, &b.scale_columns(&mean, &b.upload(&vec![-1.0; c.heads_width()], 1, c.heads_width())?)?)?
                }
                _ => self.linear_backward(&v_final, &layer_parameter(l, "self_attn.o_proj"), None)?,
            };
            let wide: Vec<f32> = flags.iter().flat_map(|f| std::iter::repeat_n(*f, c.head_dim)).collect();
            vectors.push(Some(b.scale_columns(&vector, &b.upload(&wide, 1, c.heads_width())?)?));
        }
        Ok(vectors)
    }

    /// Gradient of `⟨hidden, v_task⟩` to the last residual at the answer positions, the norm factor a constant: `[B, D]`.
    pub(super) fn task_gradient(
        &self,
        pool: &PoolBatch<'_>,
        activations: &Activations<B::Tensor>,
    ) -> Result<B::Tensor> {
        let b = &self.backend;
        let labels = pool.verbalizer.len();
        let ids = b.ids(PackedIds::new(pool.verbalizer.to_vec()))?;
        let rows = b.weight_rows(&self.weight(self.config.unembedding())?, &ids, 0..self.config.hidden)?;
        let others = -1.0 / (labels - 1) as f32;
        let share = |gold: usize| (0..labels).map(move |y| if y == gold { 1.0 } else { others });
        let shares: Vec<f32> = pool.batch.labels.iter().flat_map(|&gold| share(gold)).collect();
        let shares = b.upload(&shares, pool.batch.labels.len(), labels)?;
        let v_task = b.matmul(self.all(&shares), self.all(&rows), None)?;
        b.rms_norm_backward(&v_task, &activations.answer, &self.vector(FINAL_NORM)?, &activations.r_final, true, None)
    }

    /// The answer positions of what layer `l` has for the rows that attend, `[B, cols]`.
    fn answers_of(&self, batch: &Packed<B>, l: usize, x: &B::Tensor) -> Result<B::Tensor> {
        if self.attention(batch, l).1 { Ok(x.clone()) } else { self.backend.gather_rows(x, &batch.answers) }
    }

    /// `[N, cols]`, zero but for the answer positions.
    pub(super) fn at_answers(&self, batch: &Packed<B>, x: &B::Tensor) -> Result<B::Tensor> {
        let out = self.backend.zeros(batch.rows, self.backend.shape(x).1)?;
        self.backend.scatter_rows(x, &batch.answers, &out)?;
        Ok(out)
    }

    /// Walks the layers from the top with the gradient of the last residual at the answer positions. `at_heads` gets each
    /// layer's gradient to `z` from above, and may add a seed to it at the answer positions before it goes further down.
    fn reverse_layers(
        &self,
        batch: &Packed<B>,
        layers: &[Kept<B::Tensor>],
        d_answer: B::Tensor,
        rule: GateRule,
        mut at_heads: impl FnMut(usize, &Layer<B::Tensor>, &B::Tensor) -> Result<Option<B::Tensor>>,
    ) -> Result<()> {
        let (b, c) = (&self.backend, &self.config);
        let mut dx = if batch.answers_attention.is_some() { d_answer } else { self.at_answers(batch, &d_answer)? };
        for (l, kept) in layers.iter().enumerate().rev() {
            let (attention, answers_only) = self.attention(batch, l);
            let a = self.again(batch, l, kept)?;
            let name = |suffix: &str| layer_parameter(l, suffix);
            let d_gated = self.linear_backward(&dx, &name("mlp.down_proj"), None)?;
            let (d_gate, d_up) = b.swiglu_backward(&d_gated, &a.gate, &a.up, rule)?;
            drop(d_gated);
            let d_normed2 = self.linear_backward(&d_gate, &name("mlp.gate_proj"), None)?;
            let d_normed2 = self.linear_backward(&d_up, &name("mlp.up_proj"), Some(&d_normed2))?;
            let gain2 = self.vector(&name("post_attention_layernorm.weight"))?;
            dx = b.rms_norm_backward(&d_normed2, &a.middle, &gain2, &a.r2, true, Some(&dx))?;
            let mut dz = self.linear_backward(&dx, &name("self_attn.o_proj"), None)?;
            if let Some(seed) = at_heads(l, &a, &dz)? {
                dz = b.add(&dz, &if answers_only { seed } else { self.at_answers(batch, &seed)? })?;
            }
            if l == 0 {
                return Ok(());
            }
            let dv = b.attend_backward_values(&dz, &a.attended(), c.head_dim, attention)?;
            let d_normed = self.linear_backward(&dv, &name("self_attn.v_proj"), None)?;
            dx = self.below(batch, l, &dx, &d_normed, &a, true)?;
        }
        Ok(())
    }
}
