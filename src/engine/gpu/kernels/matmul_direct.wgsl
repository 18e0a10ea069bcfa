// The matrix product of parts/matmul.wgsl without shared memory: each thread makes 8×4 outputs in registers. No barriers, on
// which software adapters crawl; best too where there are few rows.
@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.y * 8u;
  let column = id.x * 4u;
  if row >= p.m || column >= p.n { return; }
  let lower = row + 4u < p.m;
  let end = min((id.z + 1u) * p.split, p.k);
  var c0 = vec4<f32>();
  var c1 = vec4<f32>();
  var c2 = vec4<f32>();
  var c3 = vec4<f32>();
  var c4 = vec4<f32>();
  var c5 = vec4<f32>();
  var c6 = vec4<f32>();
  var c7 = vec4<f32>();
  for (var k = id.z * p.split; k < end; k += 4u) {
    var b = right_block(k, column);
    var a = left_block(row, k);
    if k + 4u > end {
      // What lies past the end may be anything.
      b = transpose(first_rows(transpose(b), end - k));
      a = first_rows(a, end - k);
    }
    c0 += b * a[0];
    c1 += b * a[1];
    c2 += b * a[2];
    c3 += b * a[3];
    if lower {
      a = left_block(row + 4u, k);
      if k + 4u > end {
        a = first_rows(a, end - k);
      }
      c4 += b * a[0];
      c5 += b * a[1];
      c6 += b * a[2];
      c7 += b * a[3];
    }
  }
  store(row, column, id.z, c0);
  store(row + 1u, column, id.z, c1);
  store(row + 2u, column, id.z, c2);
  store(row + 3u, column, id.z, c3);
  if lower {
    store(row + 4u, column, id.z, c4);
    store(row + 5u, column, id.z, c5);
    store(row + 6u, column, id.z, c6);
    store(row + 7u, column, id.z, c7);
  }
}
