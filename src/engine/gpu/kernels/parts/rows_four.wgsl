// Four rows a thread, so that what is loaded for all of them is loaded less often.
alias Rows = vec4<f32>;

fn row(x: Rows, i: u32) -> f32 {
  return x[i];
}
