//! GPU buffers, recycled: a dropped tensor's buffer serves the next one of its size class.

use crate::engine::memory::buffer_bytes;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// Room for the parameters of one submission's dispatches.
pub const PARAMETER_BYTES: u64 = 1 << 17;

/// A buffer; when the last handle drops it goes back to the arena.
#[derive(Clone)]
pub struct Buffer(Rc<Owned>);

struct Owned {
    raw: wgpu::Buffer,
    home: Weak<Pool>,
    /// Whether it serves again. Uploads do not: they are written at once, ahead of recorded work.
    recycled: bool,
}

impl Buffer {
    pub fn raw(&self) -> &wgpu::Buffer {
        &self.0.raw
    }

    pub fn bind(&self) -> Binding<'_> {
        Binding { buffer: self, start: 0, bytes: None }
    }
}

/// A buffer, or a window of it, as a kernel gets it.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    pub buffer: &'a Buffer,
    /// In bytes.
    pub start: u64,
    /// To the buffer's end where not given.
    pub bytes: Option<u64>,
}

impl Binding<'_> {
    pub fn resource(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: self.buffer.raw(),
            offset: self.start,
            size: self.bytes.and_then(std::num::NonZero::new),
        })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(pool) = self.home.upgrade() {
            match self.recycled {
                true => pool.give_back(self.raw.clone()),
                false => pool.bytes.set(pool.bytes.get() - self.raw.size()),
            }
        }
    }
}

/// All buffers of a device.
#[derive(Default)]
pub struct Arena {
    pool: Rc<Pool>,
    parameters: OnceCell<wgpu::Buffer>,
}

#[derive(Default)]
struct Pool {
    idle: RefCell<BTreeMap<u64, Vec<wgpu::Buffer>>>,
    idle_bytes: Cell<u64>,
    bytes: Cell<u64>,
    peak: Cell<u64>,
    /// Idle buffers are let go where they would bring all bytes above this.
    limit: Cell<Option<u64>>,
}

/// Idle buffers beyond this are destroyed.
const MAX_IDLE_BYTES: u64 = 1 << 30;

impl Pool {
    fn give_back(&self, raw: wgpu::Buffer) {
        let size = raw.size();
        if self.idle_bytes.get() + size > MAX_IDLE_BYTES {
            // Recorded work may still use it: dropping the handle lets wgpu free it afterwards.
            self.bytes.set(self.bytes.get() - size);
            return;
        }
        self.idle_bytes.set(self.idle_bytes.get() + size);
        self.idle.borrow_mut().entry(size).or_default().push(raw);
    }

    fn over_limit(&self, size: u64) -> bool {
        self.limit.get().is_some_and(|limit| self.bytes.get() + size > limit)
    }

    /// An idle buffer of a size. A larger one never serves: what is in use would grow beyond what was planned.
    fn idle(&self, size: u64) -> Option<wgpu::Buffer> {
        let raw = self.idle.borrow_mut().get_mut(&size).and_then(Vec::pop)?;
        self.idle_bytes.set(self.idle_bytes.get() - size);
        Some(raw)
    }

    /// Takes out idle buffers that leave no room for a new one, the largest first, and counts that one.
    fn count(&self, size: u64) -> Vec<wgpu::Buffer> {
        let mut gone = Vec::new();
        let mut idle = self.idle.borrow_mut();
        while self.over_limit(size)
            && let Some(raw) = idle.values_mut().rev().find_map(Vec::pop)
        {
            self.bytes.set(self.bytes.get() - raw.size());
            self.idle_bytes.set(self.idle_bytes.get() - raw.size());
            gone.push(raw);
        }
        self.bytes.set(self.bytes.get() + size);
        self.peak.set(self.peak.get().max(self.bytes.get()));
        gone
    }
}

impl Arena {
    /// A buffer of at least `bytes`, recycled where one is idle. Work is recorded in order, so a recycled buffer is
    /// overwritten only after its former readers. `free` gets those that must go for it: recorded work may use them.
    pub fn take(&self, device: &wgpu::Device, bytes: u64, free: impl FnOnce(Vec<wgpu::Buffer>)) -> Buffer {
        let size = buffer_bytes(bytes);
        match self.pool.idle(size) {
            Some(raw) => Buffer(Rc::new(Owned { raw, home: Rc::downgrade(&self.pool), recycled: true })),
            None => self.create(device, size, true, free),
        }
    }

    /// A buffer that no recorded work uses. `free` as for [`Arena::take`].
    pub fn fresh(&self, device: &wgpu::Device, bytes: u64, free: impl FnOnce(Vec<wgpu::Buffer>)) -> Buffer {
        self.create(device, bytes.next_multiple_of(4).max(4), false, free)
    }

    fn create(&self, device: &wgpu::Device, size: u64, recycled: bool, free: impl FnOnce(Vec<wgpu::Buffer>)) -> Buffer {
        let gone = self.pool.count(size);
        if !gone.is_empty() {
            free(gone);
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let raw = device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
        Buffer(Rc::new(Owned { raw, home: Rc::downgrade(&self.pool), recycled }))
    }

    /// The uniform buffer that holds a submission's parameters.
    pub fn parameters(&self, device: &wgpu::Device) -> wgpu::Buffer {
        let create = || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("parameters"),
                size: PARAMETER_BYTES,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        self.parameters.get_or_init(create).clone()
    }

    pub fn limit(&self, bytes: u64) {
        self.pool.limit.set(Some(bytes));
    }

    /// Bytes that tensors hold now.
    pub fn bytes_in_use(&self) -> u64 {
        self.pool.bytes.get() - self.pool.idle_bytes.get()
    }

    /// Most bytes that tensors held at once, idle buffers included.
    pub fn peak_bytes(&self) -> u64 {
        self.pool.peak.get()
    }
}
