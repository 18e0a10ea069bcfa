//! Promise: bad input is refused with a message that says what is wrong and where. Nothing panics.

mod common;

use common::{Files, ODD_QWEN2, made_up_weights, model_files, open, safetensors_bytes};
use ctsft_lab::data::{DataError, Dataset, Template, encode, guess_mapping, read_table};
use ctsft_lab::experiment::Recipe;
use safetensors::Dtype;

fn model_refused(what: &str, files: Files, expected: &[&str]) {
    let error = open(files).err().unwrap_or_else(|| panic!("{what} was accepted")).to_string();
    for part in expected {
        assert!(error.contains(part), "{what}: `{error}` does not say `{part}`");
    }
}

fn with_config(change: &str, to: &str) -> Files {
    let json = ODD_QWEN2.replace(change, to);
    assert_ne!(json, ODD_QWEN2, "the change must apply");
    let mut files = model_files(ODD_QWEN2, 1);
    files[0].1 = json.into_bytes();
    files
}

fn with_weights(change: impl FnOnce(&mut Vec<u8>)) -> Files {
    let mut files = model_files(ODD_QWEN2, 1);
    change(&mut files[1].1);
    files
}

/// The same file with its JSON header rewritten, data untouched.
fn with_header(change: impl Fn(&mut serde_json::Value)) -> Files {
    with_weights(|bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("valid");
        change(&mut header);
        let header = header.to_string().into_bytes();
        let data = bytes.split_off(8 + length);
        *bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    })
}

#[test]
fn configurations() {
    let head = "model.safetensors";
    let weights_only = vec![model_files(ODD_QWEN2, 1).remove(1)];
    model_refused("weights alone", weights_only, &["no config.json", head]);
    model_refused("a config alone", vec![model_files(ODD_QWEN2, 1).remove(0)], &["no .safetensors or .gguf"]);
    model_refused("broken JSON", with_config("{", "{{"), &["config.json"]);
    model_refused(
        "another family",
        with_config("Qwen2ForCausalLM", "GPT2LMHeadModel"),
        &["GPT2LMHeadModel", "supported are Qwen2ForCausalLM"],
    );
    model_refused(
        "a missing field",
        with_config(r#""intermediate_size":53,"#, ""),
        &["`intermediate_size` is missing"],
    );
    let scaled = r#""rope_scaling":{"rope_type":"llama3","factor":8},"hidden_act""#;
    model_refused("rope scaling", with_config(r#""hidden_act""#, scaled), &["rope scaling `llama3`"]);
    model_refused(
        "a sliding window",
        with_config(r#""hidden_act""#, r#""use_sliding_window":true,"hidden_act""#),
        &["sliding attention window"],
    );
    model_refused("another activation", with_config("silu", "gelu"), &["activation `gelu`", "`silu`"]);
    model_refused(
        "uneven groups",
        with_config(r#""num_key_value_heads":3"#, r#""num_key_value_heads":4"#),
        &["6 heads cannot share 4"],
    );
    model_refused("an odd head", with_config(r#""head_dim":10"#, r#""head_dim":9"#), &["head_dim 9 is odd"]);
    model_refused(
        "no heads",
        with_config(r#""num_attention_heads":6"#, r#""num_attention_heads":0"#),
        &["num_attention_heads 0"],
    );
    model_refused(
        "a wrong size",
        with_config(r#""intermediate_size":53"#, r#""intermediate_size":54"#),
        &["mlp.gate_proj.weight", "[53, 36]", "[54, 36]"],
    );
    model_refused(
        "a layer too many",
        with_config(r#""num_hidden_layers":3"#, r#""num_hidden_layers":4"#),
        &["model.layers.3.input_layernorm.weight", "missing"],
    );
}

#[test]
fn safetensors_files() {
    model_refused("an empty file", with_weights(Vec::clear), &["model.safetensors", "only 0 bytes"]);
    model_refused("a truncated file", with_weights(|b| b.truncate(b.len() - 100)), &["truncated"]);
    model_refused("a truncated header", with_weights(|b| b.truncate(40)), &["the header claims"]);
    model_refused(
        "a lying header length",
        with_weights(|b| b[..8].copy_from_slice(&u64::MAX.to_le_bytes())),
        &["the header claims 18446744073709551615"],
    );
    model_refused("a broken header", with_weights(|b| b[8] = b'x'), &["header is not valid"]);
    let name = "model.layers.1.mlp.up_proj.weight";
    model_refused("a lying shape", with_header(|h| h[name]["shape"] = serde_json::json!([53, 37])), &[name, "header"]);
    model_refused(
        "a wrong type",
        with_header(|h| h[name]["dtype"] = "I32".into()),
        &[name, "I32", "F32, F16 and BF16"],
    );
    model_refused(
        "offsets that overlap",
        with_header(|h| h[name]["data_offsets"] = serde_json::json!([0, 7632])),
        &["header", name],
    );
    let mut renamed = made_up_weights(&common::config(ODD_QWEN2), 1);
    let moved = renamed.remove("model.norm.weight").expect("it is there");
    renamed.insert("transformer.norm.weight".into(), moved);
    let files = vec![
        model_files(ODD_QWEN2, 1).remove(0),
        ("model.safetensors".into(), safetensors_bytes(&renamed, Dtype::F32)),
    ];
    model_refused("a missing tensor", files, &["model.norm.weight", "missing"]);
    for (value, what) in [(f32::NAN, "a NaN"), (f32::INFINITY, "an infinity")] {
        let mut weights = made_up_weights(&common::config(ODD_QWEN2), 1);
        weights.get_mut(name).expect("it is there").1[5] = value;
        let files = vec![
            model_files(ODD_QWEN2, 1).remove(0),
            ("model.safetensors".into(), safetensors_bytes(&weights, Dtype::F32)),
        ];
        let mut checkpoint = open(files).expect("values are looked at when they are read");
        let parameter = checkpoint.config.parameters().into_iter().find(|p| p.name == name).expect("it is one");
        let error = checkpoint.read(&parameter).expect_err(what).to_string();
        assert!(error.contains(name) && error.contains("element 5"), "{what}: {error}");
    }
}

#[test]
fn gguf_files() {
    let refused =
        |what: &str, bytes: Vec<u8>, expected: &[&str]| model_refused(what, vec![("m.gguf".into(), bytes)], expected);
    refused("an empty gguf", Vec::new(), &["m.gguf", "not a readable GGUF"]);
    refused("text as gguf", b"hello there, this is no model".to_vec(), &["not a readable GGUF"]);
    refused(
        "a lying tensor count",
        [b"GGUF".as_slice(), &3u32.to_le_bytes(), &u64::MAX.to_le_bytes(), &0u64.to_le_bytes()].concat(),
        &["not a readable GGUF"],
    );
    refused(
        "a gguf without metadata",
        [b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes(), &0u64.to_le_bytes()].concat(),
        &["general.architecture"],
    );
    let key = b"general.alignment";
    let parts: [&[u8]; 8] = [
        b"GGUF",
        &3u32.to_le_bytes(),
        &0u64.to_le_bytes(),
        &1u64.to_le_bytes(),
        &(key.len() as u64).to_le_bytes(),
        key,
        &4u32.to_le_bytes(),
        &0u32.to_le_bytes(),
    ];
    refused("an alignment of 0", parts.concat(), &["alignment is 0"]);
    let two = vec![("a.gguf".into(), b"GGUF".to_vec()), ("b.gguf".into(), b"GGUF".to_vec())];
    model_refused("two ggufs", two, &["only one .gguf"]);
}

#[test]
fn tokenizers() {
    let mut files = model_files(ODD_QWEN2, 1);
    files.push(("tokenizer.json".into(), b"{\"version\":".to_vec()));
    model_refused("a broken tokenizer", files, &["tokenizer"]);
}

fn table_refused(what: &str, file: &str, bytes: &[u8], expected: &[&str]) {
    let labels = ["negative".to_string(), "positive".to_string()];
    let outcome = read_table(file, bytes).and_then(|t| Dataset::new(&t, &guess_mapping(&t)?, &labels));
    let error = outcome.err().unwrap_or_else(|| panic!("{what} was accepted")).to_string();
    for part in expected {
        assert!(error.contains(part), "{what}: `{error}` does not say `{part}`");
    }
}

#[test]
fn tables() {
    table_refused("an empty csv", "a.csv", b"", &["a.csv", "empty"]);
    table_refused("blanks only", "a.csv", b" \n\n", &["empty"]);
    table_refused("a header alone", "a.csv", b"text,label\n", &["only a header"]);
    table_refused(
        "an unclosed quote",
        "a.csv",
        b"text,label\nok,positive\n\"oh no,negative\nx,positive\n",
        &["row 3", "never closed"],
    );
    table_refused(
        "a broken json line",
        "a.jsonl",
        b"{\"text\":\"a\",\"label\":\"positive\"}\n{\"text\":\n",
        &["row 2", "JSON"],
    );
    table_refused("a picture", "a.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0", &["not a table of text"]);
    table_refused(
        "one label only",
        "a.csv",
        b"text,label\na,positive\nb,positive\n",
        &["label `positive`", "at least two"],
    );
    table_refused(
        "labels unknown",
        "a.csv",
        b"text,label\na,good\nb,bad\nc,bad\n",
        &["no usable rows", "row 2: unknown label `good`"],
    );
    table_refused("no label column", "a.csv", b"text,notes\na,p\nb,q\nc,r\n", &["no label column", "text, notes"]);
    let table = read_table("a.csv", b"text,label\na,positive\nb,negative\n").expect("reads");
    let mapping = ctsft_lab::data::ColumnMapping { text: "tweet".into(), ..guess_mapping(&table).expect("guesses") };
    let error = Dataset::new(&table, &mapping, &["negative".into(), "positive".into()])
        .expect_err("no such column")
        .to_string();
    assert!(error.contains("no column `tweet`") && error.contains("text, label"), "{error}");
}

fn words_refused(what: &str, template: &str, words: &[&str], expected: &str) {
    let table = read_table("a.csv", b"text,label\ngood,1\nbad,0\n").expect("reads");
    let set =
        Dataset::new(&table, &guess_mapping(&table).expect("guesses"), &["0".into(), "1".into()]).expect("usable");
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    let tokenizer = common::word_tokenizer(&["[UNK]", "good", "bad", "Answer:", "very"]);
    let outcome = Template::parse(template).and_then(|t| encode(&set.examples, &t, &words, 2, &tokenizer, 8));
    let error: DataError = outcome.err().unwrap_or_else(|| panic!("{what} was accepted"));
    assert!(error.to_string().contains(expected), "{what}: `{error}` does not say `{expected}`");
}

#[test]
fn templates_and_answer_words() {
    words_refused("no placeholder", "Answer:", &[" bad", " good"], "no {text}");
    words_refused("an unknown placeholder", "{text} {name} Answer:", &[" bad", " good"], "{name} is not known");
    words_refused("an open brace", "{text Answer:", &[" bad", " good"], "never closed");
    words_refused(
        "a second text that is not mapped",
        "{premise} {hypothesis} Answer:",
        &[" bad", " good"],
        "{hypothesis}",
    );
    words_refused("a word too few", "{text} Answer:", &[" bad"], "2 labels, but 1 answer words");
    words_refused("colliding words", "{text} Answer:", &[" terrible", " wonderful"], "are the same token");
    words_refused("a word of two tokens", "{text} Answer:", &[" bad", " very good"], "becomes 2 tokens");
    words_refused("a word that merges", "{text} Answer:", &["bad", "good"], "blank before the word");
    words_refused(
        "a template too long",
        "{text} a b c d e f g h i Answer:",
        &[" bad", " good"],
        "template alone takes",
    );
}

#[test]
fn recipes() {
    let refused = |json: &str, expected: &str| {
        let error = Recipe::from_json(json).expect_err(json).to_string();
        assert!(error.contains(expected), "`{error}` does not say `{expected}`");
    };
    refused("{", "recipe");
    refused(r#"{"depht": 2}"#, "depht");
    refused(r#"{"version": 99}"#, "version");
    refused(r#"{"labels": ["a"]}"#, "at least two");
    refused(r#"{"words": ["a"]}"#, "1 words for 3 labels");
    refused(r#"{"ratio": 0}"#, "ratio");
    refused(r#"{"score": "magnitude"}"#, "magnitude");
    refused(r#"{"test_share": 1.5}"#, "test_share");
    assert_eq!(Recipe::from_json("{}").expect("all defaults"), Recipe::default());
}
