// rows[t] = (start of the sequence, position, end of the sequence, offset of the pattern row); pattern [heads, entries].
// out [tokens, kv_heads·d]: Σ over heads h that read kv head j, and over t ≥ s, of pattern[h,t,s] · dz[t,h].
// One thread a value.
struct Params {
  count: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
  entries: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> pattern: array<f32>;
@group(0) @binding(2) var<storage, read> dz: array<f32>;
@group(0) @binding(3) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let s = i / (p.kv_heads * p.head_dim);
  let j = i / p.head_dim % p.kv_heads;
  let column = i % p.head_dim;
  let place = rows[s].y;
  let group = p.heads / p.kv_heads;
  var sum = 0.0;
  for (var t = s; t < rows[s].z; t++) {
    let offset = rows[t].w + place;
    for (var h = j * group; h < (j + 1u) * group; h++) {
      sum += pattern[h * p.entries + offset] * dz[(t * p.heads + h) * p.head_dim + column];
    }
  }
  out[i] = sum;
}
