//! Whether a device computes what the CPU computes. Some browsers give wrong numbers without an error, so none is trusted
//! before it has shown every kind of kernel on sizes that fit no tile.

use crate::circuit::{self, Pool, Positions, SlotMap};
use crate::engine::cpu::Cpu;
use crate::engine::{
    AdamW, Attended, Backend, Batch, Engine, EngineError, GateRule, Head, LossOver, Method, Objective, PackedLayout,
    Place, Prompt, Result, Score, Target, TargetDirection, UpdateRule, Weight,
};
use crate::model::{Checkpoint, Form, ModelConfig, ModelFile, Rows, to_safetensors};
use crate::progress::Unwatched;
use crate::tuning::{KvRule, NormRule, full_slices, head_slices};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Cursor;

/// A Qwen2 with odd sizes everywhere: 3 layers of 6 heads of size 10 over 3 key/value heads, untied.
pub const MODEL: &str = r#"{"architectures":["Qwen2ForCausalLM"],"hidden_size":36,"num_hidden_layers":3,
    "num_attention_heads":6,"num_key_value_heads":3,"head_dim":10,"intermediate_size":53,"vocab_size":133,
    "rms_norm_eps":1e-6,"rope_theta":10000.0,"tie_word_embeddings":false,"hidden_act":"silu","max_position_embeddings":128}"#;

/// A made-up model of these sizes, its weights in bf16.
fn made_up() -> Result<Checkpoint> {
    let config = ModelConfig::from_hugging_face(MODEL)?;
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let weights = config.parameters().into_iter().map(|p| {
        let centre = if p.name.contains("norm") { 1.0 } else { 0.0 };
        let data = (0..p.rows * p.cols).map(|_| centre + rng.random_range(-0.3..0.3)).collect();
        (p.name, data)
    });
    let weights = to_safetensors(&config, &weights.collect())?;
    let file = |name: &str, bytes| ModelFile { name: name.into(), bytes: Box::new(Cursor::new(bytes)) };
    Ok(Checkpoint::open(vec![file("config.json", MODEL.into()), file("model.safetensors", weights)])?)
}

/// Made-up rows of a form.
fn made_up_rows(form: Form, rows: usize, columns: usize) -> Rows {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut made = Rows::new(form, columns);
    let small = |rng: &mut ChaCha8Rng| rng.random_range(-1.0_f32..1.0);
    let halves = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    for _ in 0..rows * form.value_words(columns) {
        made.values.push(match form {
            Form::F32 => small(&mut rng).to_bits(),
            Form::F16 => halves(f16::from_f32(small(&mut rng)).to_bits(), f16::from_f32(small(&mut rng)).to_bits()),
            Form::Bf16 => halves(bf16::from_f32(small(&mut rng)).to_bits(), bf16::from_f32(small(&mut rng)).to_bits()),
            _ => rng.random(),
        });
    }
    for i in 0..rows * form.scale_words(columns) {
        let scale = small(&mut rng) / 100.0;
        let pair = halves(f16::from_f32(scale).to_bits(), f16::from_f32(small(&mut rng) / 10.0).to_bits());
        made.scales.push(match form {
            Form::Q8Offset => scale.to_bits(),
            // Of five words one has the scales, four the factors.
            Form::Q4K if i % 5 > 0 => rng.random::<u32>() & 0x3f3f_3f3f,
            _ => pair,
        });
    }
    made
}

/// Products with made-up weights of every form, and their rows.
async fn products<B: Backend>(backend: &B) -> Result<Vec<(String, Vec<f32>)>> {
    // Few outputs of a long k, which hardware splits.
    let (m, n, k) = (19, 37, 768);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut tensor = |rows: usize, cols: usize| {
        let data: Vec<f32> = (0..rows * cols).map(|_| rng.random_range(-1.0..1.0)).collect();
        backend.upload(&data, rows, cols)
    };
    let (x, dy) = (tensor(m, k)?, tensor(m, n)?);
    let ids = backend.ids(crate::engine::PackedIds::new(vec![5, 0, 36]))?;
    let mut found = Vec::new();
    for form in Form::ALL {
        let mut frozen = backend.stored("made up", form, n, k)?;
        backend.fill(&mut frozen, 0, &made_up_rows(form, n, k))?;
        let weight = Weight { frozen: &frozen, whole: None, windows: None, rows: n, cols: k };
        let forward = backend.product(&x, &weight, true, None, None)?;
        let backward = backend.product(&dy, &weight, false, None, None)?;
        let rows = backend.weight_rows(&weight, &ids, 3..k)?;
        let what = ["product", "backward product", "rows"];
        for (what, numbers) in what.into_iter().zip(backend.read(&[&forward, &backward, &rows]).await?) {
            found.push((format!("{what} of {form:?} weights"), numbers));
        }
    }
    Ok(found)
}

/// An attention of heads of `head_dim` columns, which its kernels are made for, and its gradients.
async fn attention<B: Backend>(backend: &B, head_dim: usize) -> Result<Vec<(String, Vec<f32>)>> {
    let (heads, kv_heads) = (6, 2);
    let layout = PackedLayout { prefix: 3, starts: vec![3, 14, 15, 34] };
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut tensor = |rows: usize, heads: usize| {
        let data: Vec<f32> = (0..rows * heads * head_dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        backend.upload(&data, rows, heads * head_dim)
    };
    let mut found = Vec::new();
    for (queries, attention) in [("all", layout.attention()), ("the answers", layout.answers_attention())] {
        let (q, dz) = (tensor(attention.queries.len(), heads)?, tensor(attention.queries.len(), heads)?);
        let (k, v) = (tensor(layout.tokens(), kv_heads)?, tensor(layout.tokens(), kv_heads)?);
        let attention = backend.attention(attention)?;
        let (z, sums) = backend.attend(&q, &k, &v, head_dim, &attention)?;
        let at = Attended { q: &q, k: &k, v: &v, z: &z, sums: &sums };
        let (dq, dk, dv) = backend.attend_backward(&dz, &at, head_dim, &attention)?;
        let what = ["attention", "gradient to the queries", "gradient to the keys", "gradient to the values"];
        for (what, numbers) in what.into_iter().zip(backend.read(&[&z, &dq, &dk, &dv]).await?) {
            found.push((format!("{what} of {queries}"), numbers));
        }
    }
    Ok(found)
}

/// Prompts of these lengths that begin with the same two tokens.
pub fn prompts(lengths: &[usize]) -> Vec<Prompt> {
    let token = |i: usize, t: usize| ((if t < 2 { 0 } else { i } * 31 + t * 17 + 5) % 133) as u32;
    let prompt = |(i, n): (usize, &usize)| Prompt { tokens: (0..*n).map(|t| token(i, t)).collect(), label: i % 3 };
    lengths.iter().enumerate().map(prompt).collect()
}

/// Answer tokens of the prompts' labels.
pub const VERBALIZER: [u32; 3] = [7, 100, 132];

/// Losses, and the gradient of every weight, in the order of the configuration.
pub async fn gradients<B: Backend>(
    engine: &Engine<B>,
    batch: &Batch,
    objective: Objective<'_>,
) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
    let slices = full_slices(&engine.config);
    let segments = engine.segments(&slices)?;
    let flat = engine.flat(&segments)?;
    let losses = engine.gradients(batch, objective, &segments, &flat)?;
    let flat = engine.backend.read(&flat.iter().collect::<Vec<_>>()).await?;
    let losses = engine.backend.read(&[&losses]).await?.swap_remove(0);
    let own = |place: &Place| flat[place.segment][place.start..place.start + place.slice.len()].to_vec();
    Ok((losses, segments.places.iter().map(own).collect()))
}

/// Everything an engine computes on a model of three layers of six heads or more and 133 words or more: a list of named
/// numbers. It leaves trained masters over the weights.
///
/// # Errors
/// A device failure.
pub async fn everything<B: Backend>(engine: &Engine<B>) -> Result<Vec<(String, Vec<f32>)>> {
    let mut found = Vec::new();
    let batch_of = |prompts: &[Prompt]| Batch::new(&prompts.iter().collect::<Vec<_>>(), &engine.config);
    let batch = batch_of(&prompts(&[1, 2, 17, 33, 5]))?;
    found.push(("vocabulary logits".into(), engine.vocabulary_logits(&batch).await?));
    let answers = engine.answers(&batch, &VERBALIZER, true).await?;
    found.push(("label logits".into(), answers.label_logits.concat()));
    found.push(("losses".into(), answers.losses));
    found.push(("residuals".into(), answers.residuals.concat()));
    let slices = full_slices(&engine.config);
    let answer = |over| Objective::Answer { verbalizer: &VERBALIZER, over };
    for objective in [answer(LossOver::Vocab), answer(LossOver::Labels), Objective::NextToken] {
        for (slice, gradient) in slices.iter().zip(gradients(engine, &batch, objective).await?.1) {
            // Softmax does not feel a shift of all scores of a row: this gradient is rounding only.
            if !slice.name.ends_with("k_proj.bias") {
                found.push((format!("{objective:?} gradient of {}", slice.name), gradient));
            }
        }
    }
    let pool_prompts = prompts(&[4, 17, 33, 9, 5, 12]);
    let pool = Pool {
        slots: SlotMap { head: 2, tail: 2 },
        prompts: pool_prompts,
        verbalizer: VERBALIZER.to_vec(),
        positions: Positions::All,
    };
    let mu = circuit::means(engine, &pool, &Unwatched).await?;
    found.push(("means".into(), engine.read_means(&mu).await?.concat()));
    let targets = BTreeSet::from([Head { layer: 1, head: 5 }, Head { layer: 2, head: 0 }]);
    let direction = TargetDirection::Direct;
    for (name, target) in [("output", Target::Output), ("heads", Target::Heads(&targets, direction))] {
        let method = Method::Reverse(GateRule::Tangent);
        let r = circuit::relevance(engine, &pool, &mu, method, Score::Projection, target, &Unwatched).await?;
        found.push((format!("relevance to {name}"), r.per_example.concat().iter().map(|x| *x as f32).collect()));
    }
    let kept = circuit::ablation_metrics(engine, &pool, &mu, &targets, &Unwatched).await?;
    found.push(("ablated logit difference".into(), vec![kept.logit_difference as f32]));

    let optimiser = AdamW { eps: 1e-3, weight_decay: 0.1, ..AdamW::default() };
    let before = engine.snapshot();
    let mut lean = engine.train(&full_slices(&engine.config), UpdateRule::Adafactor)?;
    let mut losses = Vec::new();
    for lengths in [[9, 4, 3], [5, 2, 8], [5, 5, 5]] {
        let batch = batch_of(&prompts(&lengths))?;
        // Small steps: its updates do not shrink with the gradients, rounding included.
        let loss = engine.train_step(&batch, answer(LossOver::Vocab), &optimiser, 0.0005, &mut lean)?;
        losses.extend(engine.backend.read(&[&loss]).await?.swap_remove(0));
    }
    found.push(("Adafactor's losses".into(), losses));
    engine.restore(&before);

    let heads = BTreeSet::from([Head { layer: 0, head: 1 }, Head { layer: 2, head: 3 }, Head { layer: 2, head: 4 }]);
    let masked = head_slices(&engine.config, &heads, KvRule::Any, NormRule::All);
    let mut training = engine.train(&masked, UpdateRule::AdamW)?;
    let mut losses = Vec::new();
    for lengths in [[1, 17, 3], [33, 2, 8], [5, 5, 5]] {
        let batch = batch_of(&prompts(&lengths))?;
        // Small steps here too: AdamW makes a weight's rounding as large as its step.
        let loss = engine.train_step(&batch, answer(LossOver::Vocab), &optimiser, 0.003, &mut training)?;
        losses.extend(engine.backend.read(&[&loss]).await?.swap_remove(0));
    }
    found.push(("training losses".into(), losses));
    for slice in full_slices(&engine.config) {
        found.push((format!("trained {}", slice.name), engine.read_parameter(&slice.name).await?));
    }
    Ok(found)
}

/// The first quantity that is further off than rounding explains, and by what share of its scale.
pub fn difference(expected: &[(String, Vec<f32>)], found: &[(String, Vec<f32>)]) -> Option<(String, f32)> {
    expected.iter().zip(found).find_map(|((name, expected), (_, found))| {
        let scale = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        // No number is as far off as can be.
        let error = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
        let worst = expected.iter().zip(found).map(error).fold(0.0, f32::max);
        let wrong = expected.len() != found.len() || worst > 1e-4 * scale + 1e-6;
        wrong.then(|| (name.clone(), worst / scale))
    })
}

/// Gives the backend back if it computes what the CPU computes, for models whose heads have `head_dim` columns.
///
/// # Errors
/// [`EngineError::Distrusted`] with the first quantity that is wrong, or a device failure.
pub async fn trust<B: Backend>(backend: B, head_dim: usize) -> Result<B> {
    let device = backend.device();
    let judge = |expected: &[_], found: &[_]| match difference(expected, found) {
        Some((what, error)) => Err(EngineError::Distrusted { device: device.clone(), what, error }),
        None => Ok(()),
    };
    judge(&products(&Cpu).await?, &products(&backend).await?)?;
    judge(&attention(&Cpu, head_dim).await?, &attention(&backend, head_dim).await?)?;
    let expected = everything(&Engine::load(Cpu, &mut made_up()?, |_, _| {})?).await?;
    let engine = Engine::load(backend, &mut made_up()?, |_, _| {})?;
    judge(&expected, &everything(&engine).await?)?;
    Ok(engine.backend)
}

/// Steps that [`follow`] trains.
const STEPS: usize = 50;

/// How a device's training went beside the CPU's.
#[derive(Debug, Clone, Serialize)]
pub struct Followed {
    pub device: String,
    pub steps: usize,
    /// Losses compared.
    pub losses: usize,
    /// Mean loss of the CPU's first and last step.
    pub first: f32,
    pub last: f32,
    pub largest_relative_error: f32,
}

/// Trains a circuit of the made-up model on a backend and on the CPU, and compares every loss.
///
/// # Errors
/// A device failure; differences are in what is returned.
pub async fn follow<B: Backend>(backend: B) -> Result<Followed> {
    let device = backend.device();
    let expected = trajectory(Cpu).await?;
    let found = trajectory(backend).await?;
    let error = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() / a.abs() };
    let batch = expected.len() / STEPS;
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    Ok(Followed {
        device,
        steps: STEPS,
        losses: found.len(),
        first: mean(&expected[..batch]),
        last: mean(&expected[expected.len() - batch..]),
        largest_relative_error: expected.iter().zip(&found).map(error).fold(0.0, f32::max),
    })
}

/// Losses over changing batches, with masters over stored bf16.
async fn trajectory<B: Backend>(backend: B) -> Result<Vec<f32>> {
    let engine = Engine::load(backend, &mut made_up()?, |_, _| {})?;
    let heads = BTreeSet::from([Head { layer: 0, head: 1 }, Head { layer: 2, head: 3 }, Head { layer: 2, head: 4 }]);
    let slices = head_slices(&engine.config, &heads, KvRule::Any, NormRule::All);
    let mut training = engine.train(&slices, UpdateRule::AdamW)?;
    let objective = Objective::Answer { verbalizer: &VERBALIZER, over: LossOver::Vocab };
    let mut losses = Vec::new();
    for i in 0..STEPS {
        let prompts = prompts(&[3 + i % 7, 17 - i % 5, 9, 1 + i % 3]);
        let batch = Batch::new(&prompts.iter().collect::<Vec<_>>(), &engine.config)?;
        let loss = engine.train_step(&batch, objective, &AdamW::default(), 1e-3, &mut training)?;
        losses.extend(engine.backend.read(&[&loss]).await?.swap_remove(0));
    }
    Ok(losses)
}
