// The left side of a product, f32 rows that begin at multiples of 4.
@group(0) @binding(1) var<storage, read> left: array<vec4<f32>>;

// Columns column..column+3 (column a multiple of 4) of a row.
fn left4(row: u32, column: u32) -> vec4<f32> {
  return left[(row * p.left_stride + p.left_start + column) / 4u];
}
