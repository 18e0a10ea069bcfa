//! Promise: Qwen2.5-0.5B at its full size goes through the GPU engine within the memory that the README states. The
//! configuration and the tokenizer are the real ones, the weights made up.

mod common;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor, gguf_file};
use ctsft_lab::circuit::{self, Pool, Positions, SlotMap, budget, random_heads};
use ctsft_lab::engine::gpu::{Gpu, GpuEngine};
use ctsft_lab::engine::{
    AdamW, Backend, Batch, Engine, GateRule, LossOver, Method, Objective, Prompt, Score, Target, UpdateRule, memory,
};
use ctsft_lab::model::{Checkpoint, ModelConfig};
use ctsft_lab::progress::Unwatched;
use ctsft_lab::tuning::{KvRule, NormRule, head_slices};
use pollster::block_on;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// GPU memory that CT-SFT may take, depth 2, all norms, batch 8 of 64 tokens.
const BF16_BYTES: u64 = 1_300_000_000;
const Q8_BYTES: u64 = 800_000_000;
/// What the Rust heap may take beside it: in a browser, the wasm heap.
const HEAP_BYTES: usize = 300_000_000;
/// What the process may grow by beside a software GPU's memory: the heap, and what the GPU's driver rounds up.
const PROCESS_BYTES: u64 = 300_000_000;

#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Small bf16 of both signs; gains are 1.
fn write_bf16(path: &Path, config: &ModelConfig) {
    let (header, _) = common::bf16_header(config);
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path).expect("a file"));
    let mut put = |bytes: &[u8]| file.write_all(bytes).expect("room on the disk");
    put(&(header.len() as u64).to_le_bytes());
    put(header.as_bytes());
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for p in config.parameters() {
        let mut words: Vec<u8> = vec![0; 2 * p.rows * p.cols];
        rng.fill_bytes(&mut words);
        for value in words.chunks_exact_mut(2) {
            // Exponents of 2^-7 and 2^-6, any sign and mantissa.
            let bits = u16::from_le_bytes([value[0], value[1]]) & 0x80ff | 0x3c00;
            value.copy_from_slice(&if p.name.contains("norm") { 0x3f80_u16 } else { bits }.to_le_bytes());
        }
        put(&words);
    }
}

/// The same in Q8_0 blocks.
fn write_q8(path: &Path, config: &ModelConfig) {
    use gguf_file::Value::{Array, F32, String as Text, U32};
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let tensors: Vec<(String, QTensor)> = config
        .parameters()
        .iter()
        .map(|p| {
            let (dtype, bytes, shape) = if p.vector {
                let value = if p.name.contains("norm") { 1.0_f32 } else { 0.01 };
                (GgmlDType::F32, value.to_le_bytes().repeat(p.cols), vec![p.cols])
            } else {
                let mut bytes = vec![0; p.rows * p.cols / 32 * 34];
                rng.fill_bytes(&mut bytes);
                for block in bytes.chunks_exact_mut(34) {
                    block[..2].copy_from_slice(&half::f16::from_f32(2e-4).to_le_bytes());
                }
                (GgmlDType::Q8_0, bytes, vec![p.rows, p.cols])
            };
            let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, dtype).expect("whole blocks");
            (common::gguf_name(&p.name), QTensor::new(storage, shape).expect("shape and data agree"))
        })
        .collect();
    let metadata = [
        ("general.architecture", Text("qwen2".into())),
        ("qwen2.block_count", U32(config.layers as u32)),
        ("qwen2.embedding_length", U32(config.hidden as u32)),
        ("qwen2.feed_forward_length", U32(config.intermediate as u32)),
        ("qwen2.attention.head_count", U32(config.heads as u32)),
        ("qwen2.attention.head_count_kv", U32(config.kv_heads as u32)),
        ("qwen2.attention.layer_norm_rms_epsilon", F32(1e-6)),
        ("qwen2.rope.freq_base", F32(1e6)),
        ("qwen2.context_length", U32(32_768)),
        ("tokenizer.ggml.model", Text("gpt2".into())),
        ("tokenizer.ggml.tokens", Array(vec![Text("a".into())])),
        ("tokenizer.ggml.merges", Array(Vec::new())),
    ];
    let metadata: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut file = BufWriter::new(std::fs::File::create(path).expect("a file"));
    gguf_file::write(&mut file, &metadata, &tensors).expect("candle writes the file");
}

/// Memory that the process holds, and the most it has held since the last call, where the system tells.
fn process() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let bytes = |field: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(field))?;
        Some(1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?)
    };
    let found = (bytes("VmRSS:")?, bytes("VmHWM:")?);
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    Some(found)
}

/// Runs the model, and holds the memory to account. `low` is the same model of few layers: a software GPU compiles its
/// kernels into the process's memory, and has done so once it is through.
fn run(low: &mut Checkpoint, checkpoint: &mut Checkpoint, limit: u64, what: &str) {
    let gpu = work(common::gpu().expect("it was there a moment ago"), low, limit, "few layers").backend;
    let before = process();
    HEAP.reset_peak_usage();
    let engine = work(gpu, checkpoint, limit, what);
    assert_eq!(engine.config.total_heads(), 336);
    let (gpu_bytes, heap) = (engine.backend.peak_bytes().expect("a GPU counts"), HEAP.peak_usage());
    println!("{what}: {} MB on the GPU, {} MB of heap", gpu_bytes / 1_000_000, heap / 1_000_000);
    assert!(gpu_bytes <= limit, "{what}: {gpu_bytes} bytes of GPU memory");
    assert!(heap <= HEAP_BYTES, "{what}: {heap} bytes of heap");
    if let (true, Some((before, _)), Some((_, peak))) = (engine.backend.is_software(), before, process()) {
        // A software GPU's memory is the process's own.
        println!("{what}: the process grew by {} MB", (peak - before) / 1_000_000);
        assert!(peak <= before + gpu_bytes + PROCESS_BYTES, "{what}: the process grew to {peak} bytes");
    }
}

/// Loads the model, computes a forward, all relevances of an example and a masked step.
fn work(gpu: Gpu, checkpoint: &mut Checkpoint, limit: u64, what: &str) -> GpuEngine {
    let frozen = memory::frozen_bytes(checkpoint).expect("reads");
    let engine = Engine::load(gpu, checkpoint, |_, _| {}).expect("loads");
    engine.limit_memory(limit);
    let c = &engine.config;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let prompts: Vec<Prompt> = (0..8)
        .map(|i| Prompt { tokens: (0..64).map(|_| rng.random_range(0..c.vocab as u32)).collect(), label: i % 3 })
        .collect();
    let verbalizer = [6_785, 21_000, 8_225];

    let one = Batch::new(&[&prompts[0]], c).expect("a valid prompt");
    let answer = block_on(engine.answers(&one, &verbalizer, false)).expect("a forward");
    assert!(answer.losses[0].is_finite() && answer.losses[0] > 0.0, "{what}: loss {:?}", answer.losses);

    let pool = Pool {
        slots: SlotMap::common(&prompts[..2]),
        prompts: prompts[..2].to_vec(),
        verbalizer: verbalizer.to_vec(),
        positions: Positions::All,
    };
    let means = block_on(circuit::means(&engine, &pool, &Unwatched)).expect("means");
    let method = Method::Reverse(GateRule::Tangent);
    let found =
        block_on(circuit::relevance(&engine, &pool, &means, method, Score::Projection, Target::Output, &Unwatched))
            .expect("relevances");
    assert_eq!(found.per_example[0].len(), c.total_heads());
    assert!(found.per_example.iter().flatten().all(|r| r.is_finite()), "{what}: relevances");
    drop(means);

    let heads = random_heads(c.layers, c.heads, 3 * budget(0.02, c.total_heads()), &Default::default(), &mut rng);
    let slices = head_slices(c, &heads.into_iter().collect(), KvRule::Any, NormRule::All);
    let mut training = engine.train(&slices, UpdateRule::AdamW).expect("masters");
    let batch = Batch::new(&prompts.iter().collect::<Vec<_>>(), c).expect("valid prompts");
    let (masters, more) = memory::training_bytes(c, &slices, UpdateRule::AdamW);
    let way_back = memory::input_bytes(c, (&batch.layout).into()) + memory::working_bytes(c, (&batch.layout).into());
    let planned = frozen + masters + more + way_back;
    println!("{what}: {} MB planned", planned / 1_000_000);
    assert!(planned <= limit, "{what}: {planned} bytes planned");
    let objective = Objective::Answer { verbalizer: &verbalizer, over: LossOver::Vocab };
    let losses = engine.train_step(&batch, objective, &AdamW::default(), 1e-4, &mut training).expect("a step");
    let losses = block_on(engine.backend.read(&[&losses])).expect("losses").swap_remove(0);
    // The same example in company has the loss it had alone.
    assert!((losses[0] - answer.losses[0]).abs() < 1e-3 * losses[0], "{what}: {} and {}", losses[0], answer.losses[0]);
    engine
}

#[test]
fn qwen2_5_0_5b_fits_its_memory() {
    let (Some(config), Some(tokenizer)) =
        (common::shared("models/qwen2.5-0.5b/config.json"), common::shared("models/qwen2.5-0.5b/tokenizer.json"))
    else {
        return;
    };
    if common::gpu().is_none() {
        return;
    }
    let shape = common::config(&std::fs::read_to_string(&config).expect("the config"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let few = ModelConfig { layers: 3, ..shape.clone() };
    write_bf16(&path("model.safetensors"), &shape);
    let mut model = common::open_paths(&[config, tokenizer, path("model.safetensors")]).expect("opens");
    run(&mut Checkpoint::made_up(few.clone()).expect("opens"), &mut model, BF16_BYTES, "bf16");
    write_q8(&path("model.gguf"), &shape);
    write_q8(&path("few.gguf"), &few);
    let open = |name: &str| common::open_paths(&[path(name)]).expect("opens");
    run(&mut open("few.gguf"), &mut open("model.gguf"), Q8_BYTES, "Q8_0");
}
