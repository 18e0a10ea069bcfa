//! Promise: the GPU engine computes what the CPU engine computes, on sizes that fit no tile.

mod common;

use candle_core::quantized::GgmlDType;
use ctsft_lab::circuit::{self, Pool, Positions, SlotMap};
use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::engine::gpu::{Gpu, Variant, chosen, recall};
use ctsft_lab::engine::{Backend, Batch, Engine, EngineError, GateRule, LossOver, Objective, Prompt, Target};
use ctsft_lab::experiment::self_test::{VERBALIZER, difference, everything, follow, gradients, prompts, trust};
use ctsft_lab::progress::Unwatched;
use ctsft_lab::tuning::full_slices;
use pollster::block_on;

/// What the CPU engine makes of `reference` and the GPU engine of `own`, which hold the same weights.
fn compare(reference: common::Files, own: common::Files, gpu: Gpu, what: &str) {
    let open = |files| common::open(files).expect("the made-up model opens");
    let expected = all_of(&Engine::load(Cpu, &mut open(reference), |_, _| {}).expect("loads"));
    let found = all_of(&Engine::load(gpu, &mut open(own), |_, _| {}).expect("loads"));
    assert_eq!(expected.len(), found.len(), "{what}");
    assert_eq!(difference(&expected, &found), None, "{what}");
}

fn all_of<B: Backend>(engine: &Engine<B>) -> Vec<(String, Vec<f32>)> {
    block_on(everything(engine)).expect("no failure")
}

/// The ways to compute products that the GPU here offers.
fn variants() -> Vec<Variant> {
    gpu(None, None).variants().collect()
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
        for variant in variants() {
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
    for (dtype, variant) in all.into_iter().zip(variants().into_iter().cycle()) {
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
fn a_device_is_trusted_for_what_it_computes_in_every_form_by_every_variant() {
    if common::gpu().is_none() {
        return;
    }
    for variant in variants() {
        block_on(trust(gpu(Some(variant), None), 64)).unwrap_or_else(|error| panic!("{variant:?}: {error}"));
    }
}

#[test]
fn the_fastest_variant_is_tried_for_once_and_remembered() {
    if common::gpu().is_none() {
        return;
    }
    let tried = gpu(None, None);
    block_on(tried.try_variants(64, 64)).expect("products");
    let found = chosen();
    assert_eq!(found.values().collect::<Vec<_>>(), [&tried.variant()]);
    // As the page does when it is opened again, with a choice that is not this device's.
    let other = tried.variants().find(|variant| *variant != tried.variant()).expect("another variant");
    recall(found.into_keys().map(|trial| (trial, other)).collect());
    let again = gpu(None, None);
    block_on(again.try_variants(64, 64)).expect("nothing to compute");
    assert_eq!((again.variant(), again.dispatches()), (other, Some(0)));
}

#[test]
fn a_wrong_number_is_found_and_named() {
    let files = common::model_files(common::ODD_QWEN2, 11);
    let engine = || Engine::load(Cpu, &mut common::open(files.clone()).expect("opens"), |_, _| {}).expect("loads");
    let expected = all_of(&engine());
    let tampered = engine();
    let name = "model.layers.2.mlp.up_proj.weight";
    let mut weight = block_on(tampered.read_parameter(name)).expect("read");
    weight[100] += 0.05;
    tampered.write_parameter(name, &weight).expect("written");
    let (what, error) = difference(&expected, &all_of(&tampered)).expect("noticed");
    assert_eq!(what, "vocabulary logits");
    assert!(error > 1e-4);
    let mut missing = expected.clone();
    missing[3].1[0] = f32::NAN;
    assert_eq!(difference(&expected, &missing).expect("noticed").0, "residuals");
}

#[test]
fn fifty_steps_follow_the_cpu() {
    let Some(gpu) = common::gpu() else { return };
    let followed = block_on(follow(gpu)).expect("both train");
    assert_eq!(followed.losses, 200);
    assert!(followed.first > 2.0 * followed.last, "it learns: {followed:?}");
    assert!(followed.largest_relative_error <= 1e-3, "{followed:?}");
}

#[test]
fn layers_computed_again_give_the_same() {
    let files = common::model_files(common::ODD_QWEN2, 11);
    let engine = || Engine::load(Cpu, &mut common::open(files.clone()).expect("opens"), |_, _| {}).expect("loads");
    let expected = all_of(&engine());
    // Inputs only, some layers, all.
    for bytes in [0, 500_000, 1 << 30] {
        let lean = engine();
        lean.limit_memory(bytes);
        assert_eq!(all_of(&lean), expected, "{bytes} bytes");
    }
}

#[test]
fn long_prompts_compute_the_same_and_keep_no_patterns() {
    if common::gpu().is_none() {
        return;
    }
    let config = common::ODD_QWEN2.replace(r#""max_position_embeddings":128"#, r#""max_position_embeddings":2048"#);
    let prompts = prompts(&[1201, 400]);
    let losses_and_gradients = |gpu: Option<Gpu>| {
        let mut checkpoint = common::open(common::model_files(&config, 11)).expect("the made-up model opens");
        let objective = Objective::Answer { verbalizer: &VERBALIZER, over: LossOver::Vocab };
        let batch = Batch::new(&prompts.iter().collect::<Vec<_>>(), &checkpoint.config).expect("valid prompts");
        let (computed, peak) = match gpu {
            None => {
                let engine = Engine::load(Cpu, &mut checkpoint, |_, _| {}).expect("loads");
                (block_on(gradients(&engine, &batch, objective)), None)
            }
            Some(gpu) => {
                let engine = Engine::load(gpu, &mut checkpoint, |_, _| {}).expect("loads");
                (block_on(gradients(&engine, &batch, objective)), engine.backend.peak_bytes())
            }
        };
        let (losses, gradients) = computed.expect("no failure");
        let slices = full_slices(&checkpoint.config).into_iter().map(|slice| slice.name);
        let mut named: Vec<_> = slices.zip(gradients).filter(|(name, _)| !name.ends_with("k_proj.bias")).collect();
        named.push(("losses".into(), losses));
        (named, peak)
    };
    let (expected, _) = losses_and_gradients(None);
    // Patterns of all layers and heads, in f32.
    let patterns = 3 * 6 * (1201 * 1202 / 2 + 400 * 401 / 2) * 4;
    for variant in [Variant::Rows, Variant::Direct] {
        let (found, peak) = losses_and_gradients(Some(gpu(Some(variant), None)));
        assert_eq!(difference(&expected, &found), None, "{variant:?}");
        assert!(peak.expect("the GPU counts") < patterns / 3, "{variant:?}: {peak:?} of {patterns}");
    }
}

#[test]
fn what_all_prompts_begin_with_is_computed_once_and_changes_nothing() {
    let mut checkpoint = common::open(common::model_files(common::ODD_QWEN2, 11)).expect("the made-up model opens");
    let engine = Engine::load(Cpu, &mut checkpoint, |_, _| {}).expect("loads");
    let prompts = prompts(&[4, 17, 9, 5]);
    let all: Vec<&Prompt> = prompts.iter().collect();
    let [apart, shared] = [0, usize::MAX].map(|most| Batch::sharing(&all, most, &engine.config).expect("valid"));
    assert_eq!((apart.tokens.len(), shared.tokens.len()), (35, 29));
    assert_eq!(apart.prompt_tokens(), shared.prompt_tokens());
    let close = |what: &str, expected: &[f32], found: &[f32]| {
        let named = |x: &[f32]| vec![(what.to_string(), x.to_vec())];
        assert_eq!(difference(&named(expected), &named(found)), None);
    };
    let answers = |batch| block_on(engine.answers(batch, &VERBALIZER, true)).expect("answers");
    let (expected, found) = (answers(&apart), answers(&shared));
    close("losses", &expected.losses, &found.losses);
    close("residuals", &expected.residuals.concat(), &found.residuals.concat());
    let answer = Objective::Answer { verbalizer: &VERBALIZER, over: LossOver::Vocab };
    for objective in [answer, Objective::NextToken] {
        let of = |batch| block_on(gradients(&engine, batch, objective)).expect("gradients");
        let (expected, found) = (of(&apart), of(&shared));
        close("losses", &expected.0, &found.0);
        for ((slice, expected), found) in full_slices(&engine.config).iter().zip(&expected.1).zip(&found.1) {
            if !slice.name.ends_with("k_proj.bias") {
                close(&slice.name, expected, found);
            }
        }
    }
    let slots = SlotMap::common(&prompts);
    let pool = Pool { prompts: prompts.clone(), verbalizer: VERBALIZER.to_vec(), slots, positions: Positions::All };
    assert_eq!(pool.pack(0..4, &engine.config).expect("valid").tokens.len(), 29);
    let means = block_on(circuit::means(&engine, &pool, &Unwatched)).expect("means");
    let relevance = |batch: &Batch| {
        // By token, as if nothing were shared.
        let own: Vec<u32> = prompts.iter().flat_map(|p| slots.slots(p.tokens.len())).collect();
        let slots = if batch.layout.prefix > 0 { pool.batch_slots(batch) } else { own };
        let of =
            block_on(engine.linear_relevance(&pool.batch(batch, &slots), &means, Target::Output, GateRule::Tangent));
        of.expect("relevances").concat().iter().map(|r| *r as f32).collect::<Vec<f32>>()
    };
    close("relevances", &relevance(&apart), &relevance(&shared));
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
    let all =
        |prompts: &[Prompt], objective| block_on(gradients(&engine, &batch(prompts), objective)).expect("gradients");
    let (expected_losses, expected) = all(&prefixes, answer);
    let (losses, found) = all(&texts, Objective::NextToken);
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
