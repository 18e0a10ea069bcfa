// To row distinct[j] of out [rows, cols] is added the sum of the rows places[offsets[j]..offsets[j+1]] of x [n, cols].
// One thread a value of a distinct row, so that no two write the same.
struct Params {
  count: u32,
  cols: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> distinct: array<u32>;
@group(0) @binding(3) var<storage, read> offsets: array<u32>;
@group(0) @binding(4) var<storage, read> places: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let j = i / p.cols;
  let column = i % p.cols;
  var sum = 0.0;
  for (var k = offsets[j]; k < offsets[j + 1u]; k++) {
    sum += x[places[k] * p.cols + column];
  }
  out[distinct[j] * p.cols + column] += sum;
}
