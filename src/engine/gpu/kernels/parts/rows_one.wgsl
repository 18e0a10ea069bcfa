// A row a thread: no more than a GPU's registers hold.
alias Rows = f32;

fn row(x: Rows, i: u32) -> f32 {
  return x;
}
