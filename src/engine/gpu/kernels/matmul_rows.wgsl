// The matrix product of parts/matmul.wgsl for software adapters, which run four or eight threads as the lanes of a SIMD
// register and load fast where neighbouring threads read neighbouring values, or all the same one. Rows of the result lie
// across the threads: each makes 8 rows, STEP apart, of COLUMNS columns, from a left side that is read transposed
// (LEFT_TRANSPOSED always). Two values of k a turn: longer turns outgrow what the processor keeps decoded;
// fma, since the lanes of a product of its own would be put aside before they are added.
// A run of lines with $ stands once for every two columns, $0 and $1 (kernels.rs).
const STEP: u32 = 8u;

// Columns column..column+3 of the right side by k and k+1.
fn right_rows(k: u32, column: u32) -> mat4x2<f32> {
  return transpose(mat2x4<f32>(right4(k, column), right4(min(k + 1u, p.k - 1u), column)));
}

// Where the right side's row of a column begins. Past the last column another is read and its result dropped.
fn row_of(column: u32) -> vec2<u32> {
  return right_row(min(column, p.n - 1u));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let row = group.y * 8u * STEP + index;
  let column = group.x * COLUMNS;
  let end = min((group.z + 1u) * p.split, p.k);
  let highest = p.left_start + p.m - 1u;
  let r0 = min(p.left_start + row, highest);
  let r1 = min(p.left_start + row + 1u * STEP, highest);
  let r2 = min(p.left_start + row + 2u * STEP, highest);
  let r3 = min(p.left_start + row + 3u * STEP, highest);
  let r4 = min(p.left_start + row + 4u * STEP, highest);
  let r5 = min(p.left_start + row + 5u * STEP, highest);
  let r6 = min(p.left_start + row + 6u * STEP, highest);
  let r7 = min(p.left_start + row + 7u * STEP, highest);
  let w$0 = row_of(column + $0u);
  let w$1 = row_of(column + $1u);
  // The upper and the lower four rows of each column.
  var u$0 = vec4<f32>();
  var u$1 = vec4<f32>();
  var l$0 = vec4<f32>();
  var l$1 = vec4<f32>();
  for (var k = group.z * p.split; k < end; k += 2u) {
    let at = k * p.left_stride;
    let a0 = vec4<f32>(left[at + r0], left[at + r1], left[at + r2], left[at + r3]);
    let a1 = vec4<f32>(left[at + r4], left[at + r5], left[at + r6], left[at + r7]);
    // Past the end the left side counts as 0.
    let odd = k + 1u == end;
    let next = select(at + p.left_stride, at, odd);
    let here = select(1.0, 0.0, odd);
    let a2 = here * vec4<f32>(left[next + r0], left[next + r1], left[next + r2], left[next + r3]);
    let a3 = here * vec4<f32>(left[next + r4], left[next + r5], left[next + r6], left[next + r7]);
    // The right side by k and k+1: of one column after the other, so that little is held at once, or of four that lie
    // together.
    var four: mat4x2<f32>;
    if !RIGHT_TRANSPOSED && $0u % 4u == 0u { four = right_rows(k, column + $0u); }
    var b$0 = four[$0u & 2u];
    if RIGHT_TRANSPOSED { b$0 = right_two(w$0, k); }
    u$0 = fma(a0, vec4<f32>(b$0.x), u$0);
    l$0 = fma(a1, vec4<f32>(b$0.x), l$0);
    u$0 = fma(a2, vec4<f32>(b$0.y), u$0);
    l$0 = fma(a3, vec4<f32>(b$0.y), l$0);
    var b$1 = four[$1u & 3u];
    if RIGHT_TRANSPOSED { b$1 = right_two(w$1, k); }
    u$1 = fma(a0, vec4<f32>(b$1.x), u$1);
    l$1 = fma(a1, vec4<f32>(b$1.x), l$1);
    u$1 = fma(a2, vec4<f32>(b$1.y), u$1);
    l$1 = fma(a3, vec4<f32>(b$1.y), l$1);
  }
  // A loop, to keep the kernel short: a driver that compiles at run time keeps short ones longer.
  var tile = array<vec4<f32>, 2u * COLUMNS>(
    u$0, u$1,
    // The lower rows come after all upper ones.
    l$0, l$1,
  );
  for (var i = 0u; i < 8u * COLUMNS; i++) {
    let r = i / COLUMNS;
    let c = i % COLUMNS;
    store_one(row + r * STEP, column + c, group.z, tile[r / 4u * COLUMNS + c][r % 4u]);
  }
}
