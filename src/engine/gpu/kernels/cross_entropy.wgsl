// From parts [rows, chunks, 2] of log_sum_exp_chunks: log_sums [rows, 1] = log Σ exp(logits) and
// losses [rows, 1] = log_sum − logit of the target. One thread a row.
struct Params {
  rows: u32,
  cols: u32,
  chunks: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> parts: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read_write> log_sums: array<f32>;
@group(0) @binding(5) var<storage, read_write> losses: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.rows { return; }
  var largest = -3.4e38;
  for (var c = 0u; c < p.chunks; c++) {
    largest = max(largest, parts[2u * (i * p.chunks + c)]);
  }
  var sum = 0.0;
  for (var c = 0u; c < p.chunks; c++) {
    let at = 2u * (i * p.chunks + c);
    sum += parts[at + 1u] * exp(parts[at] - largest);
  }
  let log_sum = largest + log(sum);
  log_sums[i] = log_sum;
  losses[i] = log_sum - logits[i * p.cols + targets[i]];
}
