//! The backward pass for training: gradients of the loss to any slices of the weights, and nothing else.

use super::forward::{Activations, LastLayer, Layer, Packed};
use super::weights::{ParameterSlice, Place, Segments};
use super::{Backend, Batch, Engine, EngineError, GateRule, Operand, PackedIds, Result, Side};
use crate::model::{EMBEDDING, FINAL_NORM, layer_parameter};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
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

/// Where gradients go.
pub(super) enum Sink<'a, T> {
    /// Into flat tensors, laid out as the segments say.
    Flat(&'a [T]),
    /// Each to whoever updates its weights, as soon as nothing else needs these: its place, its first row there.
    Each { update: &'a Update<'a, T>, waiting: RefCell<Vec<(Place, T)>> },
}

type Update<'a, T> = dyn Fn(&Place, usize, &T) -> Result<()> + 'a;

impl<'a, T> Sink<'a, T> {
    pub fn each(update: &'a Update<'a, T>) -> Self {
        Self::Each { update, waiting: RefCell::default() }
    }

    /// Lets go of the gradients that wait.
    fn flush(&self) -> Result<()> {
        if let Self::Each { update, waiting } = self {
            for (place, gradient) in waiting.take() {
                update(&place, 0, &gradient)?;
            }
        }
        Ok(())
    }
}

/// What the gradient of an embedding is made of.
struct EmbeddingGradient<'a, T> {
    /// Gradients to the logits and the hidden states they come from, where logits of all words were made.
    logits: Option<(&'a T, &'a T)>,
    /// Gradients to some of its rows, and which.
    rows: Vec<(T, Vec<u32>)>,
}

impl<T> Default for EmbeddingGradient<'_, T> {
    fn default() -> Self {
        Self { logits: None, rows: Vec::new() }
    }
}

/// Rows of an embedding that are updated at once where gradients are not kept.
const EMBEDDING_ROWS: usize = 4096;

/// Gradients wanted, and where they go.
struct Wanted<'a, T> {
    segments: &'a Segments,
    sink: &'a Sink<'a, T>,
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
        self.backpropagate(batch, objective, segments, &Sink::Flat(flat))
    }

    /// As [`Engine::gradients`], to any sink.
    pub(super) fn backpropagate(
        &self,
        batch: &Batch,
        objective: Objective<'_>,
        segments: &Segments,
        sink: &Sink<'_, B::Tensor>,
    ) -> Result<B::Tensor> {
        let b = &self.backend;
        let last = if let Objective::NextToken = objective { LastLayer::AllRows } else { LastLayer::AnswerRows };
        let mut packed = self.pack(batch, last)?;
        let (targets, rows) = match objective {
            Objective::Answer { verbalizer, over: LossOver::Vocab } => {
                (batch.labels.iter().map(|&y| verbalizer[y]).collect(), None)
            }
            Objective::Answer { verbalizer, over: LossOver::Labels } => {
                (batch.labels.iter().map(|&y| y as u32).collect(), Some(verbalizer.to_vec()))
            }
            Objective::NextToken => {
                let pairs = batch.layout.next_tokens();
                if pairs.is_empty() {
                    return Err(EngineError::NothingToPredict);
                }
                packed.shape.answers = pairs.len();
                packed.answer_rows = pairs.iter().map(|(row, _)| *row as u32).collect();
                packed.answers = b.ids(PackedIds::new(packed.answer_rows.clone()))?;
                (pairs.iter().map(|(_, next)| batch.tokens[*next]).collect(), None)
            }
        };
        let targets = b.ids(PackedIds::new(targets))?;
        let mut activations = self.forward(&packed, None, true, |_, _| Ok(()))?;
        let wanted = Wanted { segments, sink, floor: floor(segments, self.config.layers) };
        let hidden = &activations.hidden.clone();
        // Logits of the whole vocabulary, or of the label tokens' rows only.
        let unembedding = self.weight(self.config.unembedding())?;
        let used = match &rows {
            Some(ids) => {
                let ids = b.ids(PackedIds::new(ids.clone()))?;
                Some(b.weight_rows(&unembedding, &ids, 0..self.config.hidden)?)
            }
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
        let mut embedding = EmbeddingGradient::default();
        if wanted.has(self.config.unembedding()) {
            match rows {
                Some(ids) => {
                    let d_used = b.zeros(b.shape(&d_logits).1, self.config.hidden)?;
                    self.weight_gradient(self.all(&d_logits), self.all(hidden), &d_used)?;
                    embedding.rows.push((d_used, ids));
                }
                None => embedding.logits = Some((&d_logits, hidden)),
            }
        }
        if !self.config.tied {
            self.embedding_gradient(self.config.unembedding(), std::mem::take(&mut embedding), &wanted)?;
        }
        let dx = self.backward(&packed, &mut activations, &d_hidden, &wanted)?;
        if let Some(dx) = dx {
            embedding.rows.push((dx, batch.tokens.clone()));
        }
        self.embedding_gradient(EMBEDDING, embedding, &wanted)?;
        sink.flush()?;
        Ok(losses)
    }

    /// The gradient of an embedding, all of it or, where gradients are not kept, some rows after the others.
    fn embedding_gradient(
        &self,
        name: &str,
        of: EmbeddingGradient<'_, B::Tensor>,
        wanted: &Wanted<'_, B::Tensor>,
    ) -> Result<()> {
        let Some(place) = wanted.segments.of(name).next() else { return Ok(()) };
        let b = &self.backend;
        let (first, end, width) = (place.slice.rows.start, place.slice.rows.end, place.slice.cols.len());
        let step = match wanted.sink {
            Sink::Flat(_) => end - first,
            Sink::Each { .. } => EMBEDDING_ROWS,
        };
        for start in (first..end).step_by(step.max(1)) {
            let span = start..(start + step).min(end);
            let out = match wanted.sink {
                Sink::Flat(_) => self.gradient_view(place, wanted)?,
                Sink::Each { .. } => b.zeros(span.len(), width)?,
            };
            match of.logits {
                Some((d_logits, hidden)) => {
                    let d_logits =
                        Operand { tensor: d_logits, start: span.start, columns: span.len(), transposed: false };
                    self.weight_gradient(d_logits, self.all(hidden), &out)?;
                }
                None => b.clear(&out)?,
            }
            for (rows, ids) in &of.rows {
                let here: Vec<usize> = (0..ids.len()).filter(|i| span.contains(&(ids[*i] as usize))).collect();
                if here.is_empty() {
                    continue;
                }
                let rows = match here.len() == ids.len() {
                    true => rows.clone(),
                    false => b.gather_rows(rows, &b.ids(PackedIds::new(here.iter().map(|i| *i as u32).collect()))?)?,
                };
                let ids = here.iter().map(|i| ids[*i] - span.start as u32).collect();
                b.scatter_rows(&rows, &b.ids(PackedIds::new(ids))?, &out)?;
            }
            if let Sink::Each { update, .. } = wanted.sink {
                update(place, span.start - first, &out)?;
            }
        }
        Ok(())
    }

    /// `dyᵀ · x` into `out`.
    fn weight_gradient(&self, dy: Operand<B::Tensor>, x: Operand<B::Tensor>, out: &B::Tensor) -> Result<()> {
        self.backend.matmul_into(Operand { transposed: true, ..dy }, x, None, out, 0)
    }

    /// Room for the gradient of a slice, as a matrix; of a vector, all of it.
    fn gradient_view(&self, place: &Place, wanted: &Wanted<'_, B::Tensor>) -> Result<B::Tensor> {
        let slice = &place.slice;
        let cols = if slice.vector { self.backend.shape(&self.vector(&slice.name)?).1 } else { slice.cols.len() };
        match wanted.sink {
            Sink::Flat(flat) => self.backend.view(&flat[place.segment], place.start, slice.rows.len(), cols),
            Sink::Each { waiting, .. } => {
                let room = self.backend.zeros(slice.rows.len(), cols)?;
                waiting.borrow_mut().push((place.clone(), room.clone()));
                Ok(room)
            }
        }
    }

    /// Down the layers to the lowest that is wanted. Returns the gradient to the embedded tokens where that is.
    fn backward(
        &self,
        batch: &Packed<B>,
        activations: &mut Activations<B::Tensor>,
        d_hidden: &B::Tensor,
        wanted: &Wanted<'_, B::Tensor>,
    ) -> Result<Option<B::Tensor>> {
        let (b, c) = (&self.backend, &self.config);
        let (answer, r_final) = (&activations.answer, &activations.r_final);
        self.gain_gradient(FINAL_NORM, d_hidden, answer, r_final, wanted)?;
        let d_answer = b.rms_norm_backward(d_hidden, answer, &self.vector(FINAL_NORM)?, r_final, false, None)?;
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
            dx = b.rms_norm_backward(&d_normed2, &a.middle, &gain2, &a.r2, false, Some(&dx))?;

            self.linear_gradients(&[(name("self_attn.o_proj"), &dx)], || Ok(a.z.clone()), wanted)?;
            let dz = self.linear_backward(&dx, &name("self_attn.o_proj"), None)?;
            let (attention, answers_only) = self.attention(batch, l);
            let (dq, dk, dv) = b.attend_backward(&dz, &a.attended(), c.head_dim, attention)?;
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
                return Ok(None);
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
                return Ok(None);
            }
            dx = self.below(batch, l, &dx, &d_normed, &a, false)?;
            // Nothing further down reads this layer's weights.
            wanted.sink.flush()?;
        }
        Ok(wanted.has(EMBEDDING).then_some(dx))
    }

    /// The gradient of the residual entering layer `l`, from that of the residual after its attention and that of its
    /// normed input; `frozen` as for [`Backend::rms_norm_backward`].
    pub(super) fn below(
        &self,
        batch: &Packed<B>,
        l: usize,
        dx: &B::Tensor,
        d_normed: &B::Tensor,
        a: &Layer<B::Tensor>,
        frozen: bool,
    ) -> Result<B::Tensor> {
        let gain = self.vector(&layer_parameter(l, "input_layernorm.weight"))?;
        let answers_only = self.attention(batch, l).1;
        let residual = (!answers_only).then_some(dx);
        let below = self.backend.rms_norm_backward(d_normed, &a.x, &gain, &a.r1, frozen, residual)?;
        if answers_only {
            self.backend.scatter_rows(dx, &batch.answers, &below)?;
        }
        Ok(below)
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
                b.column_sum(dy, cols.start, cols.len(), &self.gradient_view(place, wanted)?)?;
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
            self.weight_gradient(dy, x, &self.gradient_view(place, wanted)?)?;
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
            Some(place) => self.backend.rms_norm_gain_gradient(dy, x, r, &self.gradient_view(place, wanted)?),
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
