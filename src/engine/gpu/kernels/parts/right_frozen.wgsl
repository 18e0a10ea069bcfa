// Nothing of the right side is being trained.
fn right4(row: u32, column: u32) -> vec4<f32> {
  return stored4(row, column);
}
