//! The CPU backend: matrix products by candle (all cores natively, simd128 in wasm), the rest in plain loops.

mod ops;
mod sweep;
mod weights;

use super::backend::{Attended, Backend, GateRule, Operand, Side};
use super::layout::{Attention, PackedIds};
use super::optimiser::{LeanStep, Step};
use super::relevance::{Head, HeadMeans, PoolBatch, Target};
use super::weights::Weight;
use super::{Engine, Result, Rules, Score, Trace};
use crate::model::{Form, Rows};
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, Tensor};
use std::ops::{Deref, Range};
use weights::Stored;

/// Computes on the CPU.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cpu;

/// A model on the CPU.
pub type CpuEngine = Engine<Cpu>;

/// A contiguous tensor's values, held for reading. Every tensor of this backend is contiguous f32 on the CPU.
struct Values<G> {
    storage: G,
    span: Range<usize>,
}

fn values(x: &Tensor) -> Result<impl Deref<Target = [f32]>> {
    let (storage, layout) = x.storage_and_layout();
    let failed = |problem: &str| Err(candle_core::Error::Msg(problem.into()).into());
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Values { storage, span: start..end }),
        (Storage::Cpu(CpuStorage::F32(_)), None) => failed("a strided view where a contiguous tensor is needed"),
        _ => failed("a tensor that is not f32 on the CPU"),
    }
}

impl<G: Deref<Target = Storage>> Deref for Values<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.span.clone()],
            _ => &[], // `values` makes no other.
        }
    }
}

fn matrix(data: Vec<f32>, rows: usize, cols: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, (rows, cols), &Device::Cpu)?)
}

/// Runs a closure on a tensor's values in place.
struct InPlace<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(data) = storage else {
            return Err(candle_core::Error::Msg("in-place update of a tensor that is not f32".into()));
        };
        let start = layout.start_offset();
        (self.0)(&mut data[start..start + layout.shape().elem_count()]);
        Ok(())
    }
}

fn update(x: &Tensor, f: impl Fn(&mut [f32])) -> Result<()> {
    Ok(x.inplace_op1(&InPlace(f))?)
}

fn operand(x: Operand<Tensor>) -> Result<Tensor> {
    let window = x.tensor.narrow(1, x.start, x.columns)?;
    Ok(if x.transposed { window.t()? } else { window })
}

impl Cpu {
    fn heads(&self, q: &Tensor, k: &Tensor, head_dim: usize) -> ops::Heads {
        ops::Heads { heads: self.shape(q).1 / head_dim, kv_heads: self.shape(k).1 / head_dim, head_dim }
    }

    /// Gradients to q, k and v; the first two 0 where only values are wanted.
    fn attention_gradients(
        &self,
        dz: &Tensor,
        at: &Attended<'_, Tensor>,
        head_dim: usize,
        attention: &Attention,
        only_values: bool,
    ) -> Result<[Tensor; 3]> {
        let shape = self.heads(at.q, at.k, head_dim);
        let (q, k, v, z, sums) = (values(at.q)?, values(at.k)?, values(at.v)?, values(at.z)?, values(at.sums)?);
        let slices = Attended { q: &*q, k: &*k, v: &*v, z: &*z, sums: &*sums };
        let [dq, dk, dv] = ops::attend_backward(&values(dz)?, &slices, shape, attention, only_values);
        let like = |data, x: &Tensor| matrix(data, self.shape(x).0, self.shape(x).1);
        Ok([like(dq, at.q)?, like(dk, at.k)?, like(dv, at.v)?])
    }
}

impl Backend for Cpu {
    type Tensor = Tensor;
    type Stored = Stored;
    type Ids = PackedIds;
    type Attention = Attention;

    fn device(&self) -> String {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if cfg!(target_arch = "wasm32") {
            "CPU (WebAssembly, one thread)".into()
        } else {
            format!("CPU ({threads} threads, {})", std::env::consts::ARCH)
        }
    }

    fn batch_tokens(&self) -> usize {
        512
    }

    fn shape(&self, x: &Tensor) -> (usize, usize) {
        let dims = x.dims();
        (dims[0], dims[1])
    }

    fn submit(&self) {}

    fn has_sweep(&self) -> bool {
        true
    }

    fn sweep_relevance(
        engine: &Engine<Self>,
        pool: &PoolBatch<'_>,
        means: &HeadMeans<Tensor>,
        rules: Rules,
        score: Score,
        target: Target<'_>,
        first: usize,
    ) -> Result<Vec<f64>> {
        engine.relevance_of_example(pool, means, rules, score, target, first)
    }

    fn sweep_trace(
        engine: &Engine<Self>,
        pool: &PoolBatch<'_>,
        means: &HeadMeans<Tensor>,
        rules: Rules,
        source: Head,
    ) -> Result<Trace> {
        engine.trace_of_source(pool, means, rules, source)
    }

    fn upload(&self, data: &[f32], rows: usize, cols: usize) -> Result<Tensor> {
        matrix(data.to_vec(), rows, cols)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Tensor> {
        matrix(vec![0.0; rows * cols], rows, cols)
    }

    fn ids(&self, ids: PackedIds) -> Result<PackedIds> {
        Ok(ids)
    }

    fn attention(&self, attention: Attention) -> Result<Attention> {
        Ok(attention)
    }

    async fn read(&self, tensors: &[&Tensor]) -> Result<Vec<Vec<f32>>> {
        tensors.iter().map(|x| Ok(values(x)?.to_vec())).collect()
    }

    fn view(&self, flat: &Tensor, start: usize, rows: usize, cols: usize) -> Result<Tensor> {
        Ok(flat.narrow(1, start, rows * cols)?.reshape((rows, cols))?)
    }

    fn clear(&self, x: &Tensor) -> Result<()> {
        update(x, |x| x.fill(0.0))
    }

    fn stored(&self, _name: &str, form: Form, rows: usize, cols: usize) -> Result<Stored> {
        Ok(Stored::new(form, rows, cols))
    }

    fn fill(&self, stored: &mut Stored, _first: usize, rows: &Rows) -> Result<()> {
        stored.push(rows)
    }

    fn product(
        &self,
        x: &Tensor,
        weight: &Weight<'_, Self>,
        transposed: bool,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mut out = weights::product(x, weight, transposed)?;
        if let Some(bias) = bias {
            out = out.broadcast_add(bias)?;
        }
        Ok(match residual {
            Some(residual) => (out + residual)?,
            None => out,
        })
    }

    fn weight_rows(&self, weight: &Weight<'_, Self>, ids: &PackedIds, cols: Range<usize>) -> Result<Tensor> {
        weights::rows(weight, &ids.ids, cols)
    }

    fn matmul(&self, a: Operand<Tensor>, b: Operand<Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
        let out = operand(a)?.matmul(&operand(b)?)?;
        Ok(match residual {
            Some(residual) => (out + residual)?,
            None => out,
        })
    }

    fn matmul_into(
        &self,
        a: Operand<Tensor>,
        b: Operand<Tensor>,
        bias: Option<&Tensor>,
        out: &Tensor,
        start: usize,
    ) -> Result<()> {
        let mut product = self.matmul(a, b, None)?;
        let (rows, cols) = self.shape(&product);
        if let Some(bias) = bias {
            product = product.broadcast_add(&bias.narrow(1, start, cols)?)?;
        }
        self.copy_window(out, 0, start, &product, 0..rows, 0..cols)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok((a + b)?)
    }

    fn column_sum(&self, x: &Tensor, start: usize, columns: usize, out: &Tensor) -> Result<()> {
        self.copy_window(out, 0, start, &x.narrow(1, start, columns)?.sum_keepdim(0)?, 0..1, 0..columns)
    }

    fn scale_columns(&self, x: &Tensor, factors: &Tensor) -> Result<Tensor> {
        Ok(x.broadcast_mul(factors)?)
    }

    fn gather_rows(&self, table: &Tensor, ids: &PackedIds) -> Result<Tensor> {
        let ids = Tensor::new(ids.ids.as_slice(), &Device::Cpu)?;
        Ok(table.index_select(&ids, 0)?)
    }

    fn scatter_rows(&self, x: &Tensor, ids: &PackedIds, out: &Tensor) -> Result<()> {
        let (cols, x) = (self.shape(x).1, values(x)?);
        update(out, |out| ops::scatter_rows(&x, &ids.ids, out, cols))
    }

    fn rms_norm(&self, x: &Tensor, gain: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        let (rows, cols) = self.shape(x);
        let (y, r) = ops::rms_norm(&values(x)?, &values(gain)?, eps);
        Ok((matrix(y, rows, cols)?, matrix(r, rows, 1)?))
    }

    fn rms_scale(&self, x: &Tensor, gain: &Tensor, r: &Tensor) -> Result<Tensor> {
        Ok(x.broadcast_mul(r)?.broadcast_mul(gain)?)
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        gain: &Tensor,
        r: &Tensor,
        frozen: bool,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (rows, cols) = self.shape(x);
        let dx = ops::rms_norm_backward(&values(dy)?, &values(x)?, &values(gain)?, &values(r)?, frozen);
        let dx = matrix(dx, rows, cols)?;
        residual.map_or(Ok(dx.clone()), |residual| Ok((dx + residual)?))
    }

    fn rms_norm_gain_gradient(&self, dy: &Tensor, x: &Tensor, r: &Tensor, out: &Tensor) -> Result<()> {
        let gradient = (dy * x)?.broadcast_mul(r)?.sum_keepdim(0)?;
        self.copy_window(out, 0, 0, &gradient, 0..1, 0..self.shape(x).1)
    }

    fn rotate(
        &self,
        x: &Tensor,
        head_dim: usize,
        attention: &Attention,
        side: Side,
        rotary: &(Tensor, Tensor),
        inverse: bool,
    ) -> Result<Tensor> {
        let (rows, cols) = self.shape(x);
        let (cos, sin) = (values(&rotary.0)?, values(&rotary.1)?);
        let y = ops::rotate(&values(x)?, &cos, &sin, cols, head_dim, &attention.positions(side), inverse);
        matrix(y, rows, cols)
    }

    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        head_dim: usize,
        attention: &Attention,
    ) -> Result<(Tensor, Tensor)> {
        let shape = self.heads(q, k, head_dim);
        let (z, sums) = ops::attend(&values(q)?, &values(k)?, &values(v)?, shape, attention);
        let (rows, cols) = self.shape(q);
        Ok((matrix(z, rows, cols)?, matrix(sums, rows, shape.heads)?))
    }

    fn attend_backward(
        &self,
        dz: &Tensor,
        at: &Attended<'_, Tensor>,
        head_dim: usize,
        attention: &Attention,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let [dq, dk, dv] = self.attention_gradients(dz, at, head_dim, attention, false)?;
        Ok((dq, dk, dv))
    }

    fn attend_backward_values(
        &self,
        dz: &Tensor,
        at: &Attended<'_, Tensor>,
        head_dim: usize,
        attention: &Attention,
    ) -> Result<Tensor> {
        let [_, _, dv] = self.attention_gradients(dz, at, head_dim, attention, true)?;
        Ok(dv)
    }

    fn replace_heads(
        &self,
        z: &Tensor,
        means: &Tensor,
        slots: &PackedIds,
        flags: &Tensor,
        head_dim: usize,
    ) -> Result<Tensor> {
        let (rows, cols) = self.shape(z);
        let out = ops::replace_heads(&values(z)?, &values(means)?, &slots.ids, &values(flags)?, head_dim);
        matrix(out, rows, cols)
    }

    fn head_products(
        &self,
        z: &Tensor,
        means: &Tensor,
        slots: &PackedIds,
        gradient: &Tensor,
        head_dim: usize,
    ) -> Result<Tensor> {
        let (rows, cols) = self.shape(z);
        let (z, means, gradient) = (values(z)?, values(means)?, values(gradient)?);
        let out = ops::head_products(&z, &means, &slots.ids, &gradient, cols, head_dim);
        matrix(out, rows, cols / head_dim)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let (rows, cols) = self.shape(gate);
        let (gate, up) = (values(gate)?, values(up)?);
        matrix(gate.iter().zip(&*up).map(|(g, u)| ops::silu(*g) * u).collect(), rows, cols)
    }

    fn swiglu_backward(&self, dy: &Tensor, gate: &Tensor, up: &Tensor, rule: GateRule) -> Result<(Tensor, Tensor)> {
        let (rows, cols) = self.shape(gate);
        let (dg, du) = ops::swiglu_backward(&values(dy)?, &values(gate)?, &values(up)?, rule);
        Ok((matrix(dg, rows, cols)?, matrix(du, rows, cols)?))
    }

    fn cross_entropy(&self, logits: &Tensor, targets: &PackedIds) -> Result<(Tensor, Tensor)> {
        let (rows, cols) = self.shape(logits);
        let (losses, gradient) = ops::cross_entropy(&values(logits)?, &targets.ids, cols);
        Ok((matrix(losses, rows, 1)?, matrix(gradient, rows, cols)?))
    }

    fn sum_of_squares(&self, tensors: &[Tensor]) -> Result<Tensor> {
        let mut sum = 0.0;
        for x in tensors {
            sum += values(x)?.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        }
        matrix(vec![sum as f32], 1, 1)
    }

    fn adamw(
        &self,
        parameters: &Tensor,
        gradients: &Tensor,
        m: &Tensor,
        v: &Tensor,
        norm_squared: &Tensor,
        decayed: usize,
        step: &Step,
    ) -> Result<()> {
        let norm = values(norm_squared)?[0].sqrt();
        let factor = if step.clip > 0.0 { (step.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        {
            let gradients = values(gradients)?;
            update(m, |m| {
                m.iter_mut().zip(&*gradients).for_each(|(m, g)| *m = step.beta1 * *m + (1.0 - step.beta1) * g * factor);
            })?;
            update(v, |v| {
                let squares = gradients.iter().map(|g| (g * factor) * (g * factor));
                v.iter_mut().zip(squares).for_each(|(v, g2)| *v = step.beta2 * *v + (1.0 - step.beta2) * g2);
            })?;
        }
        let (m, v) = (values(m)?, values(v)?);
        update(parameters, |p| {
            for (i, (p, (m, v))) in p.iter_mut().zip(m.iter().zip(&*v)).enumerate() {
                let decay = if i < decayed { step.weight_decay } else { 0.0 };
                let change = (m / step.correction1) / ((v / step.correction2).sqrt() + step.eps) + decay * *p;
                *p -= step.learning_rate * change;
            }
        })
    }

    fn adafactor(
        &self,
        parameters: &Tensor,
        gradient: &Tensor,
        rows: &Tensor,
        cols: &Tensor,
        step: &LeanStep,
    ) -> Result<()> {
        let width = self.shape(gradient).1;
        {
            let g = values(gradient)?;
            let keep = |old: &mut f32, mean: f32| *old = step.beta2 * *old + (1.0 - step.beta2) * mean;
            update(rows, |rows| {
                for (old, row) in rows.iter_mut().zip(g.chunks_exact(width)) {
                    keep(old, row.iter().map(|x| x * x).sum::<f32>() / width as f32);
                }
            })?;
            let mut sums = vec![0.0; width];
            for row in g.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
            }
            let height = (g.len() / width) as f32;
            update(cols, |cols| cols.iter_mut().zip(&sums).for_each(|(old, sum)| keep(old, sum / height)))?;
        }
        let (rows, cols) = (values(rows)?, values(cols)?);
        let mean = rows.iter().sum::<f32>() / rows.len() as f32;
        update(gradient, |g| {
            for (row, r) in g.chunks_exact_mut(width).zip(&*rows) {
                for (g, c) in row.iter_mut().zip(&*cols) {
                    // Without any gradient the mean is 0, and so is each part.
                    let v = if mean > 0.0 { r * c / mean } else { 0.0 };
                    *g /= v.sqrt() + step.eps;
                }
            }
        })?;
        let u = values(gradient)?;
        let squares: f64 = u.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let clip = (u.len() as f64 / squares.max(1e-30)).sqrt().min(1.0) as f32;
        update(parameters, |p| {
            for (p, u) in p.iter_mut().zip(&*u) {
                *p -= step.learning_rate * (clip * u + step.weight_decay * *p);
            }
        })
    }

    fn copy_window(
        &self,
        to: &Tensor,
        row: usize,
        col: usize,
        from: &Tensor,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> Result<()> {
        let (stride, from_stride) = (self.shape(to).1, self.shape(from).1);
        let from = values(from)?;
        update(to, |to| {
            for (i, from_row) in rows.clone().enumerate() {
                let at = (row + i) * stride + col;
                let window = &from[from_row * from_stride..][cols.clone()];
                to[at..at + cols.len()].copy_from_slice(window);
            }
        })
    }
}
