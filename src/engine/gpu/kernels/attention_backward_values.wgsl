// Gradient to v: out [tokens, kv_heads·d] = Σ over the heads that read kv head j, and the queries that attend, of pattern · dz.
// bands[b] = (first key, keys, first query that attends to the first, end of those queries). LANES threads (parts/row_*.wgsl)
// a band and key/value head, queries and heads dealt out to them.
@group(0) @binding(1) var<storage, read> q: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> dz: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read> bands: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> sums: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let i = id.x + id.y * groups.x * 64u;
  // Past the last another is computed, since all must meet in the sums.
  let own = min(i / LANES, p.count - 1u);
  let lane = i % LANES;
  let band = bands[own % p.bands];
  let j = own / p.bands;
  let at# = ((band.x + min(#u, band.y - 1u)) * p.kv_heads + j) * COLUMNS;
  let k$0 = each(k[at# + $0u]);
  let k$1 = each(k[at# + $1u]);
  let first = each(f32(band.z + #u * p.step));
  var dv$0 = Rows();
  var dv$1 = Rows();
  let group = p.heads / p.kv_heads;
  for (var n = lane; n < (band.w - band.z) * group; n += LANES) {
    let query = band.z + n / group;
    let at = query * p.heads + j * group + n % group;
    let pair = at * (COLUMNS / 2u);
    var score = Rows();
    let q$0 = q[pair + $0u / 2u];
    score = fma(k$0, Rows(q$0.x), score);
    score = fma(k$1, Rows(q$0.y), score);
    score = select(Rows(LOWEST), SCALE * score, first <= Rows(f32(query)));
    let weight = exp(score - sums[at].x);
    let dz$0 = dz[pair + $0u / 2u];
    dv$0 = fma(weight, Rows(dz$0.x), dv$0);
    dv$1 = fma(weight, Rows(dz$0.y), dv$1);
  }
  let stored = i / LANES < p.count && lane == 0u;
  dv$0 = total(lane, dv$0);
  dv$1 = total(lane, dv$1);
  if stored && #u < band.y { out[at# + $0u] = row(dv$0, #u); }
  if stored && #u < band.y { out[at# + $1u] = row(dv$1, #u); }
}
