// r [rows, 1] = 1/sqrt(mean(x²) + eps) of each row of x [rows, cols]. One thread a row.
struct Params {
  rows: u32,
  cols: u32,
  eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> r: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.rows { return; }
  var sum = 0.0;
  for (var c = 0u; c < p.cols; c++) {
    let value = x[i * p.cols + c];
    sum += value * value;
  }
  r[i] = inverseSqrt(sum / f32(p.cols) + p.eps);
}
