// For each row of logits [rows, cols] and each chunk of `chunk` columns: (largest, Σ exp(x − largest)) in
// parts [rows, chunks, 2]. One thread a chunk.
struct Params {
  rows: u32,
  cols: u32,
  chunk: u32,
  chunks: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.rows * p.chunks { return; }
  let row = i / p.chunks;
  let start = i % p.chunks * p.chunk;
  let end = min(start + p.chunk, p.cols);
  var largest = -3.4e38;
  for (var c = start; c < end; c++) {
    largest = max(largest, logits[row * p.cols + c]);
  }
  var sum = 0.0;
  for (var c = start; c < end; c++) {
    sum += exp(logits[row * p.cols + c] - largest);
  }
  parts[2u * i] = largest;
  parts[2u * i + 1u] = sum;
}
