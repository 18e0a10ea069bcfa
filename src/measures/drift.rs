//! How far tuning moved the model (METHOD.md §8).

/// Mean over examples of `Σ_y p log(p/q)` over the label tokens, renormalised. Nats.
pub fn kl_divergence(before: &[Vec<f32>], after: &[Vec<f32>]) -> f64 {
    let one = |p: &[f32], q: &[f32]| {
        let (p, q) = (log_softmax(p), log_softmax(q));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    };
    before.iter().zip(after).map(|(p, q)| one(p, q)).sum::<f64>() / before.len().max(1) as f64
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - highest).exp()).sum();
    logits.iter().map(|x| f64::from(x - highest) - sum.ln()).collect()
}

/// Linear CKA of two sets of `n` rows: 1 where one is the other up to rotation and scale. NaN where a set does not vary.
pub fn linear_cka(x: &[f32], y: &[f32], n: usize) -> f64 {
    if constant(x, n) || constant(y, n) {
        return f64::NAN;
    }
    let (x, y) = (centred_gram(x, n), centred_gram(y, n));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms = (product(&x, &x) * product(&y, &y)).sqrt();
    product(&x, &y) / norms
}

/// Whether all rows are the same, as the embeddings of one answer token are.
fn constant(x: &[f32], n: usize) -> bool {
    let columns = x.len() / n.max(1);
    x.chunks(columns.max(1)).all(|row| row == &x[..columns])
}

/// `X Xᵀ` of the column-centred rows, `[n·n]`.
fn centred_gram(x: &[f32], n: usize) -> Vec<f64> {
    let columns = x.len() / n.max(1);
    let mut rows: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    for c in 0..columns {
        let mean = (0..n).map(|i| rows[i * columns + c]).sum::<f64>() / n as f64;
        (0..n).for_each(|i| rows[i * columns + c] -= mean);
    }
    let dot = |i: usize, j: usize| (0..columns).map(|c| rows[i * columns + c] * rows[j * columns + c]).sum::<f64>();
    (0..n * n).map(|k| dot(k / n, k % n)).collect()
}
