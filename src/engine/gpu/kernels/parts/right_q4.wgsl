// 4-bit integers, eight to a word; an f16 scale and an f16 offset for each 32 (model/stored.rs).
@group(0) @binding(2) var<storage, read> right: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;

// Where a row begins among the values, and among the scales.
fn right_row(row: u32) -> vec2<u32> {
  return vec2<u32>(row) * vec2<u32>(p.right_stride, p.scale_stride);
}

// Columns column..column+3 (column a multiple of 4) of the row that begins at base.
fn right_at(base: vec2<u32>, column: u32) -> vec4<f32> {
  let word = right[base.x + column / 8u] >> ((column & 4u) * 4u);
  let integers = (vec4<u32>(word) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
  let pair = unpack2x16float(scales[base.y + column / 32u]);
  return vec4<f32>(integers) * pair.x + pair.y;
}

// Columns column, column+1 (column even) of that row.
fn right_two(base: vec2<u32>, column: u32) -> vec2<f32> {
  let four = right_at(base, column & 0xfffffffcu);
  return select(four.xy, four.zw, (column & 2u) != 0u);
}
