//! Weight matrices on the CPU: kept in the checkpoint's form, widened block by block where they are used.

use super::{Cpu, matrix, values};
use crate::engine::Result;
use crate::engine::weights::Weight;
use crate::model::{Form, Rows};
use candle_core::Tensor;
use std::ops::Range;

/// Matrices of no more values than this are widened once, when loaded: they cost little memory.
const SMALL: usize = 1 << 18;

/// Values of a larger one widened at once; they are used again and again by all rows of the other side.
const BLOCK: usize = 1 << 22;

/// A matrix in its stored form.
pub struct Stored {
    rows: usize,
    packed: Rows,
    /// In place of `packed`, once all rows are there.
    widened: Option<Tensor>,
}

impl Stored {
    pub fn new(form: Form, rows: usize, columns: usize) -> Self {
        Self { rows, packed: Rows::new(form, columns), widened: None }
    }

    /// Takes the next rows.
    pub fn push(&mut self, next: &Rows) -> Result<()> {
        self.packed.push_rows(next, 0..next.len());
        let (form, columns) = (self.packed.form, self.packed.columns);
        if self.packed.len() == self.rows && (form == Form::F32 || self.rows * columns <= SMALL) {
            let packed = std::mem::replace(&mut self.packed, Rows::new(form, columns));
            self.widened = Some(matrix(block(&packed, 0..self.rows), self.rows, columns)?);
        }
        Ok(())
    }
}

fn block(packed: &Rows, rows: Range<usize>) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() * packed.columns);
    packed.widen(rows, &mut out);
    out
}

/// The tensor that holds a weight, if one does.
fn widened<'a>(weight: &'a Weight<'_, Cpu>) -> Option<&'a Tensor> {
    weight.whole.as_ref().or(weight.frozen.widened.as_ref())
}

/// `x · Wᵀ` if `transposed`, else `x · W`.
pub fn product(x: &Tensor, weight: &Weight<'_, Cpu>, transposed: bool) -> Result<Tensor> {
    if let Some(all) = widened(weight) {
        return Ok(if transposed { x.matmul(&all.t()?)? } else { x.matmul(all)? });
    }
    let step = (BLOCK / weight.cols).max(1);
    let mut parts = Vec::new();
    for first in (0..weight.rows).step_by(step) {
        let rows = first..(first + step).min(weight.rows);
        let block = matrix(block(&weight.frozen.packed, rows.clone()), rows.len(), weight.cols)?;
        parts.push(match transposed {
            true => x.matmul(&block.t()?)?,
            false => x.narrow(1, first, rows.len())?.matmul(&block)?,
        });
    }
    if transposed {
        return Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 1)?.contiguous()? });
    }
    let mut parts = parts.into_iter();
    let first = parts.next().unwrap_or(x.zeros_like()?);
    Ok(parts.try_fold(first, |sum, part| sum + part)?)
}

/// Rows `ids` of a weight, columns `cols`: `[ids, cols]`.
pub fn rows(weight: &Weight<'_, Cpu>, ids: &[u32], cols: Range<usize>) -> Result<Tensor> {
    let mut out = Vec::with_capacity(ids.len() * cols.len());
    let all = widened(weight).map(values).transpose()?;
    for id in ids {
        let row = *id as usize..*id as usize + 1;
        match &all {
            Some(all) => out.extend_from_slice(&all[row.start * weight.cols..][cols.clone()]),
            None => out.extend_from_slice(&block(&weight.frozen.packed, row)[cols.clone()]),
        }
    }
    matrix(out, ids.len(), cols.len())
}
