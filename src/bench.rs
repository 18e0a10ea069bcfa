//! What the engines reach on a device: speed, work and memory of one model, measured, as one table.

use crate::circuit::{self, Pool, Positions, SlotMap, budget, random_heads};
use crate::engine::{
    AdamW, Backend, Batch, Engine, GateRule, LossOver, Method, Objective, ParameterSlice, Prompt, Score, Target,
    UpdateRule, Weight, memory,
};
use crate::model::{Checkpoint, Form, ModelConfig, Rows, layer_parameter};
use crate::progress::Unwatched;
use crate::tuning::{KvRule, NormRule, full_slices, head_slices, trained_weights};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use web_time::Instant;

/// Prompts of a batch, and tokens of a prompt: a training step's size in the method's defaults.
const SEQUENCES: usize = 8;
const TOKENS: usize = 64;
/// Side of the large square product that shapes are compared with.
const LARGE: usize = 1024;
/// Products that are given before any is waited for, as in a forward pass; other libraries' too.
const PRODUCTS: usize = 6;
/// Each timing repeats its work until this many seconds have passed.
const ENOUGH: f64 = 2.0;

/// One product `[m, k] · [n, k]ᵀ` of a model's forward pass.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shape {
    pub what: String,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Whether its left side comes from a norm, which makes it ready for products.
    pub normed: bool,
}

/// How fast it is.
#[derive(Debug, Clone, Serialize)]
pub struct MatmulRate {
    #[serde(flatten)]
    pub shape: Shape,
    pub gflops: f64,
    /// Of what the large square product reaches in the same run.
    pub share_of_large: f64,
}

/// The time and, where the device is given kernels one by one, the number of kernels of one piece of work.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    pub seconds: f64,
    pub dispatches: Option<u64>,
}

/// The table.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    pub device: String,
    /// The form of the weights.
    pub format: String,
    pub parameters: usize,
    pub layers: usize,
    /// Tokens in the batch that everything below is measured on.
    pub batch_tokens: usize,
    pub load_seconds: f64,
    /// The square product of side 1024.
    pub large_gflops: f64,
    pub matmuls: Vec<MatmulRate>,
    pub forward: Cost,
    pub forward_tokens_per_second: f64,
    /// CT-SFT: three iterations' worth of heads, all norms.
    pub masked_weights: usize,
    pub masked_step: Cost,
    pub full_step: Cost,
    /// Time of a masked step as a share of a full one's.
    pub masked_share: f64,
    /// Relevances of all heads for the batch's prompts by the one-pass rule.
    pub relevance: Cost,
    /// Its time in forwards of the same prompts.
    pub relevance_forwards: f64,
    pub peak_device_bytes: Option<u64>,
    /// In a browser, the wasm heap, which never shrinks.
    pub heap_bytes: Option<u64>,
}

/// Measures a model on a backend.
///
/// # Errors
/// A damaged checkpoint or a device failure.
pub async fn measure<B: Backend>(backend: B, checkpoint: &mut Checkpoint) -> crate::engine::Result<Table> {
    let started = Instant::now();
    let engine = Engine::load(backend, checkpoint, |_, _| {})?;
    wait(&engine.backend).await?;
    let load_seconds = started.elapsed().as_secs_f64();
    let c = engine.config.clone();
    let form = checkpoint.form(&layer_parameter(0, "mlp.gate_proj.weight"))?;
    let (large_gflops, matmuls) = matmuls(&engine.backend, form, &shapes(&c)).await?;

    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let prompts: Vec<Prompt> = (0..SEQUENCES)
        .map(|i| Prompt { tokens: (0..TOKENS).map(|_| rng.random_range(0..c.vocab as u32)).collect(), label: i % 3 })
        .collect();
    let batch = Batch::new(&prompts.iter().collect::<Vec<_>>(), &c)?;
    let verbalizer = [0, 1, 2];
    let forward = cost(&engine.backend, async || engine.answers(&batch, &verbalizer, false).await.map(|_| ())).await?;

    let count = 3 * budget(0.02, c.total_heads());
    let heads = random_heads(c.layers, c.heads, count, &Default::default(), &mut rng).into_iter().collect();
    let masked = head_slices(&c, &heads, KvRule::Any, NormRule::All);
    let masked_weights = trained_weights(&masked);
    let step = async |slices: Vec<ParameterSlice>| {
        let before = engine.snapshot();
        let mut training = engine.train(&slices, UpdateRule::AdamW)?;
        let objective = Objective::Answer { verbalizer: &verbalizer, over: LossOver::Vocab };
        let mut once = || engine.train_step(&batch, objective, &AdamW::default(), 1e-9, &mut training).map(|_| ());
        let cost = cost(&engine.backend, async || once()).await;
        engine.restore(&before);
        cost
    };
    let masked_step = step(masked).await?;
    let full_step = step(full_slices(&c)).await?;

    let slots = SlotMap::common(&prompts);
    let pool = Pool { prompts, verbalizer: verbalizer.to_vec(), slots, positions: Positions::All };
    let means = circuit::means(&engine, &pool, &Unwatched).await?;
    let method = Method::Reverse(GateRule::Tangent);
    let all = async || {
        let target = Target::Output;
        circuit::relevance(&engine, &pool, &means, method, Score::Projection, target, &Unwatched).await.map(|_| ())
    };
    let relevance = cost(&engine.backend, all).await?;
    Ok(Table {
        device: engine.backend.device(),
        format: checkpoint.format.clone(),
        parameters: c.parameter_count(),
        layers: c.layers,
        batch_tokens: batch.tokens.len(),
        load_seconds,
        large_gflops,
        matmuls,
        forward,
        forward_tokens_per_second: batch.tokens.len() as f64 / forward.seconds,
        masked_weights,
        masked_step,
        full_step,
        masked_share: masked_step.seconds / full_step.seconds,
        relevance,
        relevance_forwards: relevance.seconds / forward.seconds,
        peak_device_bytes: engine.backend.peak_bytes(),
        heap_bytes: memory::heap_bytes(),
    })
}

/// Waits until the device has done all it was given.
async fn wait<B: Backend>(b: &B) -> crate::engine::Result<()> {
    b.read(&[&b.zeros(1, 1)?]).await.map(|_| ())
}

/// Mean cost of a piece of work, after one run that warms caches and makes pipelines.
async fn cost<B: Backend>(
    b: &B,
    mut work: impl AsyncFnMut() -> crate::engine::Result<()>,
) -> crate::engine::Result<Cost> {
    work().await?;
    wait(b).await?;
    let before = b.dispatches();
    let (started, mut runs) = (Instant::now(), 0u64);
    while runs == 0 || started.elapsed().as_secs_f64() < ENOUGH {
        work().await?;
        wait(b).await?;
        runs += 1;
    }
    let seconds = started.elapsed().as_secs_f64() / runs as f64;
    let dispatches = before.zip(b.dispatches()).map(|(before, after)| (after - before) / runs);
    Ok(Cost { seconds, dispatches })
}

/// The products of a model's forward pass over a training batch.
pub fn shapes(c: &ModelConfig) -> Vec<Shape> {
    let m = SEQUENCES * TOKENS;
    let (wide, narrow) = (c.heads_width(), c.kv_width());
    let shape = |what: &str, m, n, k, normed| Shape { what: what.into(), m, n, k, normed };
    vec![
        shape("W_Q", m, wide, c.hidden, true),
        shape("W_K, W_V", m, narrow, c.hidden, true),
        shape("W_O", m, c.hidden, wide, false),
        shape("W_gate, W_up", m, c.intermediate, c.hidden, true),
        shape("W_down", m, c.hidden, c.intermediate, false),
        shape("W_U at answers", SEQUENCES, c.vocab, c.hidden, true),
    ]
}

/// Rates of products with weights in `form`, and of the large one in f32.
///
/// # Errors
/// A device failure.
pub async fn matmuls<B: Backend>(b: &B, form: Form, shapes: &[Shape]) -> crate::engine::Result<(f64, Vec<MatmulRate>)> {
    let large = rate(b, Form::F32, &Shape { what: String::new(), m: LARGE, n: LARGE, k: LARGE, normed: false }).await?;
    let mut rates = Vec::new();
    for shape in shapes {
        let gflops = rate(b, form, shape).await?;
        rates.push(MatmulRate { shape: shape.clone(), gflops, share_of_large: gflops / large });
    }
    Ok((large, rates))
}

/// GFLOP/s of `[m, k] · [n, k]ᵀ`.
async fn rate<B: Backend>(b: &B, form: Form, shape: &Shape) -> crate::engine::Result<f64> {
    let &Shape { m, n, k, normed, .. } = shape;
    let mut x = b.upload(&vec![0.5; m * k], m, k)?;
    if normed {
        x = b.rms_norm(&x, &b.upload(&vec![1.0; k], 1, k)?, 0.0)?.0;
    }
    let mut frozen = b.stored("", form, n, k)?;
    let mut rows = Rows::new(form, k);
    rows.values = vec![0; n * form.value_words(k)];
    rows.scales = vec![0; n * form.scale_words(k)];
    b.fill(&mut frozen, 0, &rows)?;
    let weight = Weight { frozen: &frozen, whole: None, windows: None, rows: n, cols: k };
    let products = async || (0..PRODUCTS).try_for_each(|_| b.product(&x, &weight, true, None, None).map(|_| ()));
    let seconds = cost(b, products).await?.seconds / PRODUCTS as f64;
    Ok(2.0 * (m * n * k) as f64 / seconds / 1e9)
}
