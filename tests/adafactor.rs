//! Promise: full fine-tuning by Adafactor does what the paper's formula says, learns as AdamW does, and takes a fraction
//! of its memory.

mod common;

use ctsft_lab::engine::cpu::{Cpu, CpuEngine};
use ctsft_lab::engine::{AdamW, Backend, Batch, Engine, LossOver, Objective, UpdateRule};
use ctsft_lab::experiment::self_test::{VERBALIZER, gradients, prompts};
use ctsft_lab::tuning::full_slices;
use pollster::block_on;

const ANSWER: Objective<'_> = Objective::Answer { verbalizer: &VERBALIZER, over: LossOver::Vocab };

/// Tied, and with more words than are updated at once.
const MANY_WORDS: &str = r#"{"architectures":["Qwen2ForCausalLM"],"hidden_size":12,"num_hidden_layers":2,
    "num_attention_heads":3,"num_key_value_heads":1,"head_dim":4,"intermediate_size":17,"vocab_size":5003,
    "rms_norm_eps":1e-6,"tie_word_embeddings":true}"#;

fn load(config: &str) -> CpuEngine {
    let mut checkpoint = common::open(common::model_files(config, 11)).expect("the made-up model opens");
    Engine::load(Cpu, &mut checkpoint, |_, _| {}).expect("loads")
}

fn batch<B: Backend>(engine: &Engine<B>, lengths: &[usize]) -> Batch {
    Batch::new(&prompts(lengths).iter().collect::<Vec<_>>(), &engine.config).expect("valid prompts")
}

/// The first update of a matrix, in f64: second moments are this gradient's own.
fn first_update(weights: &[f32], gradient: &[f32], cols: usize, rate: f64, decay: f64, eps: f64) -> Vec<f64> {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let rows: Vec<f64> =
        gradient.chunks(cols).map(|r| r.iter().map(|x| square(*x)).sum::<f64>() / cols as f64).collect();
    let columns: Vec<f64> =
        (0..cols).map(|c| gradient.chunks(cols).map(|r| square(r[c])).sum::<f64>() / rows.len() as f64).collect();
    let mean = rows.iter().sum::<f64>() / rows.len() as f64;
    let scaled = |(i, g): (usize, &f32)| {
        let v = if mean > 0.0 { rows[i / cols] * columns[i % cols] / mean } else { 0.0 };
        f64::from(*g) / (v.sqrt() + eps)
    };
    let u: Vec<f64> = gradient.iter().enumerate().map(scaled).collect();
    let norm = (u.iter().map(|u| u * u).sum::<f64>() / u.len() as f64).sqrt();
    let clip = if norm > 1.0 { 1.0 / norm } else { 1.0 };
    weights.iter().zip(&u).map(|(w, u)| f64::from(*w) - rate * (clip * u + decay * f64::from(*w))).collect()
}

#[test]
fn a_step_is_the_formula_s() {
    let optimiser = AdamW { eps: 1e-6, weight_decay: 0.1, ..AdamW::default() };
    for config in [common::ODD_QWEN2, MANY_WORDS] {
        let engine = load(config);
        let batch = batch(&engine, &[3, 9, 5, 7]);
        let slices = full_slices(&engine.config);
        let (_, gradient) = block_on(gradients(&engine, &batch, ANSWER)).expect("gradients");
        let read = |name: &str| block_on(engine.read_parameter(name)).expect("reads");
        let before: Vec<Vec<f32>> = slices.iter().map(|s| read(&s.name)).collect();
        let mut training = engine.train(&slices, UpdateRule::Adafactor).expect("masters");
        engine.train_step(&batch, ANSWER, &optimiser, 0.01, &mut training).expect("a step");
        for ((slice, gradient), before) in slices.iter().zip(&gradient).zip(&before) {
            if slice.name.ends_with("k_proj.bias") {
                continue; // Its gradient is rounding only.
            }
            let cols = slice.cols.len();
            let decay = if slice.vector { 0.0 } else { 0.1 };
            let found = read(&slice.name);
            // An embedding is updated in parts of 4096 rows, each a matrix of its own.
            let part = 4096 * cols;
            for ((found, gradient), before) in found.chunks(part).zip(gradient.chunks(part)).zip(before.chunks(part)) {
                let expected = first_update(before, gradient, cols, 0.01, decay, 1e-6);
                let worst = expected.iter().zip(found).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0_f64, f64::max);
                assert!(worst < 1e-5, "{}: off by {worst}", slice.name);
            }
        }
    }
}

#[test]
fn it_learns_as_adamw_does() {
    let last = |rule: UpdateRule, rate: f64| {
        let engine = load(common::ODD_QWEN2);
        let mut training = engine.train(&full_slices(&engine.config), rule).expect("masters");
        let mut losses = Vec::new();
        for i in 0..40 {
            let batch = batch(&engine, &[3 + i % 4, 9 - i % 3, 5, 7]);
            let loss = engine.train_step(&batch, ANSWER, &AdamW::default(), rate, &mut training).expect("a step");
            let loss = block_on(engine.backend.read(&[&loss])).expect("losses").swap_remove(0);
            losses.push(loss.iter().sum::<f32>() / 4.0);
        }
        (losses[0], losses[30..].iter().sum::<f32>() / 10.0)
    };
    let (start, adamw) = last(UpdateRule::AdamW, 1e-3);
    let (same, adafactor) = last(UpdateRule::Adafactor, 1e-3);
    println!("from {start} to {adamw} by AdamW, to {adafactor} by Adafactor");
    assert_eq!(start, same);
    assert!(adamw < 0.5 * start && adafactor < 0.5 * start, "{start}: {adamw} and {adafactor}");
}

#[test]
fn it_takes_a_fraction_of_the_memory() {
    let peak = |rule: UpdateRule| {
        let gpu = common::gpu()?;
        let wide = common::ODD_QWEN2.replace(r#""intermediate_size":53"#, r#""intermediate_size":4096"#);
        let mut checkpoint = common::open(common::model_files(&wide, 11)).expect("the made-up model opens");
        let engine = Engine::load(gpu, &mut checkpoint, |_, _| {}).expect("loads");
        let loaded = engine.backend.peak_bytes().expect("a GPU counts");
        let mut training = engine.train(&full_slices(&engine.config), rule).expect("masters");
        let batch = batch(&engine, &[3, 2]);
        let loss = engine.train_step(&batch, ANSWER, &AdamW::default(), 1e-3, &mut training).expect("a step");
        block_on(engine.backend.read(&[&loss])).expect("losses");
        Some(engine.backend.peak_bytes().expect("a GPU counts") - loaded)
    };
    let (Some(adamw), Some(adafactor)) = (peak(UpdateRule::AdamW), peak(UpdateRule::Adafactor)) else { return };
    println!("{adamw} bytes by AdamW, {adafactor} by Adafactor");
    assert!(2 * adafactor < adamw, "{adamw} bytes by AdamW, {adafactor} by Adafactor");
}
