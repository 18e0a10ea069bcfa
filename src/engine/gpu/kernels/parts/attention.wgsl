// What the attention kernels share. A thread has one row or four (parts/rows_*.wgsl): a band's queries, or its keys, of one head
// of COLUMNS columns. Query q attends to the keys at positions 0..position, which are the tokens of those numbers below
// `prefix` and `shift` more beyond.
// q, z, dz [queries, heads·d]; k, v [tokens, kv_heads·d]. sums [queries, heads]: log Σ exp of a row's scores, and
// Σ pattern · gradient of the pattern, which the way back to q leaves for the way back to k.
struct Params {
  // Bands times heads that compute.
  count: u32,
  bands: u32,
  heads: u32,
  kv_heads: u32,
  prefix: u32,
  // Queries by which the first that attends to a key is after that of the key before it.
  step: u32,
}
@group(0) @binding(0) var<uniform> p: Params;

// The scores' factor.
const SCALE = inverseSqrt(f32(COLUMNS));
// Below any score.
const LOWEST = -1e30;

// Where the columns that head h reads of the key at a position begin, in pairs, for a query of this shift.
fn key_at(position: u32, shift: u32, h: u32) -> u32 {
  let token = position + select(shift, 0u, position < p.prefix);
  return (token * p.kv_heads + h / (p.heads / p.kv_heads)) * (COLUMNS / 2u);
}
