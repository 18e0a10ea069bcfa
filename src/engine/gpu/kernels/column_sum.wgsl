// out [1, cols], its columns start..start+columns: sum over rows of those of x [rows, cols]. One thread a column.
struct Params {
  rows: u32,
  cols: u32,
  start: u32,
  columns: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.columns { return; }
  var sum = 0.0;
  for (var row = 0u; row < p.rows; row++) {
    sum += x[row * p.cols + p.start + i];
  }
  out[p.start + i] = sum;
}
