// rows[t] = (start of the sequence, position, end of the sequence, offset of the pattern row); pattern [heads, entries].
// out = pattern ⊙ (dP − Σ pattern ⊙ dP) / sqrt(d), dP[t,s] = ⟨dz[t,h], v[s, kv(h)]⟩. One thread a pattern row.
struct Params {
  tokens: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
  entries: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> pattern: array<f32>;
@group(0) @binding(2) var<storage, read> dz: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.tokens * p.heads { return; }
  let t = i / p.heads;
  let h = i % p.heads;
  let row = rows[t];
  let at = h * p.entries + row.w;
  let kv = h / (p.heads / p.kv_heads) * p.head_dim;
  var mean = 0.0;
  for (var s = 0u; s <= row.y; s++) {
    let value = (row.x + s) * p.kv_heads * p.head_dim + kv;
    var product = 0.0;
    for (var c = 0u; c < p.head_dim; c++) {
      product += dz[i * p.head_dim + c] * v[value + c];
    }
    out[at + s] = product;
    mean += pattern[at + s] * product;
  }
  let scale = inverseSqrt(f32(p.head_dim));
  for (var s = 0u; s <= row.y; s++) {
    out[at + s] = pattern[at + s] * (out[at + s] - mean) * scale;
  }
}
