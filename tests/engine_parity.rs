//! Promise: the GPU engine computes what the CPU engine computes, on sizes that fit no tile.

mod common;

use ctsft_lab::circuit::{Pool, Positions, SlotMap, ablation_metrics, means, relevance};
use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::engine::{
    AdamW, Backend, Batch, Engine, EngineError, GateRule, Head, LossOver, Method, Objective, Prompt, Score, Target,
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
        let (_, gradients) = engine.gradients(&batch, objective, &slices).expect("gradients");
        for (slice, gradient) in slices.iter().zip(&gradients) {
            // Softmax does not feel a shift of all scores of a row: this gradient is rounding only.
            if !slice.name.ends_with("k_proj.bias") {
                let values = block_on(engine.backend.read(&[gradient])).expect("read").swap_remove(0);
                found.push((format!("{objective:?} gradient of {}", slice.name), values));
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
    let mut moments = engine.moments(masked).expect("moments");
    let mut losses = Vec::new();
    for lengths in [[1, 17, 3], [33, 2, 8], [5, 5, 5]] {
        let loss = engine
            .train_step(&batch_of(&prompts(&lengths)), answer(LossOver::Vocab), &optimiser, 0.01, &mut moments)
            .expect("a step");
        losses.extend(block_on(engine.backend.read(&[&loss])).expect("read").swap_remove(0));
    }
    found.push(("training losses".into(), losses));
    for slice in full_slices(&engine.config) {
        found.push((format!("trained {}", slice.name), block_on(engine.read_parameter(&slice.name)).expect("read")));
    }
    found
}

fn compare(config: &str) {
    let Some(gpu) = common::gpu() else { return };
    let load = || common::open(common::model_files(config, 11)).expect("the made-up model opens");
    let expected = everything(&Engine::load(Cpu, &mut load(), |_, _| {}).expect("loads"));
    let found = everything(&Engine::load(gpu, &mut load(), |_, _| {}).expect("loads"));
    assert_eq!(expected.len(), found.len());
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        assert_eq!(expected.len(), found.len(), "{name}");
        let scale = expected.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let worst = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
        assert!(worst <= 1e-4 * scale + 1e-6, "{name}: error {worst} of {scale}");
    }
}

#[test]
fn a_qwen2_of_odd_sizes() {
    compare(common::ODD_QWEN2);
}

#[test]
fn a_tied_llama_of_one_layer_and_one_head() {
    compare(
        r#"{"architectures":["LlamaForCausalLM"],"hidden_size":10,"num_hidden_layers":3,"num_attention_heads":7,
        "num_key_value_heads":1,"head_dim":2,"intermediate_size":3,"vocab_size":2051,"rms_norm_eps":1e-5,
        "tie_word_embeddings":true}"#,
    );
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
    let gradients = |prompts: &[Prompt], objective| {
        let batch = Batch::new(&prompts.iter().collect::<Vec<_>>(), &engine.config).expect("valid prompts");
        let (losses, gradients) = engine.gradients(&batch, objective, &slices).expect("gradients");
        let read = |t| block_on(engine.backend.read(&[t])).expect("read").swap_remove(0);
        (read(&losses), gradients.iter().map(read).collect::<Vec<_>>())
    };
    let answer = Objective::Answer { verbalizer: &vocabulary, over: LossOver::Vocab };
    let (expected_losses, expected) = gradients(&prefixes, answer);
    let (losses, found) = gradients(&texts, Objective::NextToken);
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
    let refused = engine.gradients(&lonely, Objective::NextToken, &slices).map(|_| ());
    assert!(matches!(refused, Err(EngineError::NothingToPredict)));
}
