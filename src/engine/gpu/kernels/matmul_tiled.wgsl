// The matrix product of parts/matmul.wgsl by tiles in shared memory: SIDE×SIDE threads make a tile of 4·SIDE rows and
// columns, 4×4 outputs each, from slices of DEPTH values of k.
const DEPTH: u32 = 16u;
const TILE: u32 = 4u * SIDE;
// [k][row] and [k][column].
var<workgroup> left_tile: array<f32, DEPTH * TILE>;
var<workgroup> right_tile: array<f32, DEPTH * TILE>;

fn four_rows(at: u32) -> vec4<f32> {
  return vec4<f32>(left_tile[at], left_tile[at + 1u], left_tile[at + 2u], left_tile[at + 3u]);
}

@compute @workgroup_size(SIDE, SIDE)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_id) local: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let first_row = group.y * TILE;
  let first_column = group.x * TILE;
  let end = min((group.z + 1u) * p.split, p.k);
  var c0 = vec4<f32>();
  var c1 = vec4<f32>();
  var c2 = vec4<f32>();
  var c3 = vec4<f32>();
  for (var start = group.z * p.split; start < end; start += DEPTH) {
    // DEPTH·TILE values a side, four to a load.
    for (var i = index; i < DEPTH * SIDE; i += SIDE * SIDE) {
      if LEFT_TRANSPOSED {
        let k = i / SIDE;
        let row = i % SIDE * 4u;
        var values = vec4<f32>();
        if start + k < end && first_row + row < p.m {
          values = left4(start + k, first_row + row);
        }
        for (var j = 0u; j < 4u; j++) {
          left_tile[k * TILE + row + j] = values[j];
        }
      } else {
        let k = i % (DEPTH / 4u) * 4u;
        let row = i / (DEPTH / 4u);
        var values = vec4<f32>();
        if start + k < end && first_row + row < p.m {
          values = left4(first_row + row, start + k);
        }
        for (var j = 0u; j < 4u; j++) {
          left_tile[(k + j) * TILE + row] = select(0.0, values[j], start + k + j < end);
        }
      }
      if RIGHT_TRANSPOSED {
        let k = i % (DEPTH / 4u) * 4u;
        let column = i / (DEPTH / 4u);
        var values = vec4<f32>();
        if start + k < end && first_column + column < p.n {
          values = right4(first_column + column, start + k);
        }
        for (var j = 0u; j < 4u; j++) {
          right_tile[(k + j) * TILE + column] = select(0.0, values[j], start + k + j < end);
        }
      } else {
        let k = i / SIDE;
        let column = i % SIDE * 4u;
        var values = vec4<f32>();
        if start + k < end && first_column + column < p.n {
          values = right4(start + k, first_column + column);
        }
        for (var j = 0u; j < 4u; j++) {
          right_tile[k * TILE + column + j] = values[j];
        }
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
      let a = four_rows(k * TILE + local.y * 4u);
      let at = k * TILE + local.x * 4u;
      let b = vec4<f32>(right_tile[at], right_tile[at + 1u], right_tile[at + 2u], right_tile[at + 3u]);
      c0 += a.x * b;
      c1 += a.y * b;
      c2 += a.z * b;
      c3 += a.w * b;
    }
    workgroupBarrier();
  }
  let row = first_row + local.y * 4u;
  let column = first_column + local.x * 4u;
  store(row, column, group.z, c0);
  store(row + 1u, column, group.z, c1);
  store(row + 2u, column, group.z, c2);
  store(row + 3u, column, group.z, c3);
}
