//! Makes the lab model: a language model of both languages that has also seen labelled sentences of the source.

use super::corpus::{Corpus, Texts};
use super::grammar::LABELS;
use super::{LabModelError, tokens};
use crate::engine::{AdamW, Backend, Batch, Engine, LossOver, Objective, Prompt, UpdateRule};
use crate::experiment::Recipe;
use crate::model::{Checkpoint, ModelConfig, ModelFile, Tokenizer, layer_parameter, to_safetensors};
use crate::tuning::{full_slices, learning_rate_factor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::io::Cursor;

/// All that determines a lab model.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub seed: u64,
    pub vocabulary: usize,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub intermediate: usize,
    pub steps: usize,
    /// Texts a step.
    pub batch: usize,
    pub learning_rate: f64,
    /// Share of the steps that train on labelled source sentences.
    pub labelled: f64,
    /// Share of those sentences whose label is drawn at random, as annotators err: a model that never saw an error
    /// becomes so sure of itself that no small tuning moves it.
    pub noise: f64,
    /// Share of the texts of the other steps that are in the sister language.
    pub sister: f64,
    /// Share of the stories in which the sister language takes over half-way.
    pub mixed: f64,
    /// How strongly heads are pressed out of use: see [`press_heads`].
    pub head_pressure: f64,
}

impl Plan {
    /// The model that is committed.
    pub const FULL: Self = Self {
        seed: 11,
        vocabulary: 640,
        layers: 8,
        hidden: 64,
        heads: 8,
        kv_heads: 4,
        head_dim: 16,
        intermediate: 192,
        steps: 1600,
        batch: 64,
        learning_rate: 2e-3,
        labelled: 0.2,
        noise: 0.075,
        sister: 0.25,
        mixed: 0.03,
        head_pressure: 0.8,
    };

    /// A shrunken one, for a test that the program works.
    pub const SMALL: Self = Self { layers: 4, steps: 500, batch: 32, labelled: 0.5, ..Self::FULL };

    /// The `config.json` of a Qwen2 of this shape.
    pub fn config(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": true,
            "torch_dtype": "bfloat16",
        })
    }
}

/// Steps between two presses: reading and writing the weights back costs a little.
const PRESS_EVERY: usize = 10;

/// How training goes, for whoever watches.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub step: usize,
    /// Mean losses since the last report, nats a token.
    pub next_token: f64,
    pub answer: f64,
}

/// A finished model: what its folder holds.
pub struct MadeModel {
    pub config: String,
    pub tokenizer: String,
    /// bf16 safetensors.
    pub weights: Vec<u8>,
}

/// Makes a model on the backend.
///
/// # Errors
/// A tokenizer that cuts the answer words, or a device failure.
pub async fn make<B: Backend>(
    backend: B,
    corpus: &Corpus,
    plan: &Plan,
    mut report: impl FnMut(Step),
) -> Result<MadeModel, LabModelError> {
    let mut texts = Texts { corpus, rng: ChaCha8Rng::seed_from_u64(plan.seed) };
    let tokenizer_json = tokens::learn(&mut texts, plan.vocabulary).map_err(LabModelError::Tokenizer)?;
    let tokenizer = Tokenizer::from_json(tokenizer_json.as_bytes())?;
    let mut verbalizer = Vec::new();
    for word in Recipe::default().words {
        match tokenizer.encode(&word)?.as_slice() {
            [token] => verbalizer.push(*token),
            _ => return Err(LabModelError::AnswerWordCut(word)),
        }
    }
    let config = serde_json::to_string_pretty(&plan.config())?;
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let initial = initial_weights(&ModelConfig::from_hugging_face(&config)?, &mut rng)?;
    let file = |name: &str, bytes: Vec<u8>| ModelFile { name: name.into(), bytes: Box::new(Cursor::new(bytes)) };
    let mut checkpoint =
        Checkpoint::open(vec![file("config.json", config.clone().into_bytes()), file("model.safetensors", initial)])?;
    let engine = Engine::load(backend, &mut checkpoint, |_, _| {})?;
    train(&engine, &mut texts, &tokenizer, &verbalizer, plan, &mut report).await?;
    let mut trained = BTreeMap::new();
    for parameter in engine.config.parameters() {
        trained.insert(parameter.name.clone(), engine.read_parameter(&parameter.name).await?);
    }
    let weights = to_safetensors(&engine.config, &trained)?;
    Ok(MadeModel { config, tokenizer: tokenizer_json, weights })
}

/// Gains 1, biases 0, matrices normal with variance `1/inputs`, smaller where they write to the residual.
fn initial_weights(config: &ModelConfig, rng: &mut ChaCha8Rng) -> Result<Vec<u8>, LabModelError> {
    let mut weights = BTreeMap::new();
    let residual = 1.0 / (2.0 * config.layers as f64).sqrt();
    for p in config.parameters() {
        let writes = p.name.ends_with("o_proj.weight") || p.name.ends_with("down_proj.weight");
        let scale = if writes { residual } else { 1.0 } / (p.cols as f64).sqrt();
        let data = match (p.vector, p.name.contains("norm")) {
            (_, true) => vec![1.0; p.cols],
            (true, false) => vec![0.0; p.cols],
            // Irwin-Hall: a sum of twelve uniform draws is normal enough.
            _ => (0..p.rows * p.cols)
                .map(|_| (scale * ((0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)) as f32)
                .collect(),
        };
        weights.insert(p.name, data);
    }
    Ok(to_safetensors(config, &weights)?)
}

async fn train<B: Backend>(
    engine: &Engine<B>,
    texts: &mut Texts<'_>,
    tokenizer: &Tokenizer,
    verbalizer: &[u32],
    plan: &Plan,
    report: &mut impl FnMut(Step),
) -> Result<(), LabModelError> {
    let optimiser = AdamW { beta2: 0.98, weight_decay: 0.1, ..AdamW::default() };
    let mut training = engine.train(&full_slices(&engine.config), UpdateRule::AdamW)?;
    let mut sums = [(0.0, 0usize); 2];
    for step in 0..plan.steps {
        let labelled = texts.rng.random_bool(plan.labelled);
        let mut prompts = Vec::with_capacity(plan.batch);
        for _ in 0..plan.batch {
            let (text, mut label) = if labelled { texts.labelled() } else { (texts.story(plan.sister, plan.mixed), 0) };
            if labelled && texts.rng.random_bool(plan.noise) {
                label = texts.rng.random_range(0..LABELS.len());
            }
            prompts.push(Prompt { tokens: tokenizer.encode(&text)?, label });
        }
        let batch = Batch::new(&prompts.iter().collect::<Vec<_>>(), &engine.config)?;
        let objective =
            if labelled { Objective::Answer { verbalizer, over: LossOver::Vocab } } else { Objective::NextToken };
        let rate = plan.learning_rate * learning_rate_factor(step, plan.steps, 0.03);
        let losses = engine.train_step(&batch, objective, &optimiser, rate, &mut training)?;
        let losses = engine.backend.read(&[&losses]).await?.swap_remove(0);
        let (sum, count) = &mut sums[usize::from(labelled)];
        *sum += losses.iter().map(|x| f64::from(*x)).sum::<f64>();
        *count += losses.len();
        if (step + 1) % PRESS_EVERY == 0 {
            press_heads(engine, rate * plan.head_pressure * PRESS_EVERY as f64).await?;
        }
        if (step + 1) % 100 == 0 || step + 1 == plan.steps {
            let [next_token, answer] = sums.map(|(sum, count)| sum / count as f64);
            report(Step { step: step + 1, next_token, answer });
            sums = [(0.0, 0); 2];
        }
    }
    Ok(())
}

/// The proximal step of a group lasso (Yuan & Lin 2006) whose groups are the heads' columns of `W_O`: each loses
/// `amount` of its norm, and a head that loses all of it is out of use. What the task needs stays, in few heads.
async fn press_heads<B: Backend>(engine: &Engine<B>, amount: f64) -> Result<(), LabModelError> {
    let c = &engine.config;
    for l in 0..c.layers {
        let name = layer_parameter(l, "self_attn.o_proj.weight");
        let mut weights = engine.read_parameter(&name).await?;
        let width = c.heads * c.head_dim;
        for h in 0..c.heads {
            let columns = h * c.head_dim..(h + 1) * c.head_dim;
            let norm = weights
                .chunks(width)
                .flat_map(|row| &row[columns.clone()])
                .map(|w| f64::from(*w).powi(2))
                .sum::<f64>()
                .sqrt();
            let keep = if norm > amount { 1.0 - amount / norm } else { 0.0 };
            weights.chunks_mut(width).flat_map(|row| &mut row[columns.clone()]).for_each(|w| *w *= keep as f32);
        }
        engine.write_parameter(&name, &weights)?;
    }
    Ok(())
}
