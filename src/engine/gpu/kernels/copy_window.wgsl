// to[to_start + r·to_stride + c] = from_[from_start + r·from_stride + c] for a window [count/cols, cols]. One thread a value.
struct Params {
  count: u32,
  cols: u32,
  from_start: u32,
  from_stride: u32,
  to_start: u32,
  to_stride: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> from_: array<f32>;
@group(0) @binding(2) var<storage, read_write> to: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let r = i / p.cols;
  let c = i % p.cols;
  to[p.to_start + r * p.to_stride + c] = from_[p.from_start + r * p.from_stride + c];
}
