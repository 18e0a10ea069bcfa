//! Matrix products: weights in their stored form, and plain tensors.

use super::buffers::{Binding, Buffer};
use super::kernels::{Kernel, Numbers, Product, RowWise, TRANSPOSED_COLUMNS, Variant};
use super::{Gpu, Ids, Tensor};
use crate::engine::backend::Operand;
use crate::engine::weights::Weight;
use crate::engine::{EngineError, Result};
use crate::model::{Form, Rows};
use std::ops::Range;

/// A matrix in its stored form, in parts of whole rows that a kernel can be given.
pub struct Stored {
    form: Form,
    columns: usize,
    parts: Vec<Part>,
}

struct Part {
    rows: Range<usize>,
    values: Buffer,
    scales: Option<Buffer>,
}

/// The right side of a product, or one part of it.
struct Right<'a> {
    numbers: Numbers,
    values: Binding<'a>,
    scales: Option<Binding<'a>>,
    /// Column that counts as its first.
    start: usize,
    stride: usize,
    scale_stride: usize,
    rows: Range<usize>,
}

impl<'a> Right<'a> {
    /// Columns of a plain tensor.
    fn tensor(x: &'a Tensor, start: usize) -> Self {
        let vec4 = x.cols.is_multiple_of(4) && start.is_multiple_of(4);
        Self {
            numbers: if vec4 { Numbers::Vec4 } else { Numbers::Scalar },
            values: x.bind(),
            scales: None,
            start,
            stride: x.cols,
            scale_stride: 0,
            rows: 0..x.rows,
        }
    }

    /// All parts of a weight.
    fn weight(weight: &'a Weight<'_, Gpu>) -> Vec<Self> {
        if let Some(whole) = &weight.whole {
            return vec![Self::tensor(whole, 0)];
        }
        let (form, columns) = (weight.frozen.form, weight.frozen.columns);
        let part = |part: &'a Part| Self {
            numbers: numbers(form),
            values: part.values.bind(),
            scales: part.scales.as_ref().map(Buffer::bind),
            start: 0,
            stride: form.value_words(columns),
            scale_stride: form.scale_words(columns),
            rows: part.rows.clone(),
        };
        weight.frozen.parts.iter().map(part).collect()
    }
}

/// Stored f32 rows begin at multiples of 4.
fn numbers(form: Form) -> Numbers {
    if form == Form::F32 { Numbers::Vec4 } else { Numbers::Packed(form) }
}

/// What a product adds, and where it goes.
struct Out<'a> {
    tensor: &'a Tensor,
    start: usize,
    bias: Option<&'a Tensor>,
    residual: Option<&'a Tensor>,
}

/// Products of fewer threads than this leave most of a GPU idle, and are split over k.
const ENOUGH_THREADS: usize = 1 << 14;

/// Shortest stretch of k worth a part of its own.
const SHORTEST_SPLIT: usize = 256;

/// Products of no more rows than this read each weight once: tiles would be mostly empty.
const FEW_ROWS: usize = 16;

impl Gpu {
    pub(super) fn new_stored(&self, name: &str, form: Form, rows: usize, columns: usize) -> Result<Stored> {
        let row = form.value_words(columns) as u64 * 4;
        let limit = self.0.largest();
        if row > limit {
            return Err(EngineError::TooLarge { what: format!("a row of `{name}`"), needed: row, limit });
        }
        let step = ((limit / row.max(1)) as usize).clamp(1, rows.max(1));
        let mut parts = Vec::new();
        for first in (0..rows).step_by(step) {
            let rows = first..(first + step).min(rows);
            let scale_words = rows.len() * form.scale_words(columns);
            parts.push(Part {
                values: self.0.room(rows.len() * form.value_words(columns))?,
                scales: if scale_words > 0 { Some(self.0.room(scale_words)?) } else { None },
                rows,
            });
        }
        Ok(Stored { form, columns, parts })
    }

    pub(super) fn fill_stored(&self, stored: &Stored, first: usize, rows: &Rows) {
        let (value_words, scale_words) = (rows.form.value_words(rows.columns), rows.form.scale_words(rows.columns));
        for part in &stored.parts {
            let here = part.rows.start.max(first)..part.rows.end.min(first + rows.len());
            if here.is_empty() {
                continue;
            }
            let (from, to) = (here.start - first..here.end - first, here.start - part.rows.start);
            let cut = |words: usize| from.start * words..from.end * words;
            let values = bytemuck::cast_slice(&rows.values[cut(value_words)]);
            self.0.write(&part.values, (to * value_words) as u64 * 4, values);
            if let Some(scales) = &part.scales {
                let values = bytemuck::cast_slice(&rows.scales[cut(scale_words)]);
                self.0.write(scales, (to * scale_words) as u64 * 4, values);
            }
        }
    }

    pub(super) fn weight_product(
        &self,
        x: &Tensor,
        weight: &Weight<'_, Gpu>,
        transposed: bool,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let out = self.tensor(x.rows, if transposed { weight.rows } else { weight.cols })?;
        let parts = Right::weight(weight);
        let mut last = residual.cloned();
        let mut sum = out.clone();
        for (number, side) in parts.iter().enumerate() {
            if transposed {
                // Each part makes columns of its own.
                let out = Out { tensor: &out, start: side.rows.start, bias, residual };
                self.multiply(left(x, 0, x.cols, false), side, true, side.rows.len(), &out)?;
            } else {
                // Each part adds its share.
                if number > 0 {
                    sum = self.tensor(x.rows, weight.cols)?;
                }
                let left = left(x, side.rows.start, side.rows.len(), false);
                let bias = if number == 0 { bias } else { None };
                let out = Out { tensor: &sum, start: 0, bias, residual: last.as_ref() };
                self.multiply(left, side, false, weight.cols, &out)?;
                last = Some(sum.clone());
            }
        }
        Ok(if transposed { out } else { sum })
    }

    pub(super) fn tensor_product(
        &self,
        a: Operand<Tensor>,
        b: Operand<Tensor>,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
        out: &Tensor,
        start: usize,
    ) -> Result<()> {
        let n = if b.transposed { b.tensor.rows } else { b.columns };
        let side = Right::tensor(b.tensor, b.start);
        let left = left(a.tensor, a.start, a.columns, a.transposed);
        self.multiply(left, &side, b.transposed, n, &Out { tensor: out, start, bias, residual })
    }

    /// Widens rows of a weight: `[ids, cols]`.
    pub(super) fn widen_rows(&self, weight: &Weight<'_, Gpu>, ids: &Ids, cols: Range<usize>) -> Result<Tensor> {
        let out = self.tensor(ids.count, cols.len())?;
        let fours = cols.end.div_ceil(4) - cols.start / 4;
        for side in Right::weight(weight) {
            let place = [ids.count, side.rows.start, side.rows.len(), cols.start, cols.len()].map(|x| x as u32);
            let mut parameters = place.to_vec();
            parameters.extend([side.start, side.stride, side.scale_stride].map(|x| x as u32));
            let bound = [ids.ids.bind(), side.values, side.scales.unwrap_or(side.values), out.bind()];
            self.run(Kernel::WidenRows(side.numbers), ids.count * fours, &parameters, &bound);
        }
        Ok(out)
    }

    /// How a product of `m` rows is computed.
    fn variant_for(&self, m: usize) -> Variant {
        if m <= FEW_ROWS { Variant::Direct } else { self.0.variant.get() }
    }

    /// How a row-wise kernel over `rows` rows is computed.
    pub(super) fn row_wise(&self, rows: usize) -> RowWise {
        if self.variant_for(rows) == Variant::Rows { RowWise::Alone } else { RowWise::Shared }
    }

    /// The left side transposed, `[k, m]`.
    fn transpose(&self, left: &Left<'_>) -> Result<Buffer> {
        let (m, k) = left.shape;
        let out = self.0.allocate(m * k)?;
        let parameters = [m, k, left.start, left.x.cols].map(|x| x as u32);
        let groups = [m.div_ceil(64), k.div_ceil(TRANSPOSED_COLUMNS), 1].map(|x| x as u32);
        self.0.dispatch(Kernel::Transpose, &parameters, &[left.x.bind(), out.bind()], groups);
        Ok(out)
    }

    /// The product of n columns into its place in `out`.
    fn multiply(
        &self,
        left: Left<'_>,
        right: &Right<'_>,
        right_transposed: bool,
        n: usize,
        out: &Out<'_>,
    ) -> Result<()> {
        let (m, k) = left.shape;
        let variant = self.variant_for(m);
        let copy;
        let left = if variant == Variant::Rows && !left.transposed {
            // A copy of all of it holds the columns wanted as rows.
            let (buffer, rows, start) = match &left.x.transposed {
                Some(all) => (all.clone(), left.x.cols, left.start * m),
                None => (self.transpose(&left)?, k, 0),
            };
            copy = Tensor::new(buffer, 0, rows, m);
            Left { x: &copy, start, transposed: true, shape: (m, k) }
        } else {
            left
        };
        let product = Product {
            variant,
            left_vec4: variant != Variant::Rows && left.x.cols.is_multiple_of(4) && left.start.is_multiple_of(4),
            left_transposed: left.transposed,
            right: right.numbers,
            right_transposed,
            columns: variant.columns_of(n, right.numbers, right_transposed),
        };
        let groups = [n.div_ceil(product.columns), m.div_ceil(variant.rows())];
        let threads = match variant {
            Variant::Direct => m.div_ceil(8) * n.div_ceil(4),
            Variant::Rows => groups[0] * groups[1] * 8,
            Variant::Blocks | Variant::Subgroups => groups[0] * groups[1] * 64,
            Variant::Tiled(side) => groups[0] * groups[1] * (side * side) as usize,
        };
        let parts = match n == out.tensor.cols && self.0.splits() {
            true => (ENOUGH_THREADS / threads.max(1)).min(k / SHORTEST_SPLIT).max(1),
            false => 1,
        };
        let split = k.div_ceil(parts).next_multiple_of(16);
        let parts = k.div_ceil(split);
        let partial = if parts > 1 { Some(self.tensor(parts * m, n)?) } else { None };
        let target = partial.as_ref().unwrap_or(out.tensor);
        let (bias, residual) = if parts > 1 { (None, None) } else { (out.bias, out.residual) };

        let mut parameters = [m, n, k, split, left.start, left.x.cols, right.start, right.stride, right.scale_stride]
            .map(|x| x as u32)
            .to_vec();
        parameters.extend([out.start as u32, target.cols as u32]);
        parameters.extend([u32::from(bias.is_some()), u32::from(residual.is_some())]);
        // Absent operands still need a buffer to bind; the kernel does not read it.
        let bound = [
            left.x.bind(),
            right.values,
            right.scales.unwrap_or(right.values),
            bias.unwrap_or(left.x).bind(),
            residual.unwrap_or(left.x).bind(),
            target.bind(),
        ];
        self.0.dispatch(
            Kernel::Product(product),
            &parameters,
            &bound,
            [groups[0] as u32, groups[1] as u32, parts as u32],
        );
        self.0.worked(2 * (m * n * k) as u64);
        if let Some(partial) = partial {
            let parameters = [m * n, n, parts, out.bias.is_some().into(), out.residual.is_some().into()];
            let bound = [
                partial.bind(),
                out.bias.unwrap_or(&partial).bind(),
                out.residual.unwrap_or(&partial).bind(),
                out.tensor.bind(),
            ];
            self.run(Kernel::SumParts, m * n, &parameters.map(|x: usize| x as u32), &bound);
        }
        Ok(())
    }
}

/// The left side of a product: columns `start..` of a tensor; `shape` is the product's m and k.
struct Left<'a> {
    x: &'a Tensor,
    start: usize,
    transposed: bool,
    shape: (usize, usize),
}

fn left(x: &Tensor, start: usize, columns: usize, transposed: bool) -> Left<'_> {
    let shape = if transposed { (columns, x.rows) } else { (x.rows, columns) };
    Left { x, start, transposed, shape }
}
