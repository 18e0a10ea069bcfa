// out [queries, heads·d] = softmax(q·k/sqrt(d)) · v, causal, and sums[..].x. Scores are met one after the other and never
// stored: what was summed shrinks where a higher one comes.
// bands[b] = (first query, queries, shift, position of the first). One thread a band and head.
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> bands: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> sums: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  if i >= p.count { return; }
  let band = bands[i % p.bands];
  let h = i / p.bands;
  let row# = (band.x + min(#u, band.y - 1u)) * p.heads + h;
  let at# = row# * COLUMNS;
  let q$0 = each(q[at# + $0u]);
  let q$1 = each(q[at# + $1u]);
  let position = each(f32(band.w + #u));
  var z$0 = Rows();
  var z$1 = Rows();
  var highest = Rows(LOWEST);
  var total = Rows();
  for (var s = 0u; s < band.w + band.y; s++) {
    let key = key_at(s, band.z, h);
    var score = Rows();
    let k$0 = k[key + $0u / 2u];
    score = fma(q$0, Rows(k$0.x), score);
    score = fma(q$1, Rows(k$0.y), score);
    score = select(Rows(LOWEST), SCALE * score, Rows(f32(s)) <= position);
    let higher = max(highest, score);
    let shrunk = exp(highest - higher);
    let weight = exp(score - higher);
    total = fma(total, shrunk, weight);
    highest = higher;
    let v$0 = v[key + $0u / 2u];
    z$0 = fma(weight, Rows(v$0.x), z$0 * shrunk);
    z$1 = fma(weight, Rows(v$0.y), z$1 * shrunk);
  }
  let log_sum = highest + log(total);
  let share = 1.0 / total;
  if #u < band.y { sums[row#] = vec2<f32>(row(log_sum, #u), 0.0); }
  if #u < band.y { out[at# + $0u] = row(share * z$0, #u); }
  if #u < band.y { out[at# + $1u] = row(share * z$1, #u); }
}
