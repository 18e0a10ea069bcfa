//! The GPU backend: wgpu, which is WebGPU in a browser and Vulkan, Metal or DX12 natively. Kernels are hand-written WGSL.

mod buffers;
mod device;
mod kernels;
mod weights;

use super::backend::{Attended, Backend, GateRule, Operand, Side};
use super::layout::{Attention, PackedIds};
use super::optimiser::{LeanStep, Step};
use super::weights::Weight;
use super::{Engine, Result};
use crate::model::{Form, Rows};
use buffers::{Binding, Buffer};
use device::Device;
pub use kernels::Variant;
use kernels::{Attend, Kernel, RowWise};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use web_time::Instant;
use weights::Stored;

/// Computes on a GPU.
pub struct Gpu(Device);

/// A model on a GPU.
pub type GpuEngine = Engine<Gpu>;

/// A matrix on the GPU: a buffer, or a window of one.
#[derive(Clone)]
pub struct Tensor {
    buffer: Buffer,
    /// First value of the buffer that is its own; a multiple of [`super::ALIGNMENT`].
    start: usize,
    rows: usize,
    cols: usize,
    /// Its transposed copy, where products are going to read that.
    transposed: Option<Buffer>,
}

impl Tensor {
    fn new(buffer: Buffer, start: usize, rows: usize, cols: usize) -> Self {
        Self { buffer, start, rows, cols, transposed: None }
    }

    fn len(&self) -> usize {
        self.rows * self.cols
    }

    fn bind(&self) -> Binding<'_> {
        Binding { buffer: &self.buffer, start: self.start as u64 * 4, bytes: Some(self.len() as u64 * 4) }
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

/// Who attends to whom, on the GPU: bands of as many rows as a thread takes.
pub struct DeviceAttention {
    threads: RowWise,
    prefix: usize,
    step: usize,
    /// Keys that all queries attend to, together.
    pairs: usize,
    query_positions: Buffer,
    query_bands: Bands,
    key_positions: Buffer,
    key_bands: Bands,
}

struct Bands {
    bands: Buffer,
    count: usize,
}

/// Columns that one thread of a row-wise reduction over the vocabulary takes.
const CHUNK: usize = 1024;

/// The fastest variant of each trial so far, by device and kernels.
pub type Chosen = HashMap<String, Variant>;

thread_local! {
    static CHOSEN: RefCell<Chosen> = RefCell::default();
}

/// What trials have found, to be kept for another time.
pub fn chosen() -> Chosen {
    CHOSEN.with_borrow(Clone::clone)
}

/// Takes over what trials found another time.
pub fn recall(chosen: Chosen) {
    CHOSEN.with_borrow_mut(|known| known.extend(chosen));
}

impl Gpu {
    /// Opens the GPU that the platform chooses, and finds out how it computes products fastest.
    ///
    /// # Errors
    /// [`super::EngineError::NoGpu`] with what the platform said.
    pub async fn open() -> Result<Self> {
        Self::at_its_fastest(Device::open(None, None).await?).await
    }

    /// Opens every GPU there is, software ones too.
    ///
    /// # Errors
    /// A GPU that refuses to be used.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open_every() -> Result<Vec<Self>> {
        let mut gpus = Vec::new();
        for device in Device::open_every().await? {
            gpus.push(Self::at_its_fastest(device).await?);
        }
        Ok(gpus)
    }

    /// Opens it with one way to compute products (without barriers, which software adapters need, if none is given), or
    /// with no buffer larger than `largest` bytes.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub async fn open_with(variant: Option<Variant>, largest: Option<u64>) -> Result<Self> {
        Device::open(variant, largest).await.map(Self)
    }

    async fn at_its_fastest(device: Device) -> Result<Self> {
        let gpu = Self(device);
        if !gpu.is_software() {
            gpu.try_variants(512, 1024).await?;
        }
        Ok(gpu)
    }

    /// The ways to compute products that the device offers.
    pub fn variants(&self) -> impl Iterator<Item = Variant> {
        Variant::ALL.into_iter().filter(|variant| *variant != Variant::Subgroups || self.0.subgroups)
    }

    /// How products of more than a few rows are computed.
    pub fn variant(&self) -> Variant {
        self.0.variant.get()
    }

    /// Takes the variant that computes products `[rows, size] · [size, size]` fastest; tried once for each adapter.
    ///
    /// # Errors
    /// A device failure.
    pub async fn try_variants(&self, rows: usize, size: usize) -> Result<()> {
        let trial = format!("{}, kernels {:016x}", self.device(), kernels::version());
        if let Some(variant) = CHOSEN.with_borrow(|chosen| chosen.get(&trial).copied())
            && self.variants().any(|offered| offered == variant)
        {
            self.0.variant.set(variant);
            return Ok(());
        }
        let repeats = 8;
        let (x, w) = (self.zeros(rows, size)?, self.zeros(size, size)?);
        let side = |tensor, transposed| Operand { tensor, start: 0, columns: size, transposed };
        let mut fastest = (f64::INFINITY, Variant::Direct);
        for variant in self.variants() {
            self.0.variant.set(variant);
            let mut seconds = f64::INFINITY;
            // The first round compiles.
            for _ in 0..3 {
                let started = Instant::now();
                let mut last = self.matmul(side(&x, false), side(&w, true), None)?;
                for _ in 1..repeats {
                    last = self.matmul(side(&x, false), side(&w, true), None)?;
                }
                self.read(&[&self.view(&last, 0, 1, 1)?]).await?;
                seconds = started.elapsed().as_secs_f64();
            }
            if seconds < fastest.0 {
                fastest = (seconds, variant);
            }
        }
        self.0.variant.set(fastest.1);
        CHOSEN.with_borrow_mut(|chosen| chosen.insert(trial, fastest.1));
        Ok(())
    }

    /// Whether the adapter computes in software, in the process's own memory.
    pub fn is_software(&self) -> bool {
        self.0.is_software()
    }

    /// The device itself, for a test to take it away.
    pub fn handle(&self) -> wgpu::Device {
        self.0.device.clone()
    }

    fn tensor(&self, rows: usize, cols: usize) -> Result<Tensor> {
        Ok(Tensor::new(self.0.allocate(rows * cols)?, 0, rows, cols))
    }

    /// Runs a kernel with one thread for each of `threads`.
    fn run(&self, kernel: Kernel, threads: usize, parameters: &[u32], bound: &[Binding<'_>]) {
        let groups = threads.div_ceil(64) as u32;
        // 65,535 groups is the limit of one dimension: longer rows of groups are folded into the second.
        let x = groups.clamp(1, 32_768);
        self.0.dispatch(kernel, parameters, bound, [x, groups.div_ceil(x), 1]);
    }

    /// Runs an attention kernel over queries and keys.
    fn run_attention(
        &self,
        attend: Attend,
        (q, k): (&Tensor, &Tensor),
        head_dim: usize,
        attention: &DeviceAttention,
        bound: &[Binding<'_>],
    ) {
        let (heads, kv_heads) = (q.cols / head_dim, k.cols / head_dim);
        let (bands, of, lanes) = match attend {
            Attend::Forward | Attend::BackwardQueries => (attention.query_bands.count, heads, 1),
            Attend::BackwardKeys | Attend::BackwardValues => {
                (attention.key_bands.count, kv_heads, attention.threads.lanes())
            }
        };
        let parameters = [bands * of, bands, heads, kv_heads, attention.prefix, attention.step].map(|x| x as u32);
        let kernel = Kernel::Attention(attend, attention.threads, head_dim);
        self.run(kernel, bands * of * lanes, &parameters, bound);
        self.0.worked(2 * attend.products() * (attention.pairs * q.cols) as u64);
    }

    /// An elementwise kernel: as many threads as the output has values.
    fn elementwise(&self, kernel: Kernel, like: &Tensor, more: &[u32], inputs: &[Binding<'_>]) -> Result<Tensor> {
        let out = self.tensor(like.rows, like.cols)?;
        let mut buffers = inputs.to_vec();
        buffers.push(out.bind());
        let mut parameters = vec![like.len() as u32];
        parameters.extend_from_slice(more);
        self.run(kernel, like.len(), &parameters, &buffers);
        Ok(out)
    }
}

impl Backend for Gpu {
    type Tensor = Tensor;
    type Stored = Stored;
    type Ids = Ids;
    type Attention = DeviceAttention;

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

    fn bytes_in_use(&self) -> u64 {
        self.0.arena.bytes_in_use()
    }

    fn limit_memory(&self, bytes: u64) {
        self.0.arena.limit(bytes);
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
        Ok(Tensor::new(self.0.upload(bytemuck::cast_slice(data))?, 0, rows, cols))
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Tensor> {
        Ok(Tensor::new(self.0.zeros(rows * cols)?, 0, rows, cols))
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

    fn attention(&self, attention: Attention) -> Result<DeviceAttention> {
        let upload = |x: Vec<usize>| {
            let x: Vec<u32> = x.into_iter().map(|x| x as u32).collect();
            self.0.upload(bytemuck::cast_slice(&x))
        };
        let bands = |bands: Vec<[usize; 4]>| -> Result<Bands> {
            Ok(Bands { count: bands.len(), bands: upload(bands.concat())? })
        };
        let threads = self.row_wise(usize::MAX);
        Ok(DeviceAttention {
            threads,
            prefix: attention.prefix,
            step: attention.step,
            pairs: attention.queries.iter().map(|query| query[1] + 1).sum(),
            query_bands: bands(attention.query_bands(threads.attention_rows()))?,
            key_bands: bands(attention.key_bands(threads.attention_rows()))?,
            query_positions: upload(attention.positions(Side::Queries))?,
            key_positions: upload(attention.positions(Side::Keys))?,
        })
    }

    async fn read(&self, tensors: &[&Tensor]) -> Result<Vec<Vec<f32>>> {
        self.0.read(&tensors.iter().map(|t| t.bind()).collect::<Vec<_>>()).await
    }

    fn largest_tensor(&self) -> usize {
        (self.0.largest() / 4) as usize
    }

    fn view(&self, flat: &Tensor, start: usize, rows: usize, cols: usize) -> Result<Tensor> {
        Ok(Tensor::new(flat.buffer.clone(), flat.start + start, rows, cols))
    }

    fn clear(&self, x: &Tensor) -> Result<()> {
        self.0.clear(x.bind());
        Ok(())
    }

    fn stored(&self, name: &str, form: Form, rows: usize, cols: usize) -> Result<Stored> {
        self.new_stored(name, form, rows, cols)
    }

    fn fill(&self, stored: &mut Stored, first: usize, rows: &Rows) -> Result<()> {
        self.fill_stored(stored, first, rows);
        Ok(())
    }

    fn product(
        &self,
        x: &Tensor,
        weight: &Weight<'_, Self>,
        transposed: bool,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.weight_product(x, weight, transposed, bias, residual)
    }

    fn weight_rows(&self, weight: &Weight<'_, Self>, ids: &Ids, cols: Range<usize>) -> Result<Tensor> {
        self.widen_rows(weight, ids, cols)
    }

    fn matmul(&self, a: Operand<Tensor>, b: Operand<Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
        let m = if a.transposed { a.columns } else { a.tensor.rows };
        let n = if b.transposed { b.tensor.rows } else { b.columns };
        let out = self.tensor(m, n)?;
        self.tensor_product(a, b, None, residual, &out, 0)?;
        Ok(out)
    }

    fn matmul_into(
        &self,
        a: Operand<Tensor>,
        b: Operand<Tensor>,
        bias: Option<&Tensor>,
        out: &Tensor,
        start: usize,
    ) -> Result<()> {
        self.tensor_product(a, b, bias, None, out, start)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.elementwise(Kernel::Add, a, &[], &[a.bind(), b.bind()])
    }

    fn column_sum(&self, x: &Tensor, start: usize, columns: usize, out: &Tensor) -> Result<()> {
        let parameters = [x.rows, x.cols, start, columns].map(|x| x as u32);
        self.run(Kernel::ColumnSum, columns, &parameters, &[x.bind(), out.bind()]);
        Ok(())
    }

    fn scale_columns(&self, x: &Tensor, factors: &Tensor) -> Result<Tensor> {
        self.elementwise(Kernel::ScaleColumns, x, &[x.cols as u32], &[x.bind(), factors.bind()])
    }

    fn gather_rows(&self, table: &Tensor, ids: &Ids) -> Result<Tensor> {
        let out = self.tensor(ids.count, table.cols)?;
        self.run(
            Kernel::GatherRows,
            out.len(),
            &[out.len() as u32, table.cols as u32],
            &[table.bind(), ids.ids.bind(), out.bind()],
        );
        Ok(out)
    }

    fn scatter_rows(&self, x: &Tensor, ids: &Ids, out: &Tensor) -> Result<()> {
        let threads = ids.distinct_count * x.cols;
        self.run(
            Kernel::ScatterRows,
            threads,
            &[threads as u32, x.cols as u32],
            &[x.bind(), ids.distinct.bind(), ids.offsets.bind(), ids.places.bind(), out.bind()],
        );
        Ok(())
    }

    fn rms_norm(&self, x: &Tensor, gain: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        let threads = self.row_wise(x.rows);
        let (out, r) = (self.tensor(x.rows, x.cols)?, self.tensor(x.rows, 1)?);
        let transposed = if threads == RowWise::Alone { Some(self.0.allocate(x.len())?) } else { None };
        let parameters = [x.rows as u32, x.cols as u32, (eps as f32).to_bits()];
        let mut bound = vec![x.bind(), gain.bind(), r.bind(), out.bind()];
        bound.extend(transposed.as_ref().map(Buffer::bind));
        self.run(Kernel::RmsNorm(threads), x.rows * threads.lanes(), &parameters, &bound);
        Ok((Tensor { transposed, ..out }, r))
    }

    fn rms_scale(&self, x: &Tensor, gain: &Tensor, r: &Tensor) -> Result<Tensor> {
        self.elementwise(Kernel::RmsScale, x, &[x.cols as u32], &[x.bind(), r.bind(), gain.bind()])
    }

    fn rms_norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        gain: &Tensor,
        r: &Tensor,
        frozen: bool,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let threads = self.row_wise(x.rows);
        let out = self.tensor(x.rows, x.cols)?;
        let parameters = [x.rows as u32, x.cols as u32, frozen.into(), residual.is_some().into()];
        // An absent operand still needs a buffer to bind; the kernel does not read it.
        let bound = [dy.bind(), x.bind(), gain.bind(), r.bind(), residual.unwrap_or(x).bind(), out.bind()];
        self.run(Kernel::RmsNormBackward(threads), x.rows * threads.lanes(), &parameters, &bound);
        Ok(out)
    }

    fn rms_norm_gain_gradient(&self, dy: &Tensor, x: &Tensor, r: &Tensor, out: &Tensor) -> Result<()> {
        self.run(
            Kernel::RmsNormGainGradient,
            x.cols,
            &[x.rows as u32, x.cols as u32],
            &[dy.bind(), x.bind(), r.bind(), out.bind()],
        );
        Ok(())
    }

    fn rotate(
        &self,
        x: &Tensor,
        head_dim: usize,
        attention: &DeviceAttention,
        side: Side,
        rotary: &(Tensor, Tensor),
        inverse: bool,
    ) -> Result<Tensor> {
        let out = self.tensor(x.rows, x.cols)?;
        let sign: f32 = if inverse { -1.0 } else { 1.0 };
        let parameters = [(x.len() / 2) as u32, x.cols as u32, head_dim as u32, sign.to_bits()];
        let rows = if side == Side::Queries { &attention.query_positions } else { &attention.key_positions };
        self.run(
            Kernel::Rotate,
            x.len() / 2,
            &parameters,
            &[x.bind(), rotary.0.bind(), rotary.1.bind(), rows.bind(), out.bind()],
        );
        Ok(out)
    }

    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        head_dim: usize,
        attention: &DeviceAttention,
    ) -> Result<(Tensor, Tensor)> {
        let (z, sums) = (self.tensor(q.rows, q.cols)?, self.tensor(q.rows, 2 * (q.cols / head_dim))?);
        let bands = &attention.query_bands;
        let bound = [q.bind(), k.bind(), v.bind(), bands.bands.bind(), sums.bind(), z.bind()];
        self.run_attention(Attend::Forward, (q, k), head_dim, attention, &bound);
        Ok((z, sums))
    }

    fn attend_backward(
        &self,
        dz: &Tensor,
        at: &Attended<'_, Tensor>,
        head_dim: usize,
        attention: &DeviceAttention,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let dv = self.attend_backward_values(dz, at, head_dim, attention)?;
        let Attended { q, k, v, z, sums } = at;
        let (dq, dk) = (self.tensor(q.rows, q.cols)?, self.tensor(k.rows, k.cols)?);
        let bands = attention.query_bands.bands.bind();
        let bound = [q.bind(), k.bind(), v.bind(), z.bind(), dz.bind(), bands, sums.bind(), dq.bind()];
        self.run_attention(Attend::BackwardQueries, (q, k), head_dim, attention, &bound);
        let bands = attention.key_bands.bands.bind();
        let bound = [q.bind(), k.bind(), v.bind(), dz.bind(), bands, sums.bind(), dk.bind()];
        self.run_attention(Attend::BackwardKeys, (q, k), head_dim, attention, &bound);
        Ok((dq, dk, dv))
    }

    fn attend_backward_values(
        &self,
        dz: &Tensor,
        at: &Attended<'_, Tensor>,
        head_dim: usize,
        attention: &DeviceAttention,
    ) -> Result<Tensor> {
        let Attended { q, k, sums, .. } = at;
        let dv = self.tensor(k.rows, k.cols)?;
        let bands = attention.key_bands.bands.bind();
        let bound = [q.bind(), k.bind(), dz.bind(), bands, sums.bind(), dv.bind()];
        self.run_attention(Attend::BackwardValues, (q, k), head_dim, attention, &bound);
        Ok(dv)
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
            &[z.bind(), means.bind(), slots.ids.bind(), flags.bind()],
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
            &[z.bind(), means.bind(), slots.ids.bind(), gradient.bind(), out.bind()],
        );
        Ok(out)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.elementwise(Kernel::Swiglu, gate, &[], &[gate.bind(), up.bind()])
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
            &[dy.bind(), gate.bind(), up.bind(), d_gate.bind(), d_up.bind()],
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
            &[logits.bind(), parts.bind()],
        );
        let (log_sums, losses) = (self.tensor(rows, 1)?, self.tensor(rows, 1)?);
        let buffers = [logits.bind(), parts.bind(), targets.ids.bind(), log_sums.bind(), losses.bind()];
        self.run(Kernel::CrossEntropy, rows, &[rows as u32, cols as u32, chunks as u32], &buffers);
        let gradient = self.elementwise(
            Kernel::CrossEntropyBackward,
            logits,
            &[rows as u32, cols as u32],
            &[logits.bind(), log_sums.bind(), targets.ids.bind()],
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
                &[x.bind(), parts.bind()],
            );
            first += chunks;
        }
        let out = self.tensor(1, 1)?;
        self.run(Kernel::Sum, 1, &[total as u32], &[parts.bind(), out.bind()]);
        Ok(out)
    }

    fn adamw(
        &self,
        parameters: &Tensor,
        gradients: &Tensor,
        m: &Tensor,
        v: &Tensor,
        norm_squared: &Tensor,
        decayed: usize,
        step: &Step,
    ) -> Result<()> {
        let mut numbers = vec![parameters.len() as u32, decayed as u32];
        let rates = [
            step.learning_rate,
            step.beta1,
            step.beta2,
            step.eps,
            step.weight_decay,
            step.clip,
            step.correction1,
            step.correction2,
        ];
        numbers.extend(rates.map(f32::to_bits));
        let bound = [gradients.bind(), norm_squared.bind(), parameters.bind(), m.bind(), v.bind()];
        self.run(Kernel::Adamw, parameters.len(), &numbers, &bound);
        Ok(())
    }

    fn adafactor(
        &self,
        parameters: &Tensor,
        gradient: &Tensor,
        rows: &Tensor,
        cols: &Tensor,
        step: &LeanStep,
    ) -> Result<()> {
        let (height, width, count) = (gradient.rows as u32, gradient.cols as u32, gradient.len() as u32);
        let sizes = [height, width, step.beta2.to_bits()];
        self.run(Kernel::RowSquares, gradient.rows, &sizes, &[gradient.bind(), rows.bind()]);
        self.run(Kernel::ColumnSquares, gradient.cols, &sizes, &[gradient.bind(), cols.bind()]);
        let total = self.tensor(1, 1)?;
        self.run(Kernel::Sum, 1, &[height], &[rows.bind(), total.bind()]);
        let scale = [count, height, width, step.eps.to_bits()];
        let bound = [rows.bind(), cols.bind(), total.bind(), gradient.bind()];
        self.run(Kernel::AdafactorScale, gradient.len(), &scale, &bound);
        let squares = self.sum_of_squares(std::slice::from_ref(gradient))?;
        let apply = [count, step.learning_rate.to_bits(), step.weight_decay.to_bits()];
        let bound = [gradient.bind(), squares.bind(), parameters.bind()];
        self.run(Kernel::AdafactorApply, gradient.len(), &apply, &bound);
        Ok(())
    }

    fn copy_window(
        &self,
        to: &Tensor,
        row: usize,
        col: usize,
        from: &Tensor,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> Result<()> {
        let (count, to_start) = (rows.len() * cols.len(), row * to.cols + col);
        let from_start = rows.start * from.cols + cols.start;
        let parameters = [count, cols.len(), from_start, from.cols, to_start, to.cols].map(|x| x as u32);
        self.run(Kernel::CopyWindow, count, &parameters, &[from.bind(), to.bind()]);
        Ok(())
    }
}
