//! Promise: a forward pass of a model as deep as Qwen2.5-0.5B takes few enough kernels, and the benchmark's table holds
//! together.

mod common;

use ctsft_lab::bench::measure;
use ctsft_lab::engine::cpu::Cpu;
use pollster::block_on;

/// As deep as Qwen2.5-0.5B: the number of kernels does not depend on their width.
const DEEP: &str = r#"{"architectures":["Qwen2ForCausalLM"],"hidden_size":14,"num_hidden_layers":24,
    "num_attention_heads":7,"num_key_value_heads":1,"head_dim":2,"intermediate_size":20,"vocab_size":64,
    "rms_norm_eps":1e-6,"rope_theta":1000000.0,"tie_word_embeddings":true,"max_position_embeddings":128}"#;

#[test]
fn a_forward_of_24_layers_takes_under_600_dispatches() {
    let Some(gpu) = common::gpu() else { return };
    let mut checkpoint = common::open(common::model_files(DEEP, 3)).expect("the made-up model opens");
    let table = block_on(measure(gpu, &mut checkpoint)).expect("it is measured");
    let [forward, masked, full] =
        [table.forward, table.masked_step, table.full_step].map(|cost| cost.dispatches.expect("a GPU counts"));
    assert!(forward < 600, "{forward} dispatches");
    assert!(forward < masked && masked < full, "forward {forward}, masked step {masked}, full step {full}");
}

#[test]
fn the_cpu_s_table_holds_together() {
    let mut checkpoint = common::open(common::model_files(common::ODD_QWEN2, 3)).expect("the made-up model opens");
    let table = block_on(measure(Cpu, &mut checkpoint)).expect("it is measured");
    assert_eq!(table.forward.dispatches, None);
    assert_eq!(table.matmuls.len(), 6);
    assert!((table.forward_tokens_per_second * table.forward.seconds / table.batch_tokens as f64 - 1.0).abs() < 1e-9);
    assert!(table.masked_weights < table.parameters);
}
