// Rotary embedding of x [rows, heads·d], pairs (i, i+d/2), by each row's position; sign −1 rotates back.
// cos, sin [positions, d/2]. One thread a pair.
struct Params {
  count: u32,
  cols: u32,
  head_dim: u32,
  sign: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> cosines: array<f32>;
@group(0) @binding(3) var<storage, read> sines: array<f32>;
@group(0) @binding(4) var<storage, read> positions: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let half = p.head_dim / 2u;
  let pairs = p.cols / 2u;
  let t = i / pairs;
  let pair = i % pairs;
  let at = t * p.cols + (pair / half) * p.head_dim + pair % half;
  let angle = positions[t] * half + pair % half;
  let a = x[at];
  let b = x[at + half];
  let c = cosines[angle];
  let s = p.sign * sines[angle];
  out[at] = a * c - b * s;
  out[at + half] = b * c + a * s;
}
