// parts[first + i] = Σ x² over the i-th chunk of `chunk` of `count` values. One thread a chunk.
struct Params {
  count: u32,
  chunk: u32,
  first: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  let start = i * p.chunk;
  if start >= p.count { return; }
  var sum = 0.0;
  for (var k = start; k < min(start + p.chunk, p.count); k++) {
    sum += x[k] * x[k];
  }
  parts[p.first + i] = sum;
}
