// f32 rows that begin anywhere.
@group(0) @binding(2) var<storage, read> right: array<f32>;

// Columns column..column+3 of a row; what lies past its end is not used.
fn right4(row: u32, column: u32) -> vec4<f32> {
  let at = row * p.right_stride + p.right_start + column;
  return vec4<f32>(right[at], right[at + 1u], right[at + 2u], right[at + 3u]);
}
