// parameters -= learning_rate · (update · min(1, sqrt(count / squares)) + weight_decay · parameters), squares [1, 1] the sum of
// the squared update: its root mean square is at most 1 (engine/optimiser.rs, LeanStep). One thread a value.
struct Params {
  count: u32,
  learning_rate: f32,
  weight_decay: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> update: array<f32>;
@group(0) @binding(2) var<storage, read> squares: array<f32>;
@group(0) @binding(3) var<storage, read_write> parameters: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let clip = min(1.0, sqrt(f32(p.count) / max(squares[0], 1e-30)));
  let weight = parameters[i];
  parameters[i] = weight - p.learning_rate * (clip * update[i] + p.weight_decay * weight);
}
