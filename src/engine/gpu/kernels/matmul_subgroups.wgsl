// The matrix product of parts/matmul.wgsl by subgroups of 4 to 64 lanes: no shared memory, no barriers. A workgroup makes 16 rows
// of four columns a thread. Each lane brings a block of four by four of the left side: four lanes all rows of four values of k,
// the next four the next; then each gets every lane's block from it. All lanes go through all turns.
// A run of lines with $ stands once for every two rows, $0 and $1 (kernels.rs).
@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_invocation_id) lane: u32,
  @builtin(subgroup_size) lanes: u32,
) {
  let row = group.y * 16u;
  let column = (group.x * 64u + index) * 4u;
  let end = min((group.z + 1u) * p.split, p.k);
  var c$0 = vec4<f32>();
  var c$1 = vec4<f32>();
  for (var start = group.z * p.split; start < end; start += lanes) {
    let own_k = start + lane / 4u * 4u;
    let a = first_rows(left_block(row + lane % 4u * 4u, own_k), max(own_k, end) - own_k);
    for (var k = start; k < min(start + lanes, end); k += 4u) {
      var b = right_block(k, column);
      if k + 4u > end {
        // What lies past the end may be anything.
        b = transpose(first_rows(transpose(b), end - k));
      }
      let source = k - start;
      c$0 += b * subgroupShuffle(a[$0u % 4u], source + $0u / 4u);
      c$1 += b * subgroupShuffle(a[$1u % 4u], source + $1u / 4u);
    }
  }
  store(row + $0u, column, group.z, c$0);
  store(row + $1u, column, group.z, c$1);
}
