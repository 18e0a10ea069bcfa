// queries[q] = (shift, position, offset of the pattern row, 0): query q attends to the keys at positions 0..position, which
// are the tokens of those numbers below `prefix` and `shift` more beyond. pattern [heads, entries].
// Causal softmax(q·k/sqrt(d)) of q [queries, heads·d], k [tokens, kv_heads·d]. One thread a pattern row.
struct Params {
  count: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
  entries: u32,
  prefix: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> queries: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> pattern: array<f32>;

fn key(position: u32, shift: u32) -> u32 {
  return position + select(shift, 0u, position < p.prefix);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let t = i / p.heads;
  let h = i % p.heads;
  let query = queries[t];
  let at = h * p.entries + query.z;
  let own = i * p.head_dim;
  let kv = h / (p.heads / p.kv_heads) * p.head_dim;
  let scale = inverseSqrt(f32(p.head_dim));
  var highest = -3.4e38;
  for (var s = 0u; s <= query.y; s++) {
    let other = key(s, query.x) * p.kv_heads * p.head_dim + kv;
    var score = 0.0;
    for (var c = 0u; c < p.head_dim; c++) {
      score += q[own + c] * k[other + c];
    }
    score *= scale;
    pattern[at + s] = score;
    highest = max(highest, score);
  }
  var sum = 0.0;
  for (var s = 0u; s <= query.y; s++) {
    let weight = exp(pattern[at + s] - highest);
    pattern[at + s] = weight;
    sum += weight;
  }
  for (var s = 0u; s <= query.y; s++) {
    pattern[at + s] /= sum;
  }
}
