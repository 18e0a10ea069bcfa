//! One safetensors file, its tensors read by name without holding the file in memory.

use super::ModelError;
use super::checkpoint::ModelFile;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use std::io::{Read, Seek, SeekFrom};

/// Headers above this size are refused: no real checkpoint comes near it.
const MAX_HEADER: u64 = 100 << 20;

pub struct SafetensorsFile {
    pub name: String,
    file: ModelFile,
    metadata: Metadata,
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
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| bad(format!("the header is not valid: {e}")))?;
        for (tensor, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let expected = info.shape.iter().product::<usize>() * info.dtype.bitsize() / 8;
            if to < from || to - from != expected {
                return Err(bad(format!(
                    "tensor `{tensor}` of shape {:?} should take {expected} bytes, but the header gives it {from}..{to}",
                    info.shape
                )));
            }
        }
        let start = 8 + length;
        let needed = start + metadata.data_len() as u64;
        if needed > size {
            return Err(bad(format!("truncated: the header describes {needed} bytes, the file has {size}")));
        }
        Ok(Self { name, file, metadata, start })
    }

    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.metadata.info(name).map(|info| info.shape.clone())
    }

    /// The first tensor's type, which in practice is the whole file's.
    pub fn dtype(&self) -> String {
        let first = self.names().into_iter().next();
        let dtype = first.and_then(|name| self.metadata.info(&name)).map(|info| info.dtype);
        dtype.map_or("empty".into(), |d| format!("{d:?}").to_lowercase())
    }

    pub fn check_dtype(&self, name: &str) -> Result<(), ModelError> {
        match self.metadata.info(name).map(|info| info.dtype) {
            None => Err(ModelError::TensorMissing(name.into())),
            Some(Dtype::F32 | Dtype::F16 | Dtype::BF16) => Ok(()),
            Some(other) => Err(ModelError::TensorType {
                name: name.into(),
                dtype: format!("{other:?}"),
                supported: "F32, F16 and BF16",
            }),
        }
    }

    pub fn read(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.check_dtype(name)?;
        let info = self.metadata.info(name).ok_or_else(|| ModelError::TensorMissing(name.into()))?;
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        self.file
            .bytes
            .seek(SeekFrom::Start(self.start + from as u64))
            .and_then(|_| self.file.bytes.read_exact(&mut bytes))
            .map_err(|e| ModelError::Read(format!("{}, tensor `{name}`", self.name), e))?;
        Ok(match info.dtype {
            Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        })
    }
}
