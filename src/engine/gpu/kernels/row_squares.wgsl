// means [rows, 1]: beta2 of the old mean of each row's squares, the rest from x [rows, cols]. One thread a row.
struct Params {
  rows: u32,
  cols: u32,
  beta2: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> means: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.rows { return; }
  var sum = 0.0;
  for (var c = 0u; c < p.cols; c++) {
    let value = x[i * p.cols + c];
    sum += value * value;
  }
  means[i] = p.beta2 * means[i] + (1.0 - p.beta2) * sum / f32(p.cols);
}
