// A kernel over rows, each workgroup a row.
const LANES: u32 = 64u;
var<workgroup> shares: array<f32, LANES>;

// The sum of all its threads' values; once in a kernel.
fn total(lane: u32, value: f32) -> f32 {
  shares[lane] = value;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if lane < half {
      shares[lane] += shares[lane + half];
    }
    workgroupBarrier();
  }
  return shares[0];
}
