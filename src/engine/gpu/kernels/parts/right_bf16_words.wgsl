// bf16, two to a word, as right_bf16.wgsl has them, word by word: what a software adapter finds the address of soonest.
@group(0) @binding(2) var<storage, read> right: array<u32>;

// Where a row begins among the values, and among the scales.
fn right_row(row: u32) -> vec2<u32> {
  return vec2<u32>(row * p.right_stride, 0u);
}

// Columns column..column+3 (column a multiple of 4) of the row that begins at base.
fn right_at(base: vec2<u32>, column: u32) -> vec4<f32> {
  return vec4<f32>(right_two(base, column), right_two(base, column + 2u));
}

// Columns column, column+1 (column even) of that row.
fn right_two(base: vec2<u32>, column: u32) -> vec2<f32> {
  let word = right[base.x + column / 2u];
  return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}
