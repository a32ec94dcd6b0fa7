// sm_80 and up: cp.async, and sums through global memory. The team that brings a column's last slab adds all of them
// in order, so the order is fixed although the team is not.
#pragma once

#include "common/grid.cuh"
#include "int4_decode/kernel.cuh"
#include "int4_decode/tuning.h"

namespace quern {

/// True in the team that is last to bring a slab of this column; its reads then see the sums of all. Resets the counter.
template <int kTeams>
__device__ __forceinline__ bool last_of_column(const DecodeParams &p, int n_tile, int team) {
  __shared__ bool last[kTeams];
  constexpr int kThreads = 32 * kStripsPerTile;
  __threadfence();
  named_barrier(1 + team, kThreads);
  if (threadIdx.x % kThreads == 0) {
    last[team] = atomicAdd(&p.counters[n_tile], 1) == p.plan.split - 1;
    if (last[team]) p.counters[n_tile] = 0;
    __threadfence();
  }
  named_barrier(1 + team, kThreads);
  return last[team];
}

/// Stores a warp's sums of one column's slab and, in the last team, finishes the column.
template <class Config>
__device__ __forceinline__ void finish_column(const DecodeParams &p, const Slab &slab, const float *factors, int column,
                                              const StripSums<Config::kRowBlocks> &sums) {
  const int strip = threadIdx.x / 32 % kStripsPerTile, team = threadIdx.x / (32 * kStripsPerTile);
  const int n_tile = slab.columns.begin + column, step = kStripsPerTile * kUnitFloat2;  // from rank to rank
  float2 *first = p.sums + int64_t(n_tile) * p.plan.split * step + strip * kUnitFloat2;
  each_pair(sums, p.m, [&](int pair, int row, float2 value) {
    __stcg(first + slab.rank * step + pair * kPairStride + row, value);
  });
  if (!last_of_column<Config::kTeams>(p, n_tile, team)) return;
  const int row_shift = row_shift_of(p.epilogue);
  for (int i = threadIdx.x % 32; i < 1 << (p.plan.pair_shift + row_shift); i += 32) {
    const int row = i & ((1 << row_shift) - 1), pair = i >> row_shift;
    write_pair(p, factors, n_tile * kStripsPerTile + strip, pair, row, [&](int of_row) {
      return sum_slabs(first + pair * kPairStride + of_row, step, p.plan.split,
                       [](const float2 *part) { return __ldcg(part); });
    });
  }
}

template <class Config>
struct PortableLaunch {
  static constexpr int kThreads = Config::kConsumers;
  static constexpr int kStages = kPortableStages;
};

template <class Config>
__global__ void __launch_bounds__(PortableLaunch<Config>::kThreads, 1)
    int4_decode_portable_kernel(const __grid_constant__ DecodeParams p) {
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ float factors[kMaxDecodeRows];
  constexpr int kStages = PortableLaunch<Config>::kStages;
  __half *x = reinterpret_cast<__half *>(smem);
  const Slab slab = slab_of(p.plan, blockIdx.x / p.plan.split, blockIdx.x % p.plan.split);

  wait_for_previous_kernel();
  allow_next_kernel();
  load_x<Config::kConsumers>(p, slab, x);
  load_factors<Config::kConsumers>(p, factors);
  AsyncRing<Config::kTeams, kStages, Config::kTileBytes> ring(p, slab, smem + ring_offset(p.plan, p.m),
                                                              threadIdx.x / (32 * kStripsPerTile));
  cp_async_wait<kStages - 1>();  // x, the oldest group
  __syncthreads();
  consume<Config>(p, slab, ring, x, [&](int column, const StripSums<Config::kRowBlocks> &sums) {
    finish_column<Config>(p, slab, factors, column, sums);
  });
}

}  // namespace quern
