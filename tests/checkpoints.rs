//! Promise: checkpoints people have are read right: every type, sharded or not, GGUF in every supported quantisation,
//! and the real tokenizers.

mod common;

use candle_core::quantized::GgmlDType;
use common::{gguf, made_up_weights, open, safetensors_bytes};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::Path;

type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read_all(checkpoint: &mut ctsft_lab::model::Checkpoint) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for p in checkpoint.config.parameters() {
        let form = checkpoint.form(&p.name).expect("every weight has a form");
        let mut data = Vec::new();
        // In pieces that end inside heads and blocks, as they are streamed.
        for start in (0..p.rows).step_by(7) {
            let rows = checkpoint.read_rows(&p, form, start..p.rows.min(start + 7)).expect("every weight can be read");
            rows.widen(0..rows.len(), &mut data);
        }
        assert_eq!(data, checkpoint.read(&p).expect("every weight can be read"), "{}", p.name);
        all.insert(p.name, data);
    }
    all
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

fn small(class: &str) -> String {
    format!(
        r#"{{"architectures":["{class}"],"hidden_size":256,"num_hidden_layers":2,"num_attention_heads":4,
        "num_key_value_heads":2,"intermediate_size":512,"vocab_size":64,"rms_norm_eps":1e-5,"tie_word_embeddings":true}}"#
    )
}

#[test]
fn gguf_in_every_supported_quantisation() {
    use GgmlDType::{BF16, F16, F32, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for dtype in [F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4K, Q5K, Q6K] {
        for (family, class) in [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM")] {
            let (bytes, expected) = gguf(&small(class), dtype);
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
    let (bytes, _) = gguf(&small("LlamaForCausalLM"), GgmlDType::Q3K);
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
    let (header, data) = common::bf16_header(&common::config(&json));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    write_sparse(&path, header.as_bytes(), data as u64);
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
