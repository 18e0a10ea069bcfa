// out [m, n] = A·B (+ bias [1, n] to each row) (+ residual [m, n]).
// A(i, k) = a[a_start + i·a_row + k·a_col], B(k, j) = b[b_start + k·b_row + j·b_col]: windows and transposes are strides.
// Each thread makes a block of 4×4 outputs in registers; no shared memory, so no barriers, which software adapters crawl on.
struct Params {
  m: u32,
  n: u32,
  k: u32,
  a_start: u32,
  a_row: u32,
  a_col: u32,
  b_start: u32,
  b_row: u32,
  b_col: u32,
  has_bias: u32,
  has_residual: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

fn store(row: u32, first: u32, values: vec4<f32>) {
  if row >= p.m { return; }
  for (var j = 0u; j < 4u; j++) {
    let column = first + j;
    if column < p.n {
      var value = values[j];
      if p.has_bias != 0u {
        value += bias[column];
      }
      if p.has_residual != 0u {
        value += residual[row * p.n + column];
      }
      out[row * p.n + column] = value;
    }
  }
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.y * 4u;
  let column = id.x * 4u;
  if row >= p.m || column >= p.n { return; }
  // Past the edge the last row or column is read again and its result dropped.
  let rows = p.a_start + min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(p.m - 1u)) * p.a_row;
  let columns = p.b_start + min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(p.n - 1u)) * p.b_col;
  var c0 = vec4<f32>();
  var c1 = vec4<f32>();
  var c2 = vec4<f32>();
  var c3 = vec4<f32>();
  for (var k = 0u; k < p.k; k++) {
    let ka = k * p.a_col;
    let kb = k * p.b_row;
    let right = vec4<f32>(b[columns.x + kb], b[columns.y + kb], b[columns.z + kb], b[columns.w + kb]);
    c0 += a[rows.x + ka] * right;
    c1 += a[rows.y + ka] * right;
    c2 += a[rows.z + ka] * right;
    c3 += a[rows.w + ka] * right;
  }
  store(row, column, c0);
  store(row + 1u, column, c1);
  store(row + 2u, column, c2);
  store(row + 3u, column, c3);
}
