// sm_90: bulk copies, and a cluster as the group. Sums travel to the block that finishes them through the cluster's
// shared memory as soon as a column is done: strip s of every column belongs to rank s % split.
#pragma once

#include "common/grid.cuh"
#include "int4_decode/kernel.cuh"

namespace quern {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/// Index of a float2 among a block's received sums (see received_bytes).
__device__ __forceinline__ int received_at(const DecodePlan &plan, int column, int rank, int owned, int pair, int row) {
  return ((((column * plan.split + rank) * owned_strips(plan.split) + owned) << plan.pair_shift) + pair) * kPairStride +
         row;
}

/// Sends a column's sums to the owner of this warp's strip.
template <int kRowBlocks>
__device__ __forceinline__ void send_sums(const DecodeParams &p, const Slab &slab, uint32_t received, int column,
                                          const StripSums<kRowBlocks> &sums) {
  const int strip = threadIdx.x / 32 % kStripsPerTile;
  const uint32_t owner = cluster_address(received, strip % p.plan.split);
  each_pair(sums, p.m, [&](int pair, int row, float2 value) {
    cluster_store(owner + 8 * received_at(p.plan, column, slab.rank, strip / p.plan.split, pair, row), value);
  });
}

/// What one thread finishes: one or two (SiLU) outputs of a strip for a pair of rows of x.
struct OwnedItem {
  int column, owned, packed_strip, pair, row;
};
__device__ __forceinline__ int owned_items(const DecodeParams &p, const Slab &slab) {
  const int strips = slab.rank >= kStripsPerTile ? 0 : slab.columns.count * owned_strips(p.plan.split);
  return strips << (p.plan.pair_shift + row_shift_of(p.epilogue));
}
__device__ __forceinline__ OwnedItem owned_item(const DecodeParams &p, const Slab &slab, int i) {
  const int owned = owned_strips(p.plan.split), row_shift = row_shift_of(p.epilogue);
  const int strip = i >> (row_shift + p.plan.pair_shift);
  const int packed = (slab.columns.begin + strip / owned) * kStripsPerTile + strip % owned * p.plan.split + slab.rank;
  return {strip / owned, strip % owned, packed, i >> row_shift & ((1 << p.plan.pair_shift) - 1),
          i & ((1 << row_shift) - 1)};
}

/// Brings the residual that this thread will add to first, and the weight of its norm, near it, while the last sums are under way. Only for threads
/// that have waited for the previous kernel.
__device__ __forceinline__ void prefetch_residual(const DecodeParams &p, const Slab &slab) {
  if (p.epilogue != QUERN_ADD_F32 || int(threadIdx.x) >= owned_items(p, slab)) return;
  const OwnedItem item = owned_item(p, slab, threadIdx.x);
  const int packed = item.packed_strip * kStripN + item.row;
  if (packed >= p.n || 2 * item.pair >= p.m) return;
  const int64_t at = int64_t(2 * item.pair) * p.ldo + logical_row(packed, p.n, p.pair_stride);
  if (p.carry.next_squares != nullptr) prefetch_l1(static_cast<const __half *>(p.carry.weight) + packed);
  prefetch_l1(static_cast<const float *>(p.out) + at);
  if (2 * item.pair + 1 < p.m) prefetch_l1(static_cast<const float *>(p.out) + at + p.ldo);
}

/// Adds the slabs of every sum this block owns and writes the outputs; all threads of the block.
template <int kThreads>
__device__ __forceinline__ void finish_owned(const DecodeParams &p, const Slab &slab, const float2 *received,
                                             const float *factors) {
  const int items = owned_items(p, slab), step = received_at(p.plan, 0, 1, 0, 0, 0);  // from rank to rank
  for (int i = threadIdx.x; i < items; i += kThreads) {
    const OwnedItem item = owned_item(p, slab, i);
    write_pair(p, factors, item.packed_strip, item.pair, item.row, [&](int row) {
      return sum_slabs(received + received_at(p.plan, item.column, 0, item.owned, item.pair, row), step, p.plan.split,
                       [](const float2 *part) { return *part; });
    });
  }
}

#endif

template <class Config>
struct ClusterLaunch {
  static constexpr int kThreads = Config::kConsumers + 32;
};

template <class Config>
__global__ void __launch_bounds__(ClusterLaunch<Config>::kThreads, 1)
    int4_decode_cluster_kernel(const __grid_constant__ DecodeParams p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ RingBarriers<Config::kTeams> barriers;
  __shared__ float factors[kMaxDecodeRows];
  __half *x = reinterpret_cast<__half *>(smem);
  float2 *received = reinterpret_cast<float2 *>(smem + x_bytes(p.plan.slab_tiles, p.m));
  uint8_t *rings = smem + ring_offset(p.plan, p.m);
  const Slab slab = slab_of(p.plan, cluster_index(), cluster_rank());
  const bool has_peers = p.plan.split > 1;

  if (has_peers) cluster_arrive_relaxed();  // this block runs: others may write into its shared memory
  if (threadIdx.x == Config::kConsumers) init_rings(barriers);
  __syncthreads();
  if (threadIdx.x >= Config::kConsumers) {
    prefetch_norm_weight(p.carry, p.n, 32 * blockIdx.x + threadIdx.x % 32);
    fill_rings<Config::kTeams, Config::kTileBytes>(p, slab, rings, barriers);
    if (has_peers) cluster_wait();
  } else {
    wait_for_previous_kernel();
    load_x<Config::kConsumers>(p, slab, x);
    load_factors<Config::kConsumers>(p, factors);
    cp_async_wait<0>();
    named_barrier(1, Config::kConsumers);
    if (has_peers) cluster_wait();
    BulkRing<Config::kTeams, Config::kTileBytes> ring(rings, barriers, p.plan.stages,
                                                      threadIdx.x / (32 * kStripsPerTile));
    consume<Config>(p, slab, ring, x, [&](int column, const StripSums<Config::kRowBlocks> &sums) {
      send_sums(p, slab, smem_address(received), column, sums);
    });
    prefetch_residual(p, slab);
  }
  __syncwarp();
  cluster_arrive();
  cluster_wait();
  finish_owned<ClusterLaunch<Config>::kThreads>(p, slab, received, factors);
#endif
}

}  // namespace quern
