//! A browser `File` as a reader that seeks: a checkpoint's tensors are read from it one at a time.

use std::io::{Error, Read, Result, Seek, SeekFrom};
use web_sys::{Blob, FileReaderSync};

pub struct BlobReader {
    blob: Blob,
    position: u64,
}

impl BlobReader {
    pub fn new(blob: &Blob) -> Self {
        Self { blob: blob.clone(), position: 0 }
    }

    pub fn read_all(mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn size(&self) -> u64 {
        self.blob.size() as u64
    }
}

fn failed(what: &str) -> impl Fn(wasm_bindgen::JsValue) -> Error + '_ {
    move |error| Error::other(format!("{what}: {error:?}"))
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let end = (self.position + buffer.len() as u64).min(self.size());
        if end <= self.position {
            return Ok(0);
        }
        let slice = self
            .blob
            .slice_with_f64_and_f64(self.position as f64, end as f64)
            .map_err(failed("cannot slice the file"))?;
        let reader = FileReaderSync::new().map_err(failed("no synchronous file reader"))?;
        let bytes = js_sys::Uint8Array::new(
            &reader.read_as_array_buffer(&slice).map_err(failed("cannot read the file"))?.into(),
        );
        let length = bytes.length() as usize;
        bytes.copy_to(&mut buffer[..length]);
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for BlobReader {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => i128::from(offset),
            SeekFrom::End(offset) => i128::from(self.size()) + i128::from(offset),
            SeekFrom::Current(offset) => i128::from(self.position) + i128::from(offset),
        };
        self.position = u64::try_from(target).map_err(|_| Error::other("seek before the start of the file"))?;
        Ok(self.position)
    }
}
