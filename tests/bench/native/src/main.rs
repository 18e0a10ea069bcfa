//! GFLOP/s of the products of Qwen2.5-0.5B on the GPU that the platform chooses and on the CPU, ours with bf16 weights
//! beside burn's and candle's in f32, as one JSON table.

use burn_tensor::{Distribution, Tensor};
use burn_wgpu::{Wgpu, WgpuDevice};
use ctsft_lab::bench::{MatmulRate, Shape, matmuls};
use ctsft_lab::engine::Backend;
use ctsft_lab::engine::cpu::Cpu;
use ctsft_lab::engine::gpu::Gpu;
use ctsft_lab::model::Form;
use std::time::Instant;

/// A training batch of 8 prompts of 64 tokens through Qwen2.5-0.5B, as in www/bench/bench.ts.
const SHAPES: [(&str, usize, usize, usize, bool); 5] = [
    ("W_Q", 512, 896, 896, true),
    ("W_K, W_V", 512, 128, 896, true),
    ("W_O", 512, 896, 896, false),
    ("W_gate, W_up", 512, 4864, 896, true),
    ("W_down", 512, 896, 4864, false),
];

/// Products that are given before any is waited for, as in `ctsft_lab::bench`.
const PRODUCTS: usize = 6;

/// Rate of a piece of work, after once that compiles and tunes: over as many as two seconds take.
fn gflops(flops: f64, mut work: impl FnMut()) -> f64 {
    work();
    let (started, mut runs) = (Instant::now(), 0);
    while runs == 0 || started.elapsed().as_secs_f64() < 2.0 {
        work();
        runs += 1;
    }
    flops * f64::from(runs) / started.elapsed().as_secs_f64() / 1e9
}

fn ours<B: Backend>(backend: &B) -> Vec<MatmulRate> {
    let shapes = SHAPES.map(|(what, m, n, k, normed)| Shape { what: what.into(), m, n, k, normed });
    pollster::block_on(matmuls(backend, Form::Bf16, &shapes)).expect("no failure").1
}

fn main() {
    let gpu = pollster::block_on(Gpu::open()).expect("a GPU, if only in software");
    let name = gpu.device();
    let (on_gpu, on_cpu) = (ours(&gpu), ours(&Cpu));
    drop(gpu);
    let device = WgpuDevice::DefaultDevice;
    let rows: Vec<_> = SHAPES
        .into_iter()
        .zip(on_gpu.iter().zip(&on_cpu))
        .map(|((what, m, n, k, _), (on_gpu, on_cpu))| {
            let flops = 2.0 * (m * n * k) as f64;
            let made_up =
                |rows, cols| Tensor::<Wgpu, 2>::random([rows, cols], Distribution::Uniform(-1.0, 1.0), &device);
            let (x, w) = (made_up(m, k), made_up(k, n));
            let burn = gflops(flops * PRODUCTS as f64, || {
                let mut last = x.clone().matmul(w.clone());
                for _ in 1..PRODUCTS {
                    last = x.clone().matmul(w.clone());
                }
                // It has no other way to wait: one value is read back.
                last.slice([0..1, 0..1]).into_data();
            });
            let cpu = candle_core::Device::Cpu;
            let made_up = |rows, cols| candle_core::Tensor::rand(-1.0_f32, 1.0, (rows, cols), &cpu).expect("room");
            let (x, w) = (made_up(m, k), made_up(n, k).t().expect("a matrix"));
            let candle = gflops(flops, || drop(x.matmul(&w).expect("shapes agree")));
            serde_json::json!({
                "what": what, "m": m, "n": n, "k": k,
                "ours_gpu": on_gpu.gflops, "burn_wgpu": burn, "ours_cpu": on_cpu.gflops, "candle_cpu": candle,
            })
        })
        .collect();
    let table = serde_json::json!({"gpu": name, "cpu": Cpu.device(), "products": rows});
    println!("{}", serde_json::to_string_pretty(&table).expect("plain numbers"));
}
