//! One safetensors file, its tensors read by name without holding the file in memory.

use super::checkpoint::ModelFile;
use super::stored::{Form, Rows, fits_bf16, to_bf16};
use super::{ModelConfig, ModelError};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::{TensorInfo, TensorView};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

/// Headers above this size are refused: no real checkpoint comes near it.
const MAX_HEADER: u64 = 100 << 20;

/// Bytes of a tensor looked at at once; a multiple of 4.
const CHECK_BYTES: usize = 1 << 22;

/// A safetensors file of all of a model's weights, rounded to bf16. `weights` maps each parameter's name to its values,
/// row-major.
///
/// # Errors
/// A parameter that is missing or has a wrong number of values, by name.
pub fn to_safetensors(config: &ModelConfig, weights: &BTreeMap<String, Vec<f32>>) -> Result<Vec<u8>, ModelError> {
    let mut stored = Vec::new();
    for p in config.parameters() {
        let data = weights.get(&p.name).ok_or_else(|| ModelError::TensorMissing(p.name.clone()))?;
        let shape = if p.vector { vec![p.cols] } else { vec![p.rows, p.cols] };
        if data.len() != p.rows * p.cols {
            return Err(ModelError::TensorShape { name: p.name, found: vec![data.len()], expected: shape });
        }
        let bytes: Vec<u8> = data.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        stored.push((p.name, shape, bytes));
    }
    let failed = |e: safetensors::SafeTensorError| ModelError::BadFile {
        file: "model.safetensors".into(),
        problem: e.to_string(),
    };
    let views = stored
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::BF16, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    safetensors::serialize(views, None).map_err(failed)
}

pub struct SafetensorsFile {
    pub name: String,
    file: ModelFile,
    tensors: BTreeMap<String, TensorInfo>,
    /// Offset of the first tensor's bytes in the file.
    start: u64,
}

impl SafetensorsFile {
    pub fn open(mut file: ModelFile) -> Result<Self, ModelError> {
        let name = file.name.clone();
        let bad = |problem: String| ModelError::BadFile { file: name.clone(), problem };
        let read = |e| ModelError::Read(name.clone(), e);
        let size = file.bytes.seek(SeekFrom::End(0)).map_err(read)?;
        file.bytes.seek(SeekFrom::Start(0)).map_err(read)?;
        if size < 8 {
            return Err(bad(format!("only {size} bytes long: truncated, or not a safetensors file")));
        }
        let mut length = [0; 8];
        file.bytes.read_exact(&mut length).map_err(read)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || length > size - 8 {
            return Err(bad(format!(
                "the header claims {length} bytes, but the file has {size}: truncated, or not a safetensors file"
            )));
        }
        let mut header = vec![0; length as usize];
        file.bytes.read_exact(&mut header).map_err(read)?;
        let entries: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|e| bad(format!("the header is not valid: {e}")))?;
        let mut tensors = BTreeMap::new();
        for (tensor, entry) in entries.into_iter().filter(|(key, _)| key != "__metadata__") {
            let info: TensorInfo = serde_json::from_value(entry)
                .map_err(|e| bad(format!("the header's entry for tensor `{tensor}` is not valid: {e}")))?;
            let (from, to) = info.data_offsets;
            let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, d| n.checked_mul(*d));
            if to < from || Some(to - from) != bits.map(|bits| bits / 8) {
                return Err(bad(format!(
                    "tensor `{tensor}` of {:?} and shape {:?} does not fit the bytes {from}..{to} of the header",
                    info.dtype, info.shape
                )));
            }
            tensors.insert(tensor, info);
        }
        let start = 8 + length;
        let mut spans: Vec<(&String, (usize, usize))> =
            tensors.iter().map(|(name, i)| (name, i.data_offsets)).collect();
        spans.sort_by_key(|(_, span)| *span);
        if let Some(pair) = spans.windows(2).find(|pair| pair[1].1.0 < pair[0].1.1) {
            return Err(bad(format!("the header gives tensors `{}` and `{}` the same bytes", pair[0].0, pair[1].0)));
        }
        let needed = start + spans.last().map_or(0, |(_, (_, end))| *end as u64);
        if needed > size {
            return Err(bad(format!("truncated: the header describes {needed} bytes, the file has {size}")));
        }
        Ok(Self { name, file, tensors, start })
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|info| info.shape.clone())
    }

    /// The first tensor's type, which in practice is the whole file's.
    pub fn dtype(&self) -> String {
        let first = self.tensors.values().next();
        first.map_or("empty".into(), |info| format!("{:?}", info.dtype).to_lowercase())
    }

    pub fn check_dtype(&self, name: &str) -> Result<(), ModelError> {
        match self.tensors.get(name).map(|info| info.dtype) {
            None => Err(ModelError::TensorMissing(name.into())),
            Some(Dtype::F32 | Dtype::F16 | Dtype::BF16) => Ok(()),
            Some(other) => Err(ModelError::TensorType {
                name: name.into(),
                dtype: format!("{other:?}"),
                supported: "F32, F16 and BF16",
            }),
        }
    }

    /// The form in which a tensor is kept: as stored, but f32 that bf16 holds exactly as bf16.
    pub fn form(&mut self, name: &str) -> Result<Form, ModelError> {
        self.check_dtype(name)?;
        let info = self.tensors[name].clone();
        Ok(match info.dtype {
            Dtype::F16 => Form::F16,
            Dtype::BF16 => Form::Bf16,
            _ => {
                let mut fits = true;
                let (from, to) = info.data_offsets;
                let mut at = from;
                while fits && at < to {
                    let end = to.min(at + CHECK_BYTES);
                    fits = fits_bf16(&self.bytes(name, at..end)?);
                    at = end;
                }
                if fits { Form::Bf16 } else { Form::F32 }
            }
        })
    }

    /// Reads some rows of a tensor into `rows`, whose form is the tensor's own.
    pub fn read_rows(&mut self, name: &str, range: Range<usize>, rows: &mut Rows) -> Result<(), ModelError> {
        let info = self.tensors.get(name).ok_or_else(|| ModelError::TensorMissing(name.into()))?;
        let (dtype, from) = (info.dtype, info.data_offsets.0);
        let row = rows.columns * dtype.bitsize() / 8;
        let bytes = self.bytes(name, from + range.start * row..from + range.end * row)?;
        match (dtype, rows.form) {
            (Dtype::F32, Form::Bf16) => rows.push_halves(&to_bf16(&bytes)),
            (Dtype::F32, _) => rows.push_f32(&bytes),
            _ => rows.push_halves(&bytes),
        }
        Ok(())
    }

    /// Bytes of the tensors' part of the file.
    fn bytes(&mut self, name: &str, range: Range<usize>) -> Result<Vec<u8>, ModelError> {
        let mut bytes = vec![0; range.len()];
        self.file
            .bytes
            .seek(SeekFrom::Start(self.start + range.start as u64))
            .and_then(|_| self.file.bytes.read_exact(&mut bytes))
            .map_err(|e| ModelError::Read(format!("{}, tensor `{name}`", self.name), e))?;
        Ok(bytes)
    }
}
