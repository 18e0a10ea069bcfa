// The matrix product of parts/matmul.wgsl by tiles in shared memory, large blocks of them in registers: 8×8 threads make a tile
// of 64 rows and columns, 8×8 outputs each, from slices of DEPTH values of k. A value in shared memory serves eight times.
const SIDE: u32 = 8u;
const DEPTH: u32 = 16u;
const TILE: u32 = 8u * SIDE;
const FOURS: u32 = TILE / 4u;
// [k][four rows] and [k][four columns].
var<workgroup> left_tile: array<vec4<f32>, DEPTH * FOURS>;
var<workgroup> right_tile: array<vec4<f32>, DEPTH * FOURS>;

@compute @workgroup_size(SIDE, SIDE)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) local: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let first_row = group.y * TILE;
  let first_column = group.x * TILE;
  let end = min((group.z + 1u) * p.split, p.k);
  // Each thread brings one block of four by four a side.
  let own_k = index % (DEPTH / 4u) * 4u;
  let own_four = index / (DEPTH / 4u);
  // The left and the right four columns of each row.
  var l0 = vec4<f32>(); var r0 = vec4<f32>();
  var l1 = vec4<f32>(); var r1 = vec4<f32>();
  var l2 = vec4<f32>(); var r2 = vec4<f32>();
  var l3 = vec4<f32>(); var r3 = vec4<f32>();
  var l4 = vec4<f32>(); var r4 = vec4<f32>();
  var l5 = vec4<f32>(); var r5 = vec4<f32>();
  var l6 = vec4<f32>(); var r6 = vec4<f32>();
  var l7 = vec4<f32>(); var r7 = vec4<f32>();
  for (var start = group.z * p.split; start < end; start += DEPTH) {
    let k = start + own_k;
    let there = max(k, end) - k;
    let a = transpose(first_rows(left_block(first_row + own_four * 4u, k), there));
    let b = right_block(k, first_column + own_four * 4u);
    for (var i = 0u; i < 4u; i++) {
      left_tile[(own_k + i) * FOURS + own_four] = a[i];
      right_tile[(own_k + i) * FOURS + own_four] = select(vec4<f32>(), b[i], i < there);
    }
    workgroupBarrier();
    for (var i = 0u; i < DEPTH; i++) {
      let upper = left_tile[i * FOURS + local.y * 2u];
      let lower = left_tile[i * FOURS + local.y * 2u + 1u];
      let left_four = right_tile[i * FOURS + local.x * 2u];
      let right_four = right_tile[i * FOURS + local.x * 2u + 1u];
      l0 += upper.x * left_four; r0 += upper.x * right_four;
      l1 += upper.y * left_four; r1 += upper.y * right_four;
      l2 += upper.z * left_four; r2 += upper.z * right_four;
      l3 += upper.w * left_four; r3 += upper.w * right_four;
      l4 += lower.x * left_four; r4 += lower.x * right_four;
      l5 += lower.y * left_four; r5 += lower.y * right_four;
      l6 += lower.z * left_four; r6 += lower.z * right_four;
      l7 += lower.w * left_four; r7 += lower.w * right_four;
    }
    workgroupBarrier();
  }
  let left_half = array<vec4<f32>, 8>(l0, l1, l2, l3, l4, l5, l6, l7);
  let right_half = array<vec4<f32>, 8>(r0, r1, r2, r3, r4, r5, r6, r7);
  let column = first_column + local.x * 8u;
  for (var i = 0u; i < 8u; i++) {
    let row = first_row + local.y * 8u + i;
    store(row, column, group.z, left_half[i]);
    store(row, column + 4u, group.z, right_half[i]);
  }
}
