//! GFLOP/s of `[m, k] · [k, n]` in f32, as one JSON table.

use burn_tensor::{Distribution, Tensor};
use burn_wgpu::{Wgpu, WgpuDevice};
use std::time::Instant;

/// A training batch of 8 prompts of 64 tokens through Qwen2.5-0.5B, as in www/bench/bench.ts.
const SHAPES: [(&str, usize, usize, usize); 4] = [
    ("W_Q, W_O", 512, 896, 896),
    ("W_K, W_V", 512, 128, 896),
    ("W_gate, W_up", 512, 4864, 896),
    ("W_down", 512, 896, 4864),
];

/// Rate of a piece of work, after once that compiles and tunes: over as many as a second takes.
fn gflops(flops: f64, mut work: impl FnMut()) -> f64 {
    work();
    let (started, mut runs) = (Instant::now(), 0);
    while runs == 0 || started.elapsed().as_secs_f64() < 1.0 {
        work();
        runs += 1;
    }
    flops * f64::from(runs) / started.elapsed().as_secs_f64() / 1e9
}

fn main() {
    let device = WgpuDevice::DefaultDevice;
    let rows = SHAPES.map(|(what, m, n, k)| {
        let flops = 2.0 * (m * n * k) as f64;
        let made_up = |rows, cols| Tensor::<Wgpu, 2>::random([rows, cols], Distribution::Uniform(-1.0, 1.0), &device);
        let (x, w) = (made_up(m, k), made_up(k, n));
        let burn = gflops(flops, || {
            // It has no other way to wait: one value is read back.
            x.clone().matmul(w.clone()).slice([0..1, 0..1]).into_data();
        });
        let cpu = candle_core::Device::Cpu;
        let made_up = |rows, cols| candle_core::Tensor::rand(-1.0_f32, 1.0, (rows, cols), &cpu).expect("room");
        let (x, w) = (made_up(m, k), made_up(n, k).t().expect("a matrix"));
        let candle = gflops(flops, || drop(x.matmul(&w).expect("shapes agree")));
        serde_json::json!({"what": what, "m": m, "n": n, "k": k, "burn_wgpu": burn, "candle_cpu": candle})
    });
    println!("{}", serde_json::to_string_pretty(&rows).expect("plain numbers"));
}
