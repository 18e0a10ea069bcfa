//! Weights as they are kept: the forms, and how each is widened to f32.
//!
//! A matrix lies in memory row by row, each row in whole 32-bit words, so that rows can be loaded, moved and read
//! alone. GGUF's blocks are taken apart into their integers and their scales, which keeps loads aligned; no value
//! changes by it.

use half::f16;

/// How a matrix is kept, on the device as in memory. All are widened to f32 where they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    F32,
    /// Two to a word.
    F16,
    /// Two to a word.
    Bf16,
    /// 8-bit integers; an f16 scale for each 32. GGUF's Q8_0 and Q5_0.
    Q8,
    /// 8-bit integers; an f32 scale and offset for each 16. GGUF's Q5_1, Q5_K and Q6_K.
    Q8Offset,
    /// 4-bit integers; an f16 scale and offset for each 32. GGUF's Q4_0 and Q4_1.
    Q4,
    /// 4-bit integers; for each 256 an f16 scale and offset, and 8 pairs of 6-bit factors of them. GGUF's Q4_K.
    Q4K,
}

impl Form {
    pub const ALL: [Self; 7] = [Self::F32, Self::F16, Self::Bf16, Self::Q8, Self::Q8Offset, Self::Q4, Self::Q4K];

    /// Words that a row of `columns` values takes. Rows of plain numbers are filled up to a multiple of 4.
    pub fn value_words(self, columns: usize) -> usize {
        match self {
            Self::F32 => columns.next_multiple_of(4),
            Self::F16 | Self::Bf16 => columns.next_multiple_of(4) / 2,
            Self::Q8 | Self::Q8Offset => columns / 4,
            Self::Q4 | Self::Q4K => columns / 8,
        }
    }

    /// Words that a row's scales take.
    pub fn scale_words(self, columns: usize) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 0,
            Self::Q8 => (columns / 32).div_ceil(2),
            Self::Q8Offset => columns / 16 * 2,
            Self::Q4 => columns / 32,
            Self::Q4K => columns / 256 * 5,
        }
    }

    /// Bytes of a matrix.
    pub fn bytes(self, rows: usize, columns: usize) -> u64 {
        (rows * (self.value_words(columns) + self.scale_words(columns))) as u64 * 4
    }
}

/// Consecutive rows of a matrix in its form.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    pub form: Form,
    pub columns: usize,
    /// `[rows · value_words]`.
    pub values: Vec<u32>,
    /// `[rows · scale_words]`.
    pub scales: Vec<u32>,
}

impl Rows {
    pub fn new(form: Form, columns: usize) -> Self {
        Self { form, columns, values: Vec::new(), scales: Vec::new() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.form.value_words(self.columns).max(1)
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Appends rows of f32, given as little-endian bytes.
    pub fn push_f32(&mut self, bytes: &[u8]) {
        for row in bytes.chunks(4 * self.columns) {
            self.values.extend(row.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            self.values.resize(self.values.len().next_multiple_of(4), 0);
        }
    }

    /// Appends rows of 16-bit numbers, given as little-endian bytes.
    pub fn push_halves(&mut self, bytes: &[u8]) {
        for row in bytes.chunks(2 * self.columns) {
            let pairs = row.chunks(4);
            self.values.extend(pairs.map(|b| u32::from_le_bytes([b[0], b[1], at(b, 2), at(b, 3)])));
            self.values.resize(self.values.len().next_multiple_of(2), 0);
        }
    }

    /// Appends a part of another's rows.
    pub fn push_rows(&mut self, other: &Self, rows: std::ops::Range<usize>) {
        let (values, scales) = (self.form.value_words(self.columns), self.form.scale_words(self.columns));
        self.values.extend_from_slice(&other.values[rows.start * values..rows.end * values]);
        self.scales.extend_from_slice(&other.scales[rows.start * scales..rows.end * scales]);
    }

    /// The first value that is not finite, where there is one: its index in the rows. For a bad scale, the first value
    /// that it scales.
    pub fn non_finite(&self) -> Option<usize> {
        let (words, scales) = (self.form.value_words(self.columns), self.form.scale_words(self.columns));
        let in_halves = |all_ones: u32| {
            let bad = |w: u32| w & all_ones == all_ones || (w >> 16) & all_ones == all_ones;
            let word = self.values.iter().position(|w| bad(*w))?;
            let second = usize::from(self.values[word] & all_ones != all_ones);
            Some(word / words * self.columns + word % words * 2 + second)
        };
        let in_scales = |values_a_word: usize, bad: &dyn Fn(u32) -> bool| {
            let word = self.scales.iter().position(|w| bad(*w))?;
            Some(word / scales * self.columns + word % scales * values_a_word)
        };
        let halves_bad = |w: u32| w & 0x7c00 == 0x7c00 || (w >> 16) & 0x7c00 == 0x7c00;
        match self.form {
            Form::F32 => {
                let word = self.values.iter().position(|w| !f32::from_bits(*w).is_finite())?;
                Some(word / words * self.columns + word % words)
            }
            Form::F16 => in_halves(0x7c00),
            Form::Bf16 => in_halves(0x7f80),
            Form::Q8 => in_scales(64, &halves_bad),
            Form::Q8Offset => in_scales(8, &|w| !f32::from_bits(w).is_finite()),
            Form::Q4 => in_scales(32, &halves_bad),
            Form::Q4K => {
                let word = (0..self.scales.len()).step_by(5).find(|i| halves_bad(self.scales[*i]))?;
                Some(word / scales * self.columns + word % scales / 5 * 256)
            }
        }
    }

    /// The rows `rows` widened to f32, appended to `out`.
    pub fn widen(&self, rows: std::ops::Range<usize>, out: &mut Vec<f32>) {
        let (words, scale_words) = (self.form.value_words(self.columns), self.form.scale_words(self.columns));
        for row in rows {
            let values = &self.values[row * words..(row + 1) * words];
            let scales = &self.scales[row * scale_words..(row + 1) * scale_words];
            let end = out.len() + self.columns;
            match self.form {
                Form::F32 => out.extend(values[..self.columns].iter().map(|w| f32::from_bits(*w))),
                Form::F16 => out.extend(values.iter().flat_map(|w| pair(*w))),
                Form::Bf16 => {
                    out.extend(values.iter().flat_map(|w| [f32::from_bits(w << 16), f32::from_bits(w & 0xffff_0000)]));
                }
                Form::Q8 => {
                    for (group, words) in values.chunks(8).enumerate() {
                        let scale = pair(scales[group / 2])[group % 2];
                        out.extend(words.iter().flat_map(|w| w.to_le_bytes()).map(|q| f32::from(q as i8) * scale));
                    }
                }
                Form::Q8Offset => {
                    for (words, scale) in values.chunks(4).zip(scales.chunks(2)) {
                        let [scale, offset] = [scale[0], scale[1]].map(f32::from_bits);
                        let integers = words.iter().flat_map(|w| w.to_le_bytes());
                        out.extend(integers.map(|q| f32::from(q as i8) * scale + offset));
                    }
                }
                Form::Q4 => {
                    for (words, scale) in values.chunks(4).zip(scales) {
                        let [scale, offset] = pair(*scale);
                        out.extend(words.iter().flat_map(|w| nibbles(*w)).map(|q| q * scale + offset));
                    }
                }
                Form::Q4K => {
                    for (words, scales) in values.chunks(32).zip(scales.chunks(5)) {
                        let [scale, offset] = pair(scales[0]);
                        for (group, words) in words.chunks(4).enumerate() {
                            let factors = scales[1 + group / 2] >> (16 * (group % 2));
                            let scale = scale * (factors & 0xff) as f32;
                            let offset = offset * ((factors >> 8) & 0xff) as f32;
                            out.extend(words.iter().flat_map(|w| nibbles(*w)).map(|q| q * scale - offset));
                        }
                    }
                }
            }
            out.truncate(end);
        }
    }
}

fn at(bytes: &[u8], i: usize) -> u8 {
    bytes.get(i).copied().unwrap_or(0)
}

/// The two f16 of a word, the low one first.
fn pair(word: u32) -> [f32; 2] {
    [f16::from_bits(word as u16).to_f32(), f16::from_bits((word >> 16) as u16).to_f32()]
}

fn nibbles(word: u32) -> [f32; 8] {
    std::array::from_fn(|i| ((word >> (4 * i)) & 15) as f32)
}

/// Whether bf16 holds each of these little-endian f32 exactly.
pub fn fits_bf16(bytes: &[u8]) -> bool {
    bytes.chunks_exact(4).all(|b| b[0] == 0 && b[1] == 0)
}

/// Little-endian f32, each of which fits, as little-endian bf16.
pub fn to_bf16(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks_exact(4).flat_map(|b| [b[2], b[3]]).collect()
}
