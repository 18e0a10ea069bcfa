// The norm's result as it is.
fn put(row: u32, column: u32, value: f32) {
  out[row * p.cols + column] = value;
}
