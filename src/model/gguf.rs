//! A GGUF file: configuration and tokenizer from its metadata (read by candle), tensors row by row.

use super::checkpoint::ModelFile;
use super::config::{Architecture, EMBEDDING, FINAL_NORM, unsupported, unsupported_architecture};
use super::stored::{Form, Rows};
use super::{ModelConfig, ModelError, Tokenizer, blocks};
use candle_core::quantized::gguf_file::{Content, Value};
use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

const SUPPORTED: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K";

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
        let info =
            self.content.tensor_infos.get(&gguf_name(name)).ok_or_else(|| ModelError::TensorMissing(name.into()))?;
        let (columns, block) = (info.shape.dims().last().copied().unwrap_or(0), info.ggml_dtype.block_size());
        match blocks::form(info.ggml_dtype) {
            Some(_) if columns.is_multiple_of(block) => Ok(()),
            Some(_) => Err(ModelError::BadFile {
                file: self.name.clone(),
                problem: format!(
                    "tensor `{}`: rows of {columns} values do not hold whole blocks of {block}",
                    gguf_name(name)
                ),
            }),
            None => Err(ModelError::TensorType {
                name: name.into(),
                dtype: format!("{:?}", info.ggml_dtype),
                supported: SUPPORTED,
            }),
        }
    }

    /// The form in which a weight is kept, by its Hugging Face name.
    pub fn form(&self, name: &str) -> Result<Form, ModelError> {
        self.check_dtype(name)?;
        let stored = self.content.tensor_infos[&gguf_name(name)].ggml_dtype;
        blocks::form(stored).ok_or_else(|| ModelError::TensorMissing(name.into()))
    }

    /// Reads some rows of a weight into `rows`, whose form is the weight's own.
    pub fn read_rows(
        &mut self,
        name: &str,
        range: Range<usize>,
        rows: &mut Rows,
        config: &ModelConfig,
    ) -> Result<(), ModelError> {
        let stored = gguf_name(name);
        let info = self.content.tensor_infos.get(&stored).ok_or_else(|| ModelError::TensorMissing(name.into()))?;
        let (dtype, offset) = (info.ggml_dtype, self.content.tensor_data_offset.saturating_add(info.offset));
        let row_bytes = rows.columns / dtype.block_size() * dtype.type_size();
        let heads = match (config.architecture, stored.rsplit_once("attn_")) {
            (Architecture::Llama, Some((_, "q.weight" | "k.weight"))) => Some(config.head_dim),
            _ => None,
        };
        let mut read = |range: Range<usize>, rows: &mut Rows| {
            let mut bytes = vec![0; range.len() * row_bytes];
            self.file
                .seek(SeekFrom::Start(offset.saturating_add((range.start * row_bytes) as u64)))
                .and_then(|_| self.file.read_exact(&mut bytes))
                .map_err(|e| ModelError::Read(format!("{}, tensor `{stored}`", self.name), e))?;
            blocks::push(rows, dtype, &bytes);
            Ok::<_, ModelError>(())
        };
        let Some(head_dim) = heads else { return read(range, rows) };
        let mut interleaved = Rows::new(rows.form, rows.columns);
        let start = range.start / head_dim * head_dim;
        read(start..range.end.next_multiple_of(head_dim), &mut interleaved)?;
        for row in range {
            let from = interleaved_row(row, head_dim) - start;
            rows.push_rows(&interleaved, from..from + 1);
        }
        Ok(())
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

/// Where the file has row `row` of W_Q or W_K: llama.cpp stores the Llama family's interleaved, pairs (2i, 2i+1);
/// Hugging Face and METHOD.md §0 rotate pairs (i, i+d/2).
fn interleaved_row(row: usize, head_dim: usize) -> usize {
    let (head, at) = (row / head_dim, row % head_dim);
    head * head_dim + at % (head_dim / 2) * 2 + at / (head_dim / 2)
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
