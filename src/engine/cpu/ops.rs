//! The operations that are not matrix products, on row-major slices: each forward beside its backward.

use crate::engine::backend::GateRule;
use crate::engine::{Attended, Attention, NO_SLOT};

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
fn keys(attention: &Attention, &[shift, position]: &[usize; 2]) -> impl Iterator<Item = usize> + use<> {
    let shared = attention.prefix.min(position + 1);
    (0..shared).chain(shared + shift..=position + shift)
}

pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Sums in eight lanes, which a compiler turns into SIMD.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + rest
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
    positions: &[usize],
    inverse: bool,
) -> Vec<f32> {
    let half = head_dim / 2;
    let sign = if inverse { -1.0 } else { 1.0 };
    let mut y = vec![0.0; x.len()];
    for ((x, y), position) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)).zip(positions) {
        let at = position * half;
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

/// Rows of a tensor in which the heads, or key/value heads, lie side by side.
#[derive(Clone, Copy)]
struct ByHead<'a> {
    values: &'a [f32],
    cols: usize,
    head_dim: usize,
}

impl<'a> ByHead<'a> {
    fn row(self, t: usize, head: usize) -> &'a [f32] {
        &self.values[t * self.cols + head * self.head_dim..][..self.head_dim]
    }
}

impl Heads {
    fn queries(self, values: &[f32]) -> ByHead<'_> {
        ByHead { values, cols: self.heads * self.head_dim, head_dim: self.head_dim }
    }

    fn keys(self, values: &[f32]) -> ByHead<'_> {
        ByHead { values, cols: self.kv_heads * self.head_dim, head_dim: self.head_dim }
    }

    /// Scores of query `t` of `head`, divided by `sqrt(d)`, into `row`.
    fn scores(self, q: &[f32], k: &[f32], attention: &Attention, t: usize, head: usize, row: &mut Vec<f32>) {
        let (q, k, kv) = (self.queries(q).row(t, head), self.keys(k), self.kv_of(head));
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        row.clear();
        row.extend(keys(attention, &attention.queries[t]).map(|s| dot(q, k.row(s, kv)) * scale));
    }
}

/// Softmax in place; the logarithm of its sum.
fn softmax(row: &mut [f32]) -> f32 {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in row.iter_mut() {
        *score = (*score - highest).exp();
        sum += *score;
    }
    row.iter_mut().for_each(|score| *score /= sum);
    highest + sum.ln()
}

/// Causal softmax patterns, `[H, ..]`: of each head its queries' rows end to end, with an entry for each position up to theirs.
pub fn attention_pattern(q: &[f32], k: &[f32], shape: Heads, attention: &Attention) -> Vec<f32> {
    let (mut pattern, mut row) = (Vec::new(), Vec::new());
    for h in 0..shape.heads {
        for t in 0..attention.queries.len() {
            shape.scores(q, k, attention, t, h, &mut row);
            softmax(&mut row);
            pattern.extend_from_slice(&row);
        }
    }
    pattern
}

/// `out[t,h] = Σ_s pattern[h,t,s] · v[s, kv(h)]`.
pub fn attention_mix(pattern: &[f32], v: &[f32], shape: Heads, attention: &Attention) -> Vec<f32> {
    let d = shape.head_dim;
    let v = shape.keys(v);
    let mut z = vec![0.0; attention.queries.len() * shape.heads * d];
    let mut rest = pattern;
    for h in 0..shape.heads {
        for (t, query @ &[_, position]) in attention.queries.iter().enumerate() {
            let (row, others) = rest.split_at(position + 1);
            rest = others;
            let z = &mut z[(t * shape.heads + h) * d..][..d];
            keys(attention, query).zip(row).for_each(|(s, p)| add_scaled(z, *p, v.row(s, shape.kv_of(h))));
        }
    }
    z
}

/// `z [Q, H·d]` and the logarithms of the softmaxes' sums, `[Q, H]`.
pub fn attend(q: &[f32], k: &[f32], v: &[f32], shape: Heads, attention: &Attention) -> (Vec<f32>, Vec<f32>) {
    let d = shape.head_dim;
    let v = shape.keys(v);
    let (mut z, mut sums, mut row) = (vec![0.0; q.len()], Vec::with_capacity(q.len() / d), Vec::new());
    for (t, query) in attention.queries.iter().enumerate() {
        for h in 0..shape.heads {
            shape.scores(q, k, attention, t, h, &mut row);
            sums.push(softmax(&mut row));
            let z = &mut z[(t * shape.heads + h) * d..][..d];
            keys(attention, query).zip(&row).for_each(|(s, p)| add_scaled(z, *p, v.row(s, shape.kv_of(h))));
        }
    }
    (z, sums)
}

/// Gradients to q, k and v: `dS = P ⊙ (dP − Σ P⊙dP) / sqrt(d)` with `dP[t,s] = ⟨dz[t], v[s]⟩` is that of the scores. Where only
/// values are wanted the others stay 0.
pub fn attend_backward(
    dz: &[f32],
    at: &Attended<'_, [f32]>,
    shape: Heads,
    attention: &Attention,
    only_values: bool,
) -> [Vec<f32>; 3] {
    let d = shape.head_dim;
    let scale = 1.0 / (d as f32).sqrt();
    let (q, k, v, dz) = (shape.queries(at.q), shape.keys(at.k), shape.keys(at.v), shape.queries(dz));
    let (mut dq, mut dk, mut dv) = (vec![0.0; at.q.len()], vec![0.0; at.k.len()], vec![0.0; at.v.len()]);
    let (mut row, mut changes) = (Vec::new(), Vec::new());
    for (t, query) in attention.queries.iter().enumerate() {
        for h in 0..shape.heads {
            let (kv, log_sum, dz) = (shape.kv_of(h), at.sums[t * shape.heads + h], dz.row(t, h));
            let own = |s: usize| (s * shape.kv_heads + kv) * d..(s * shape.kv_heads + kv + 1) * d;
            shape.scores(at.q, at.k, attention, t, h, &mut row);
            row.iter_mut().for_each(|score| *score = (*score - log_sum).exp());
            keys(attention, query).zip(&row).for_each(|(s, p)| add_scaled(&mut dv[own(s)], *p, dz));
            if only_values {
                continue;
            }
            changes.clear();
            changes.extend(keys(attention, query).map(|s| dot(dz, v.row(s, kv))));
            let mean = dot(&row, &changes);
            let dq = &mut dq[(t * shape.heads + h) * d..][..d];
            for ((s, p), change) in keys(attention, query).zip(&row).zip(&changes) {
                let ds = p * (change - mean) * scale;
                add_scaled(dq, ds, k.row(s, kv));
                add_scaled(&mut dk[own(s)], ds, q.row(t, h));
            }
        }
    }
    [dq, dk, dv]
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
