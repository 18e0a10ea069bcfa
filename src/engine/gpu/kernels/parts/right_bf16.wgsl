// bf16, two to a word, rows of whole pairs of words: a bf16 is the upper half of an f32.
@group(0) @binding(2) var<storage, read> right: array<vec2<u32>>;

// Columns column..column+3 (column a multiple of 4) of a row.
fn right4(row: u32, column: u32) -> vec4<f32> {
  let words = right[(row * p.right_stride + column / 2u) / 2u];
  return bitcast<vec4<f32>>(vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}
