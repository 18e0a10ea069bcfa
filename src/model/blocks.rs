//! GGUF's quantised blocks taken apart into integers and scales (the block layouts are llama.cpp's `ggml-common.h`).

use super::stored::{Form, Rows};
use candle_core::quantized::GgmlDType;
use half::f16;

/// The form in which a GGUF type is kept; `None` for those not supported.
pub fn form(stored: GgmlDType) -> Option<Form> {
    use GgmlDType as G;
    Some(match stored {
        G::F32 => Form::F32,
        G::F16 => Form::F16,
        G::BF16 => Form::Bf16,
        G::Q8_0 | G::Q5_0 => Form::Q8,
        G::Q5_1 | G::Q5K | G::Q6K => Form::Q8Offset,
        G::Q4_0 | G::Q4_1 => Form::Q4,
        G::Q4K => Form::Q4K,
        _ => return None,
    })
}

/// Appends whole rows, given as the file has them, to `rows` of the type's [`form`].
pub fn push(rows: &mut Rows, stored: GgmlDType, bytes: &[u8]) {
    use GgmlDType as G;
    match stored {
        G::F32 => rows.push_f32(bytes),
        G::F16 | G::BF16 => rows.push_halves(bytes),
        _ => {
            let row_bytes = rows.columns / stored.block_size() * stored.type_size();
            for row in bytes.chunks_exact(row_bytes) {
                for (number, block) in row.chunks_exact(stored.type_size()).enumerate() {
                    push_block(rows, stored, block, number);
                }
            }
        }
    }
}

/// Appends one block, the `number`-th of its row.
fn push_block(rows: &mut Rows, stored: GgmlDType, b: &[u8], number: usize) {
    use GgmlDType as G;
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let half = |at: usize| u32::from(u16::from_le_bytes([b[at], b[at + 1]]));
    let number_at = |at: usize| f16::from_bits(half(at) as u16).to_f32();
    match stored {
        G::Q8_0 => {
            rows.values.extend(b[2..34].chunks(4).map(word));
            push_half_scale(rows, half(0), number);
        }
        G::Q5_0 => {
            let integers: [i8; 32] = five_bits(&b[6..22], word(&b[2..6])).map(|q| q as i8 - 16);
            push_bytes(rows, &integers.map(|q| q as u8));
            push_half_scale(rows, half(0), number);
        }
        G::Q5_1 => {
            push_bytes(rows, &five_bits(&b[8..24], word(&b[4..8])));
            let scale = [number_at(0).to_bits(), number_at(2).to_bits()];
            rows.scales.extend([scale, scale].concat());
        }
        G::Q4_0 => {
            push_nibbles(rows, &halves(&b[2..18]));
            // The integers stand for q − 8; −8·scale is exact.
            let offset = f16::from_f32(-8.0 * number_at(0)).to_bits();
            rows.scales.push(half(0) | u32::from(offset) << 16);
        }
        G::Q4_1 => {
            push_nibbles(rows, &halves(&b[4..20]));
            rows.scales.push(half(0) | half(2) << 16);
        }
        G::Q4K => {
            for pair in b[16..144].chunks(32) {
                push_nibbles(rows, &std::array::from_fn::<u8, 64, _>(|i| pair[i % 32] >> (4 * (i / 32)) & 15));
            }
            rows.scales.push(half(0) | half(2) << 16);
            for pair in factors(&b[4..16]).chunks(2) {
                let bytes = [pair[0].0, pair[0].1, pair[1].0, pair[1].1];
                rows.scales.push(u32::from_le_bytes(bytes));
            }
        }
        G::Q5K => {
            let (high, low) = (&b[16..48], &b[48..176]);
            for (i, pair) in low.chunks(32).enumerate() {
                push_bytes(
                    rows,
                    &std::array::from_fn::<u8, 64, _>(|j| {
                        let bit = high[j % 32] >> (2 * i + j / 32) & 1;
                        (pair[j % 32] >> (4 * (j / 32)) & 15) | bit << 4
                    }),
                );
            }
            let (scale, offset) = (number_at(0), number_at(2));
            for (factor, offset_factor) in factors(&b[4..16]) {
                let scale = [(scale * f32::from(factor)).to_bits(), (-(offset * f32::from(offset_factor))).to_bits()];
                rows.scales.extend([scale, scale].concat());
            }
        }
        G::Q6K => {
            let (low, high, factors) = (&b[..128], &b[128..192], &b[192..208]);
            for part in 0..2 {
                push_bytes(
                    rows,
                    &std::array::from_fn::<u8, 128, _>(|j| {
                        let low = low[64 * part + j % 64] >> (4 * (j / 64)) & 15;
                        let high = high[32 * part + j % 32] >> (2 * (j / 32)) & 3;
                        ((low | high << 4) as i8 - 32) as u8
                    }),
                );
            }
            let scale = number_at(208);
            for factor in factors {
                rows.scales.extend([(scale * f32::from(*factor as i8)).to_bits(), 0]);
            }
        }
        // `form` names no other blocks.
        _ => {}
    }
}

/// f16 scales lie two to a word; a row begins with a new word.
fn push_half_scale(rows: &mut Rows, scale: u32, number: usize) {
    match (number % 2, rows.scales.last_mut()) {
        (1, Some(last)) => *last |= scale << 16,
        _ => rows.scales.push(scale),
    }
}

fn push_bytes(rows: &mut Rows, integers: &[u8]) {
    rows.values.extend(integers.chunks(4).map(|q| u32::from_le_bytes([q[0], q[1], q[2], q[3]])));
}

fn push_nibbles(rows: &mut Rows, integers: &[u8]) {
    let word = |q: &[u8]| q.iter().rev().fold(0, |word, q| word << 4 | u32::from(*q));
    rows.values.extend(integers.chunks(8).map(word));
}

/// 16 bytes hold 32 integers: the low halves first.
fn halves(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| bytes[i % 16] >> (4 * (i / 16)) & 15)
}

fn five_bits(bytes: &[u8], high: u32) -> [u8; 32] {
    let low = halves(bytes);
    std::array::from_fn(|i| low[i] | ((high >> i & 1) as u8) << 4)
}

/// The 8 pairs of 6-bit factors (of scale and offset) that Q4_K and Q5_K keep in 12 bytes.
fn factors(b: &[u8]) -> [(u8, u8); 8] {
    std::array::from_fn(|j| match j {
        0..4 => (b[j] & 63, b[j + 4] & 63),
        _ => (b[j + 4] & 15 | b[j - 4] >> 6 << 4, b[j + 4] >> 4 | b[j] >> 6 << 4),
    })
}
