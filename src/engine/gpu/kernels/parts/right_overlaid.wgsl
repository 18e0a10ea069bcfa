// Some rows (or, by_column, columns) of the right side are being trained: table[row] (table[column]) says where the f32
// master of its first value is, 0xffffffff that it has none. Masters of a row are contiguous, of a column `block` apart.
@group(0) @binding(4) var<storage, read> masters: array<f32>;
@group(0) @binding(5) var<storage, read> table: array<u32>;

fn master4(at: u32) -> vec4<f32> {
  return vec4<f32>(masters[at], masters[at + 1u], masters[at + 2u], masters[at + 3u]);
}

// Columns column..column+3 (column a multiple of 4) of a row.
fn right4(row: u32, column: u32) -> vec4<f32> {
  if p.by_column == 0u {
    let start = table[row];
    if start == 0xffffffffu {
      return stored4(row, column);
    }
    return master4(start + column);
  }
  if (p.block & 3u) == 0u {
    let start = table[column];
    if start == 0xffffffffu {
      return stored4(row, column);
    }
    return master4(start + row * p.block);
  }
  // The four may lie in different blocks.
  var values = stored4(row, column);
  for (var j = 0u; j < 4u; j++) {
    let start = table[column + j];
    if start != 0xffffffffu {
      values[j] = masters[start + row * p.block];
    }
  }
  return values;
}
