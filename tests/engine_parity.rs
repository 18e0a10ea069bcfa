//! Promise: the GPU engine computes what the CPU engine computes, on sizes that fit no tile.

mod common;

use candle_core::quantized::GgmlDType;
use ctsft_lab::circuit::{Pool, Positions, SlotMap, ablation_metrics, means, relevance};
use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::engine::gpu::{Gpu, Variant};
use ctsft_lab::engine::{
    AdamW, Backend, Batch, Engine, EngineError, GateRule, Head, LossOver, Method, Objective, Place, Prompt, Score,
    Target,
};
use ctsft_lab::progress::Unwatched;
use ctsft_lab::tuning::{KvRule, NormRule, full_slices, head_slices};
use pollster::block_on;
use std::collections::BTreeSet;

/// Prompts of lengths 1, 2, 17 and 33 beside each other, and the shortest that slots allow.
fn prompts(lengths: &[usize]) -> Vec<Prompt> {
    let token = |i: usize, t: usize| ((i * 31 + t * 17 + 5) % 133) as u32;
    let prompt = |(i, n): (usize, &usize)| Prompt { tokens: (0..*n).map(|t| token(i, t)).collect(), label: i % 3 };
    lengths.iter().enumerate().map(prompt).collect()
}

const VERBALIZER: [u32; 3] = [7, 100, 132];

/// Losses, and the gradient of every weight, in the order of the configuration.
fn gradients<B: Backend>(engine: &Engine<B>, batch: &Batch, objective: Objective<'_>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let slices = full_slices(&engine.config);
    let segments = engine.segments(&slices).expect("segments");
    let flat: Vec<B::Tensor> =
        segments.sizes.iter().map(|(size, _)| engine.backend.zeros(1, *size).expect("room")).collect();
    let losses = engine.gradients(batch, objective, &segments, &flat).expect("gradients");
    let flat = block_on(engine.backend.read(&flat.iter().collect::<Vec<_>>())).expect("read");
    let losses = block_on(engine.backend.read(&[&losses])).expect("read").swap_remove(0);
    let own = |place: &Place| flat[place.segment][place.start..place.start + place.slice.len()].to_vec();
    (losses, segments.places.iter().map(own).collect())
}

/// Everything an engine computes on one model, as one list of named numbers.
fn everything<B: Backend>(engine: &Engine<B>) -> Vec<(String, Vec<f32>)> {
    let mut found = Vec::new();
    let batch_of =
        |prompts: &[Prompt]| Batch::new(&prompts.iter().collect::<Vec<_>>(), &engine.config).expect("valid prompts");
    let batch = batch_of(&prompts(&[1, 2, 17, 33, 5]));
    found.push(("vocabulary logits".into(), block_on(engine.vocabulary_logits(&batch)).expect("logits")));
    let answers = block_on(engine.answers(&batch, &VERBALIZER, true)).expect("answers");
    found.push(("label logits".into(), answers.label_logits.concat()));
    found.push(("losses".into(), answers.losses));
    found.push(("residuals".into(), answers.residuals.concat()));
    let slices = full_slices(&engine.config);
    let answer = |over| Objective::Answer { verbalizer: &VERBALIZER, over };
    for objective in [answer(LossOver::Vocab), answer(LossOver::Labels), Objective::NextToken] {
        for (slice, gradient) in slices.iter().zip(gradients(engine, &batch, objective).1) {
            // Softmax does not feel a shift of all scores of a row: this gradient is rounding only.
            if !slice.name.ends_with("k_proj.bias") {
                found.push((format!("{objective:?} gradient of {}", slice.name), gradient));
            }
        }
    }
    let pool_prompts = prompts(&[4, 17, 33, 9, 5, 12]);
    let pool = Pool {
        slots: SlotMap { head: 1, tail: 2 },
        prompts: pool_prompts,
        verbalizer: VERBALIZER.to_vec(),
        positions: Positions::All,
    };
    let mu = block_on(means(engine, &pool, &Unwatched)).expect("means");
    found.push(("means".into(), block_on(engine.read_means(&mu)).expect("read").concat()));
    let targets = BTreeSet::from([Head { layer: 1, head: 5 }, Head { layer: 2, head: 0 }]);
    let direction = ctsft_lab::engine::TargetDirection::Direct;
    for (name, target) in [("output", Target::Output), ("heads", Target::Heads(&targets, direction))] {
        let method = Method::Reverse(GateRule::Tangent);
        let r =
            block_on(relevance(engine, &pool, &mu, method, Score::Projection, target, &Unwatched)).expect("relevance");
        found.push((format!("relevance to {name}"), r.per_example.concat().iter().map(|x| *x as f32).collect()));
    }
    let kept = block_on(ablation_metrics(engine, &pool, &mu, &targets, &Unwatched)).expect("ablation");
    found.push(("ablated logit difference".into(), vec![kept.logit_difference as f32]));

    let heads = BTreeSet::from([Head { layer: 0, head: 1 }, Head { layer: 2, head: 3 }, Head { layer: 2, head: 4 }]);
    let masked = head_slices(&engine.config, &heads, KvRule::Any, NormRule::All);
    let optimiser = AdamW { eps: 1e-3, weight_decay: 0.1, ..AdamW::default() };
    let mut training = engine.train(&masked).expect("masters");
    let mut losses = Vec::new();
    for lengths in [[1, 17, 3], [33, 2, 8], [5, 5, 5]] {
        let loss = engine
            .train_step(&batch_of(&prompts(&lengths)), answer(LossOver::Vocab), &optimiser, 0.01, &mut training)
            .expect("a step");
        losses.extend(block_on(engine.backend.read(&[&loss])).expect("read").swap_remove(0));
    }
    found.push(("training losses".into(), losses));
    for slice in full_slices(&engine.config) {
        found.push((format!("trained {}", slice.name), block_on(engine.read_parameter(&slice.name)).expect("read")));
    }
    found
}

/// What the CPU engine makes of `reference` and the GPU engine of `own`, which hold the same weights.
fn compare(reference: common::Files, own: common::Files, gpu: Gpu, what: &str) {
    let open = |files| common::open(files).expect("the made-up model opens");
    let expected = everything(&Engine::load(Cpu, &mut open(reference), |_, _| {}).expect("loads"));
    let found = everything(&Engine::load(gpu, &mut open(own), |_, _| {}).expect("loads"));
    agree(&expected, &found, what);
}

fn agree(expected: &[(String, Vec<f32>)], found: &[(String, Vec<f32>)], what: &str) {
    assert_eq!(expected.len(), found.len());
    for ((name, expected), (_, found)) in expected.iter().zip(found) {
        assert_eq!(expected.len(), found.len(), "{what}: {name}");
        let scale = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let worst = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
        assert!(worst <= 1e-4 * scale + 1e-6, "{what}: {name}: error {worst} of {scale}");
    }
}

/// The GPU, computing products in one way, or with small buffers only.
fn gpu(variant: Option<Variant>, largest: Option<u64>) -> Gpu {
    block_on(Gpu::open_with(variant, largest)).expect("it has just been opened")
}

const TIED_LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"hidden_size":10,"num_hidden_layers":3,
    "num_attention_heads":7,"num_key_value_heads":1,"head_dim":2,"intermediate_size":3,"vocab_size":2051,
    "rms_norm_eps":1e-5,"tie_word_embeddings":true}"#;

/// Sizes that every packed form's blocks divide, but no tile.
const BLOCKS: &str = r#"{"architectures":["Qwen2ForCausalLM"],"hidden_size":256,"num_hidden_layers":3,
    "num_attention_heads":8,"num_key_value_heads":2,"head_dim":32,"intermediate_size":768,"vocab_size":133,
    "rms_norm_eps":1e-6,"tie_word_embeddings":true}"#;

#[test]
fn models_of_odd_sizes_in_every_variant_of_the_product() {
    if common::gpu().is_none() {
        return;
    }
    for config in [common::ODD_QWEN2, TIED_LLAMA] {
        let files = common::model_files(config, 11);
        for variant in Variant::ALL {
            compare(files.clone(), files.clone(), gpu(Some(variant), None), &format!("{variant:?}"));
        }
    }
}

#[test]
fn a_device_with_small_buffers_only() {
    if common::gpu().is_none() {
        return;
    }
    // Padded to fours, the embedding's rows do not fit a buffer; all weights' gradients need several.
    let config = common::ODD_QWEN2.replace(r#""hidden_size":36"#, r#""hidden_size":141"#);
    let files = common::model_files(&config, 11);
    compare(files.clone(), files, gpu(None, Some(296 << 8)), "small buffers");
}

#[test]
fn every_stored_form_against_its_widened_weights() {
    if common::gpu().is_none() {
        return;
    }
    use GgmlDType::{BF16, F16, Q4_0, Q4_1, Q4K, Q5_1, Q8_0};
    let all = [BF16, F16, Q8_0, Q5_1, Q4_0, Q4_1, Q4K];
    for (dtype, variant) in all.into_iter().zip(Variant::ALL.into_iter().cycle()) {
        let (bytes, widened) = common::gguf(BLOCKS, dtype);
        let shapes = common::made_up_weights(&common::config(BLOCKS), 8);
        let weights = shapes.into_iter().map(|(name, (shape, _))| (name.clone(), (shape, widened[&name].clone())));
        let reference = vec![
            ("config.json".into(), BLOCKS.replace("1e-6", "1e-5").into_bytes()),
            ("model.safetensors".into(), common::safetensors_bytes(&weights.collect(), safetensors::Dtype::F32)),
        ];
        let what = format!("{dtype:?}, {variant:?}");
        compare(reference, vec![("model.gguf".into(), bytes)], gpu(Some(variant), None), &what);
    }
}

#[test]
fn layers_computed_again_give_the_same() {
    let files = common::model_files(common::ODD_QWEN2, 11);
    let engine = || Engine::load(Cpu, &mut common::open(files.clone()).expect("opens"), |_, _| {}).expect("loads");
    let expected = everything(&engine());
    // Inputs only, some layers, all.
    for bytes in [0, 500_000, 1 << 30] {
        let lean = engine();
        lean.limit_memory(bytes);
        assert_eq!(everything(&lean), expected, "{bytes} bytes");
    }
}

#[test]
fn the_next_token_objective_is_the_answer_objective_on_every_prefix() {
    let mut checkpoint = common::open(common::model_files(common::ODD_QWEN2, 11)).expect("the made-up model opens");
    let engine = Engine::load(Cpu, &mut checkpoint, |_, _| {}).expect("loads");
    let texts = prompts(&[1, 2, 17, 5]);
    // Every prefix with the token that follows it as its answer, over the whole vocabulary.
    let prefixes: Vec<Prompt> = texts
        .iter()
        .flat_map(|p| {
            (1..p.tokens.len()).map(|n| Prompt { tokens: p.tokens[..n].to_vec(), label: p.tokens[n] as usize })
        })
        .collect();
    let vocabulary: Vec<u32> = (0..engine.config.vocab as u32).collect();
    let slices = full_slices(&engine.config);
    let batch =
        |prompts: &[Prompt]| Batch::new(&prompts.iter().collect::<Vec<_>>(), &engine.config).expect("valid prompts");
    let answer = Objective::Answer { verbalizer: &vocabulary, over: LossOver::Vocab };
    let (expected_losses, expected) = gradients(&engine, &batch(&prefixes), answer);
    let (losses, found) = gradients(&engine, &batch(&texts), Objective::NextToken);
    let worst = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max)
    };
    assert!(worst(&expected_losses, &losses) < 1e-5);
    for ((slice, expected), found) in slices.iter().zip(&expected).zip(&found) {
        let scale = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        assert!(worst(expected, found) <= 1e-4 * scale + 1e-6, "{}", slice.name);
    }
    let lonely = Batch::new(&[&texts[0]], &engine.config).expect("valid prompts");
    let segments = engine.segments(&slices).expect("segments");
    let refused = engine.gradients(&lonely, Objective::NextToken, &segments, &[]).map(|_| ());
    assert!(matches!(refused, Err(EngineError::NothingToPredict)));
}
