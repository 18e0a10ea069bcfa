// out [columns, rows] = (the columns start.. of x, rows stride long)ᵀ. A thread takes COLUMNS columns of one row: what
// neighbouring threads write lies together. A run of lines with $ stands once for every two of them, $0 and $1 (kernels.rs).
struct Params {
  rows: u32,
  columns: u32,
  start: u32,
  stride: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if id.x >= p.rows { return; }
  let first = id.y * COLUMNS;
  let base = id.x * p.stride + p.start + first;
  let to = first * p.rows + id.x;
  let count = p.columns - first;
  let v$0 = x[base + $0u];
  let v$1 = x[base + $1u];
  // All is read before any is written.
  if $0u < count { out[to + $0u * p.rows] = v$0; }
  if $1u < count { out[to + $1u * p.rows] = v$1; }
}
