// Gradient to q: out [queries, heads·d] = Σ_s dS · k / sqrt(d), dS = pattern · (⟨dz, v⟩ − mean), and sums[..].y = mean, which is
// Σ_s pattern · ⟨dz, v⟩ = ⟨dz, z⟩. Patterns are computed again from sums[..].x.
// bands[b] = (first query, queries, shift, position of the first). One thread a band and head.
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> z: array<f32>;
@group(0) @binding(5) var<storage, read> dz: array<f32>;
@group(0) @binding(6) var<storage, read> bands: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read_write> sums: array<vec2<f32>>;
@group(0) @binding(8) var<storage, read_write> out: array<f32>;

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
  let dz$0 = each(dz[at# + $0u]);
  let dz$1 = each(dz[at# + $1u]);
  let position = each(f32(band.w + #u));
  let log_sum = each(sums[row#].x);
  var mean = Rows();
  mean = fma(dz$0, each(z[at# + $0u]), mean);
  mean = fma(dz$1, each(z[at# + $1u]), mean);
  // The mean again, of patterns rounded as the way back to k rounds them: its rows of dS then sum to 0, as they should.
  var whole = Rows();
  var met = Rows();
  var dq$0 = Rows();
  var dq$1 = Rows();
  for (var s = 0u; s < band.w + band.y; s++) {
    let key = key_at(s, band.z, h);
    var score = Rows();
    var change = Rows();
    let k$0 = k[key + $0u / 2u];
    score = fma(q$0, Rows(k$0.x), score);
    score = fma(q$1, Rows(k$0.y), score);
    let v$0 = v[key + $0u / 2u];
    change = fma(dz$0, Rows(v$0.x), change);
    change = fma(dz$1, Rows(v$0.y), change);
    score = select(Rows(LOWEST), SCALE * score, Rows(f32(s)) <= position);
    let weight = exp(score - log_sum);
    whole += weight;
    met = fma(weight, change, met);
    change = weight * (change - mean) * SCALE;
    dq$0 = fma(change, Rows(k$0.x), dq$0);
    dq$1 = fma(change, Rows(k$0.y), dq$1);
  }
  if #u < band.y { sums[row#].y = row(met / whole, #u); }
  if #u < band.y { out[at# + $0u] = row(dq$0, #u); }
  if #u < band.y { out[at# + $1u] = row(dq$1, #u); }
}
