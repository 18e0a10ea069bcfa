// The left side of a product, f32 rows that begin anywhere.
@group(0) @binding(1) var<storage, read> left: array<f32>;

// Columns column..column+3 of a row; what lies past its end is not used.
fn left4(row: u32, column: u32) -> vec4<f32> {
  let at = row * p.left_stride + p.left_start + column;
  return vec4<f32>(left[at], left[at + 1u], left[at + 2u], left[at + 3u]);
}
