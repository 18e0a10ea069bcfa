// out [rows, cols] = Σ over parts of x [parts, rows, cols] (+ bias [1, cols] to each row) (+ residual [rows, cols]). One thread
// a value.
struct Params {
  count: u32,
  cols: u32,
  parts: u32,
  has_bias: u32,
  has_residual: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  var sum = 0.0;
  for (var part = 0u; part < p.parts; part++) {
    sum += x[part * p.count + i];
  }
  if p.has_bias != 0u {
    sum += bias[i % p.cols];
  }
  if p.has_residual != 0u {
    sum += residual[i];
  }
  out[i] = sum;
}
