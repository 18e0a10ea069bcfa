//! The operations that are not matrix products, on row-major slices: each forward beside its backward.

use crate::engine::backend::GateRule;
use crate::engine::{Attention, NO_SLOT};

/// How heads share keys and values.
#[derive(Clone, Copy)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    fn kv_of(self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }
}

/// The tokens at the positions that a query attends to.
fn keys(attention: &Attention, &[shift, position, _]: &[usize; 3]) -> impl Iterator<Item = usize> + use<> {
    let shared = attention.prefix.min(position + 1);
    (0..shared).chain(shared + shift..=position + shift)
}

pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(out: &mut [f32], scale: f32, x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += scale * x;
    }
}

pub fn scatter_rows(x: &[f32], ids: &[u32], out: &mut [f32], cols: usize) {
    for (row, id) in x.chunks_exact(cols).zip(ids) {
        let at = *id as usize * cols;
        add_scaled(&mut out[at..at + cols], 1.0, row);
    }
}

/// `y = x·r ⊙ gain` and `r` of each row.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f64) -> (Vec<f32>, Vec<f32>) {
    let cols = gain.len();
    let mut y = Vec::with_capacity(x.len());
    let mut factors = Vec::with_capacity(x.len() / cols);
    for row in x.chunks_exact(cols) {
        let r = 1.0 / (dot(row, row) / cols as f32 + eps as f32).sqrt();
        y.extend(row.iter().zip(gain).map(|(x, w)| x * r * w));
        factors.push(r);
    }
    (y, factors)
}

/// `dx = r·(w⊙dy) − x·r³/D·Σ(w⊙dy⊙x)`; without the second term when `frozen`.
pub fn rms_norm_backward(dy: &[f32], x: &[f32], gain: &[f32], factors: &[f32], frozen: bool) -> Vec<f32> {
    let cols = gain.len();
    let mut dx = Vec::with_capacity(x.len());
    for ((dy, x), r) in dy.chunks_exact(cols).zip(x.chunks_exact(cols)).zip(factors) {
        let along: f32 = if frozen { 0.0 } else { dy.iter().zip(gain).zip(x).map(|((dy, w), x)| dy * w * x).sum() };
        let pull = r * r * r / cols as f32 * along;
        dx.extend(dy.iter().zip(gain).zip(x).map(|((dy, w), x)| r * w * dy - x * pull));
    }
    dx
}

/// Half-split rotation: pairs (i, i+d/2).
pub fn rotate(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    cols: usize,
    head_dim: usize,
    rows: &[[usize; 3]],
    inverse: bool,
) -> Vec<f32> {
    let half = head_dim / 2;
    let sign = if inverse { -1.0 } else { 1.0 };
    let mut y = vec![0.0; x.len()];
    for ((x, y), row) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(rows) {
        let at = row[1] * half;
        let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
        for (x, y) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
            for i in 0..half {
                let (a, b, s) = (x[i], x[i + half], sign * sin[i]);
                y[i] = a * cos[i] - b * s;
                y[i + half] = b * cos[i] + a * s;
            }
        }
    }
    y
}

pub fn attention_pattern(q: &[f32], k: &[f32], shape: Heads, attention: &Attention) -> Vec<f32> {
    let d = shape.head_dim;
    let (wide, narrow) = (shape.heads * d, shape.kv_heads * d);
    let entries = attention.entries;
    let scale = 1.0 / (d as f32).sqrt();
    let mut pattern = vec![0.0; shape.heads * entries];
    for (h, pattern) in pattern.chunks_exact_mut(entries).enumerate() {
        let kv = shape.kv_of(h) * d;
        for (t, query @ &[_, position, offset]) in attention.queries.iter().enumerate() {
            let row = &mut pattern[offset..=offset + position];
            let q = &q[t * wide + h * d..][..d];
            let mut highest = f32::NEG_INFINITY;
            for (s, score) in keys(attention, query).zip(row.iter_mut()) {
                *score = dot(q, &k[s * narrow + kv..][..d]) * scale;
                highest = highest.max(*score);
            }
            let mut sum = 0.0;
            for score in row.iter_mut() {
                *score = (*score - highest).exp();
                sum += *score;
            }
            row.iter_mut().for_each(|score| *score /= sum);
        }
    }
    pattern
}

pub fn attention_mix(pattern: &[f32], v: &[f32], shape: Heads, attention: &Attention) -> Vec<f32> {
    let d = shape.head_dim;
    let (wide, narrow) = (shape.heads * d, shape.kv_heads * d);
    let entries = attention.entries;
    let mut z = vec![0.0; attention.queries.len() * wide];
    for (t, query @ &[_, position, offset]) in attention.queries.iter().enumerate() {
        for h in 0..shape.heads {
            let kv = shape.kv_of(h) * d;
            let z = &mut z[t * wide + h * d..][..d];
            for (s, p) in keys(attention, query).zip(&pattern[h * entries + offset..][..=position]) {
                add_scaled(z, *p, &v[s * narrow + kv..][..d]);
            }
        }
    }
    z
}

pub fn attention_mix_backward(pattern: &[f32], dz: &[f32], shape: Heads, attention: &Attention) -> Vec<f32> {
    let d = shape.head_dim;
    let (wide, narrow) = (shape.heads * d, shape.kv_heads * d);
    let entries = attention.entries;
    let mut dv = vec![0.0; attention.keys.len() * narrow];
    for (t, query @ &[_, position, offset]) in attention.queries.iter().enumerate() {
        for h in 0..shape.heads {
            let kv = shape.kv_of(h) * d;
            let dz = &dz[t * wide + h * d..][..d];
            for (s, p) in keys(attention, query).zip(&pattern[h * entries + offset..][..=position]) {
                add_scaled(&mut dv[s * narrow + kv..][..d], *p, dz);
            }
        }
    }
    dv
}

/// `dS = P ⊙ (dP − Σ P⊙dP) / sqrt(d)` with `dP[t,s] = ⟨dz[t], v[s]⟩`.
pub fn attention_pattern_backward(
    pattern: &[f32],
    dz: &[f32],
    v: &[f32],
    shape: Heads,
    attention: &Attention,
) -> Vec<f32> {
    let d = shape.head_dim;
    let (wide, narrow) = (shape.heads * d, shape.kv_heads * d);
    let entries = attention.entries;
    let scale = 1.0 / (d as f32).sqrt();
    let mut ds = vec![0.0; pattern.len()];
    for (h, (pattern, ds)) in pattern.chunks_exact(entries).zip(ds.chunks_exact_mut(entries)).enumerate() {
        let kv = shape.kv_of(h) * d;
        for (t, query @ &[_, position, offset]) in attention.queries.iter().enumerate() {
            let p = &pattern[offset..=offset + position];
            let ds = &mut ds[offset..=offset + position];
            let dz = &dz[t * wide + h * d..][..d];
            for (s, ds) in keys(attention, query).zip(ds.iter_mut()) {
                *ds = dot(dz, &v[s * narrow + kv..][..d]);
            }
            let mean = dot(p, ds);
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = p * (*ds - mean) * scale;
            }
        }
    }
    ds
}

pub fn replace_heads(z: &[f32], means: &[f32], slots: &[u32], flags: &[f32], head_dim: usize) -> Vec<f32> {
    let cols = flags.len() * head_dim;
    let mut out = z.to_vec();
    for (row, slot) in out.chunks_exact_mut(cols).zip(slots).filter(|(_, slot)| **slot != NO_SLOT) {
        let mean = &means[*slot as usize * cols..][..cols];
        for (h, _) in flags.iter().enumerate().filter(|(_, flag)| **flag != 0.0) {
            let span = h * head_dim..(h + 1) * head_dim;
            row[span.clone()].copy_from_slice(&mean[span]);
        }
    }
    out
}

pub fn head_products(
    z: &[f32],
    means: &[f32],
    slots: &[u32],
    gradient: &[f32],
    cols: usize,
    head_dim: usize,
) -> Vec<f32> {
    let heads = cols / head_dim;
    let mut out = vec![0.0; slots.len() * heads];
    for (t, slot) in slots.iter().enumerate().filter(|(_, slot)| **slot != NO_SLOT) {
        for h in 0..heads {
            let at = t * cols + h * head_dim;
            let mean = &means[*slot as usize * cols + h * head_dim..][..head_dim];
            let both = z[at..at + head_dim].iter().zip(mean).zip(&gradient[at..at + head_dim]);
            out[t * heads + h] = both.map(|((z, mean), g)| (z - mean) * g).sum();
        }
    }
    out
}

pub fn swiglu_backward(dy: &[f32], gate: &[f32], up: &[f32], rule: GateRule) -> (Vec<f32>, Vec<f32>) {
    let each = dy.iter().zip(gate).zip(up).map(|((dy, g), u)| {
        let sigma = sigmoid(*g);
        match rule {
            GateRule::Tangent => (dy * u * sigma * (1.0 + g * (1.0 - sigma)), dy * g * sigma),
            GateRule::Gate => (0.0, dy * g * sigma),
            GateRule::Half => (0.5 * dy * sigma * u, 0.5 * dy * g * sigma),
        }
    });
    each.unzip()
}

pub fn cross_entropy(logits: &[f32], targets: &[u32], cols: usize) -> (Vec<f32>, Vec<f32>) {
    let share = 1.0 / targets.len() as f32;
    let mut losses = Vec::with_capacity(targets.len());
    let mut gradient = Vec::with_capacity(logits.len());
    for (row, target) in logits.chunks_exact(cols).zip(targets) {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - highest).exp()).sum();
        let log_sum = highest + sum.ln() as f32;
        losses.push(log_sum - row[*target as usize]);
        let at = gradient.len();
        gradient.extend(row.iter().map(|x| share * (x - log_sum).exp()));
        gradient[at + *target as usize] -= share;
    }
    (losses, gradient)
}
