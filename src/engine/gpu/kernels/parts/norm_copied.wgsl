// The norm's result as it is, and transposed for the products that read it: [cols, rows].
@group(0) @binding(5) var<storage, read_write> transposed: array<f32>;

fn put(row: u32, column: u32, value: f32) {
  out[row * p.cols + column] = value;
  transposed[column * p.rows + row] = value;
}
