//! Golden values as the reference wrote them (`tests/golden/README.md` has the format).

use crate::circuit::{Pool, Positions, SlotMap};
use crate::engine::{EngineError, Prompt};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Why golden values cannot be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{file}: {problem}")]
    Golden { file: &'static str, problem: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

#[derive(Deserialize)]
pub(super) struct PoolFile {
    pub(super) input_ids: Vec<Vec<u32>>,
    pub(super) labels: Vec<usize>,
    pub(super) label_token_ids: Vec<u32>,
    pub(super) head: usize,
    pub(super) tail: usize,
}

#[derive(Deserialize)]
pub(super) struct Expected {
    pub(super) loss_vocab: f64,
    pub(super) loss_labels: f64,
    pub(super) baseline: Baseline,
    pub(super) example_weights: Vec<f64>,
    pub(super) ratio: f64,
    pub(super) circuits: BTreeMap<String, Vec<Vec<(usize, usize)>>>,
    pub(super) faithfulness: BTreeMap<String, Faithfulness>,
    pub(super) faithfulness_last: BTreeMap<String, Faithfulness>,
    pub(super) near_zero_depth1: Vec<(usize, usize)>,
    pub(super) trace: TraceOf,
    pub(super) mask_counts: BTreeMap<String, usize>,
    pub(super) train: Train,
    pub(super) train_full: TrainFull,
    pub(super) cka_per_layer: Vec<Option<f64>>,
    pub(super) kl_before_after: f64,
}

#[derive(Deserialize)]
pub(super) struct Baseline {
    pub(super) logit_diff: f64,
    pub(super) accuracy: f64,
}

#[derive(Deserialize)]
pub(super) struct Faithfulness {
    pub(super) full: f64,
    pub(super) empty: f64,
    pub(super) acc_full: f64,
    pub(super) acc_empty: f64,
    pub(super) rows: Vec<FaithfulnessRow>,
}

#[derive(Deserialize)]
pub(super) struct FaithfulnessRow {
    pub(super) size: usize,
    pub(super) logit_diff: f64,
    pub(super) accuracy: f64,
    pub(super) faithfulness: f64,
}

#[derive(Deserialize)]
pub(super) struct TraceOf {
    pub(super) example: usize,
    pub(super) source: (usize, usize),
}

#[derive(Deserialize)]
pub(super) struct Train {
    pub(super) circuit: Vec<(usize, usize)>,
    pub(super) optimizer: Optimizer,
    pub(super) batches: Vec<Vec<usize>>,
    pub(super) losses: Vec<f64>,
    pub(super) loss_after: f64,
}

#[derive(Deserialize)]
pub(super) struct Optimizer {
    pub(super) lr: f64,
    pub(super) b1: f64,
    pub(super) b2: f64,
    pub(super) eps: f64,
    pub(super) wd: f64,
    pub(super) clip: f64,
}

#[derive(Deserialize)]
pub(super) struct TrainFull {
    pub(super) losses: Vec<f64>,
    pub(super) loss_after: f64,
}

/// Named tensors: shape and values.
pub(super) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// Golden values, parsed.
pub struct Golden {
    pub(super) pool: Pool,
    /// Scalars and circuits; real-model files have none.
    pub(super) expected: Option<Expected>,
    pub(super) tensors: Tensors,
}

impl Golden {
    /// A golden folder's `batch.json`, `expected.json` and `expected.safetensors`.
    ///
    /// # Errors
    /// Names the file that does not have the golden format.
    pub fn from_folder(batch: &[u8], expected: &[u8], tensors: &[u8]) -> Result<Self, VerifyError> {
        // Python writes NaN, which JSON has not; no text in these files holds the word.
        let expected = String::from_utf8_lossy(expected).replace("NaN", "null");
        let expected = serde_json::from_str(&expected)
            .map_err(|e| VerifyError::Golden { file: "expected.json", problem: e.to_string() })?;
        Ok(Self { pool: parse_pool(batch, "batch.json")?, expected: Some(expected), tensors: parse_tensors(tensors)? })
    }

    /// A real model's golden values: a JSON file with the pool and the safetensors file beside it.
    ///
    /// # Errors
    /// Names the file that does not have the golden format.
    pub fn of_real_model(pool: &[u8], tensors: &[u8]) -> Result<Self, VerifyError> {
        Ok(Self { pool: parse_pool(pool, "the golden json")?, expected: None, tensors: parse_tensors(tensors)? })
    }
}

fn parse_pool(json: &[u8], file: &'static str) -> Result<Pool, VerifyError> {
    let file_pool: PoolFile =
        serde_json::from_slice(json).map_err(|e| VerifyError::Golden { file, problem: e.to_string() })?;
    let classes = file_pool.label_token_ids.len();
    let shortest = file_pool.input_ids.iter().map(Vec::len).min().unwrap_or(0);
    let bad = |problem: &str| Err(VerifyError::Golden { file, problem: problem.into() });
    if file_pool.labels.len() != file_pool.input_ids.len() || file_pool.labels.is_empty() {
        return bad("there must be one label for each prompt, and at least one");
    }
    if file_pool.labels.iter().any(|y| *y >= classes) || classes < 2 {
        return bad("a label has no token in label_token_ids");
    }
    if file_pool.tail == 0 || file_pool.head + file_pool.tail > shortest {
        return bad("head and tail must fit the shortest prompt, with tail at least 1");
    }
    let prompts = file_pool.input_ids.into_iter().zip(file_pool.labels).map(|(tokens, label)| Prompt { tokens, label });
    Ok(Pool {
        prompts: prompts.collect(),
        verbalizer: file_pool.label_token_ids,
        slots: SlotMap { head: file_pool.head, tail: file_pool.tail },
        positions: Positions::All,
    })
}

fn parse_tensors(bytes: &[u8]) -> Result<Tensors, VerifyError> {
    let bad = |problem: String| VerifyError::Golden { file: "the golden safetensors", problem };
    let file = SafeTensors::deserialize(bytes).map_err(|e| bad(e.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let data = match view.dtype() {
            Dtype::F32 => {
                view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
            }
            Dtype::F64 => view
                .data()
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect(),
            other => return Err(bad(format!("`{name}` is {other:?}, not F32 or F64"))),
        };
        tensors.insert(name.to_string(), (view.shape().to_vec(), data));
    }
    Ok(tensors)
}
