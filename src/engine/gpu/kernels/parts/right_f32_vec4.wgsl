// f32 rows that begin at multiples of 4.
@group(0) @binding(2) var<storage, read> right: array<vec4<f32>>;

// Columns column..column+3 (column a multiple of 4) of a row.
fn right4(row: u32, column: u32) -> vec4<f32> {
  return right[(row * p.right_stride + p.right_start + column) / 4u];
}
