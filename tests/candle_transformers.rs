//! Promise: our forward pass gives the logits of candle-transformers' own Qwen2 and Llama.

mod common;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2};
use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::engine::{Batch, Engine, Prompt};
use pollster::block_on;

fn ours(folder: &str, tokens: &[Vec<u32>]) -> Vec<f32> {
    let folder = common::golden_folder(folder);
    let mut checkpoint =
        common::open_paths(&[folder.join("config.json"), folder.join("model.safetensors")]).expect("the model opens");
    let engine = Engine::load(Cpu, &mut checkpoint, |_, _| {}).expect("the model loads");
    let prompts: Vec<Prompt> = tokens.iter().map(|t| Prompt { tokens: t.clone(), label: 0 }).collect();
    let batch = Batch::new(&prompts.iter().collect::<Vec<_>>(), &engine.config).expect("valid prompts");
    block_on(engine.vocabulary_logits(&batch)).expect("logits")
}

fn sequences() -> Vec<Vec<u32>> {
    [1, 2, 17, 64].iter().map(|n| (0..*n).map(|t| (t * 37 + n * 11) % 512).collect()).collect()
}

fn agree(theirs: &[f32], ours: &[f32]) {
    assert_eq!(theirs.len(), ours.len());
    let scale = theirs.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let worst = theirs.iter().zip(ours).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
    assert!(worst <= 1e-5 * scale, "error {worst} of {scale}");
}

fn weights(folder: &str) -> VarBuilder<'static> {
    let data = std::fs::read(common::golden_folder(folder).join("model.safetensors")).expect("the weights are there");
    VarBuilder::from_buffered_safetensors(data, DType::F32, &Device::Cpu).expect("candle reads the weights")
}

#[test]
fn qwen2_logits() {
    // candle's configuration wants three fields that the golden config leaves out because nothing uses them.
    let json = std::fs::read_to_string(common::golden_folder("qwen2_tiny").join("config.json")).expect("the config");
    let mut json: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
    for (key, value) in
        [("sliding_window", 512.into()), ("max_window_layers", 4.into()), ("use_sliding_window", false.into())]
    {
        json[key] = value;
    }
    let config: qwen2::Config = serde_json::from_value(json).expect("candle reads the config");
    let mut theirs = Vec::new();
    for tokens in sequences() {
        let mut model = qwen2::ModelForCausalLM::new(&config, weights("qwen2_tiny")).expect("candle builds the model");
        let ids = Tensor::new(tokens.as_slice(), &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("ids");
        theirs.extend(model.forward(&ids, 0).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).expect("candle's logits"));
    }
    agree(&theirs, &ours("qwen2_tiny", &sequences()));
}

#[test]
fn llama_logits() {
    let json = std::fs::read_to_string(common::golden_folder("llama_tiny").join("config.json")).expect("the config");
    let config: llama::LlamaConfig = serde_json::from_str(&json).expect("candle reads the config");
    let config = config.into_config(false);
    let model = llama::Llama::load(weights("llama_tiny"), &config).expect("candle builds the model");
    let mut theirs = Vec::new();
    for tokens in sequences() {
        let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).expect("a cache");
        let ids = Tensor::new(tokens.as_slice(), &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("ids");
        let logits = model.forward(&ids, 0, &mut cache).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
        theirs.extend(logits.expect("candle's logits"));
    }
    agree(&theirs, &ours("llama_tiny", &sequences()));
}
