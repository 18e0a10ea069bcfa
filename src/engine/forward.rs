//! The forward pass (METHOD.md §0), and the read-outs that need nothing else.

use super::memory::{self, BatchShape};
use super::relevance::{HeadMeans, HeadSet};
use super::{Attended, Backend, Batch, Engine, Operand, PackedIds, Result, Side, Weight};
use crate::model::{EMBEDDING, FINAL_NORM, ModelConfig, layer_parameter};

/// A batch on the device.
pub(super) struct Packed<B: Backend> {
    pub attention: B::Attention,
    /// In the last layer, where nothing but the answer positions is read of it.
    pub answers_attention: Option<B::Attention>,
    pub tokens: B::Ids,
    /// Rows that are read after the last layer.
    pub answers: B::Ids,
    pub answer_rows: Vec<u32>,
    pub rows: usize,
    pub shape: BatchShape,
}

/// What is read of the last layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastLayer {
    AllRows,
    /// Its queries, and all that comes of them, are computed for the answer positions only.
    AnswerRows,
}

/// What one layer computed; the names are METHOD.md §0's. What is cheap to compute again is not kept. Q are the rows that
/// attend: all N, but in the last layer the answer positions where no others are read.
#[derive(Clone)]
pub(super) struct Layer<T> {
    /// Residual entering the layer, `[N, D]`.
    pub x: T,
    pub r1: T,
    /// `[Q, H·d]`.
    pub q: T,
    /// `[N, K·d]`, as `v`.
    pub k: T,
    pub v: T,
    /// Head outputs before `W_O`, `[Q, H·d]`.
    pub z: T,
    /// As in [`Attended`].
    pub sums: T,
    /// Residual after attention, `[Q, D]`.
    pub middle: T,
    pub r2: T,
    pub gate: T,
    pub up: T,
}

impl<T> Layer<T> {
    pub fn attended(&self) -> Attended<'_, T> {
        Attended { q: &self.q, k: &self.k, v: &self.v, z: &self.z, sums: &self.sums }
    }
}

/// What is kept of a layer for the way back.
pub(super) enum Kept<T> {
    All(Layer<T>),
    /// The residual entering it: the rest is computed again.
    Input(T),
}

/// Everything a backward pass needs. `layers` is empty where nothing was to be kept.
pub(super) struct Activations<T> {
    pub layers: Vec<Kept<T>>,
    /// The last residual at the answer positions, `[B, D]`.
    pub answer: T,
    pub r_final: T,
    /// After the final norm, `[B, D]`: logits are `hidden · W_Uᵀ`.
    pub hidden: T,
}

/// Heads whose output is replaced by its mean (METHOD.md §6).
pub struct Ablation<'a, T> {
    pub means: &'a HeadMeans<T>,
    /// Slot of each packed token.
    pub slots: &'a [u32],
    pub remove: &'a HeadSet,
}

/// Slots on the device, of all tokens and of the answer positions.
pub(super) struct Slots<B: Backend> {
    all: B::Ids,
    answers: B::Ids,
}

/// What a forward pass leaves at the answer positions, read back.
#[derive(Debug, Clone)]
pub struct AnswerRows {
    /// `[B][C]`: logits of the verbalizer tokens.
    pub label_logits: Vec<Vec<f32>>,
    /// `[B]`: `−log p(verbalizer of the label)` over the whole vocabulary.
    pub losses: Vec<f32>,
    /// `[L+1][B·D]`: residuals entering each layer and leaving the last; empty where not asked for.
    pub residuals: Vec<Vec<f32>>,
}

impl<B: Backend> Engine<B> {
    pub(super) fn pack(&self, batch: &Batch, last: LastLayer) -> Result<Packed<B>> {
        let (b, attention) = (&self.backend, batch.layout.attention());
        let answers_attention = match last {
            LastLayer::AllRows => None,
            LastLayer::AnswerRows => Some(b.attention(batch.layout.answers_attention())?),
        };
        Ok(Packed {
            answers_attention,
            answers: b.ids(PackedIds::new(batch.layout.answers()))?,
            answer_rows: batch.layout.answers(),
            tokens: b.ids(PackedIds::new(batch.tokens.clone()))?,
            rows: batch.tokens.len(),
            shape: (&batch.layout).into(),
            attention: b.attention(attention)?,
        })
    }

    /// Who attends to whom in layer `l`, and whether only the answer positions do.
    pub(super) fn attention<'a>(&self, batch: &'a Packed<B>, l: usize) -> (&'a B::Attention, bool) {
        match &batch.answers_attention {
            Some(attention) if l + 1 == self.config.layers => (attention, true),
            _ => (&batch.attention, false),
        }
    }

    /// `x · Wᵀ` if `transposed`, else `x · W`, `(+ bias to each row) (+ residual)`, of a weight as it is now.
    pub(super) fn product(
        &self,
        x: &B::Tensor,
        weight: &Weight<'_, B>,
        transposed: bool,
        bias: Option<&B::Tensor>,
        residual: Option<&B::Tensor>,
    ) -> Result<B::Tensor> {
        let b = &self.backend;
        let Some(windows) = &weight.windows else { return b.product(x, weight, transposed, bias, residual) };
        let master = |master| Operand { transposed, ..self.all(master) };
        if windows.by_column == transposed {
            // The windows lie along what is summed over: their masters' share takes the place of the frozen values'.
            let untrained = b.scale_columns(x, &windows.untrained)?;
            let mut sum = b.product(&untrained, weight, transposed, bias, residual)?;
            for (span, tensor) in &windows.masters {
                let x = Operand { tensor: x, start: span.start, columns: span.len(), transposed: false };
                sum = b.matmul(x, master(tensor), Some(&sum))?;
            }
            return Ok(sum);
        }
        // The windows make columns of the result.
        let out = b.product(x, weight, transposed, bias, None)?;
        for (span, tensor) in &windows.masters {
            b.matmul_into(self.all(x), master(tensor), bias, &out, span.start)?;
        }
        residual.map_or(Ok(out.clone()), |residual| b.add(&out, residual))
    }

    /// `x · Wᵀ (+ b) (+ residual)` of the linear map `name`.
    pub(super) fn linear(&self, x: &B::Tensor, name: &str, residual: Option<&B::Tensor>) -> Result<B::Tensor> {
        let bias = self.optional_vector(&format!("{name}.bias"));
        self.product(x, &self.weight(&format!("{name}.weight"))?, true, bias.as_ref(), residual)
    }

    /// `dy · W (+ residual)`: the linear map's backward to its input.
    pub(super) fn linear_backward(
        &self,
        dy: &B::Tensor,
        name: &str,
        residual: Option<&B::Tensor>,
    ) -> Result<B::Tensor> {
        self.product(dy, &self.weight(&format!("{name}.weight"))?, false, None, residual)
    }

    /// Logits of the whole vocabulary.
    pub(super) fn unembed(&self, hidden: &B::Tensor) -> Result<B::Tensor> {
        self.backend.product(hidden, &self.weight(self.config.unembedding())?, true, None, None)
    }

    /// A whole tensor as one side of a product.
    pub(super) fn all<'a>(&self, tensor: &'a B::Tensor) -> Operand<'a, B::Tensor> {
        Operand { tensor, start: 0, columns: self.backend.shape(tensor).1, transposed: false }
    }

    /// The slots of a batch's tokens, given by token.
    pub(super) fn slots(&self, batch: &Packed<B>, slots: &[u32]) -> Result<Slots<B>> {
        let answers = batch.answer_rows.iter().map(|row| slots[*row as usize]).collect();
        Ok(Slots {
            all: self.backend.ids(PackedIds::new(slots.to_vec()))?,
            answers: self.backend.ids(PackedIds::new(answers))?,
        })
    }

    /// The slots of the rows that attend in layer `l`.
    pub(super) fn slots_of<'a>(&self, batch: &Packed<B>, l: usize, slots: &'a Slots<B>) -> &'a B::Ids {
        if self.attention(batch, l).1 { &slots.answers } else { &slots.all }
    }

    /// All of layer `l` but the way out of its MLP.
    fn layer(
        &self,
        batch: &Packed<B>,
        l: usize,
        x: B::Tensor,
        ablation: Option<(&Ablation<'_, B::Tensor>, &Slots<B>)>,
    ) -> Result<Layer<B::Tensor>> {
        let (b, c) = (&self.backend, &self.config);
        let (attention, answers_only) = self.attention(batch, l);
        let answers_of = |x: &B::Tensor| if answers_only { b.gather_rows(x, &batch.answers) } else { Ok(x.clone()) };
        let name = |suffix: &str| layer_parameter(l, suffix);
        let (normed, r1) = b.rms_norm(&x, &self.vector(&name("input_layernorm.weight"))?, c.rms_eps)?;
        let q = self.linear(&answers_of(&normed)?, &name("self_attn.q_proj"), None)?;
        let k = self.linear(&normed, &name("self_attn.k_proj"), None)?;
        let v = self.linear(&normed, &name("self_attn.v_proj"), None)?;
        let q = b.rotate(&q, c.head_dim, attention, Side::Queries, &self.rotary, false)?;
        let k = b.rotate(&k, c.head_dim, attention, Side::Keys, &self.rotary, false)?;
        let (mut z, sums) = b.attend(&q, &k, &v, c.head_dim, attention)?;
        if let Some((ablation, slots)) = ablation
            && let Some(flags) = ablation.remove.flags(l, c.heads)
        {
            let flags = b.upload(&flags, 1, c.heads)?;
            z = b.replace_heads(&z, &ablation.means.layers[l], self.slots_of(batch, l, slots), &flags, c.head_dim)?;
        }
        let middle = self.linear(&z, &name("self_attn.o_proj"), Some(&answers_of(&x)?))?;
        let (normed2, r2) = b.rms_norm(&middle, &self.vector(&name("post_attention_layernorm.weight"))?, c.rms_eps)?;
        let gate = self.linear(&normed2, &name("mlp.gate_proj"), None)?;
        let up = self.linear(&normed2, &name("mlp.up_proj"), None)?;
        Ok(Layer { x, r1, q, k, v, z, sums, middle, r2, gate, up })
    }

    /// A layer kept on the way up, computed again where only its input was kept.
    pub(super) fn again(&self, batch: &Packed<B>, l: usize, kept: &Kept<B::Tensor>) -> Result<Layer<B::Tensor>> {
        match kept {
            Kept::All(layer) => Ok(layer.clone()),
            Kept::Input(x) => self.layer(batch, l, x.clone(), None),
        }
    }

    /// The residual leaving a layer, `[Q, D]`.
    pub(super) fn leave(&self, l: usize, layer: &Layer<B::Tensor>) -> Result<B::Tensor> {
        let gated = self.backend.swiglu(&layer.gate, &layer.up)?;
        self.linear(&gated, &layer_parameter(l, "mlp.down_proj"), Some(&layer.middle))
    }

    /// The forward pass. `observe` sees each layer as soon as it is computed; with `keep` layers are returned for the way
    /// back, the highest ones whole as far as [`Engine::limit_memory`] allows.
    pub(super) fn forward(
        &self,
        batch: &Packed<B>,
        ablation: Option<&Ablation<B::Tensor>>,
        keep: bool,
        mut observe: impl FnMut(usize, &Layer<B::Tensor>) -> Result<()>,
    ) -> Result<Activations<B::Tensor>> {
        let (b, c) = (&self.backend, &self.config);
        let slots = ablation.map(|a| self.slots(batch, a.slots)).transpose()?;
        let ablation = ablation.zip(slots.as_ref());
        let room = self.memory_limit.get().saturating_sub(b.bytes_in_use() + memory::working_bytes(c, batch.shape));
        let whole =
            room.saturating_sub(memory::input_bytes(c, batch.shape)) / memory::layer_bytes(c, batch.shape).max(1);
        let mut x = b.weight_rows(&self.weight(EMBEDDING)?, &batch.tokens, 0..c.hidden)?;
        let mut layers = Vec::new();
        for l in 0..c.layers {
            let layer = self.layer(batch, l, x, ablation)?;
            observe(l, &layer)?;
            x = self.leave(l, &layer)?;
            if keep {
                let all = ((c.layers - l) as u64) <= whole;
                layers.push(if all { Kept::All(layer) } else { Kept::Input(layer.x) });
            }
        }
        let answer = if batch.answers_attention.is_some() { x } else { b.gather_rows(&x, &batch.answers)? };
        let (hidden, r_final) = b.rms_norm(&answer, &self.vector(FINAL_NORM)?, c.rms_eps)?;
        Ok(Activations { layers, answer, r_final, hidden })
    }

    /// Logits of the verbalizer tokens, `[B, C]`.
    fn label_logits(&self, hidden: &B::Tensor, verbalizer: &[u32]) -> Result<B::Tensor> {
        let ids = self.backend.ids(PackedIds::new(verbalizer.to_vec()))?;
        let rows = self.backend.weight_rows(&self.weight(self.config.unembedding())?, &ids, 0..self.config.hidden)?;
        self.backend.matmul(self.all(hidden), Operand { transposed: true, ..self.all(&rows) }, None)
    }

    /// The logits of the labels, `[B][C]`, with some heads replaced by their means.
    ///
    /// # Errors
    /// A device failure.
    pub async fn ablated_logits(
        &self,
        batch: &Batch,
        verbalizer: &[u32],
        ablation: &Ablation<'_, B::Tensor>,
    ) -> Result<Vec<Vec<f32>>> {
        let packed = self.pack(batch, LastLayer::AnswerRows)?;
        let hidden = self.forward(&packed, Some(ablation), false, |_, _| Ok(()))?.hidden;
        let logits = self.label_logits(&hidden, verbalizer)?;
        let logits = self.backend.read(&[&logits]).await?.swap_remove(0);
        Ok(logits.chunks(verbalizer.len()).map(<[f32]>::to_vec).collect())
    }

    /// Label logits and full-vocabulary losses at the answer positions, and the residuals there if asked for.
    ///
    /// # Errors
    /// A device failure.
    pub async fn answers(&self, batch: &Batch, verbalizer: &[u32], with_residuals: bool) -> Result<AnswerRows> {
        let b = &self.backend;
        let packed = self.pack(batch, LastLayer::AnswerRows)?;
        let mut wanted = Vec::new();
        let activations = self.forward(&packed, None, false, |_, layer| {
            if with_residuals {
                wanted.push(b.gather_rows(&layer.x, &packed.answers)?);
            }
            Ok(())
        })?;
        if with_residuals {
            wanted.push(activations.answer);
        }
        wanted.push(self.label_logits(&activations.hidden, verbalizer)?);
        let logits = self.unembed(&activations.hidden)?;
        let targets = b.ids(PackedIds::new(batch.labels.iter().map(|&y| verbalizer[y]).collect()))?;
        wanted.push(b.cross_entropy(&logits, &targets)?.0);
        let mut residuals = b.read(&wanted.iter().collect::<Vec<_>>()).await?;
        let losses = residuals.pop().unwrap_or_default();
        let label_logits = residuals.pop().unwrap_or_default().chunks(verbalizer.len()).map(<[f32]>::to_vec).collect();
        Ok(AnswerRows { label_logits, losses, residuals })
    }

    /// Logits of the whole vocabulary at the answer positions, `[B·V]`.
    ///
    /// # Errors
    /// A device failure.
    pub async fn vocabulary_logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        let packed = self.pack(batch, LastLayer::AnswerRows)?;
        let hidden = self.forward(&packed, None, false, |_, _| Ok(()))?.hidden;
        let logits = self.unembed(&hidden)?;
        Ok(self.backend.read(&[&logits]).await?.swap_remove(0))
    }
}

/// Cosines and sines of `position · θ^(−2i/d)`: angles in f64, rounded to f32 as the reference rounds them.
pub(super) fn rotary_tables<B: Backend>(backend: &B, config: &ModelConfig) -> Result<(B::Tensor, B::Tensor)> {
    // Prompts are short; tables for the model's full context would only cost memory.
    let positions = config.max_positions.min(MAX_PROMPT_TOKENS);
    let half = config.head_dim / 2;
    let (mut cos, mut sin) = (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
    for position in 0..positions {
        for i in 0..half {
            let frequency = config.rope_theta.powf(-((2 * i) as f64) / config.head_dim as f64);
            let angle = (position as f64 * frequency) as f32;
            cos.push(angle.cos());
            sin.push(angle.sin());
        }
    }
    Ok((backend.upload(&cos, positions, half)?, backend.upload(&sin, positions, half)?))
}

/// Longest prompt the engines take, in tokens.
pub const MAX_PROMPT_TOKENS: usize = 2048;
