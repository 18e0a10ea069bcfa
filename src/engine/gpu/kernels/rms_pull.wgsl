// pull [rows, 1] = r³/cols · Σ(dy ⊙ gain ⊙ x): how much of the gradient runs along x, which the norm removes.
// One thread a row.
struct Params {
  rows: u32,
  cols: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> gain: array<f32>;
@group(0) @binding(4) var<storage, read> r: array<f32>;
@group(0) @binding(5) var<storage, read_write> pull: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.rows { return; }
  var sum = 0.0;
  for (var c = 0u; c < p.cols; c++) {
    sum += dy[i * p.cols + c] * gain[c] * x[i * p.cols + c];
  }
  pull[i] = r[i] * r[i] * r[i] / f32(p.cols) * sum;
}
