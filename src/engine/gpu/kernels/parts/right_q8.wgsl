// 8-bit integers, four to a word; an f16 scale for each 32, two to a word (model/stored.rs).
@group(0) @binding(2) var<storage, read> right: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

// Where a row begins among the values, and among the scales.
fn right_row(row: u32) -> vec2<u32> {
  return vec2<u32>(row) * vec2<u32>(p.right_stride, p.scale_stride);
}

// Columns column..column+3 (column a multiple of 4) of the row that begins at base.
fn right_at(base: vec2<u32>, column: u32) -> vec4<f32> {
  let word = bitcast<i32>(right[base.x + column / 4u]);
  let integers = (vec4<i32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
  let pair = unpack2x16float(scales[base.y + column / 64u]);
  return vec4<f32>(integers) * select(pair.x, pair.y, (column & 32u) != 0u);
}

// Columns column, column+1 (column even) of that row.
fn right_two(base: vec2<u32>, column: u32) -> vec2<f32> {
  let four = right_at(base, column & 0xfffffffcu);
  return select(four.xy, four.zw, (column & 2u) != 0u);
}
