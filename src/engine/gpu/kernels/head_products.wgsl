// slots[t] is a row of means [slots, heads·d], or 0xffffffff for a token that is left alone.
// out [tokens, heads]: ⟨z[t,h] − means[slots[t],h], gradient[t,h]⟩. One thread a head of a token.
struct Params {
  count: u32,
  heads: u32,
  head_dim: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;
@group(0) @binding(2) var<storage, read> means: array<f32>;
@group(0) @binding(3) var<storage, read> slots: array<u32>;
@group(0) @binding(4) var<storage, read> gradient: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let slot = slots[i / p.heads];
  var sum = 0.0;
  if slot != 0xffffffffu {
    let mean = (slot * p.heads + i % p.heads) * p.head_dim;
    for (var c = 0u; c < p.head_dim; c++) {
      sum += (z[i * p.head_dim + c] - means[mean + c]) * gradient[i * p.head_dim + c];
    }
  }
  out[i] = sum;
}
