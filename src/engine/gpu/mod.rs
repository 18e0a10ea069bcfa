//! The GPU backend: wgpu, which is WebGPU in a browser and Vulkan, Metal or DX12 natively. Kernels are hand-written WGSL.

mod buffers;
mod device;
mod kernels;

use super::backend::{Backend, GateRule, Operand, PackedIds, PackedLayout};
use super::optimiser::Step;
use super::{Engine, Result};
use buffers::Buffer;
use device::Device;
use kernels::Kernel;

/// Computes on a GPU.
pub struct Gpu(Device);

/// A model on a GPU.
pub type GpuEngine = Engine<Gpu>;

/// A matrix on the GPU.
#[derive(Clone)]
pub struct Tensor {
    buffer: Buffer,
    rows: usize,
    cols: usize,
}

impl Tensor {
    fn len(&self) -> usize {
        self.rows * self.cols
    }
}

/// Row indices on the GPU, with their inverse.
pub struct Ids {
    ids: Buffer,
    distinct: Buffer,
    offsets: Buffer,
    places: Buffer,
    count: usize,
    distinct_count: usize,
}

/// A packed layout on the GPU.
pub struct Layout {
    rows: Buffer,
    tokens: usize,
    entries: usize,
}

/// Columns that one thread of a row-wise reduction over the vocabulary takes.
const CHUNK: usize = 1024;

impl Gpu {
    /// Opens the GPU that the platform chooses.
    ///
    /// # Errors
    /// [`super::EngineError::NoGpu`] with what the platform said.
    pub async fn open() -> Result<Self> {
        Device::open().await.map(Self)
    }

    fn tensor(&self, rows: usize, cols: usize) -> Result<Tensor> {
        Ok(Tensor { buffer: self.0.allocate(rows * cols)?, rows, cols })
    }

    /// Runs a kernel with one thread for each of `threads`.
    fn run(&self, kernel: Kernel, threads: usize, parameters: &[u32], buffers: &[&Buffer]) {
        let groups = threads.div_ceil(64) as u32;
        // 65,535 groups is the limit of one dimension: longer rows of groups are folded into the second.
        let x = groups.clamp(1, 32_768);
        self.0.dispatch(kernel, parameters, buffers, [x, groups.div_ceil(x)]);
    }

    /// An elementwise kernel: as many threads as the output has values.
    fn elementwise(&self, kernel: Kernel, like: &Tensor, more: &[u32], inputs: &[&Buffer]) -> Result<Tensor> {
        let out = self.tensor(like.rows, like.cols)?;
        let mut buffers = inputs.to_vec();
        buffers.push(&out.buffer);
        let mut parameters = vec![like.len() as u32];
        parameters.extend_from_slice(more);
        self.run(kernel, like.len(), &parameters, &buffers);
        Ok(out)
    }

    fn attention(
        &self,
        pattern_rows: usize,
        kv_heads: usize,
        head_dim: usize,
        layout: &Layout,
        first: u32,
    ) -> [u32; 5] {
        [first, pattern_rows as u32, kv_heads as u32, head_dim as u32, layout.entries as u32]
    }

    fn copy(&self, from: &Tensor, from_start: usize, to: &Tensor, to_start: usize, rows: usize, cols: usize) {
        let parameters = [rows * cols, cols, from_start, from.cols, to_start, to.cols].map(|x| x as u32);
        self.run(Kernel::CopyWindow, rows * cols, &parameters, &[&from.buffer, &to.buffer]);
    }
}

/// Start, row stride and column stride of an operand, and its logical shape.
fn strides(x: &Operand<Tensor>) -> ([u32; 3], usize, usize) {
    let (width, start) = (x.tensor.cols as u32, x.start as u32);
    match x.transposed {
        false => ([start, width, 1], x.tensor.rows, x.columns),
        true => ([start, 1, width], x.columns, x.tensor.rows),
    }
}

impl Backend for Gpu {
    type Tensor = Tensor;
    type Ids = Ids;
    type Layout = Layout;

    fn device(&self) -> String {
        let info = &self.0.info;
        let software = if self.0.is_software() { ", software" } else { "" };
        let name = if info.name.is_empty() { "unnamed adapter" } else { &info.name };
        format!("{name} ({}{software})", info.backend)
    }

    fn dispatches(&self) -> Option<u64> {
        Some(self.0.dispatches.get())
    }

    fn peak_bytes(&self) -> Option<u64> {
        Some(self.0.arena.peak_bytes())
    }

    fn batch_tokens(&self) -> usize {
        if self.0.is_software() { 256 } else { 1024 }
    }

    fn shape(&self, x: &Tensor) -> (usize, usize) {
        (x.rows, x.cols)
    }

    fn submit(&self) {
        self.0.submit();
    }

    fn upload(&self, data: &[f32], rows: usize, cols: usize) -> Result<Tensor> {
        Ok(Tensor { buffer: self.0.upload(bytemuck::cast_slice(data))?, rows, cols })
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Tensor> {
        Ok(Tensor { buffer: self.0.zeros(rows * cols)?, rows, cols })
    }

    fn ids(&self, ids: PackedIds) -> Result<Ids> {
        let upload = |x: &[u32]| self.0.upload(bytemuck::cast_slice(x));
        Ok(Ids {
            ids: upload(&ids.ids)?,
            distinct: upload(&ids.distinct)?,
            offsets: upload(&ids.offsets)?,
            places: upload(&ids.places)?,
            count: ids.ids.len(),
            distinct_count: ids.distinct.len(),
        })
    }

    fn layout(&self, layout: PackedLayout) -> Result<Layout> {
        let rows: Vec<[u32; 4]> = layout.rows().into_iter().map(|row| row.map(|x| x as u32)).collect();
        Ok(Layout {
            rows: self.0.upload(bytemuck::cast_slice(&rows))?,
            tokens: layout.tokens(),
            entries: layout.pattern_entries(),
        })
    }

    async fn read(&self, tensors: &[&Tensor]) -> Result<Vec<Vec<f32>>> {
        self.0.read(&tensors.iter().map(|t| (&t.buffer, t.len())).collect::<Vec<_>>()).await
    }

    fn matmul(
        &self,
        a: Operand<Tensor>,
        b: Operand<Tensor>,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (a_strides, m, k) = strides(&a);
        let (b_strides, _, n) = strides(&b);
        let out = self.tensor(m, n)?;
        let mut parameters = vec![m as u32, n as u32, k as u32];
        parameters.extend(a_strides);
        parameters.extend(b_strides);
        parameters.extend([u32::from(bias.is_some()), u32::from(residual.is_some())]);
        // Absent operands still need a buffer to bind; the kernel does not read it.
        let (bias, residual) = (bias.unwrap_or(a.tensor), residual.unwrap_or(a.tensor));
        let buffers = [&a.tensor.buffer, &b.tensor.buffer, &bias.buffer, &residual.buffer, &out.buffer];
        self.0.dispatch(Kernel::Matmul, &parameters, &buffers, [n.div_ceil(32) as u32, m.div_ceil(32) as u32]);
        Ok(out)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.elementwise(Kernel::Add, a, &[], &[&a.buffer, &b.buffer])
    }

    fn column_sum(&self, x: &Tensor, start: usize, columns: usize) -> Result<Tensor> {
        let out = self.tensor(1, columns)?;
        let parameters = [x.rows, x.cols, start, columns].map(|x| x as u32);
        self.run(Kernel::ColumnSum, columns, &parameters, &[&x.buffer, &out.buffer]);
        Ok(out)
    }

    fn scale_columns(&self, x: &Tensor, factors: &Tensor) -> Result<Tensor> {
        self.elementwise(Kernel::ScaleColumns, x, &[x.cols as u32], &[&x.buffer, &factors.buffer])
    }

    fn gather_rows(&self, table: &Tensor, ids: &Ids) -> Result<Tensor> {
        let out = self.tensor(ids.count, table.cols)?;
        self.run(
            Kernel::GatherRows,
            out.len(),
            &[out.len() as u32, table.cols as u32],
            &[&table.buffer, &ids.ids, &out.buffer],
        );
        Ok(out)
    }

    fn scatter_rows(&self, x: &Tensor, ids: &Ids, rows: usize) -> Result<Tensor> {
        let out = self.zeros(rows, x.cols)?;
        let threads = ids.distinct_count * x.cols;
        self.run(
            Kernel::ScatterRows,
            threads,
            &[threads as u32, x.cols as u32],
            &[&x.buffer, &ids.distinct, &ids.offsets, &ids.places, &out.buffer],
        );
        Ok(out)
    }

    fn rms_norm(&self, x: &Tensor, gain: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        let r = self.tensor(x.rows, 1)?;
        self.run(
            Kernel::RmsFactor,
            x.rows,
            &[x.rows as u32, x.cols as u32, (eps as f32).to_bits()],
            &[&x.buffer, &r.buffer],
        );
        let y = self.elementwise(Kernel::RmsNorm, x, &[x.cols as u32], &[&x.buffer, &r.buffer, &gain.buffer])?;
        Ok((y, r))
    }

    fn rms_norm_backward(&self, dy: &Tensor, x: &Tensor, gain: &Tensor, r: &Tensor, frozen: bool) -> Result<Tensor> {
        let pull = if frozen {
            self.zeros(x.rows, 1)?
        } else {
            let pull = self.tensor(x.rows, 1)?;
            self.run(
                Kernel::RmsPull,
                x.rows,
                &[x.rows as u32, x.cols as u32],
                &[&dy.buffer, &x.buffer, &gain.buffer, &r.buffer, &pull.buffer],
            );
            pull
        };
        self.elementwise(
            Kernel::RmsNormBackward,
            x,
            &[x.cols as u32],
            &[&dy.buffer, &x.buffer, &gain.buffer, &r.buffer, &pull.buffer],
        )
    }

    fn rms_norm_gain_gradient(&self, dy: &Tensor, x: &Tensor, r: &Tensor) -> Result<Tensor> {
        let out = self.tensor(1, x.cols)?;
        self.run(
            Kernel::RmsNormGainGradient,
            x.cols,
            &[x.rows as u32, x.cols as u32],
            &[&dy.buffer, &x.buffer, &r.buffer, &out.buffer],
        );
        Ok(out)
    }

    fn rotate(
        &self,
        x: &Tensor,
        head_dim: usize,
        layout: &Layout,
        rotary: &(Tensor, Tensor),
        inverse: bool,
    ) -> Result<Tensor> {
        let out = self.tensor(x.rows, x.cols)?;
        let sign: f32 = if inverse { -1.0 } else { 1.0 };
        let parameters = [(x.len() / 2) as u32, x.cols as u32, head_dim as u32, sign.to_bits()];
        self.run(
            Kernel::Rotate,
            x.len() / 2,
            &parameters,
            &[&x.buffer, &rotary.0.buffer, &rotary.1.buffer, &layout.rows, &out.buffer],
        );
        Ok(out)
    }

    fn attention_pattern(&self, q: &Tensor, k: &Tensor, head_dim: usize, layout: &Layout) -> Result<Tensor> {
        let heads = q.cols / head_dim;
        let out = self.tensor(heads, layout.entries)?;
        let parameters = self.attention(heads, k.cols / head_dim, head_dim, layout, layout.tokens as u32);
        self.run(
            Kernel::AttentionPattern,
            layout.tokens * heads,
            &parameters,
            &[&q.buffer, &k.buffer, &layout.rows, &out.buffer],
        );
        Ok(out)
    }

    fn attention_mix(&self, pattern: &Tensor, v: &Tensor, head_dim: usize, layout: &Layout) -> Result<Tensor> {
        let out = self.tensor(layout.tokens, pattern.rows * head_dim)?;
        let parameters = self.attention(pattern.rows, v.cols / head_dim, head_dim, layout, out.len() as u32);
        self.run(
            Kernel::AttentionMix,
            out.len(),
            &parameters,
            &[&pattern.buffer, &v.buffer, &layout.rows, &out.buffer],
        );
        Ok(out)
    }

    fn attention_mix_backward(
        &self,
        pattern: &Tensor,
        dz: &Tensor,
        kv_heads: usize,
        head_dim: usize,
        layout: &Layout,
    ) -> Result<Tensor> {
        let out = self.tensor(layout.tokens, kv_heads * head_dim)?;
        let parameters = self.attention(pattern.rows, kv_heads, head_dim, layout, out.len() as u32);
        self.run(
            Kernel::AttentionMixBackward,
            out.len(),
            &parameters,
            &[&pattern.buffer, &dz.buffer, &layout.rows, &out.buffer],
        );
        Ok(out)
    }

    fn attention_pattern_backward(
        &self,
        pattern: &Tensor,
        dz: &Tensor,
        v: &Tensor,
        head_dim: usize,
        layout: &Layout,
    ) -> Result<Tensor> {
        let out = self.tensor(pattern.rows, pattern.cols)?;
        let parameters = self.attention(pattern.rows, v.cols / head_dim, head_dim, layout, layout.tokens as u32);
        self.run(
            Kernel::AttentionPatternBackward,
            layout.tokens * pattern.rows,
            &parameters,
            &[&pattern.buffer, &dz.buffer, &v.buffer, &layout.rows, &out.buffer],
        );
        Ok(out)
    }

    fn replace_heads(
        &self,
        z: &Tensor,
        means: &Tensor,
        slots: &Ids,
        flags: &Tensor,
        head_dim: usize,
    ) -> Result<Tensor> {
        self.elementwise(
            Kernel::ReplaceHeads,
            z,
            &[z.cols as u32, head_dim as u32],
            &[&z.buffer, &means.buffer, &slots.ids, &flags.buffer],
        )
    }

    fn head_products(
        &self,
        z: &Tensor,
        means: &Tensor,
        slots: &Ids,
        gradient: &Tensor,
        head_dim: usize,
    ) -> Result<Tensor> {
        let heads = z.cols / head_dim;
        let out = self.tensor(z.rows, heads)?;
        let parameters = [out.len(), heads, head_dim].map(|x| x as u32);
        self.run(
            Kernel::HeadProducts,
            out.len(),
            &parameters,
            &[&z.buffer, &means.buffer, &slots.ids, &gradient.buffer, &out.buffer],
        );
        Ok(out)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.elementwise(Kernel::Swiglu, gate, &[], &[&gate.buffer, &up.buffer])
    }

    fn swiglu_backward(&self, dy: &Tensor, gate: &Tensor, up: &Tensor, rule: GateRule) -> Result<(Tensor, Tensor)> {
        let rule = match rule {
            GateRule::Tangent => 0,
            GateRule::Gate => 1,
            GateRule::Half => 2,
        };
        let (d_gate, d_up) = (self.tensor(gate.rows, gate.cols)?, self.tensor(gate.rows, gate.cols)?);
        self.run(
            Kernel::SwigluBackward,
            gate.len(),
            &[gate.len() as u32, rule],
            &[&dy.buffer, &gate.buffer, &up.buffer, &d_gate.buffer, &d_up.buffer],
        );
        Ok((d_gate, d_up))
    }

    fn cross_entropy(&self, logits: &Tensor, targets: &Ids) -> Result<(Tensor, Tensor)> {
        let (rows, cols) = (logits.rows, logits.cols);
        let chunks = cols.div_ceil(CHUNK);
        let parts = self.tensor(rows * chunks, 2)?;
        self.run(
            Kernel::LogSumExpChunks,
            rows * chunks,
            &[rows as u32, cols as u32, CHUNK as u32, chunks as u32],
            &[&logits.buffer, &parts.buffer],
        );
        let (log_sums, losses) = (self.tensor(rows, 1)?, self.tensor(rows, 1)?);
        let buffers = [&logits.buffer, &parts.buffer, &targets.ids, &log_sums.buffer, &losses.buffer];
        self.run(Kernel::CrossEntropy, rows, &[rows as u32, cols as u32, chunks as u32], &buffers);
        let gradient = self.elementwise(
            Kernel::CrossEntropyBackward,
            logits,
            &[rows as u32, cols as u32],
            &[&logits.buffer, &log_sums.buffer, &targets.ids],
        )?;
        Ok((losses, gradient))
    }

    fn sum_of_squares(&self, tensors: &[Tensor]) -> Result<Tensor> {
        let chunk = 4 * CHUNK;
        let total: usize = tensors.iter().map(|t| t.len().div_ceil(chunk)).sum();
        let parts = self.tensor(total.max(1), 1)?;
        let mut first = 0;
        for x in tensors {
            let chunks = x.len().div_ceil(chunk);
            self.run(
                Kernel::SumOfSquares,
                chunks,
                &[x.len() as u32, chunk as u32, first as u32],
                &[&x.buffer, &parts.buffer],
            );
            first += chunks;
        }
        let out = self.tensor(1, 1)?;
        self.run(Kernel::Sum, 1, &[total as u32], &[&parts.buffer, &out.buffer]);
        Ok(out)
    }

    fn adamw(
        &self,
        parameter: &Tensor,
        row: usize,
        col: usize,
        gradient: &Tensor,
        m: &Tensor,
        v: &Tensor,
        norm_squared: &Tensor,
        step: &Step,
    ) -> Result<()> {
        let start = row * parameter.cols + col;
        let mut parameters = [gradient.len(), gradient.cols, start, parameter.cols].map(|x| x as u32).to_vec();
        let numbers = [
            step.learning_rate,
            step.beta1,
            step.beta2,
            step.eps,
            step.weight_decay,
            step.clip,
            step.correction1,
            step.correction2,
        ];
        parameters.extend(numbers.map(f32::to_bits));
        let buffers = [&gradient.buffer, &norm_squared.buffer, &parameter.buffer, &m.buffer, &v.buffer];
        self.run(Kernel::Adamw, gradient.len(), &parameters, &buffers);
        Ok(())
    }

    fn copy_window(&self, x: &Tensor, row: usize, col: usize, rows: usize, cols: usize) -> Result<Tensor> {
        let out = self.tensor(rows, cols)?;
        self.copy(x, row * x.cols + col, &out, 0, rows, cols);
        Ok(out)
    }

    fn write_window(&self, x: &Tensor, row: usize, col: usize, window: &Tensor) -> Result<()> {
        self.copy(window, 0, x, row * x.cols + col, window.rows, window.cols);
        Ok(())
    }
}
