//! A GGUF file: configuration and tokenizer from its metadata, tensors dequantised by candle.

use super::checkpoint::ModelFile;
use super::config::{Architecture, EMBEDDING, FINAL_NORM, unsupported, unsupported_architecture};
use super::{ModelConfig, ModelError, Tokenizer};
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};
use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

const SUPPORTED: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K and Q6_K";

pub struct GgufFile {
    name: String,
    file: BufReader<Box<dyn super::Source>>,
    content: Content,
}

impl GgufFile {
    pub fn open(file: ModelFile) -> Result<Self, ModelError> {
        let name = file.name;
        let mut file = BufReader::with_capacity(1 << 16, file.bytes);
        if declares_zero_alignment(&mut file).map_err(|e| ModelError::Read(name.clone(), e))? {
            return Err(ModelError::BadFile {
                file: name,
                problem: "not a readable GGUF file: its alignment is 0".into(),
            });
        }
        let content = Content::read(&mut file).map_err(|e| ModelError::BadFile {
            file: name.clone(),
            problem: format!("not a readable GGUF file: {}", first_line(&e)),
        })?;
        Ok(Self { name, file, content })
    }

    /// The weight type that most tensors have, for people.
    pub fn format(&self) -> String {
        let mut counts = BTreeMap::new();
        for info in self.content.tensor_infos.values().filter(|i| i.shape.rank() == 2) {
            *counts.entry(format!("{:?}", info.ggml_dtype)).or_insert(0) += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, n)| *n).map_or("empty".into(), |(t, _)| t);
        format!("{most} GGUF")
    }

    pub fn config(&self) -> Result<ModelConfig, ModelError> {
        let family = self.text("general.architecture")?;
        let architecture = match family.as_str() {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            other => return Err(unsupported_architecture(other)),
        };
        let key = |name: &str| format!("{family}.{name}");
        let size = |name: &str| self.number(&key(name)).map(|x| x as usize);
        if let Ok(kind) = self.text(&key("rope.scaling.type"))
            && kind != "none"
        {
            return Err(unsupported(format!(
                "rope scaling `{kind}` is not supported (only unscaled rotary embeddings are)"
            )));
        }
        if self.content.tensor_infos.contains_key("rope_freqs.weight") {
            return Err(unsupported("rope scaling by `rope_freqs.weight` is not supported".into()));
        }
        if self.number(&key("attention.sliding_window")).is_ok() {
            return Err(unsupported(
                "a sliding attention window is in use; only full causal attention is supported".into(),
            ));
        }
        let hidden = size("embedding_length")?;
        let heads = size("attention.head_count")?;
        let embedding = self.content.tensor_infos.get("token_embd.weight");
        let vocab = embedding.and_then(|info| info.shape.dims().first().copied());
        let config = ModelConfig {
            architecture,
            layers: size("block_count")?,
            hidden,
            heads,
            kv_heads: size("attention.head_count_kv").unwrap_or(heads),
            head_dim: size("attention.key_length").or_else(|_| match heads {
                0 => Err(unsupported("attention.head_count is 0".into())),
                heads => Ok(hidden / heads),
            })?,
            intermediate: size("feed_forward_length")?,
            vocab: vocab.ok_or_else(|| ModelError::TensorMissing("token_embd.weight".into()))?,
            rms_eps: self.number(&key("attention.layer_norm_rms_epsilon"))?,
            rope_theta: self.number(&key("rope.freq_base")).unwrap_or(10_000.0),
            tied: !self.content.tensor_infos.contains_key("output.weight"),
            max_positions: size("context_length").unwrap_or(2048),
        };
        config.check()?;
        Ok(config)
    }

    /// The tokenizer of the metadata.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let strings = |key: &str| -> Result<Vec<String>, ModelError> {
            let list = self.value(key)?.to_vec().map_err(|_| ModelError::ConfigMissing(key.into()))?;
            list.iter()
                .map(|v| {
                    v.to_string()
                        .cloned()
                        .map_err(|_| ModelError::Tokenizer(format!("`{key}` holds something other than text")))
                })
                .collect()
        };
        let kind = self.text("tokenizer.ggml.model")?;
        if kind != "gpt2" {
            return Err(ModelError::Tokenizer(format!(
                "kind `{kind}` is not supported (only byte-level BPE, `gpt2`, is); open the safetensors form of this model with its tokenizer.json"
            )));
        }
        let types = match self
            .value("tokenizer.ggml.token_type")
            .and_then(|v| v.to_vec().map_err(|_| ModelError::ConfigMissing("tokenizer.ggml.token_type".into())))
        {
            Ok(list) => list.iter().map(|v| number(v).map_or(1, |x| x as u32)).collect(),
            Err(_) => Vec::new(),
        };
        let flag = |key: &str| self.value(key).ok().and_then(|v| v.to_bool().ok()).unwrap_or(false);
        let beginning =
            flag("tokenizer.ggml.add_bos_token").then(|| self.number("tokenizer.ggml.bos_token_id")).transpose()?;
        Tokenizer::from_gguf(
            strings("tokenizer.ggml.tokens")?,
            strings("tokenizer.ggml.merges")?,
            &types,
            self.text("tokenizer.ggml.pre").as_deref().unwrap_or("default"),
            beginning.map(|id| id as u32),
        )
    }

    /// Shape by Hugging Face name.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.content.tensor_infos.get(&gguf_name(name)).map(|info| info.shape.dims().to_vec())
    }

    pub fn check_dtype(&self, name: &str) -> Result<(), ModelError> {
        use GgmlDType::{BF16, F16, F32, Q4_0, Q4_1, Q4K, Q5K, Q6K, Q8_0};
        let info =
            self.content.tensor_infos.get(&gguf_name(name)).ok_or_else(|| ModelError::TensorMissing(name.into()))?;
        match info.ggml_dtype {
            F32 | F16 | BF16 | Q8_0 | Q4_0 | Q4_1 | Q4K | Q5K | Q6K => Ok(()),
            other => {
                Err(ModelError::TensorType { name: name.into(), dtype: format!("{other:?}"), supported: SUPPORTED })
            }
        }
    }

    /// Reads and dequantises a weight by its Hugging Face name.
    pub fn read(&mut self, name: &str, config: &ModelConfig) -> Result<Vec<f32>, ModelError> {
        let stored = gguf_name(name);
        let bad = |e: candle_core::Error| ModelError::BadFile {
            file: self.name.clone(),
            problem: format!("tensor `{stored}`: {}", first_line(&e)),
        };
        let tensor = self.content.tensor(&mut self.file, &stored, &Device::Cpu).map_err(bad)?;
        let data = tensor
            .dequantize(&Device::Cpu)
            .and_then(|t| t.flatten_all())
            .and_then(|t| t.to_vec1::<f32>())
            .map_err(bad)?;
        let heads = match (config.architecture, stored.rsplit_once("attn_")) {
            (Architecture::Llama, Some((_, "q.weight"))) => config.heads,
            (Architecture::Llama, Some((_, "k.weight"))) => config.kv_heads,
            _ => return Ok(data),
        };
        Ok(half_split_rows(&data, heads, config.head_dim))
    }

    fn value(&self, key: &str) -> Result<&Value, ModelError> {
        self.content.metadata.get(key).ok_or_else(|| ModelError::ConfigMissing(key.into()))
    }

    fn text(&self, key: &str) -> Result<String, ModelError> {
        self.value(key)?.to_string().cloned().map_err(|_| unsupported(format!("`{key}` is not text")))
    }

    fn number(&self, key: &str) -> Result<f64, ModelError> {
        number(self.value(key)?).ok_or_else(|| unsupported(format!("`{key}` is not a number")))
    }
}

/// Whether the metadata sets `general.alignment` to 0, by which candle's reader would divide.
fn declares_zero_alignment(file: &mut (impl Read + Seek)) -> std::io::Result<bool> {
    const KEY: &[u8] = b"general.alignment";
    let mut start = Vec::new();
    file.by_ref().take(1 << 20).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    let Some(at) = start.windows(KEY.len()).position(|w| w == KEY) else { return Ok(false) };
    let entry = &start[at + KEY.len()..];
    // The value's type, then the value in 1, 2 or 4 bytes.
    let width = match entry.first() {
        Some(0 | 1) => 1,
        Some(2 | 3) => 2,
        _ => 4,
    };
    Ok(entry.get(4..4 + width).is_some_and(|value| value.iter().all(|b| *b == 0)))
}

fn number(value: &Value) -> Option<f64> {
    Some(match value {
        Value::U8(x) => f64::from(*x),
        Value::I8(x) => f64::from(*x),
        Value::U16(x) => f64::from(*x),
        Value::I16(x) => f64::from(*x),
        Value::U32(x) => f64::from(*x),
        Value::I32(x) => f64::from(*x),
        Value::U64(x) => *x as f64,
        Value::I64(x) => *x as f64,
        Value::F32(x) => f64::from(*x),
        Value::F64(x) => *x,
        _ => return None,
    })
}

/// llama.cpp stores the Llama family's Q and K rows interleaved, pairs (2i, 2i+1); Hugging Face and METHOD.md §0
/// rotate pairs (i, i+d/2). `data` is `[heads·d, columns]`.
fn half_split_rows(data: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let columns = data.len() / (heads * head_dim);
    let mut out = Vec::with_capacity(data.len());
    for head in 0..heads {
        for half in 0..2 {
            for pair in 0..head_dim / 2 {
                let row = head * head_dim + 2 * pair + half;
                out.extend_from_slice(&data[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

fn gguf_name(name: &str) -> String {
    match name {
        EMBEDDING => return "token_embd.weight".into(),
        FINAL_NORM => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let mut stored = name.replace("model.layers.", "blk.");
    for (from, to) in [
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        stored = stored.replace(from, to);
    }
    stored
}

/// candle's errors carry a backtrace behind their first line.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().into()
}
