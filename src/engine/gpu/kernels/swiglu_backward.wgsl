// Gradients of SiLU(gate) ⊙ up, over `count` values. rule 0: the derivative; 1: the gate a constant; 2: half to each
// factor, the gate's sigmoid a constant (METHOD.md §2).
struct Params {
  count: u32,
  rule: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> gate: array<f32>;
@group(0) @binding(3) var<storage, read> up: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_gate: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_up: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let g = gate[i];
  let sigma = 1.0 / (1.0 + exp(-g));
  let to_gate = dy[i] * up[i] * sigma;
  let to_up = dy[i] * g * sigma;
  if p.rule == 0u {
    d_gate[i] = to_gate * (1.0 + g * (1.0 - sigma));
    d_up[i] = to_up;
  } else if p.rule == 1u {
    d_gate[i] = 0.0;
    d_up[i] = to_up;
  } else {
    d_gate[i] = 0.5 * to_gate;
    d_up[i] = 0.5 * to_up;
  }
}
