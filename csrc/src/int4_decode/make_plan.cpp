// See make_plan.h.
#include "int4_decode/make_plan.h"

#include <algorithm>

#include "int4_decode/tuning.h"

namespace quern {
namespace {

constexpr int kStaticSmem = 1024;  // more than any decode kernel has beside its dynamic shared memory

void cut(DecodePlan &plan, int split, int groups) {
  plan.split = split;
  plan.groups = std::max(1, std::min(groups, plan.n_tiles));
  plan.slab_cut = cut_evenly(plan.k_tiles, split);
  plan.column_cut = cut_evenly(plan.n_tiles, plan.groups);
  plan.slab_tiles = ceil_div(plan.k_tiles, split);
  plan.columns = ceil_div(plan.n_tiles, plan.groups);
}

/// Slabs of K with clusters. Four keep 16 rows of x small and leave few SMs of a Hopper GPU without a cluster.
int log_split_of(int k_tiles) { return k_tiles < 2 ? 0 : k_tiles < 4 ? 1 : k_tiles <= 4 * kClusterSlabTiles ? 2 : 3; }

/// The cluster plan, false if shared memory does not hold even two stages a team. A block always takes more than half of
/// an SM's shared memory: were two of the next launch's blocks to start on one SM that this launch left idle, they would
/// finish late. A block of another kernel may still share the SM.
bool make_cluster_plan(const QuernDevice &device, DecodePlan &plan, int group, int m) {
  const int log_split = log_split_of(plan.k_tiles);
  if (device.clusters[log_split] < 1) return false;
  cut(plan, 1 << log_split, device.clusters[log_split]);
  plan.pair_shift = pair_shift_of(m);
  const int stage = kClusterTeams * stage_bytes(groups_per_tile(group)), offset = ring_offset(plan, m);
  plan.stages = std::min(kClusterStages, (device.smem_per_block - kStaticSmem - offset) / stage);
  plan.smem_bytes = std::max(offset + plan.stages * stage, device.smem_per_block / 2 + 1);
  return plan.stages >= 2;
}

void make_portable_plan(const QuernDevice &device, DecodePlan &plan, int group, int m) {
  const int split = ceil_div(plan.k_tiles, kPortableSlabTiles);
  plan.portable = true;
  cut(plan, split, device.sm_count / split);
  plan.pair_shift = pair_shift_of(m);
  plan.stages = kPortableStages;
  plan.smem_bytes = ring_offset(plan, m) + kPortableTeams * plan.stages * stage_bytes(groups_per_tile(group));
}

}  // namespace

DecodePlan make_decode_plan(const QuernDevice &device, const QuernInt4 &weight, int m) {
  DecodePlan plan = {};
  plan.k_tiles = ceil_div(weight.k, kTileK);
  plan.n_tiles = ceil_div(weight.n, kTileN);
  DecodePlan widest = plan;
  // Clusters for every m or for none: the two kinds of kernel cut K differently.
  const bool clusters = device.compute_capability >= 90 && !device.force_portable &&
                        make_cluster_plan(device, widest, weight.group, kMaxDecodeRows) &&
                        make_cluster_plan(device, plan, weight.group, m);
  if (!clusters) make_portable_plan(device, plan, weight.group, m);
  return plan;
}

uint64_t decode_counter_bytes(const DecodePlan &plan) { return uint64_t(round_up(4 * plan.n_tiles, 256)); }
uint64_t decode_sums_bytes(const DecodePlan &plan) {
  return uint64_t(plan.n_tiles) * plan.split * kStripsPerTile * kUnitFloat2 * 8;
}

}  // namespace quern
