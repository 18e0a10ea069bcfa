//! Made-up models and the real files that tests use, where they are to be had.
#![allow(dead_code, reason = "each test binary uses its own part")]

use ctsft_lab::engine::EngineError;
use ctsft_lab::engine::gpu::Gpu;
use ctsft_lab::model::{Checkpoint, ModelConfig, ModelError, ModelFile, Tokenizer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::PathBuf;

pub type Files = Vec<(String, Vec<u8>)>;

/// A Qwen2 with odd sizes everywhere: 3 layers of 6 heads of size 10 over 3 key/value heads, untied.
pub const ODD_QWEN2: &str = r#"{"architectures":["Qwen2ForCausalLM"],"hidden_size":36,"num_hidden_layers":3,
    "num_attention_heads":6,"num_key_value_heads":3,"head_dim":10,"intermediate_size":53,"vocab_size":133,
    "rms_norm_eps":1e-6,"rope_theta":10000.0,"tie_word_embeddings":false,"hidden_act":"silu","max_position_embeddings":128}"#;

pub fn config(json: &str) -> ModelConfig {
    ModelConfig::from_hugging_face(json).expect("the test's config is valid")
}

/// Every weight of the configuration, drawn from a seed: gains near 1, the rest small.
pub fn made_up_weights(config: &ModelConfig, seed: u64) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = BTreeMap::new();
    for p in config.parameters() {
        let centre = if p.name.contains("norm") { 1.0 } else { 0.0 };
        let data = (0..p.rows * p.cols).map(|_| centre + rng.random_range(-0.3..0.3)).collect();
        weights.insert(p.name.clone(), (if p.vector { vec![p.cols] } else { vec![p.rows, p.cols] }, data));
    }
    weights
}

/// A safetensors file of the weights in a type.
pub fn safetensors_bytes(weights: &BTreeMap<String, (Vec<usize>, Vec<f32>)>, dtype: Dtype) -> Vec<u8> {
    let bytes = |data: &[f32]| -> Vec<u8> {
        match dtype {
            Dtype::F16 => data.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => data.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            _ => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    };
    let stored: Vec<(&String, &Vec<usize>, Vec<u8>)> =
        weights.iter().map(|(name, (shape, data))| (name, shape, bytes(data))).collect();
    let views = stored.iter().map(|(name, shape, data)| {
        (name.as_str(), TensorView::new(dtype, (*shape).clone(), data).expect("shape and data agree"))
    });
    safetensors::serialize(views, None).expect("weights can be serialised")
}

/// A whole model folder in memory.
pub fn model_files(json: &str, seed: u64) -> Files {
    let weights = made_up_weights(&config(json), seed);
    vec![
        ("config.json".into(), json.as_bytes().to_vec()),
        ("model.safetensors".into(), safetensors_bytes(&weights, Dtype::F32)),
    ]
}

pub fn open(files: Files) -> Result<Checkpoint, ModelError> {
    Checkpoint::open(
        files.into_iter().map(|(name, bytes)| ModelFile { name, bytes: Box::new(Cursor::new(bytes)) }).collect(),
    )
}

pub fn open_paths(paths: &[PathBuf]) -> Result<Checkpoint, ModelError> {
    let file = |path: &PathBuf| ModelFile {
        name: path.file_name().expect("a file").to_string_lossy().into_owned(),
        bytes: Box::new(std::fs::File::open(path).expect("the file can be opened")),
    };
    Checkpoint::open(paths.iter().map(file).collect())
}

/// A tokenizer that splits at blanks; each word is its place in the list, the first stands for all others.
pub fn word_tokenizer<S: AsRef<str>>(words: &[S]) -> Tokenizer {
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        words.iter().enumerate().map(|(i, w)| (w.as_ref().to_string(), i.into())).collect();
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": words[0].as_ref()}
    });
    Tokenizer::from_json(json.to_string().as_bytes()).expect("a valid tokenizer")
}

/// The repository's root, asked at run time: checkouts may share a target folder.
fn checkout() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).expect("cargo runs the tests")
}

pub fn golden_folder(name: &str) -> PathBuf {
    checkout().join("tests/golden").join(name)
}

/// A file of `../shared` (or `CTSFT_SHARED`); `None`, said aloud, where it is not there. CI must have it.
pub fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("CTSFT_SHARED").map_or_else(|| checkout().join("../shared"), PathBuf::from);
    found(folder.join(path), path)
}

/// SmolLM2's GGUF, which `cargo xtask test` gets from the package registry.
pub fn smollm2() -> Option<PathBuf> {
    found(std::env::var_os("CTSFT_SMOLLM2").map(PathBuf::from).unwrap_or_default(), "the SmolLM2 GGUF (CTSFT_SMOLLM2)")
}

fn found(path: PathBuf, what: &str) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path);
    }
    skip(&format!("{what} is not to be had here"));
    None
}

/// Notes that the running test proves nothing here, and why; `cargo xtask test` lists the notes. In CI it fails.
fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    assert!(std::env::var_os("CI").is_none(), "{test} must run in CI, but {why}");
    eprintln!("SKIPPED {test}: {why}");
    if let Some(list) = std::env::var_os("CTSFT_SKIPPED") {
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).open(list).expect("the list of skipped tests");
        writeln!(file, "{test}: {why}").expect("a line on the list");
    }
}

/// A GPU, software or not. Without any the GPU tests prove nothing, and say so; CI must have one.
pub fn gpu() -> Option<Gpu> {
    match pollster::block_on(Gpu::open()) {
        Ok(gpu) => Some(gpu),
        Err(EngineError::NoGpu(why)) => {
            skip(&format!("there is no GPU adapter ({why}); mesa-vulkan-drivers has a software one"));
            None
        }
        Err(other) => panic!("{other}"),
    }
}
