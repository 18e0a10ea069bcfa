//! The backward pass for training: gradients of the loss to any slices of the weights, and nothing else.

use super::forward::{Activations, LastLayer, Packed};
use super::weights::{ParameterSlice, Place, Segments};
use super::{Backend, Batch, Engine, EngineError, GateRule, Operand, PackedIds, Result, Side};
use crate::model::{EMBEDDING, FINAL_NORM, layer_parameter};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// What the cross-entropy runs over (METHOD.md §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum LossOver {
    /// All tokens: also teaches the answer's format.
    #[default]
    Vocab,
    /// The label tokens only: exactly the classifier that is evaluated.
    Labels,
}

/// What a training step makes likelier.
#[derive(Debug, Clone, Copy)]
pub enum Objective<'a> {
    /// The answer word of each prompt's label, at its answer position.
    Answer { verbalizer: &'a [u32], over: LossOver },
    /// Each token from those before it: language modelling. Labels are not looked at.
    NextToken,
}

/// Gradients wanted, and where they go.
struct Wanted<'a, T> {
    segments: &'a Segments,
    flat: &'a [T],
    /// The lowest layer with a wanted weight; `None` when the embedding is wanted.
    floor: Option<usize>,
}

impl<T> Wanted<'_, T> {
    fn has(&self, name: &str) -> bool {
        self.segments.of(name).next().is_some()
    }
}

impl<B: Backend> Engine<B> {
    /// Losses of the batch (`[B,1]`, or `[N−B,1]` for the next token); the gradient of their mean goes to `flat`, laid
    /// out as `segments` says (zero where a slice has none). All stay on the device.
    ///
    /// # Errors
    /// An unknown parameter, no token to predict, or a device failure.
    pub fn gradients(
        &self,
        batch: &Batch,
        objective: Objective<'_>,
        segments: &Segments,
        flat: &[B::Tensor],
    ) -> Result<B::Tensor> {
        let b = &self.backend;
        let last = if let Objective::NextToken = objective { LastLayer::AllRows } else { LastLayer::AnswerRows };
        let mut packed = self.pack(batch, last)?;
        let (targets, rows) = match objective {
            Objective::Answer { verbalizer, over: LossOver::Vocab } => {
                (batch.labels.iter().map(|&y| verbalizer[y]).collect(), None)
            }
            Objective::Answer { verbalizer, over: LossOver::Labels } => {
                let ids = b.ids(PackedIds::new(verbalizer.to_vec()))?;
                (batch.labels.iter().map(|&y| y as u32).collect(), Some(ids))
            }
            Objective::NextToken => {
                let pairs = batch.layout.next_tokens();
                if pairs.is_empty() {
                    return Err(EngineError::NothingToPredict);
                }
                packed.answer_rows = pairs.iter().map(|(row, _)| *row as u32).collect();
                packed.answers = b.ids(PackedIds::new(packed.answer_rows.clone()))?;
                (pairs.iter().map(|(_, next)| batch.tokens[*next]).collect(), None)
            }
        };
        let targets = b.ids(PackedIds::new(targets))?;
        let activations = self.forward(&packed, None, true, |_, _| Ok(()))?;
        let wanted = Wanted { segments, flat, floor: floor(segments, self.config.layers) };
        let hidden = &activations.hidden;
        // Logits of the whole vocabulary, or of the label tokens' rows only.
        let unembedding = self.weight(self.config.unembedding())?;
        let used = match &rows {
            Some(ids) => Some(b.weight_rows(&unembedding, ids, 0..self.config.hidden)?),
            None => None,
        };
        let logits = match &used {
            Some(used) => b.matmul(self.all(hidden), Operand { transposed: true, ..self.all(used) }, None)?,
            None => self.unembed(hidden)?,
        };
        let (losses, d_logits) = b.cross_entropy(&logits, &targets)?;
        drop(logits);
        let d_hidden = match &used {
            Some(used) => b.matmul(self.all(&d_logits), self.all(used), None)?,
            None => b.product(&d_logits, &unembedding, false, None, None)?,
        };
        if let Some(place) = segments.of(self.config.unembedding()).next() {
            let out = self.gradient_view(place, flat)?;
            match &rows {
                Some(ids) => {
                    let d_used = b.zeros(b.shape(&d_logits).1, self.config.hidden)?;
                    self.weight_gradient(self.all(&d_logits), self.all(hidden), &d_used)?;
                    b.clear(&out)?;
                    b.scatter_rows(&d_used, ids, &out)?;
                }
                None => self.weight_gradient(self.all(&d_logits), self.all(hidden), &out)?,
            }
        }
        drop(d_logits);
        self.backward(&packed, activations, &d_hidden, &wanted)?;
        Ok(losses)
    }

    /// `dyᵀ · x` into `out`.
    fn weight_gradient(&self, dy: Operand<B::Tensor>, x: Operand<B::Tensor>, out: &B::Tensor) -> Result<()> {
        self.backend.matmul_into(Operand { transposed: true, ..dy }, x, None, out, 0)
    }

    /// The gradient of a slice, as a matrix; of a vector, all of it.
    fn gradient_view(&self, place: &Place, flat: &[B::Tensor]) -> Result<B::Tensor> {
        let slice = &place.slice;
        let cols = if slice.vector { self.backend.shape(&self.vector(&slice.name)?).1 } else { slice.cols.len() };
        self.backend.view(&flat[place.segment], place.start, slice.rows.len(), cols)
    }

    fn backward(
        &self,
        batch: &Packed<B>,
        mut activations: Activations<B::Tensor>,
        d_hidden: &B::Tensor,
        wanted: &Wanted<'_, B::Tensor>,
    ) -> Result<()> {
        let (b, c) = (&self.backend, &self.config);
        let (answer, r_final) = (&activations.answer, &activations.r_final);
        self.gain_gradient(FINAL_NORM, d_hidden, answer, r_final, wanted)?;
        let d_answer = b.rms_norm_backward(d_hidden, answer, &self.vector(FINAL_NORM)?, r_final, false)?;
        let mut dx = if batch.answers_attention.is_some() { d_answer } else { self.at_answers(batch, &d_answer)? };
        for l in (wanted.floor.unwrap_or(0)..c.layers).rev() {
            // Dropped at the end of the turn: its buffers serve the layers below.
            let Some(kept) = activations.layers.pop() else { break };
            let a = self.again(batch, l, &kept)?;
            drop(kept);
            let name = |suffix: &str| layer_parameter(l, suffix);
            let (norm, norm2) = (name("input_layernorm.weight"), name("post_attention_layernorm.weight"));
            let (gain, gain2) = (self.vector(&norm)?, self.vector(&norm2)?);

            self.linear_gradients(&[(name("mlp.down_proj"), &dx)], || b.swiglu(&a.gate, &a.up), wanted)?;
            let d_gated = self.linear_backward(&dx, &name("mlp.down_proj"), None)?;
            let (d_gate, d_up) = b.swiglu_backward(&d_gated, &a.gate, &a.up, GateRule::Tangent)?;
            drop(d_gated);
            let maps = [(name("mlp.gate_proj"), &d_gate), (name("mlp.up_proj"), &d_up)];
            self.linear_gradients(&maps, || b.rms_scale(&a.middle, &gain2, &a.r2), wanted)?;
            let d_normed2 = self.linear_backward(&d_gate, &name("mlp.gate_proj"), None)?;
            let d_normed2 = self.linear_backward(&d_up, &name("mlp.up_proj"), Some(&d_normed2))?;
            drop((d_gate, d_up));
            self.gain_gradient(&norm2, &d_normed2, &a.middle, &a.r2, wanted)?;
            let d_norm = b.rms_norm_backward(&d_normed2, &a.middle, &gain2, &a.r2, false)?;
            dx = b.add(&dx, &d_norm)?;

            self.linear_gradients(&[(name("self_attn.o_proj"), &dx)], || Ok(a.z.clone()), wanted)?;
            let dz = self.linear_backward(&dx, &name("self_attn.o_proj"), None)?;
            let (attention, answers_only) = self.attention(batch, l);
            let dv = b.attention_mix_backward(&a.pattern, &dz, c.kv_heads, c.head_dim, attention)?;
            let d_scores = b.attention_pattern_backward(&a.pattern, &dz, &a.v, c.head_dim, attention)?;
            let dq = b.attention_mix(&d_scores, &a.k, c.head_dim, attention)?;
            let dk = b.attention_mix_backward(&d_scores, &a.q, c.kv_heads, c.head_dim, attention)?;
            let dq = b.rotate(&dq, c.head_dim, attention, Side::Queries, &self.rotary, true)?;
            let dk = b.rotate(&dk, c.head_dim, attention, Side::Keys, &self.rotary, true)?;
            let normed = || b.rms_scale(&a.x, &gain, &a.r1);
            let (q_map, kv_maps) =
                ((name("self_attn.q_proj"), &dq), [(name("self_attn.k_proj"), &dk), (name("self_attn.v_proj"), &dv)]);
            if answers_only {
                self.linear_gradients(&[q_map], || b.gather_rows(&normed()?, &batch.answers), wanted)?;
                self.linear_gradients(&kv_maps, normed, wanted)?;
            } else {
                let [k_map, v_map] = kv_maps;
                self.linear_gradients(&[q_map, k_map, v_map], normed, wanted)?;
            }
            let lowest = wanted.floor == Some(l);
            if lowest && !wanted.has(&norm) {
                return Ok(());
            }
            let mut d_normed = self.linear_backward(&dk, &name("self_attn.k_proj"), None)?;
            d_normed = self.linear_backward(&dv, &name("self_attn.v_proj"), Some(&d_normed))?;
            if answers_only {
                let d_queries = self.linear_backward(&dq, &name("self_attn.q_proj"), None)?;
                b.scatter_rows(&d_queries, &batch.answers, &d_normed)?;
            } else {
                d_normed = self.linear_backward(&dq, &name("self_attn.q_proj"), Some(&d_normed))?;
            }
            self.gain_gradient(&norm, &d_normed, &a.x, &a.r1, wanted)?;
            if lowest {
                return Ok(());
            }
            let d_norm = b.rms_norm_backward(&d_normed, &a.x, &gain, &a.r1, false)?;
            dx = self.below(batch, l, &dx, d_norm)?;
        }
        if let Some(place) = wanted.segments.of(EMBEDDING).next() {
            let out = self.gradient_view(place, wanted.flat)?;
            if !c.tied {
                b.clear(&out)?;
            }
            b.scatter_rows(&dx, &batch.tokens, &out)?;
        }
        Ok(())
    }

    /// The gradient of the residual entering layer `l`, from that of the residual after its attention and that by way of
    /// its norm.
    pub(super) fn below(&self, batch: &Packed<B>, l: usize, dx: &B::Tensor, d_norm: B::Tensor) -> Result<B::Tensor> {
        if !self.attention(batch, l).1 {
            return self.backend.add(dx, &d_norm);
        }
        self.backend.scatter_rows(dx, &batch.answers, &d_norm)?;
        Ok(d_norm)
    }

    /// Gradients to the wanted windows of the weights and biases of linear maps of one input, given with the gradients
    /// of their outputs; `x` makes the input where it is needed.
    fn linear_gradients(
        &self,
        maps: &[(String, &B::Tensor)],
        x: impl FnOnce() -> Result<B::Tensor>,
        wanted: &Wanted<'_, B::Tensor>,
    ) -> Result<()> {
        let b = &self.backend;
        let mut weights = Vec::new();
        for &(ref name, dy) in maps {
            weights.extend(wanted.segments.of(&format!("{name}.weight")).map(|place| (place, dy)));
            for place in wanted.segments.of(&format!("{name}.bias")) {
                let cols = &place.slice.cols;
                b.column_sum(dy, cols.start, cols.len(), &self.gradient_view(place, wanted.flat)?)?;
            }
        }
        if weights.is_empty() {
            return Ok(());
        }
        let x = x()?;
        for (place, dy) in weights {
            let (rows, cols) = (&place.slice.rows, &place.slice.cols);
            let dy = Operand { tensor: dy, start: rows.start, columns: rows.len(), transposed: false };
            let x = Operand { tensor: &x, start: cols.start, columns: cols.len(), transposed: false };
            self.weight_gradient(dy, x, &self.gradient_view(place, wanted.flat)?)?;
        }
        Ok(())
    }

    fn gain_gradient(
        &self,
        name: &str,
        dy: &B::Tensor,
        x: &B::Tensor,
        r: &B::Tensor,
        wanted: &Wanted<'_, B::Tensor>,
    ) -> Result<()> {
        match wanted.segments.of(name).next() {
            Some(place) => self.backend.rms_norm_gain_gradient(dy, x, r, &self.gradient_view(place, wanted.flat)?),
            None => Ok(()),
        }
    }
}

/// The lowest layer whose weights are wanted; `None` when the embedding is. Above all layers when only the final
/// norm or the unembedding is.
fn floor(segments: &Segments, layers: usize) -> Option<usize> {
    let layer = |s: &ParameterSlice| -> Option<usize> {
        match s.name.strip_prefix("model.layers.") {
            Some(rest) => rest.split('.').next().and_then(|n| n.parse().ok()),
            None if s.name == EMBEDDING => None,
            None => Some(layers),
        }
    };
    let mut lowest = layers;
    for place in &segments.places {
        lowest = lowest.min(layer(&place.slice)?);
    }
    Some(lowest)
}
