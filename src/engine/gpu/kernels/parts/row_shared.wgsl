// A kernel over rows, each workgroup a row.
const LANES: u32 = 64u;
var<workgroup> shares: array<Rows, LANES>;

// The sum of all its threads' values.
fn total(lane: u32, value: Rows) -> Rows {
  shares[lane] = value;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if lane < half {
      shares[lane] += shares[lane + half];
    }
    workgroupBarrier();
  }
  let sum = shares[0];
  // It may be called again.
  workgroupBarrier();
  return sum;
}
