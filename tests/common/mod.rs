//! Made-up models and the real files that tests use, where they are to be had.
#![allow(dead_code, reason = "each test binary uses its own part")]

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device, Tensor};
use ctsft_lab::engine::EngineError;
use ctsft_lab::engine::gpu::Gpu;
use ctsft_lab::model::{Architecture, Checkpoint, ModelConfig, ModelError, ModelFile, Tokenizer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::PathBuf;

pub type Files = Vec<(String, Vec<u8>)>;

/// A Qwen2 with odd sizes everywhere.
pub const ODD_QWEN2: &str = ctsft_lab::experiment::self_test::MODEL;

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

/// The header of a safetensors file of all of a configuration's weights in bf16, and the bytes of data it describes.
pub fn bf16_header(config: &ModelConfig) -> (String, usize) {
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for p in config.parameters() {
        let shape = if p.vector { vec![p.cols] } else { vec![p.rows, p.cols] };
        let end = offset + 2 * p.rows * p.cols;
        header.insert(p.name, serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    (serde_json::Value::Object(header).to_string(), offset)
}

/// A whole model folder in memory.
pub fn model_files(json: &str, seed: u64) -> Files {
    let weights = made_up_weights(&config(json), seed);
    vec![
        ("config.json".into(), json.as_bytes().to_vec()),
        ("model.safetensors".into(), safetensors_bytes(&weights, Dtype::F32)),
    ]
}

/// llama.cpp's order of a Llama's Q and K rows: pairs (2i, 2i+1) where Hugging Face has (i, i+d/2).
fn interleaved(data: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let columns = data.len() / (heads * head_dim);
    let mut out = Vec::new();
    for head in 0..heads {
        for i in 0..head_dim {
            let row = head * head_dim + i / 2 + (i % 2) * head_dim / 2;
            out.extend_from_slice(&data[row * columns..(row + 1) * columns]);
        }
    }
    out
}

const GGUF_NAMES: [(&str, &str); 9] = [
    ("post_attention_layernorm", "ffn_norm"),
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

pub fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => "token_embd.weight".into(),
        "model.norm.weight" => "output_norm.weight".into(),
        "lm_head.weight" => "output.weight".into(),
        _ => GGUF_NAMES.iter().fold(name.replace("model.layers.", "blk."), |n, (from, to)| n.replace(from, to)),
    }
}

/// A GGUF file in `dtype` and, for each weight, what candle makes of the stored blocks, in Hugging Face order.
pub fn gguf(json: &str, dtype: GgmlDType) -> (Vec<u8>, BTreeMap<String, Vec<f32>>) {
    use gguf_file::Value::{Array, F32, String as Text, U32};
    let config = config(json);
    let family = if config.architecture == Architecture::Llama { "llama" } else { "qwen2" };
    let weights = made_up_weights(&config, 8);
    let (mut tensors, mut expected) = (Vec::new(), BTreeMap::new());
    for (name, (shape, data)) in &weights {
        let heads = match name {
            _ if config.architecture != Architecture::Llama => 0,
            n if n.ends_with("q_proj.weight") => config.heads,
            n if n.ends_with("k_proj.weight") => config.kv_heads,
            _ => 0,
        };
        let stored = if heads > 0 { interleaved(data, heads, config.head_dim) } else { data.clone() };
        let tensor = Tensor::from_vec(stored, shape.as_slice(), &Device::Cpu).expect("a tensor");
        // Vectors stay F32, as llama.cpp keeps them.
        let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
        let quantised = QTensor::quantize(&tensor, dtype).expect("candle quantises");
        let back = quantised.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).expect("values");
        let ours = if heads > 0 {
            // The inverse of interleaving: its permutation applied until the identity returns is not needed, the rows
            // are looked up.
            let columns = back.len() / (heads * config.head_dim);
            let mut out = vec![0.0; back.len()];
            for head in 0..heads {
                for i in 0..config.head_dim {
                    let to = head * config.head_dim + i / 2 + (i % 2) * config.head_dim / 2;
                    let from = head * config.head_dim + i;
                    out[to * columns..(to + 1) * columns].copy_from_slice(&back[from * columns..(from + 1) * columns]);
                }
            }
            out
        } else {
            back
        };
        expected.insert(name.clone(), ours);
        tensors.push((gguf_name(name), quantised));
    }
    let key = |k: &str| format!("{family}.{k}");
    let words = |list: &[&str]| Array(list.iter().map(|w| Text((*w).into())).collect());
    let metadata = vec![
        ("general.architecture".to_string(), Text(family.into())),
        (key("block_count"), U32(config.layers as u32)),
        (key("embedding_length"), U32(config.hidden as u32)),
        (key("feed_forward_length"), U32(config.intermediate as u32)),
        (key("attention.head_count"), U32(config.heads as u32)),
        (key("attention.head_count_kv"), U32(config.kv_heads as u32)),
        (key("attention.layer_norm_rms_epsilon"), F32(1e-5)),
        (key("rope.freq_base"), F32(10_000.0)),
        (key("context_length"), U32(128)),
        ("tokenizer.ggml.model".into(), Text("gpt2".into())),
        ("tokenizer.ggml.pre".into(), Text("gpt-2".into())),
        ("tokenizer.ggml.tokens".into(), words(&["a", "b", "ab"])),
        ("tokenizer.ggml.merges".into(), words(&["a b"])),
    ];
    let metadata: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).expect("candle writes the file");
    (file.into_inner(), expected)
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
