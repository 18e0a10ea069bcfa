// f16, two to a word, rows of whole pairs of words.
@group(0) @binding(2) var<storage, read> right: array<vec2<u32>>;

// Columns column..column+3 (column a multiple of 4) of a row.
fn right4(row: u32, column: u32) -> vec4<f32> {
  let words = right[(row * p.right_stride + column / 2u) / 2u];
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
