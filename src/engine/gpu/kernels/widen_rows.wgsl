// out [ids, columns]: the columns start..start+columns of the rows ids of the right side, a part of a matrix
// that begins at its row first; ids of other parts are left alone. One thread four values.
struct Params {
  ids: u32,
  first: u32,
  rows: u32,
  start: u32,
  columns: u32,
  right_start: u32,
  right_stride: u32,
  scale_stride: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  // Fours of the matrix's own columns; those at the ends may be wanted in part.
  let fours = (p.start + p.columns + 3u) / 4u - p.start / 4u;
  if i >= p.ids * fours { return; }
  let row = ids[i / fours];
  if row < p.first || row - p.first >= p.rows { return; }
  let column = (p.start / 4u + i % fours) * 4u;
  let values = right_at(right_row(row - p.first), column);
  for (var j = 0u; j < 4u; j++) {
    if column + j >= p.start && column + j < p.start + p.columns {
      out[i / fours * p.columns + column + j - p.start] = values[j];
    }
  }
}
