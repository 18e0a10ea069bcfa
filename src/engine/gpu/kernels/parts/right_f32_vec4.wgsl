// f32 rows that begin at multiples of 4.
@group(0) @binding(2) var<storage, read> right: array<vec4<f32>>;

// Where a row begins among the values, and among the scales.
fn right_row(row: u32) -> vec2<u32> {
  return vec2<u32>((row * p.right_stride + p.right_start) / 4u, 0u);
}

// Columns column..column+3 (column a multiple of 4) of the row that begins at base.
fn right_at(base: vec2<u32>, column: u32) -> vec4<f32> {
  return right[base.x + column / 4u];
}

// Columns column, column+1 (column even) of that row.
fn right_two(base: vec2<u32>, column: u32) -> vec2<f32> {
  let at = base.x + column / 4u;
  return vec2<f32>(right[at][column & 2u], right[at][(column & 2u) + 1u]);
}
