// slots[t] is a row of means [slots, heads·d], or 0xffffffff for a token that is left alone.
// out [tokens, heads·d] = z, but means where flags [1, heads] is not 0. One thread a value.
struct Params {
  count: u32,
  cols: u32,
  head_dim: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;
@group(0) @binding(2) var<storage, read> means: array<f32>;
@group(0) @binding(3) var<storage, read> slots: array<u32>;
@group(0) @binding(4) var<storage, read> flags: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let slot = slots[i / p.cols];
  let column = i % p.cols;
  var value = z[i];
  if slot != 0xffffffffu && flags[column / p.head_dim] != 0.0 {
    value = means[slot * p.cols + column];
  }
  out[i] = value;
}
