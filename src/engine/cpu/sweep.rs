//! β/γ decomposition (METHOD.md §§2–4): the β of many sources of one example, each carried forward by any rule set.
//! Totals are those of the ordinary forward, γ is always total − β.

use super::{Cpu, ops, values};
use crate::engine::backend::{Backend, Side};
use crate::engine::forward::{Kept, LastLayer, Layer, Packed};
use crate::engine::layout::PackedLayout;
use crate::engine::relevance::{Head, HeadMeans, PoolBatch, Target};
use crate::engine::{ActivationRule, BiasRule, Engine, GateRule, NO_SLOT, Result, Rules, Score, Trace};
use crate::model::{FINAL_NORM, layer_parameter};
use candle_core::{D, Tensor};

/// Largest stack of β rows computed at once; bounds memory at about `rows · (D + 3I) · 4` bytes.
const STACK_ROWS: usize = 2048;

struct Example<'a> {
    layers: Vec<Layer<Tensor>>,
    /// `x` entering each layer and leaving the last, from the first live token on.
    residuals: Vec<Tensor>,
    first: usize,
    tokens: usize,
    slots: &'a [u32],
}

impl Engine<Cpu> {
    /// Relevance of every head on one example (`pool` holds just it) by the given rules, `[L·H]`; 0 where no target
    /// lies above. `first` is the first token that can be a source's: a prefix common to the pool equals its mean.
    ///
    /// # Errors
    /// A failure inside candle.
    pub(super) fn relevance_of_example(
        &self,
        pool: &PoolBatch<'_>,
        means: &HeadMeans<Tensor>,
        rules: Rules,
        score: Score,
        target: Target<'_>,
        first: usize,
    ) -> Result<Vec<f64>> {
        let c = &self.config;
        let mut out = vec![0.0; c.total_heads()];
        let sources: Vec<Head> =
            (0..c.layers).flat_map(|layer| (0..c.heads).map(move |head| Head { layer, head })).collect();
        let packed = self.pack(pool.batch, LastLayer::AllRows)?;
        let activations = self.forward(&packed, None, true, |_, _| Ok(()))?;
        let first = if rules.query_key { 0 } else { first };
        let tokens = pool.batch.tokens.len() - first;
        let last_row = |x: &Tensor| x.narrow(0, x.dim(0)? - 1, 1);
        let example = self.example(&packed, &activations.layers, pool.slots, first, tokens)?;
        let v_final = self.task_gradient(pool, &activations)?;
        let hidden_factor = activations.r_final.broadcast_mul(&self.vector(FINAL_NORM)?)?;
        let vectors = match target {
            Target::Output => Vec::new(),
            Target::Heads(heads, direction) => {
                self.target_vectors(pool, &packed, &activations, means, heads, direction, GateRule::Tangent)?
            }
        };
        for chunk in sources.chunks((STACK_ROWS / tokens).max(1)) {
            let scores = match target {
                Target::Output => {
                    let beta = self.sweep(&example, means, rules, chunk, None, None, &mut |_, _| Ok(()))?;
                    let beta = beta.reshape((chunk.len(), tokens, c.hidden))?.narrow(1, tokens - 1, 1)?.squeeze(1)?;
                    match score {
                        Score::Projection => beta.matmul(&v_final.t()?)?.squeeze(1)?,
                        Score::Magnitude => share(&beta.broadcast_mul(&hidden_factor)?, &activations.hidden)?,
                    }
                }
                Target::Heads(heads, _) => {
                    let highest = heads.iter().map(|h| h.layer).max().unwrap_or(0);
                    let mut sum = Tensor::zeros(chunk.len(), candle_core::DType::F32, &candle_core::Device::Cpu)?;
                    self.sweep(&example, means, rules, chunk, Some(highest), None, &mut |l, z| {
                        let z = z
                            .reshape((z.dim(0)? / tokens, tokens, c.heads_width()))?
                            .narrow(1, tokens - 1, 1)?
                            .squeeze(1)?;
                        let reached = z.dim(0)?;
                        let scores = match (score, vectors.get(l).and_then(Option::as_ref)) {
                            (_, None) => return Ok(()),
                            (Score::Projection, Some(vector)) => z.matmul(&vector.t()?)?.squeeze(1)?,
                            (Score::Magnitude, Some(_)) => {
                                let total = last_row(&example.layers[l].z)?;
                                let mut scores =
                                    Tensor::zeros(reached, candle_core::DType::F32, &candle_core::Device::Cpu)?;
                                for head in heads.iter().filter(|h| h.layer == l) {
                                    let of_head = |x: &Tensor| x.narrow(1, head.head * c.head_dim, c.head_dim);
                                    scores = (scores + share(&of_head(&z)?, &of_head(&total)?)?)?;
                                }
                                scores
                            }
                        };
                        // Sources in or above the target's layer have not started: they score 0.
                        let scores = scores.pad_with_zeros(0, 0, chunk.len() - reached)?;
                        sum = (&sum + scores)?;
                        Ok(())
                    })?;
                    sum
                }
            };
            for (head, score) in chunk.iter().zip(scores.to_vec1::<f32>()?) {
                out[head.layer * c.heads + head.head] = f64::from(score);
            }
        }
        Ok(out)
    }

    /// β of one source at every named point, all tokens (METHOD.md's invariant is checked on it).
    ///
    /// # Errors
    /// A failure inside candle.
    pub(super) fn trace_of_source(
        &self,
        pool: &PoolBatch<'_>,
        means: &HeadMeans<Tensor>,
        rules: Rules,
        source: Head,
    ) -> Result<Trace> {
        let packed = self.pack(pool.batch, LastLayer::AllRows)?;
        let activations = self.forward(&packed, None, true, |_, _| Ok(()))?;
        let example = self.example(&packed, &activations.layers, pool.slots, 0, pool.batch.tokens.len())?;
        let mut trace = Trace::new();
        let beta = self.sweep(&example, means, rules, &[source], None, Some(&mut trace), &mut |_, _| Ok(()))?;
        let x = &example.residuals[self.config.layers];
        let (h, r) = self.backend.rms_norm(x, &self.vector(FINAL_NORM)?, self.config.rms_eps)?;
        let beta = beta.broadcast_mul(&r)?.broadcast_mul(&self.vector(FINAL_NORM)?)?;
        trace.push(("gamma.h".into(), values(&(h - &beta)?)?.to_vec()));
        trace.push(("beta.h".into(), values(&beta)?.to_vec()));
        Ok(trace)
    }

    fn example<'a>(
        &self,
        packed: &Packed<Cpu>,
        kept: &[Kept<Tensor>],
        slots: &'a [u32],
        first: usize,
        tokens: usize,
    ) -> Result<Example<'a>> {
        let layers =
            kept.iter().enumerate().map(|(l, kept)| self.again(packed, l, kept)).collect::<Result<Vec<_>>>()?;
        let mut residuals = Vec::new();
        for layer in &layers {
            residuals.push(layer.x.narrow(0, first, tokens)?.contiguous()?);
        }
        // The last residual is the middle one plus the MLP's output.
        if let Some(last) = layers.last() {
            residuals.push(self.leave(layers.len() - 1, last)?.narrow(0, first, tokens)?.contiguous()?);
        }
        Ok(Example { layers, residuals, first, tokens, slots: &slots[first..] })
    }

    /// Carries the β of `sources` (in rising order) up to the last residual, `[S·T, D]`, or stops after computing `z` of
    /// layer `until`. `at_heads` sees each layer's β of `z`, `[S·T, H·d]`, of the sources below it.
    #[allow(clippy::too_many_arguments)]
    fn sweep(
        &self,
        example: &Example<'_>,
        means: &HeadMeans<Tensor>,
        rules: Rules,
        sources: &[Head],
        until: Option<usize>,
        mut trace: Option<&mut Trace>,
        at_heads: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let (b, c, tokens) = (&self.backend, &self.config, example.tokens);
        let lowest = sources.first().map_or(0, |s| s.layer);
        let mut beta = Tensor::zeros((0, c.hidden), candle_core::DType::F32, &candle_core::Device::Cpu)?;
        let mut note = |name: String, x: &Tensor| -> Result<()> {
            if let Some(trace) = &mut trace {
                trace.push((name, values(x)?.to_vec()));
            }
            Ok(())
        };
        for l in lowest..c.layers {
            let a = &example.layers[l];
            let live = |x: &Tensor| x.narrow(0, example.first, tokens)?.contiguous();
            let name = |suffix: &str| layer_parameter(l, suffix);
            let gain = |suffix: &str| self.vector(&name(suffix));
            let stack = beta.dim(0)? / tokens;
            let heads = ops::Heads { heads: c.heads, kv_heads: c.kv_heads, head_dim: c.head_dim };
            let mut z = Tensor::zeros((0, c.heads_width()), candle_core::DType::F32, &candle_core::Device::Cpu)?;
            if stack > 0 {
                let normed = scaled(&beta, &live(&a.r1)?, &gain("input_layernorm.weight")?)?;
                let total = live(&b.rms_scale(&a.x, &gain("input_layernorm.weight")?, &a.r1)?)?;
                let starts = (0..=stack).map(|i| i * tokens).collect();
                let attention = PackedLayout { prefix: 0, starts }.attention();
                let v = self.beta_linear(&normed, &total, l, "self_attn.v_proj", rules.bias)?;
                let pattern = if rules.query_key {
                    let rotated = |name: &str, side: Side| -> Result<Tensor> {
                        let x = self.beta_linear(&normed, &total, l, name, rules.bias)?;
                        b.rotate(&x, c.head_dim, &attention, side, &self.rotary, false)
                    };
                    let q = rotated("self_attn.q_proj", Side::Queries)?;
                    let k = rotated("self_attn.k_proj", Side::Keys)?;
                    ops::attention_pattern(&values(&q)?, &values(&k)?, heads, &attention)
                } else {
                    let whole = PackedLayout { prefix: 0, starts: vec![0, example.first + tokens] }.attention();
                    let pattern = ops::attention_pattern(&values(&a.q)?, &values(&a.k)?, heads, &whole);
                    repeated_pattern(&pattern, c.heads, example.first, tokens, stack)
                };
                let mixed = ops::attention_mix(&pattern, &values(&v)?, heads, &attention);
                z = super::matrix(mixed, attention.queries.len(), c.heads_width())?;
            }
            at_heads(l, &z)?;
            if until == Some(l) {
                return Ok(beta);
            }
            let new: Vec<usize> = sources.iter().filter(|s| s.layer == l).map(|s| s.head).collect();
            if !new.is_empty() {
                let started = self.deviations(example, means, l, &new)?;
                z = Tensor::cat(&[&z, &started], 0)?;
                beta = Tensor::cat(
                    &[
                        &beta,
                        &Tensor::zeros(
                            (new.len() * tokens, c.hidden),
                            candle_core::DType::F32,
                            &candle_core::Device::Cpu,
                        )?,
                    ],
                    0,
                )?;
            }
            note(format!("beta.z.{l}"), &z)?;
            beta = self.linear(&z, &name("self_attn.o_proj"), Some(&beta))?;
            note(format!("beta.xmid.{l}"), &beta)?;
            let normed = scaled(&beta, &live(&a.r2)?, &gain("post_attention_layernorm.weight")?)?;
            let (gate, up) = (live(&a.gate)?, live(&a.up)?);
            let sign = |beta: Tensor, total: &Tensor| if rules.sign { cancel(&beta, total) } else { Ok(beta) };
            let gate_beta = sign(self.linear(&normed, &name("mlp.gate_proj"), None)?, &gate)?;
            let up_beta = sign(self.linear(&normed, &name("mlp.up_proj"), None)?, &up)?;
            let gated = activation(rules.activation, &gate_beta, &gate, &up_beta, &up)?;
            let down = self.linear(&gated, &name("mlp.down_proj"), None)?;
            let down = sign(down, &(&example.residuals[l + 1] - live(&a.middle)?)?)?;
            beta = sign((beta + down)?, &example.residuals[l + 1])?;
            note(format!("beta.x.{l}"), &beta)?;
        }
        Ok(beta)
    }

    /// β of new sources at their own layer: `a − μ` on the head itself at the source positions, `[n·T, H·d]`.
    fn deviations(
        &self,
        example: &Example<'_>,
        means: &HeadMeans<Tensor>,
        l: usize,
        heads: &[usize],
    ) -> Result<Tensor> {
        let (wide, d) = (self.config.heads_width(), self.config.head_dim);
        let z = example.layers[l].z.narrow(0, example.first, example.tokens)?.contiguous()?;
        let (z, means) = (values(&z)?, values(&means.layers[l])?);
        let mut out = vec![0.0; heads.len() * z.len()];
        for (block, head) in out.chunks_exact_mut(z.len()).zip(heads) {
            for (t, slot) in example.slots.iter().enumerate().filter(|(_, slot)| **slot != NO_SLOT) {
                for i in head * d..(head + 1) * d {
                    block[t * wide + i] = z[t * wide + i] - means[*slot as usize * wide + i];
                }
            }
        }
        super::matrix(out, heads.len() * example.tokens, wide)
    }

    /// β through a linear map that may have a bias; `total` is the map's ordinary input, `[T, in]`.
    fn beta_linear(&self, beta: &Tensor, total: &Tensor, l: usize, name: &str, rule: BiasRule) -> Result<Tensor> {
        let weight = self.weight(&layer_parameter(l, &format!("{name}.weight")))?;
        let product = |x: &Tensor| self.product(x, &weight, true, None, None);
        let out = product(beta)?;
        let (Some(bias), BiasRule::Split) = (self.optional_vector(&layer_parameter(l, &format!("{name}.bias"))), rule)
        else {
            return Ok(out);
        };
        let total = product(total)?;
        let (betas, totals, bias) = (values(&out)?, values(&total)?, values(&bias)?);
        let share = |(i, beta): (usize, &f32)| {
            let gamma = totals[i % totals.len()] - beta;
            beta + bias[i % bias.len()] * (beta.abs() / (beta.abs() + gamma.abs() + 1e-8))
        };
        super::matrix(betas.iter().enumerate().map(share).collect(), out.dim(0)?, out.dim(1)?)
    }
}

/// `β · r ⊙ w` with `r [T, 1]` repeated over the stack.
fn scaled(beta: &Tensor, r: &Tensor, gain: &Tensor) -> Result<Tensor> {
    let (rows, cols) = beta.dims2()?;
    let tokens = r.dim(0)?;
    Ok(beta.reshape((rows / tokens, tokens, cols))?.broadcast_mul(r)?.reshape((rows, cols))?.broadcast_mul(gain)?)
}

/// `‖β‖₁ / ‖total − β‖₁` of each row of β.
fn share(beta: &Tensor, total: &Tensor) -> Result<Tensor> {
    let gamma = total.broadcast_sub(beta)?;
    Ok((beta.abs()?.sum(D::Minus1)? / gamma.abs()?.sum(D::Minus1)?)?)
}

/// The example's own patterns from token `first` on, once for each source of the stack.
fn repeated_pattern(pattern: &[f32], heads: usize, first: usize, tokens: usize, stack: usize) -> Vec<f32> {
    let one = tokens * (tokens + 1) / 2;
    let mut out = Vec::with_capacity(heads * one * stack);
    for head in pattern.chunks_exact(pattern.len() / heads) {
        let mut live = Vec::with_capacity(one);
        for t in first..first + tokens {
            let row = t * (t + 1) / 2;
            live.extend_from_slice(&head[row + first..=row + t]);
        }
        for _ in 0..stack {
            out.extend_from_slice(&live);
        }
    }
    out
}

/// Where β and γ = total − β disagree in sign, the larger takes the total and the other becomes 0.
fn cancel(beta: &Tensor, total: &Tensor) -> Result<Tensor> {
    let totals = values(total)?;
    let keep = |(i, beta): (usize, &f32)| {
        let total = totals[i % totals.len()];
        let gamma = total - beta;
        match beta * gamma < 0.0 {
            false => *beta,
            true if beta.abs() >= gamma.abs() => total,
            true => 0.0,
        }
    };
    super::matrix(values(beta)?.iter().enumerate().map(keep).collect(), beta.dim(0)?, beta.dim(1)?)
}

/// β of `SiLU(g) ⊙ u` (METHOD.md §2), totals repeated over the stack.
fn activation(
    rule: ActivationRule,
    gate_beta: &Tensor,
    gate: &Tensor,
    up_beta: &Tensor,
    up: &Tensor,
) -> Result<Tensor> {
    let (rows, cols) = gate_beta.dims2()?;
    let (gate_beta, gate, up_beta, up) = (values(gate_beta)?, values(gate)?, values(up_beta)?, values(up)?);
    let mut out = Vec::with_capacity(gate_beta.len());
    for (gate_beta, up_beta) in gate_beta.chunks_exact(gate.len()).zip(up_beta.chunks_exact(gate.len())) {
        let each = gate_beta.iter().zip(&*gate).zip(up_beta).zip(&*up);
        out.extend(each.map(|(((gb, g), ub), u)| activation_beta(rule, *gb, *g, *ub, *u)));
    }
    super::matrix(out, rows, cols)
}

fn activation_beta(rule: ActivationRule, gate_beta: f32, gate: f32, up_beta: f32, up: f32) -> f32 {
    use ops::{sigmoid, silu};
    match rule {
        ActivationRule::Secant => (silu(gate) - silu(gate - gate_beta)) * up + silu(gate) * up_beta,
        ActivationRule::Cdt => silu(gate) * up - silu(gate - gate_beta) * (up - up_beta),
        ActivationRule::Linear(GateRule::Tangent) => {
            let sigma = sigmoid(gate);
            sigma * (1.0 + gate * (1.0 - sigma)) * up * gate_beta + silu(gate) * up_beta
        }
        ActivationRule::Linear(GateRule::Gate) => silu(gate) * up_beta,
        ActivationRule::Linear(GateRule::Half) => 0.5 * (sigmoid(gate) * gate_beta * up + silu(gate) * up_beta),
    }
}
