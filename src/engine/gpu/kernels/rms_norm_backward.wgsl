// out [rows, cols] = r · (gain ⊙ dy) − x · r³/cols · Σ(dy ⊙ gain ⊙ x) (+ residual): the norm takes away what of the
// gradient runs along x, unless r is held constant (`frozen`). r [rows, 1], gain [1, cols].
// LANES threads a row (parts/row_*.wgsl).
struct Params {
  rows: u32,
  cols: u32,
  frozen: u32,
  has_residual: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> gain: array<f32>;
@group(0) @binding(4) var<storage, read> r: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let row = i / LANES;
  let lane = i % LANES;
  // Past the last row another is read, since all must meet in the sum.
  let present = min(row, p.rows - 1u);
  let first = present * p.cols;
  var sum = 0.0;
  for (var c = lane; c < p.cols; c += LANES) {
    sum += dy[first + c] * gain[c] * x[first + c];
  }
  let factor = r[present];
  let along = factor * factor * factor / f32(p.cols) * total(lane, sum);
  let pull = select(along, 0.0, p.frozen != 0u);
  if row >= p.rows { return; }
  for (var c = lane; c < p.cols; c += LANES) {
    var value = factor * gain[c] * dy[first + c] - x[first + c] * pull;
    if p.has_residual != 0u {
      value += residual[first + c];
    }
    out[first + c] = value;
  }
}
