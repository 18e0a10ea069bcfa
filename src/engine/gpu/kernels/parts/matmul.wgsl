// What the forms of the matrix product share. out [m, n] (columns out_start.. of rows out_stride long) = A·B
// (+ bias to each row) (+ residual, which lies as out does). A(i, k) = left(i, k), or left(k, i) if LEFT_TRANSPOSED; B(k, j) =
// right(k, j), or right(j, k) if RIGHT_TRANSPOSED. Workgroup z sums over k from z·split to (z+1)·split and writes to part z of
// out [parts, m, n]; with one part it writes the result.
struct Params {
  m: u32,
  n: u32,
  k: u32,
  split: u32,
  left_start: u32,
  left_stride: u32,
  right_start: u32,
  right_stride: u32,
  scale_stride: u32,
  out_start: u32,
  out_stride: u32,
  has_bias: u32,
  has_residual: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

fn store_one(row: u32, column: u32, part: u32, x: f32) {
  if row >= p.m || column >= p.n { return; }
  let place = p.out_start + column;
  let at = row * p.out_stride + place;
  var value = x;
  if p.has_bias != 0u {
    value += bias[place];
  }
  if p.has_residual != 0u {
    value += residual[at];
  }
  out[part * p.m * p.n + at] = value;
}

fn store(row: u32, first: u32, part: u32, values: vec4<f32>) {
  for (var j = 0u; j < 4u; j++) {
    store_one(row, first + j, part, values[j]);
  }
}

// Columns column..column+3 of a row of the right side.
fn right4(row: u32, column: u32) -> vec4<f32> {
  return right_at(right_row(row), column);
}

// A(row..row+3, k..k+3), a column of the result for each row. Past the last row another is read and its result dropped.
fn left_block(row: u32, k: u32) -> mat4x4<f32> {
  if LEFT_TRANSPOSED {
    let last = vec4<u32>(p.k - 1u);
    let at = min(vec4<u32>(k, k + 1u, k + 2u, k + 3u), last);
    return transpose(mat4x4<f32>(left4(at.x, row), left4(at.y, row), left4(at.z, row), left4(at.w, row)));
  }
  let at = min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(p.m - 1u));
  return mat4x4<f32>(left4(at.x, k), left4(at.y, k), left4(at.z, k), left4(at.w, k));
}

// B(k..k+3, column..column+3), a column of the result for each k.
fn right_block(k: u32, column: u32) -> mat4x4<f32> {
  if RIGHT_TRANSPOSED {
    let at = min(vec4<u32>(column, column + 1u, column + 2u, column + 3u), vec4<u32>(p.n - 1u));
    return transpose(mat4x4<f32>(right4(at.x, k), right4(at.y, k), right4(at.z, k), right4(at.w, k)));
  }
  let at = min(vec4<u32>(k, k + 1u, k + 2u, k + 3u), vec4<u32>(p.k - 1u));
  return mat4x4<f32>(right4(at.x, column), right4(at.y, column), right4(at.z, column), right4(at.w, column));
}

// The first `count` components of each column; the others 0.
fn first_rows(x: mat4x4<f32>, count: u32) -> mat4x4<f32> {
  let keep = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count);
  let zero = vec4<f32>();
  return mat4x4<f32>(
    select(zero, x[0], keep), select(zero, x[1], keep), select(zero, x[2], keep), select(zero, x[3], keep));
}
