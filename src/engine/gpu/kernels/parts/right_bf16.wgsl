// bf16, two to a word, rows of whole pairs of words: a bf16 is the upper half of an f32.
@group(0) @binding(2) var<storage, read> right: array<vec2<u32>>;

// Where a row begins among the values, and among the scales.
fn right_row(row: u32) -> vec2<u32> {
  return vec2<u32>(row * p.right_stride / 2u, 0u);
}

// Columns column..column+3 (column a multiple of 4) of the row that begins at base.
fn right_at(base: vec2<u32>, column: u32) -> vec4<f32> {
  let words = right[base.x + column / 4u];
  return bitcast<vec4<f32>>(vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}

// Columns column, column+1 (column even) of that row.
fn right_two(base: vec2<u32>, column: u32) -> vec2<f32> {
  let word = right[base.x + column / 4u][(column / 2u) & 1u];
  return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}
