//! The adapter, the device, and the queue of recorded work.

use super::buffers::{Arena, Binding, Buffer, PARAMETER_BYTES};
use super::kernels::{Kernel, Pipeline, Variant};
use crate::engine::{EngineError, Result};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Recorded work is handed to the device after this many commands, so that it runs while more is recorded.
const SUBMIT_AFTER: usize = 256;

/// Or after so many floating-point operations of products: a browser ends a tab whose submissions take too long, and
/// a slow GPU does 100 in a nanosecond.
const SUBMIT_AFTER_OPERATIONS: u64 = 20_000_000_000;

/// Uploads above this many bytes are handed to the device at once.
const LARGE_UPLOAD: usize = 1 << 22;

/// One recorded command.
enum Command {
    Dispatch {
        pipeline: wgpu::ComputePipeline,
        bindings: wgpu::BindGroup,
        parameters: u32,
        groups: [u32; 3],
    },
    /// First byte and number of bytes.
    Clear(wgpu::Buffer, u64, u64),
}

/// An opened GPU.
pub struct Device {
    pub device: wgpu::Device,
    queue: wgpu::Queue,
    pub info: wgpu::AdapterInfo,
    pub limits: wgpu::Limits,
    pub arena: Arena,
    pipelines: RefCell<HashMap<Kernel, Pipeline>>,
    recorded: RefCell<Recorded>,
    /// Whether kernels may hand values from lane to lane of a subgroup.
    pub subgroups: bool,
    /// How matrix products are computed.
    pub variant: Cell<Variant>,
    /// Kernels run since the device was opened.
    pub dispatches: Cell<u64>,
    failure: Arc<Mutex<Failure>>,
    #[cfg(not(target_arch = "wasm32"))]
    submitted: RefCell<Option<wgpu::SubmissionIndex>>,
}

/// What the device reported outside a call.
#[derive(Default)]
struct Failure {
    /// The first error.
    error: Option<String>,
    /// Why it is no more.
    lost: Option<String>,
}

#[derive(Default)]
struct Recorded {
    commands: Vec<Command>,
    parameters: Vec<u8>,
    /// Floating-point operations of the products and attentions among them.
    operations: u64,
}

impl Device {
    /// Opens the adapter that the platform chooses; `variant` and `largest` as for [`super::Gpu::open_with`].
    ///
    /// # Errors
    /// No adapter, or one that refuses a device.
    pub async fn open(variant: Option<Variant>, largest: Option<u64>) -> Result<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = instance.request_adapter(&options).await.map_err(|e| {
            // In a browser the platform's words are about back-ends that could not be there.
            let browser = cfg!(target_arch = "wasm32");
            EngineError::NoGpu(if browser { "this browser offers no WebGPU".into() } else { e.to_string() })
        })?;
        Self::of(&adapter, variant, largest).await
    }

    /// Opens every adapter there is.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open_every() -> Result<Vec<Self>> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let mut devices = Vec::new();
        for adapter in instance.enumerate_adapters(wgpu::Backends::PRIMARY).await {
            devices.push(Self::of(&adapter, None, None).await?);
        }
        Ok(devices)
    }

    async fn of(adapter: &wgpu::Adapter, variant: Option<Variant>, largest: Option<u64>) -> Result<Self> {
        let offered = adapter.limits();
        // The defaults forbid the buffers that a large embedding needs: ask for what the adapter has, field by field.
        let limits = wgpu::Limits {
            max_buffer_size: offered.max_buffer_size,
            max_storage_buffer_binding_size: largest.unwrap_or(u64::MAX).min(offered.max_storage_buffer_binding_size),
            ..wgpu::Limits::default()
        };
        let descriptor = wgpu::DeviceDescriptor {
            required_features: adapter.features() & wgpu::Features::SUBGROUP,
            required_limits: limits.clone(),
            // The default allocates in blocks of hundreds of megabytes.
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) =
            adapter.request_device(&descriptor).await.map_err(|e| EngineError::NoGpu(e.to_string()))?;
        let failure = Arc::new(Mutex::new(Failure::default()));
        let on_error = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            if let Ok(mut failure) = on_error.lock() {
                failure.error.get_or_insert(error.to_string());
            }
        }));
        let on_loss = failure.clone();
        device.set_device_lost_callback(move |reason, message| {
            if let Ok(mut failure) = on_loss.lock() {
                failure.lost.get_or_insert(format!("{reason:?}: {message}"));
            }
        });
        let info = adapter.get_info();
        Ok(Self {
            arena: Arena::default(),
            // matmul_subgroups wants lanes in fours, and all of them in one workgroup of 64.
            subgroups: offers_subgroups(&device) && info.subgroup_min_size >= 4 && info.subgroup_max_size <= 64,
            variant: Cell::new(variant.unwrap_or(if is_software(&info) { Variant::Rows } else { Variant::Direct })),
            info,
            limits,
            pipelines: RefCell::default(),
            recorded: RefCell::default(),
            dispatches: Cell::new(0),
            failure,
            #[cfg(not(target_arch = "wasm32"))]
            submitted: RefCell::default(),
            device,
            queue,
        })
    }

    /// Whether the adapter computes in software.
    pub fn is_software(&self) -> bool {
        is_software(&self.info)
    }

    /// Whether long sums of few outputs are split. Software adapters gain nothing by it; with what is made for hardware they
    /// do it all the same, which shows that it is right.
    pub fn splits(&self) -> bool {
        !self.is_software() || matches!(self.variant.get(), Variant::Tiled(_) | Variant::Blocks | Variant::Subgroups)
    }

    /// Whether the device allows a buffer of `bytes`.
    fn fits(&self, bytes: u64) -> Result<()> {
        let limit = self.largest();
        match bytes > limit {
            true => {
                Err(EngineError::TooLarge { what: format!("a tensor of {} values", bytes / 4), needed: bytes, limit })
            }
            false => Ok(()),
        }
    }

    /// Bytes of the largest buffer that a kernel can be given.
    pub fn largest(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// A buffer of `words` 4-byte words, contents undefined.
    pub fn allocate(&self, words: usize) -> Result<Buffer> {
        let bytes = words as u64 * 4;
        self.fits(bytes)?;
        Ok(self.arena.take(&self.device, bytes, |gone| self.free(gone)))
    }

    /// A buffer filled with zeros.
    pub fn zeros(&self, words: usize) -> Result<Buffer> {
        let buffer = self.allocate(words)?;
        self.clear(Binding { bytes: Some(words as u64 * 4), ..buffer.bind() });
        Ok(buffer)
    }

    /// Fills a window of a buffer with zeros.
    pub fn clear(&self, window: Binding<'_>) {
        let bytes = window.bytes.unwrap_or(window.buffer.raw().size());
        self.recorded.borrow_mut().commands.push(Command::Clear(window.buffer.raw().clone(), window.start, bytes));
    }

    /// A buffer holding `data`. It is a new one: a recycled one may still be read by recorded work.
    pub fn upload(&self, data: &[u8]) -> Result<Buffer> {
        let bytes = data.len() as u64;
        self.fits(bytes)?;
        let buffer = self.arena.fresh(&self.device, bytes, |gone| self.free(gone));
        self.write(&buffer, 0, data);
        Ok(buffer)
    }

    /// A buffer of `words` words that no recorded work uses, to be filled by [`Device::write`].
    pub fn room(&self, words: usize) -> Result<Buffer> {
        self.fits(words as u64 * 4)?;
        Ok(self.arena.fresh(&self.device, words as u64 * 4, |gone| self.free(gone)))
    }

    /// Writes `data` at byte `start`, ahead of all recorded work.
    pub fn write(&self, buffer: &Buffer, start: u64, data: &[u8]) {
        self.queue.write_buffer(buffer.raw(), start, data);
        if data.len() > LARGE_UPLOAD {
            // Else the staging copies of a whole model would pile up until the first dispatch.
            self.queue.submit([]);
            self.reclaim();
        }
    }

    /// Records one run of a kernel. `parameters` are its `Params`, `groups` its workgroups.
    pub fn dispatch(&self, kernel: Kernel, parameters: &[u32], bound: &[Binding<'_>], groups: [u32; 3]) {
        self.dispatches.set(self.dispatches.get() + 1);
        let mut pipelines = self.pipelines.borrow_mut();
        let pipeline = pipelines.entry(kernel).or_insert_with(|| Pipeline::new(&self.device, kernel));
        let mut recorded = self.recorded.borrow_mut();
        let offset = recorded.parameters.len() as u32;
        recorded.parameters.extend_from_slice(bytemuck::cast_slice(parameters));
        let aligned =
            recorded.parameters.len().next_multiple_of(self.limits.min_uniform_buffer_offset_alignment as usize);
        recorded.parameters.resize(aligned, 0);
        let bindings = pipeline.bind(&self.device, &self.arena.parameters(&self.device), bound);
        recorded.commands.push(Command::Dispatch {
            pipeline: pipeline.pipeline.clone(),
            bindings,
            parameters: offset,
            groups,
        });
        let full =
            recorded.commands.len() >= SUBMIT_AFTER || recorded.parameters.len() + 512 > PARAMETER_BYTES as usize;
        drop(recorded);
        drop(pipelines);
        if full {
            self.submit();
        }
    }

    /// Counts the floating-point operations of a product or an attention that was just recorded.
    pub fn worked(&self, operations: u64) {
        let all = {
            let mut recorded = self.recorded.borrow_mut();
            recorded.operations += operations;
            recorded.operations
        };
        if all > SUBMIT_AFTER_OPERATIONS {
            self.submit();
        }
    }

    /// Hands the recorded work to the device: one submission, one pass between clears.
    pub fn submit(&self) {
        let recorded = std::mem::take(&mut *self.recorded.borrow_mut());
        if recorded.commands.is_empty() {
            return;
        }
        if !recorded.parameters.is_empty() {
            self.queue.write_buffer(&self.arena.parameters(&self.device), 0, &recorded.parameters);
        }
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut commands = recorded.commands.into_iter().peekable();
        while let Some(command) = commands.next() {
            match command {
                Command::Clear(buffer, start, bytes) => encoder.clear_buffer(&buffer, start, Some(bytes)),
                Command::Dispatch { .. } => {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    let mut next = Some(command);
                    while let Some(Command::Dispatch { pipeline, bindings, parameters, groups }) = next {
                        pass.set_pipeline(&pipeline);
                        pass.set_bind_group(0, &bindings, &[parameters]);
                        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
                        next = commands.next_if(|c| matches!(c, Command::Dispatch { .. }));
                    }
                }
            }
        }
        // What is recorded ahead holds memory in the driver: no more than two submissions wait. A browser sees to that.
        #[cfg_attr(target_arch = "wasm32", expect(unused_variables))]
        let submitted = self.queue.submit([encoder.finish()]);
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(before) = self.submitted.replace(Some(submitted)) {
            let wait = wgpu::PollType::Wait { submission_index: Some(before), timeout: None };
            // An error here shows again where a result is waited for.
            let _ = self.device.poll(wait);
        }
    }

    /// Gives memory back for a new buffer. Their last readers go first; where one can wait here, the memory is really there
    /// when this returns.
    fn free(&self, gone: Vec<wgpu::Buffer>) {
        self.submit();
        gone.iter().for_each(wgpu::Buffer::destroy);
        #[cfg(not(target_arch = "wasm32"))]
        // An error here shows again where a result is waited for.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }

    /// Frees what finished work has left behind. In a browser this happens by itself.
    fn reclaim(&self) {
        // An error here shows again where a result is waited for.
        let _ = self.device.poll(wgpu::PollType::Poll);
    }

    /// Waits for all recorded work and copies windows of whole words out.
    pub async fn read(&self, windows: &[Binding<'_>]) -> Result<Vec<Vec<f32>>> {
        self.submit();
        let sizes: Vec<u64> = windows.iter().map(|w| w.bytes.unwrap_or(w.buffer.raw().size())).collect();
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: sizes.iter().sum::<u64>().max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut at = 0;
        for (window, bytes) in windows.iter().zip(&sizes) {
            encoder.copy_buffer_to_buffer(window.buffer.raw(), window.start, &staging, at, *bytes);
            at += bytes;
        }
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is gone only when nobody wants the values any more.
            let _ = sender.send(result);
        });
        #[cfg(not(target_arch = "wasm32"))]
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely()).map(|_| ()).map_err(|e| e.to_string());
        #[cfg(target_arch = "wasm32")]
        let polled = Ok::<(), String>(());
        let mapped = match receiver.await {
            Ok(mapped) => polled.and(mapped.map_err(|e| e.to_string())),
            Err(_) => Err("the device stopped answering".into()),
        };
        // A browser tells of a lost device a moment after it has given up the device's work.
        #[cfg(target_arch = "wasm32")]
        if mapped.is_err() {
            gloo_timers::future::TimeoutFuture::new(100).await;
        }
        if let Ok(mut failure) = self.failure.lock() {
            if let Some(why) = &failure.lost {
                return Err(EngineError::Lost(why.clone()));
            }
            if let Some(problem) = failure.error.take() {
                return Err(EngineError::Gpu(problem));
            }
        }
        mapped.map_err(EngineError::Gpu)?;
        let view = staging.get_mapped_range(..).map_err(|e| EngineError::Gpu(e.to_string()))?;
        let mut values: &[f32] = bytemuck::cast_slice(&view);
        let mut out = Vec::with_capacity(windows.len());
        for bytes in sizes {
            let (own, rest) = values.split_at(bytes as usize / 4);
            out.push(own.to_vec());
            values = rest;
        }
        Ok(out)
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn offers_subgroups(device: &wgpu::Device) -> bool {
    device.features().contains(wgpu::Features::SUBGROUP)
}

/// wgpu 30 has no word for it in a browser: the page asks in its place, and says whether it was given
/// (`www/src/subgroups.ts`).
#[cfg(target_arch = "wasm32")]
fn offers_subgroups(_device: &wgpu::Device) -> bool {
    js_sys::Reflect::get(&js_sys::global(), &"subgroupsGiven".into()).is_ok_and(|given| given.is_truthy())
}

fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_lowercase();
    info.device_type == wgpu::DeviceType::Cpu || name.contains("swiftshader") || name.contains("llvmpipe")
}

impl Drop for Device {
    fn drop(&mut self) {
        // In a browser a dropped buffer waits for the garbage collector; a model's gigabytes must not.
        self.device.destroy();
    }
}
