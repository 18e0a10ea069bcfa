// out[0] = Σ of `count` values. One thread in all: the values are few.
struct Params {
  count: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i > 0u { return; }
  var sum = 0.0;
  for (var k = 0u; k < p.count; k++) {
    sum += x[k];
  }
  out[0] = sum;
}
