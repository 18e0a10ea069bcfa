// f32 rows that begin anywhere.
@group(0) @binding(2) var<storage, read> right: array<f32>;

// Where a row begins among the values, and among the scales.
fn right_row(row: u32) -> vec2<u32> {
  return vec2<u32>(row * p.right_stride + p.right_start, 0u);
}

// Columns column..column+3 of the row that begins at base; what lies past its end is not used.
fn right_at(base: vec2<u32>, column: u32) -> vec4<f32> {
  let at = base.x + column;
  return vec4<f32>(right[at], right[at + 1u], right[at + 2u], right[at + 3u]);
}

// Columns column, column+1 (column even) of that row; what lies past its end is not used.
fn right_two(base: vec2<u32>, column: u32) -> vec2<f32> {
  return vec2<f32>(right[base.x + column], right[base.x + column + 1u]);
}
