// gradient [rows, cols] /= sqrt(row_means · column_means / (total / rows)) + eps, total [1, 1] the sum of row_means
// (engine/optimiser.rs, LeanStep). One thread a value.
struct Params {
  count: u32,
  rows: u32,
  cols: u32,
  eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> row_means: array<f32>;
@group(0) @binding(2) var<storage, read> column_means: array<f32>;
@group(0) @binding(3) var<storage, read> total: array<f32>;
@group(0) @binding(4) var<storage, read_write> gradient: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let mean = total[0] / f32(p.rows);
  // Without any gradient the mean is 0, and so is each part.
  var v = 0.0;
  if mean > 0.0 {
    v = row_means[i / p.cols] * column_means[i % p.cols] / mean;
  }
  gradient[i] /= sqrt(v) + p.eps;
}
