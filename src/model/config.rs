//! Model configuration: Qwen2 and Llama families, from Hugging Face `config.json`.

use super::ModelError;
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Model families the engines compute. They differ in the q/k/v biases only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "lowercase")]
#[ts(export)]
pub enum Architecture {
    Qwen2,
    Llama,
}

/// The shape of a model (METHOD.md §0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS)]
#[ts(export)]
pub struct ModelConfig {
    pub architecture: Architecture,
    /// L: transformer layers.
    pub layers: usize,
    /// D: width of the residual.
    pub hidden: usize,
    /// H: query heads a layer.
    pub heads: usize,
    /// K: key/value heads a layer; query head `h` reads key/value head `h / (H/K)`.
    pub kv_heads: usize,
    /// d: size of one head.
    pub head_dim: usize,
    /// I: width of the MLP.
    pub intermediate: usize,
    /// V: vocabulary size.
    pub vocab: usize,
    pub rms_eps: f64,
    pub rope_theta: f64,
    /// Whether the unembedding is the embedding.
    pub tied: bool,
    /// Longest sequence the model was made for, in tokens.
    pub max_positions: usize,
}

/// A named weight: `rows × cols`; vectors have one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    /// Whether the checkpoint stores it with one dimension (biases and norm gains).
    pub vector: bool,
}

#[derive(Deserialize)]
struct HuggingFace {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: Option<usize>,
    vocab_size: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeKind>,
    rope_parameters: Option<RopeKind>,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    hidden_act: Option<String>,
    use_sliding_window: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
}

#[derive(Deserialize)]
struct RopeKind {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f64>,
}

impl ModelConfig {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Names the first missing field, or the first feature that the engines do not compute.
    pub fn from_hugging_face(json: &str) -> Result<Self, ModelError> {
        let raw: HuggingFace = serde_json::from_str(json)?;
        let class = raw.architectures.as_ref().and_then(|a| a.first()).cloned().or(raw.model_type).unwrap_or_default();
        let architecture = match class.as_str() {
            "Qwen2ForCausalLM" | "qwen2" => Architecture::Qwen2,
            "LlamaForCausalLM" | "llama" => Architecture::Llama,
            other => return Err(unsupported_architecture(other)),
        };
        let missing = |name: &str| ModelError::ConfigMissing(name.into());
        for rope in [&raw.rope_scaling, &raw.rope_parameters].into_iter().flatten() {
            let kind = rope.rope_type.as_ref().or(rope.kind.as_ref()).map_or("default", String::as_str);
            if kind != "default" {
                return Err(unsupported(format!(
                    "rope scaling `{kind}` is not supported (only unscaled rotary embeddings are)"
                )));
            }
        }
        if raw.use_sliding_window == Some(true) {
            return Err(unsupported(
                "a sliding attention window is in use; only full causal attention is supported".into(),
            ));
        }
        if let Some(activation) = raw.hidden_act.as_deref().filter(|a| *a != "silu") {
            return Err(unsupported(format!("activation `{activation}` is not supported (only `silu` is)")));
        }
        if raw.attention_bias == Some(true) || raw.mlp_bias == Some(true) {
            return Err(unsupported("attention_bias and mlp_bias of the Llama family are not supported".into()));
        }
        let hidden = raw.hidden_size.ok_or_else(|| missing("hidden_size"))?;
        let heads = raw.num_attention_heads.ok_or_else(|| missing("num_attention_heads"))?;
        if heads == 0 || (raw.head_dim.is_none() && !hidden.is_multiple_of(heads)) {
            return Err(unsupported(format!(
                "hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is not given"
            )));
        }
        let config = Self {
            architecture,
            layers: raw.num_hidden_layers.ok_or_else(|| missing("num_hidden_layers"))?,
            hidden,
            heads,
            kv_heads: raw.num_key_value_heads.unwrap_or(heads),
            head_dim: raw.head_dim.unwrap_or(hidden / heads),
            intermediate: raw.intermediate_size.ok_or_else(|| missing("intermediate_size"))?,
            vocab: raw.vocab_size.ok_or_else(|| missing("vocab_size"))?,
            rms_eps: raw.rms_norm_eps.ok_or_else(|| missing("rms_norm_eps"))?,
            rope_theta: raw.rope_parameters.and_then(|r| r.rope_theta).or(raw.rope_theta).unwrap_or(10_000.0),
            tied: raw.tie_word_embeddings.unwrap_or(false),
            max_positions: raw.max_position_embeddings.unwrap_or(2048),
        };
        config.check()?;
        Ok(config)
    }

    /// Checks the relations between the sizes.
    ///
    /// # Errors
    /// Says which relation does not hold.
    pub fn check(&self) -> Result<(), ModelError> {
        let sizes = [self.layers, self.hidden, self.heads, self.kv_heads, self.head_dim, self.intermediate, self.vocab];
        if sizes.contains(&0) {
            return Err(unsupported(format!("a size is zero: {self:?}")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(unsupported(format!(
                "{} heads cannot share {} key/value heads evenly",
                self.heads, self.kv_heads
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(unsupported(format!("head_dim {} is odd; rotary embeddings need pairs", self.head_dim)));
        }
        Ok(())
    }

    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Heads of the whole model.
    pub fn total_heads(&self) -> usize {
        self.layers * self.heads
    }

    /// Width of all heads' outputs together, `H·d`.
    pub fn heads_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all keys (or values) together, `K·d`.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Name of the unembedding's weight: the embedding's where they are tied.
    pub fn unembedding(&self) -> &'static str {
        if self.tied { EMBEDDING } else { "lm_head.weight" }
    }

    /// Every weight of the model, by its Hugging Face name.
    pub fn parameters(&self) -> Vec<Parameter> {
        let matrix = |name: String, rows, cols| Parameter { name, rows, cols, vector: false };
        let vector = |name: String, cols| Parameter { name, rows: 1, cols, vector: true };
        let (d, wide, narrow, mlp) = (self.hidden, self.heads_width(), self.kv_width(), self.intermediate);
        let mut all = vec![matrix(EMBEDDING.into(), self.vocab, d)];
        for l in 0..self.layers {
            let p = |suffix: &str| layer_parameter(l, suffix);
            all.push(vector(p("input_layernorm.weight"), d));
            for (letter, width) in [("q", wide), ("k", narrow), ("v", narrow)] {
                all.push(matrix(p(&format!("self_attn.{letter}_proj.weight")), width, d));
                if self.architecture == Architecture::Qwen2 {
                    all.push(vector(p(&format!("self_attn.{letter}_proj.bias")), width));
                }
            }
            all.push(matrix(p("self_attn.o_proj.weight"), d, wide));
            all.push(vector(p("post_attention_layernorm.weight"), d));
            all.push(matrix(p("mlp.gate_proj.weight"), mlp, d));
            all.push(matrix(p("mlp.up_proj.weight"), mlp, d));
            all.push(matrix(p("mlp.down_proj.weight"), d, mlp));
        }
        all.push(vector(FINAL_NORM.into(), d));
        if !self.tied {
            all.push(matrix("lm_head.weight".into(), self.vocab, d));
        }
        all
    }

    /// Number of weights of the whole model.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|p| p.rows * p.cols).sum()
    }
}

pub const EMBEDDING: &str = "model.embed_tokens.weight";
pub const FINAL_NORM: &str = "model.norm.weight";

/// Hugging Face name of a weight of layer `l`.
pub fn layer_parameter(l: usize, suffix: &str) -> String {
    format!("model.layers.{l}.{suffix}")
}

pub(super) fn unsupported(problem: String) -> ModelError {
    ModelError::ConfigUnsupported(problem)
}

pub(super) fn unsupported_architecture(found: &str) -> ModelError {
    unsupported(format!("architecture `{found}` is not supported; supported are Qwen2ForCausalLM and LlamaForCausalLM"))
}
