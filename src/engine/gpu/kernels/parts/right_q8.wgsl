// 8-bit integers, four to a word; an f16 scale for each 32, two to a word (model/stored.rs).
@group(0) @binding(2) var<storage, read> right: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

// Columns column..column+3 (column a multiple of 4) of a row.
fn right4(row: u32, column: u32) -> vec4<f32> {
  let word = bitcast<i32>(right[row * p.right_stride + column / 4u]);
  let integers = (vec4<i32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
  let pair = unpack2x16float(scales[row * p.scale_stride + column / 64u]);
  return vec4<f32>(integers) * select(pair.x, pair.y, (column & 32u) != 0u);
}
