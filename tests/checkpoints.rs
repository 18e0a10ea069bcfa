//! Promise: checkpoints people have are read right: every type, sharded or not, GGUF in every supported quantisation,
//! and the real tokenizers.

mod common;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device, Tensor};
use common::{made_up_weights, open, safetensors_bytes};
use ctsft_lab::model::Architecture;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read_all(checkpoint: &mut ctsft_lab::model::Checkpoint) -> BTreeMap<String, Vec<f32>> {
    let parameters = checkpoint.config.parameters();
    parameters.iter().map(|p| (p.name.clone(), checkpoint.read(p).expect("every weight can be read"))).collect()
}

#[test]
fn safetensors_of_every_type_widen_exactly() {
    let weights = made_up_weights(&common::config(common::ODD_QWEN2), 3);
    let rounded = |dtype: Dtype, x: f32| match dtype {
        Dtype::F16 => half::f16::from_f32(x).to_f32(),
        Dtype::BF16 => half::bf16::from_f32(x).to_f32(),
        _ => x,
    };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let files = vec![
            ("config.json".into(), common::ODD_QWEN2.as_bytes().to_vec()),
            ("model.safetensors".into(), safetensors_bytes(&weights, dtype)),
        ];
        let mut checkpoint = open(files).expect("opens");
        for (name, found) in read_all(&mut checkpoint) {
            let expected: Vec<f32> = weights[&name].1.iter().map(|x| rounded(dtype, *x)).collect();
            assert_eq!(found, expected, "{name} as {dtype:?}");
        }
    }
}

fn shards(weights: &Weights) -> (Weights, Weights) {
    weights.iter().map(|(k, v)| (k.clone(), v.clone())).partition(|(name, _)| name.contains("layers.0"))
}

#[test]
fn shards_are_read_with_their_index() {
    let weights = made_up_weights(&common::config(common::ODD_QWEN2), 4);
    let (first, second) = shards(&weights);
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let shard = |name: &String| names[usize::from(!first.contains_key(name))];
    let map: BTreeMap<&String, &str> = weights.keys().map(|name| (name, shard(name))).collect();
    let index = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    let files = vec![
        ("config.json".into(), common::ODD_QWEN2.as_bytes().to_vec()),
        ("model.safetensors.index.json".into(), index.into_bytes()),
        (names[1].into(), safetensors_bytes(&second, Dtype::F32)),
        (names[0].into(), safetensors_bytes(&first, Dtype::F32)),
    ];
    let mut checkpoint = open(files.clone()).expect("opens");
    for (name, found) in read_all(&mut checkpoint) {
        assert_eq!(found, weights[&name].1, "{name}");
    }
    let error = open(files[..3].to_vec()).err().expect("a shard is missing").to_string();
    assert!(error.contains("model-00001-of-00002.safetensors"), "{error}");
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

fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => "token_embd.weight".into(),
        "model.norm.weight" => "output_norm.weight".into(),
        "lm_head.weight" => "output.weight".into(),
        _ => GGUF_NAMES.iter().fold(name.replace("model.layers.", "blk."), |n, (from, to)| n.replace(from, to)),
    }
}

/// A GGUF file in `dtype` and, for each weight, what candle makes of the stored blocks, in Hugging Face order.
fn gguf(family: &str, json: &str, dtype: GgmlDType) -> (Vec<u8>, BTreeMap<String, Vec<f32>>) {
    use gguf_file::Value::{Array, F32, String as Text, U32};
    let config = common::config(json);
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

fn small(class: &str) -> String {
    format!(
        r#"{{"architectures":["{class}"],"hidden_size":256,"num_hidden_layers":2,"num_attention_heads":4,
        "num_key_value_heads":2,"intermediate_size":512,"vocab_size":64,"rms_norm_eps":1e-5,"tie_word_embeddings":true}}"#
    )
}

#[test]
fn gguf_in_every_supported_quantisation() {
    use GgmlDType::{BF16, F16, F32, Q4_0, Q4_1, Q4K, Q5K, Q6K, Q8_0};
    for dtype in [F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4K, Q5K, Q6K] {
        for (family, class) in [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM")] {
            let (bytes, expected) = gguf(family, &small(class), dtype);
            let mut checkpoint = open(vec![("model.gguf".into(), bytes)]).expect("opens");
            assert_eq!(checkpoint.format, format!("{dtype:?} GGUF"));
            let tokenizer = checkpoint.tokenizer.as_ref().expect("the tokenizer is in the metadata");
            assert_eq!(tokenizer.encode("ab").expect("encodes"), [2]);
            for (name, found) in read_all(&mut checkpoint) {
                assert_eq!(found, expected[&name], "{name} of {family} in {dtype:?}");
            }
        }
    }
}

#[test]
fn an_unsupported_quantisation_is_named() {
    let (bytes, _) = gguf("llama", &small("LlamaForCausalLM"), GgmlDType::Q3K);
    let error = open(vec![("model.gguf".into(), bytes)]).err().expect("refused").to_string();
    assert!(error.contains("Q3K") && error.contains("Q4_K"), "{error}");
}

/// The real configuration and tokenizer, with a full-size file of made-up weights (sparse: only the ends are written).
#[test]
fn qwen2_5_at_full_size() {
    let (Some(config), Some(tokenizer)) =
        (common::shared("models/qwen2.5-0.5b/config.json"), common::shared("models/qwen2.5-0.5b/tokenizer.json"))
    else {
        return;
    };
    let json = std::fs::read_to_string(&config).expect("the config");
    let parameters = common::config(&json).parameters();
    let mut offset = 0;
    let mut header = serde_json::Map::new();
    for p in &parameters {
        let shape = if p.vector { vec![p.cols] } else { vec![p.rows, p.cols] };
        let end = offset + 2 * p.rows * p.cols;
        header.insert(
            p.name.clone(),
            serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    write_sparse(&path, header.as_bytes(), offset as u64);
    let mut checkpoint = common::open_paths(&[config, tokenizer, path]).expect("opens");
    assert_eq!(checkpoint.config.parameter_count(), 494_032_768);
    assert_eq!(checkpoint.config.total_heads(), 336);
    let last = parameters.last().expect("there are weights");
    let values = checkpoint.read(last).expect("the last weight is read");
    assert_eq!((values.len(), values[895]), (896, 1.0));

    let tokenizer = checkpoint.tokenizer.expect("the tokenizer opened");
    assert_eq!(tokenizer.encode("Hello world").expect("encodes"), [9707, 1879]);
    assert_eq!(tokenizer.encode("<|im_start|>user\n").expect("encodes"), [151_644, 872, 198]);
    for (text, word) in
        [("Text: Makanannya enak sekali.\nSentiment:", " positive"), ("Text: ثقافة 𞤀𞤣𞤤𞤢𞤥\nSentiment:", " neutral")]
    {
        let prompt = tokenizer.encode(text).expect("encodes");
        let with_word = tokenizer.encode(&format!("{text}{word}")).expect("encodes");
        assert_eq!(with_word[..prompt.len()], prompt[..]);
        assert_eq!(with_word.len(), prompt.len() + 1, "one token for the answer");
    }
}

fn write_sparse(path: &Path, header: &[u8], data: u64) {
    use std::io::{Seek, SeekFrom, Write};
    let mut file = std::fs::File::create(path).expect("a file");
    file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(header)).expect("the header");
    let end = 8 + header.len() as u64 + data;
    file.set_len(end).expect("room");
    // The last bf16 is 1.0; all others are 0.
    file.seek(SeekFrom::Start(end - 2))
        .and_then(|_| file.write_all(&0x3f80_u16.to_le_bytes()))
        .expect("the last value");
}

/// The tokenizer made from the GGUF's metadata gives the ids that the model's own tokenizer gave the reference.
#[test]
fn smollm2_tokenises_as_the_reference() {
    let (Some(model), Some(golden)) = (common::smollm2(), common::shared("golden/smollm2_135m.json")) else { return };
    let checkpoint = common::open_paths(&[model]).expect("the GGUF opens");
    assert_eq!(checkpoint.config.total_heads(), 270);
    let tokenizer = checkpoint.tokenizer.expect("the GGUF holds a tokenizer");
    let golden: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden).expect("the golden file")).expect("valid JSON");
    let template = golden["template"].as_str().expect("a template");
    let texts = golden["texts"].as_array().expect("texts");
    assert!(texts.len() >= 24);
    for (text, ids) in texts.iter().zip(golden["input_ids"].as_array().expect("ids")) {
        let expected: Vec<u32> = serde_json::from_value(ids.clone()).expect("numbers");
        let prompt = template.replace("{text}", text.as_str().expect("a text"));
        assert_eq!(tokenizer.encode(&prompt).expect("encodes"), expected, "{prompt}");
    }
}
