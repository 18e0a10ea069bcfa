// One AdamW update (METHOD.md §7) of `parameters [count]`; only the first `decayed` of them decay. gradients, m and v lie as
// they do; norm_squared [1, 1] is that of all gradients. One thread a weight.
struct Params {
  count: u32,
  decayed: u32,
  learning_rate: f32,
  beta1: f32,
  beta2: f32,
  eps: f32,
  weight_decay: f32,
  clip: f32,
  correction1: f32,
  correction2: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;
@group(0) @binding(2) var<storage, read> norm_squared: array<f32>;
@group(0) @binding(3) var<storage, read_write> parameters: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;
@group(0) @binding(5) var<storage, read_write> v: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  var factor = 1.0;
  if p.clip > 0.0 {
    factor = min(1.0, p.clip / (sqrt(norm_squared[0]) + 1e-6));
  }
  let g = gradients[i] * factor;
  let first = p.beta1 * m[i] + (1.0 - p.beta1) * g;
  let second = p.beta2 * v[i] + (1.0 - p.beta2) * g * g;
  m[i] = first;
  v[i] = second;
  let weight = parameters[i];
  let decay = select(0.0, p.weight_decay, i < p.decayed);
  let change = (first / p.correction1) / (sqrt(second / p.correction2) + p.eps) + decay * weight;
  parameters[i] = weight - p.learning_rate * change;
}
