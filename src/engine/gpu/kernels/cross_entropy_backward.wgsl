// out [rows, cols] = (softmax(logits) − one-hot(target)) / rows. One thread a value.
struct Params {
  count: u32,
  rows: u32,
  cols: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> log_sums: array<f32>;
@group(0) @binding(3) var<storage, read> targets: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let row = i / p.cols;
  var value = exp(logits[i] - log_sums[row]);
  if i % p.cols == targets[row] {
    value -= 1.0;
  }
  out[i] = value / f32(p.rows);
}
