//! The backward pass for training: gradients of the loss to any slices of the weights, and nothing else.

use super::forward::{Activations, Packed};
use super::{Backend, Batch, Engine, EngineError, GateRule, Operand, PackedIds, ParameterSlice, Result};
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

/// Gradients wanted and found so far.
struct Gradients<'a, T> {
    slices: &'a [ParameterSlice],
    found: Vec<Option<T>>,
    /// The lowest layer with a wanted weight; `None` when the embedding is wanted.
    floor: Option<usize>,
}

impl<T> Gradients<'_, T> {
    fn wanted(&self, name: &str) -> impl Iterator<Item = usize> + use<'_, T> {
        let name = name.to_string();
        self.slices.iter().enumerate().filter(move |(_, s)| s.name == name).map(|(i, _)| i)
    }

    fn wants(&self, name: &str) -> bool {
        self.slices.iter().any(|s| s.name == name)
    }
}

impl<B: Backend> Engine<B> {
    /// Losses of the batch (`[B,1]`, or `[N−B,1]` for the next token) and, for each slice, the gradient of their mean.
    /// All stay on the device.
    ///
    /// # Errors
    /// An unknown parameter, no token to predict, or a device failure.
    pub fn gradients(
        &self,
        batch: &Batch,
        objective: Objective<'_>,
        slices: &[ParameterSlice],
    ) -> Result<(B::Tensor, Vec<B::Tensor>)> {
        let b = &self.backend;
        for slice in slices {
            self.weight(&slice.name)?;
        }
        let mut packed = self.pack(batch)?;
        let (targets, rows) = match objective {
            Objective::Answer { verbalizer, over: LossOver::Vocab } => {
                (batch.labels.iter().map(|&y| verbalizer[y]).collect(), None)
            }
            Objective::Answer { verbalizer, over: LossOver::Labels } => {
                let ids = b.ids(PackedIds::new(verbalizer.to_vec()))?;
                (batch.labels.iter().map(|&y| y as u32).collect(), Some(ids))
            }
            Objective::NextToken => {
                let predicting = batch.layout.predicting();
                if predicting.is_empty() {
                    return Err(EngineError::NothingToPredict);
                }
                let next = predicting.iter().map(|&row| batch.tokens[row as usize + 1]).collect();
                packed.answers = b.ids(PackedIds::new(predicting))?;
                (next, None)
            }
        };
        let targets = b.ids(PackedIds::new(targets))?;
        let activations = self.forward(&packed, None, true, |_, _| Ok(()))?;
        let mut gradients =
            Gradients { slices, found: vec![None; slices.len()], floor: floor(slices, self.config.layers) };

        let unembedding_name = self.config.unembedding();
        let unembedding = self.weight(unembedding_name)?;
        let hidden = &activations.hidden;
        // Logits of the whole vocabulary, or of the label tokens' rows only.
        let gathered = rows.as_ref().map(|ids| b.gather_rows(unembedding, ids)).transpose()?;
        let used = gathered.as_ref().unwrap_or(unembedding);
        let logits = self.linear(hidden, used, None, None)?;
        let (losses, d_logits) = b.cross_entropy(&logits, &targets)?;
        let d_hidden = b.matmul(self.all(&d_logits), self.all(used), None, None)?;
        let d_unembedding = if gradients.wants(unembedding_name) {
            let d_used = self.weight_gradient(&d_logits, hidden)?;
            Some(match &rows {
                Some(ids) => b.scatter_rows(&d_used, ids, self.config.vocab)?,
                None => d_used,
            })
        } else {
            None
        };
        self.backward(&packed, activations, &d_hidden, d_unembedding, &mut gradients)?;
        let mut found = Vec::with_capacity(slices.len());
        for (gradient, slice) in gradients.found.into_iter().zip(slices) {
            // A slice the pass never met has a zero gradient.
            found.push(gradient.map_or_else(|| b.zeros(slice.rows.len(), slice.cols.len()), Ok)?);
        }
        Ok((losses, found))
    }

    fn weight_gradient(&self, dy: &B::Tensor, x: &B::Tensor) -> Result<B::Tensor> {
        self.backend.matmul(Operand { transposed: true, ..self.all(dy) }, self.all(x), None, None)
    }

    fn backward(
        &self,
        batch: &Packed<B>,
        mut activations: Activations<B::Tensor>,
        d_hidden: &B::Tensor,
        d_unembedding: Option<B::Tensor>,
        gradients: &mut Gradients<B::Tensor>,
    ) -> Result<()> {
        let (b, c) = (&self.backend, &self.config);
        if !c.tied {
            self.whole_gradient("lm_head.weight", d_unembedding.clone(), gradients)?;
        }
        self.gain_gradient(FINAL_NORM, d_hidden, &activations.answer, &activations.r_final, gradients)?;
        let d_answer =
            b.rms_norm_backward(d_hidden, &activations.answer, self.weight(FINAL_NORM)?, &activations.r_final, false)?;
        let mut dx = b.scatter_rows(&d_answer, &batch.answers, batch.rows)?;
        for l in (gradients.floor.unwrap_or(0)..c.layers).rev() {
            // Dropped at the end of the turn: its buffers serve the layers below.
            let Some(a) = activations.layers.pop() else { break };
            let name = |suffix: &str| layer_parameter(l, suffix);
            let weight = |suffix: &str| self.weight(&name(suffix));

            self.linear_gradients(&name("mlp.down_proj"), &dx, &a.gated, gradients)?;
            let d_gated = b.matmul(self.all(&dx), self.all(weight("mlp.down_proj.weight")?), None, None)?;
            let (d_gate, d_up) = b.swiglu_backward(&d_gated, &a.gate, &a.up, GateRule::Tangent)?;
            self.linear_gradients(&name("mlp.gate_proj"), &d_gate, &a.normed2, gradients)?;
            self.linear_gradients(&name("mlp.up_proj"), &d_up, &a.normed2, gradients)?;
            let d_normed2 = b.matmul(self.all(&d_gate), self.all(weight("mlp.gate_proj.weight")?), None, None)?;
            let d_normed2 =
                b.matmul(self.all(&d_up), self.all(weight("mlp.up_proj.weight")?), None, Some(&d_normed2))?;
            self.gain_gradient(&name("post_attention_layernorm.weight"), &d_normed2, &a.middle, &a.r2, gradients)?;
            let d_norm =
                b.rms_norm_backward(&d_normed2, &a.middle, weight("post_attention_layernorm.weight")?, &a.r2, false)?;
            dx = b.add(&dx, &d_norm)?;

            self.linear_gradients(&name("self_attn.o_proj"), &dx, &a.z, gradients)?;
            let dz = b.matmul(self.all(&dx), self.all(weight("self_attn.o_proj.weight")?), None, None)?;
            let dv = b.attention_mix_backward(&a.pattern, &dz, c.kv_heads, c.head_dim, &batch.layout)?;
            let d_scores = b.attention_pattern_backward(&a.pattern, &dz, &a.v, c.head_dim, &batch.layout)?;
            let dq = b.attention_mix(&d_scores, &a.k, c.head_dim, &batch.layout)?;
            let dk = b.attention_mix_backward(&d_scores, &a.q, c.kv_heads, c.head_dim, &batch.layout)?;
            let dq = b.rotate(&dq, c.head_dim, &batch.layout, &self.rotary, true)?;
            let dk = b.rotate(&dk, c.head_dim, &batch.layout, &self.rotary, true)?;
            for (projection, dy) in [("self_attn.q_proj", &dq), ("self_attn.k_proj", &dk), ("self_attn.v_proj", &dv)] {
                self.linear_gradients(&name(projection), dy, &a.normed, gradients)?;
            }
            let norm = name("input_layernorm.weight");
            let lowest = gradients.floor == Some(l);
            if lowest && !gradients.wants(&norm) {
                return Ok(());
            }
            let d_normed = b.matmul(self.all(&dq), self.all(weight("self_attn.q_proj.weight")?), None, None)?;
            let d_normed =
                b.matmul(self.all(&dk), self.all(weight("self_attn.k_proj.weight")?), None, Some(&d_normed))?;
            let d_normed =
                b.matmul(self.all(&dv), self.all(weight("self_attn.v_proj.weight")?), None, Some(&d_normed))?;
            self.gain_gradient(&norm, &d_normed, &a.x, &a.r1, gradients)?;
            if lowest {
                return Ok(());
            }
            let d_norm = b.rms_norm_backward(&d_normed, &a.x, self.weight(&norm)?, &a.r1, false)?;
            dx = b.add(&dx, &d_norm)?;
        }
        if gradients.wants(EMBEDDING) {
            let d_embedding = b.scatter_rows(&dx, &batch.tokens, c.vocab)?;
            let d_embedding = match d_unembedding.filter(|_| c.tied) {
                Some(d_unembedding) => b.add(&d_embedding, &d_unembedding)?,
                None => d_embedding,
            };
            self.whole_gradient(EMBEDDING, Some(d_embedding), gradients)?;
        }
        Ok(())
    }

    /// Gradients to the wanted windows of a linear map's weight and bias.
    fn linear_gradients(
        &self,
        name: &str,
        dy: &B::Tensor,
        x: &B::Tensor,
        gradients: &mut Gradients<B::Tensor>,
    ) -> Result<()> {
        let b = &self.backend;
        for i in gradients.wanted(&format!("{name}.weight")).collect::<Vec<_>>() {
            let slice = &gradients.slices[i];
            let dy = Operand { tensor: dy, start: slice.rows.start, columns: slice.rows.len(), transposed: true };
            let x = Operand { tensor: x, start: slice.cols.start, columns: slice.cols.len(), transposed: false };
            gradients.found[i] = Some(b.matmul(dy, x, None, None)?);
        }
        for i in gradients.wanted(&format!("{name}.bias")).collect::<Vec<_>>() {
            let cols = gradients.slices[i].cols.clone();
            gradients.found[i] = Some(b.column_sum(dy, cols.start, cols.len())?);
        }
        Ok(())
    }

    fn gain_gradient(
        &self,
        name: &str,
        dy: &B::Tensor,
        x: &B::Tensor,
        r: &B::Tensor,
        gradients: &mut Gradients<B::Tensor>,
    ) -> Result<()> {
        let gradient = gradients.wants(name).then(|| self.backend.rms_norm_gain_gradient(dy, x, r)).transpose()?;
        self.whole_gradient(name, gradient, gradients)
    }

    /// Hands a whole weight's gradient to the slices that want a window of it.
    fn whole_gradient(
        &self,
        name: &str,
        gradient: Option<B::Tensor>,
        gradients: &mut Gradients<B::Tensor>,
    ) -> Result<()> {
        let Some(gradient) = gradient else { return Ok(()) };
        let shape = self.backend.shape(&gradient);
        for i in gradients.wanted(name).collect::<Vec<_>>() {
            let s = &gradients.slices[i];
            let whole = (s.rows.len(), s.cols.len()) == shape;
            gradients.found[i] = Some(match whole {
                true => gradient.clone(),
                false => self.backend.copy_window(&gradient, s.rows.start, s.cols.start, s.rows.len(), s.cols.len())?,
            });
        }
        Ok(())
    }
}

/// The lowest layer whose weights are wanted; `None` when the embedding is. Above all layers when only the final
/// norm or the unembedding is.
fn floor(slices: &[ParameterSlice], layers: usize) -> Option<usize> {
    let layer = |s: &ParameterSlice| -> Option<usize> {
        match s.name.strip_prefix("model.layers.") {
            Some(rest) => rest.split('.').next().and_then(|n| n.parse().ok()),
            None if s.name == EMBEDDING => None,
            None => Some(layers),
        }
    };
    let mut lowest = layers;
    for slice in slices {
        lowest = lowest.min(layer(slice)?);
    }
    Some(lowest)
}
