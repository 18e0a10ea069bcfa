//! Promise: both engines compute what the reference computes, on every folder of golden values.

mod common;

use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::engine::{Backend, Engine};
use ctsft_lab::experiment::verify::{Depth, Golden, Outcome, Report, verify};
use pollster::block_on;

const EVERYTHING: Depth = Depth { sweep_examples: usize::MAX, single_heads: true };

fn check<B: Backend>(backend: B, folder: &str) -> Report {
    let folder = common::golden_folder(folder);
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the golden folder is complete");
    let golden = Golden::from_folder(&read("batch.json"), &read("expected.json"), &read("expected.safetensors"))
        .expect("the golden files are well-formed");
    let mut checkpoint = common::open_paths(&[folder.join("config.json"), folder.join("model.safetensors")])
        .expect("the golden model opens");
    let engine = Engine::load(backend, &mut checkpoint, |_, _| {}).expect("the golden model loads");
    let report = block_on(verify(&engine, &golden, EVERYTHING)).expect("the checks run");
    for check in &report.checks {
        if let Outcome::Failed(why) = &check.outcome {
            eprintln!("{}: {why}", check.quantity);
        }
    }
    assert_eq!(report.failed(), 0, "{} of {} checks failed on {}", report.failed(), report.checks.len(), report.device);
    report
}

#[test]
fn qwen2_on_the_cpu() {
    assert!(check(Cpu, "qwen2_tiny").passed() > 180);
}

#[test]
fn llama_on_the_cpu() {
    assert!(check(Cpu, "llama_tiny").passed() > 160);
}

#[test]
fn qwen2_on_the_gpu() {
    if let Some(gpu) = common::gpu() {
        assert!(check(gpu, "qwen2_tiny").passed() > 130);
    }
}

#[test]
fn llama_on_the_gpu() {
    if let Some(gpu) = common::gpu() {
        assert!(check(gpu, "llama_tiny").passed() > 110);
    }
}

/// The check itself must be able to fail: one weight moved by a thousandth of its layer's largest is noticed.
#[test]
fn a_wrong_weight_is_noticed() {
    let folder = common::golden_folder("llama_tiny");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("the golden folder is complete");
    let golden = Golden::from_folder(&read("batch.json"), &read("expected.json"), &read("expected.safetensors"))
        .expect("the golden files are well-formed");
    let mut checkpoint = common::open_paths(&[folder.join("config.json"), folder.join("model.safetensors")])
        .expect("the golden model opens");
    let engine = Engine::load(Cpu, &mut checkpoint, |_, _| {}).expect("the golden model loads");
    let name = "model.layers.1.self_attn.v_proj.weight";
    let mut weights = block_on(engine.read_parameter(name)).expect("the weight is there");
    let largest = weights.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    weights[7] += 0.01 * largest;
    engine.write_parameter(name, &weights).expect("the weight can be written");
    let report = block_on(verify(&engine, &golden, EVERYTHING)).expect("the checks run");
    assert!(report.failed() > 10, "only {} checks noticed", report.failed());
}
