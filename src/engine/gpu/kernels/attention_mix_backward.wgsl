// queries[q] = (shift, position, offset of the pattern row, 0): query q attends to the keys at positions 0..position, which
// are the tokens of those numbers below `prefix` and `shift` more beyond. pattern [heads, entries].
// keys[s] = (first query that attends to token s, its position, end of those queries, 0).
// out [tokens, kv_heads·d]: Σ over heads h that read kv head j, and over those queries q, of pattern[h,q,s] · dz[q,h].
// One thread a value.
struct Params {
  count: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
  entries: u32,
  prefix: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> pattern: array<f32>;
@group(0) @binding(2) var<storage, read> dz: array<f32>;
@group(0) @binding(3) var<storage, read> queries: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let s = i / (p.kv_heads * p.head_dim);
  let j = i / p.head_dim % p.kv_heads;
  let column = i % p.head_dim;
  let key = keys[s];
  let group = p.heads / p.kv_heads;
  var sum = 0.0;
  for (var q = key.x; q < key.z; q++) {
    let offset = queries[q].z + key.y;
    for (var h = j * group; h < (j + 1u) * group; h++) {
      sum += pattern[h * p.entries + offset] * dz[(q * p.heads + h) * p.head_dim + column];
    }
  }
  out[i] = sum;
}
