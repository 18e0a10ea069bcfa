// out [rows, cols] = x · r ⊙ gain, and r [rows, 1] = 1/sqrt(mean(x²) + eps) of each row of x [rows, cols]; gain [1, cols].
// LANES threads a row (parts/row_*.wgsl); parts/norm_*.wgsl say how the result is put.
struct Params {
  rows: u32,
  cols: u32,
  eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gain: array<f32>;
@group(0) @binding(3) var<storage, read_write> r: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let row = i / LANES;
  let lane = i % LANES;
  // Past the last row another is read, since all must meet in the sum.
  let first = min(row, p.rows - 1u) * p.cols;
  var sum = 0.0;
  for (var c = lane; c < p.cols; c += LANES) {
    let value = x[first + c];
    sum += value * value;
  }
  let factor = inverseSqrt(total(lane, sum) / f32(p.cols) + p.eps);
  if row >= p.rows { return; }
  if lane == 0u {
    r[row] = factor;
  }
  for (var c = lane; c < p.cols; c += LANES) {
    put(row, c, x[first + c] * factor * gain[c]);
  }
}
