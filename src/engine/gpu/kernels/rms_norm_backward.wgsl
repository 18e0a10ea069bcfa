// out [rows, cols] = r · (gain ⊙ dy) − x · pull; pull [rows, 1] is all zero where r is held constant.
// One thread a value.
struct Params {
  count: u32,
  cols: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> gain: array<f32>;
@group(0) @binding(4) var<storage, read> r: array<f32>;
@group(0) @binding(5) var<storage, read> pull: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let row = i / p.cols;
  out[i] = r[row] * gain[i % p.cols] * dy[i] - x[i] * pull[row];
}
