//! A checkpoint of any size whose weights are made up as they are read and stored nowhere: for measuring at full size.

use super::{Checkpoint, ModelConfig, ModelError, ModelFile};
use std::io::{Read, Result, Seek, SeekFrom};
use std::ops::Range;

/// A bf16 safetensors file: small weights of both signs, gains of 1.
struct MadeUp {
    /// Length and header.
    head: Vec<u8>,
    /// Bytes of weights that are 1.
    ones: Vec<Range<u64>>,
    /// Bytes in all.
    bytes: u64,
    at: u64,
}

impl MadeUp {
    fn new(config: &ModelConfig) -> Self {
        let (mut header, mut ones, mut end) = (serde_json::Map::new(), Vec::new(), 0);
        for p in config.parameters() {
            let shape = if p.vector { vec![p.cols] } else { vec![p.rows, p.cols] };
            let span = end..end + 2 * (p.rows * p.cols) as u64;
            end = span.end;
            let place = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [span.start, span.end]});
            if p.name.contains("norm") {
                ones.push(span);
            }
            header.insert(p.name, place);
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut head = (header.len() as u64).to_le_bytes().to_vec();
        head.extend(header.into_bytes());
        let start = head.len() as u64;
        let ones = ones.into_iter().map(|span| span.start + start..span.end + start).collect();
        Self { bytes: start + end, head, ones, at: 0 }
    }
}

impl Read for MadeUp {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let head = self.head.len() as u64;
        if self.at < head {
            let count = out.len().min((head - self.at) as usize);
            out[..count].copy_from_slice(&self.head[self.at as usize..][..count]);
            self.at += count as u64;
            return Ok(count);
        }
        let count = out.len().min((self.bytes - self.at) as usize);
        let span = self.at..self.at + count as u64;
        for (at, byte) in span.clone().zip(out.iter_mut()) {
            // A bf16's exponent is 2^-7 or 2^-6; its sign and its mantissa come from a hash of its place.
            let hash = ((at - head) / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let bits = (hash as u16 & 0x80ff) | 0x3c00;
            *byte = bits.to_le_bytes()[((at - head) % 2) as usize];
        }
        for ones in &self.ones {
            for at in ones.start.max(span.start)..ones.end.min(span.end) {
                out[(at - span.start) as usize] = 0x3f80_u16.to_le_bytes()[((at - head) % 2) as usize];
            }
        }
        self.at = span.end;
        Ok(count)
    }
}

impl Seek for MadeUp {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (self.bytes, by),
            SeekFrom::Current(by) => (self.at, by),
        };
        self.at = base.saturating_add_signed(by).min(self.bytes);
        Ok(self.at)
    }
}

impl Checkpoint {
    /// A checkpoint of a configuration with made-up bf16 weights.
    ///
    /// # Errors
    /// None that a valid configuration could cause.
    pub fn made_up(config: ModelConfig) -> std::result::Result<Self, ModelError> {
        let weights = Box::new(MadeUp::new(&config));
        Self::of_weights(config, ModelFile { name: "made up".into(), bytes: weights })
    }
}
