// The matrix product of parts/matmul.wgsl for software adapters, which run four or eight threads as the lanes of a SIMD
// register and load fast where neighbouring threads read neighbouring values, or all the same one. Rows of the result lie
// across the threads: each makes 8 rows, STEP apart, of 16 columns, from a left side that is read transposed
// (LEFT_TRANSPOSED always). Two values of k a turn: longer turns outgrow what the processor keeps decoded;
// fma, since the lanes of a product of its own would be put aside before they are added.
const STEP: u32 = 8u;

// Columns column..column+3 of the result by k and k+1.
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
  let column = group.x * 16u;
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
  let w0 = row_of(column);
  let w1 = row_of(column + 1u);
  let w2 = row_of(column + 2u);
  let w3 = row_of(column + 3u);
  let w4 = row_of(column + 4u);
  let w5 = row_of(column + 5u);
  let w6 = row_of(column + 6u);
  let w7 = row_of(column + 7u);
  let w8 = row_of(column + 8u);
  let w9 = row_of(column + 9u);
  let w10 = row_of(column + 10u);
  let w11 = row_of(column + 11u);
  let w12 = row_of(column + 12u);
  let w13 = row_of(column + 13u);
  let w14 = row_of(column + 14u);
  let w15 = row_of(column + 15u);
  // The upper and the lower four rows of each column.
  var u0 = vec4<f32>();
  var l0 = vec4<f32>();
  var u1 = vec4<f32>();
  var l1 = vec4<f32>();
  var u2 = vec4<f32>();
  var l2 = vec4<f32>();
  var u3 = vec4<f32>();
  var l3 = vec4<f32>();
  var u4 = vec4<f32>();
  var l4 = vec4<f32>();
  var u5 = vec4<f32>();
  var l5 = vec4<f32>();
  var u6 = vec4<f32>();
  var l6 = vec4<f32>();
  var u7 = vec4<f32>();
  var l7 = vec4<f32>();
  var u8 = vec4<f32>();
  var l8 = vec4<f32>();
  var u9 = vec4<f32>();
  var l9 = vec4<f32>();
  var u10 = vec4<f32>();
  var l10 = vec4<f32>();
  var u11 = vec4<f32>();
  var l11 = vec4<f32>();
  var u12 = vec4<f32>();
  var l12 = vec4<f32>();
  var u13 = vec4<f32>();
  var l13 = vec4<f32>();
  var u14 = vec4<f32>();
  var l14 = vec4<f32>();
  var u15 = vec4<f32>();
  var l15 = vec4<f32>();
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
    var b0: mat4x2<f32>;
    if RIGHT_TRANSPOSED {
      b0 = mat4x2<f32>(right_two(w0, k), right_two(w1, k), right_two(w2, k), right_two(w3, k));
    } else {
      b0 = right_rows(k, column + 0u);
    }
    u0 = fma(a0, vec4<f32>(b0[0].x), u0);
    l0 = fma(a1, vec4<f32>(b0[0].x), l0);
    u0 = fma(a2, vec4<f32>(b0[0].y), u0);
    l0 = fma(a3, vec4<f32>(b0[0].y), l0);
    u1 = fma(a0, vec4<f32>(b0[1].x), u1);
    l1 = fma(a1, vec4<f32>(b0[1].x), l1);
    u1 = fma(a2, vec4<f32>(b0[1].y), u1);
    l1 = fma(a3, vec4<f32>(b0[1].y), l1);
    u2 = fma(a0, vec4<f32>(b0[2].x), u2);
    l2 = fma(a1, vec4<f32>(b0[2].x), l2);
    u2 = fma(a2, vec4<f32>(b0[2].y), u2);
    l2 = fma(a3, vec4<f32>(b0[2].y), l2);
    u3 = fma(a0, vec4<f32>(b0[3].x), u3);
    l3 = fma(a1, vec4<f32>(b0[3].x), l3);
    u3 = fma(a2, vec4<f32>(b0[3].y), u3);
    l3 = fma(a3, vec4<f32>(b0[3].y), l3);
    var b1: mat4x2<f32>;
    if RIGHT_TRANSPOSED {
      b1 = mat4x2<f32>(right_two(w4, k), right_two(w5, k), right_two(w6, k), right_two(w7, k));
    } else {
      b1 = right_rows(k, column + 4u);
    }
    u4 = fma(a0, vec4<f32>(b1[0].x), u4);
    l4 = fma(a1, vec4<f32>(b1[0].x), l4);
    u4 = fma(a2, vec4<f32>(b1[0].y), u4);
    l4 = fma(a3, vec4<f32>(b1[0].y), l4);
    u5 = fma(a0, vec4<f32>(b1[1].x), u5);
    l5 = fma(a1, vec4<f32>(b1[1].x), l5);
    u5 = fma(a2, vec4<f32>(b1[1].y), u5);
    l5 = fma(a3, vec4<f32>(b1[1].y), l5);
    u6 = fma(a0, vec4<f32>(b1[2].x), u6);
    l6 = fma(a1, vec4<f32>(b1[2].x), l6);
    u6 = fma(a2, vec4<f32>(b1[2].y), u6);
    l6 = fma(a3, vec4<f32>(b1[2].y), l6);
    u7 = fma(a0, vec4<f32>(b1[3].x), u7);
    l7 = fma(a1, vec4<f32>(b1[3].x), l7);
    u7 = fma(a2, vec4<f32>(b1[3].y), u7);
    l7 = fma(a3, vec4<f32>(b1[3].y), l7);
    var b2: mat4x2<f32>;
    if RIGHT_TRANSPOSED {
      b2 = mat4x2<f32>(right_two(w8, k), right_two(w9, k), right_two(w10, k), right_two(w11, k));
    } else {
      b2 = right_rows(k, column + 8u);
    }
    u8 = fma(a0, vec4<f32>(b2[0].x), u8);
    l8 = fma(a1, vec4<f32>(b2[0].x), l8);
    u8 = fma(a2, vec4<f32>(b2[0].y), u8);
    l8 = fma(a3, vec4<f32>(b2[0].y), l8);
    u9 = fma(a0, vec4<f32>(b2[1].x), u9);
    l9 = fma(a1, vec4<f32>(b2[1].x), l9);
    u9 = fma(a2, vec4<f32>(b2[1].y), u9);
    l9 = fma(a3, vec4<f32>(b2[1].y), l9);
    u10 = fma(a0, vec4<f32>(b2[2].x), u10);
    l10 = fma(a1, vec4<f32>(b2[2].x), l10);
    u10 = fma(a2, vec4<f32>(b2[2].y), u10);
    l10 = fma(a3, vec4<f32>(b2[2].y), l10);
    u11 = fma(a0, vec4<f32>(b2[3].x), u11);
    l11 = fma(a1, vec4<f32>(b2[3].x), l11);
    u11 = fma(a2, vec4<f32>(b2[3].y), u11);
    l11 = fma(a3, vec4<f32>(b2[3].y), l11);
    var b3: mat4x2<f32>;
    if RIGHT_TRANSPOSED {
      b3 = mat4x2<f32>(right_two(w12, k), right_two(w13, k), right_two(w14, k), right_two(w15, k));
    } else {
      b3 = right_rows(k, column + 12u);
    }
    u12 = fma(a0, vec4<f32>(b3[0].x), u12);
    l12 = fma(a1, vec4<f32>(b3[0].x), l12);
    u12 = fma(a2, vec4<f32>(b3[0].y), u12);
    l12 = fma(a3, vec4<f32>(b3[0].y), l12);
    u13 = fma(a0, vec4<f32>(b3[1].x), u13);
    l13 = fma(a1, vec4<f32>(b3[1].x), l13);
    u13 = fma(a2, vec4<f32>(b3[1].y), u13);
    l13 = fma(a3, vec4<f32>(b3[1].y), l13);
    u14 = fma(a0, vec4<f32>(b3[2].x), u14);
    l14 = fma(a1, vec4<f32>(b3[2].x), l14);
    u14 = fma(a2, vec4<f32>(b3[2].y), u14);
    l14 = fma(a3, vec4<f32>(b3[2].y), l14);
    u15 = fma(a0, vec4<f32>(b3[3].x), u15);
    l15 = fma(a1, vec4<f32>(b3[3].x), l15);
    u15 = fma(a2, vec4<f32>(b3[3].y), u15);
    l15 = fma(a3, vec4<f32>(b3[3].y), l15);
  }
  // A loop, to keep the kernel short: a driver that compiles at run time keeps short ones longer.
  var tile = array<vec4<f32>, 32>(
    u0, u1, u2, u3, u4, u5, u6, u7, u8, u9, u10, u11, u12, u13, u14, u15,
    l0, l1, l2, l3, l4, l5, l6, l7, l8, l9, l10, l11, l12, l13, l14, l15);
  for (var i = 0u; i < 32u; i++) {
    let r = i / 4u;
    let c = i % 4u * 4u;
    let at = r / 4u * 16u + c;
    let values = vec4<f32>(tile[at][r % 4u], tile[at + 1u][r % 4u], tile[at + 2u][r % 4u], tile[at + 3u][r % 4u]);
    store(row + r * STEP, column + c, group.z, values);
  }
}
