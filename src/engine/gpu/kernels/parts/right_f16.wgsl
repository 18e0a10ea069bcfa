// f16, two to a word, rows of whole pairs of words.
@group(0) @binding(2) var<storage, read> right: array<vec2<u32>>;

// Where a row begins among the values, and among the scales.
fn right_row(row: u32) -> vec2<u32> {
  return vec2<u32>(row * p.right_stride / 2u, 0u);
}

// Columns column..column+3 (column a multiple of 4) of the row that begins at base.
fn right_at(base: vec2<u32>, column: u32) -> vec4<f32> {
  let words = right[base.x + column / 4u];
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

// Columns column, column+1 (column even) of that row.
fn right_two(base: vec2<u32>, column: u32) -> vec2<f32> {
  return unpack2x16float(right[base.x + column / 4u][(column / 2u) & 1u]);
}
