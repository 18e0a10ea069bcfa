// A row a thread: no more than a GPU's registers hold.
alias Rows = f32;
const ROWS = 1u;

fn row(x: Rows, i: u32) -> f32 {
  return x;
}
