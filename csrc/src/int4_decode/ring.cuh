// Each team's ring of stages in shared memory, filled ahead of the team in the order in which it reads: its columns in
// turn, a column's slab two tiles a stage. Two makes with the same face for a consumer warp, wait() and release():
//   BulkRing: a producer warp fills the rings of all teams with bulk copies that complete on mbarriers (sm_90).
//   AsyncRing: each team's 128 threads fill their own ring with cp.async (sm_80 and up).
#pragma once

#include "common/async_copy.cuh"
#include "common/grid.cuh"
#include "common/prefetch.cuh"
#include "int4_decode/params.h"
#include "int4_decode/tuning.h"

namespace quern {

/// The stages of one team in reading order.
struct StageCursor {
  const uint8_t *tile;  // first of the stage
  int column;           // of the block
  int left;             // tiles of the column from here on

  __device__ __forceinline__ void seek(const DecodeParams &p, const Slab &slab, int to_column, int tile_size) {
    column = to_column;
    left = slab.k_tiles.count;
    tile = p.tiles + (int64_t(slab.columns.begin + column) * p.plan.k_tiles + slab.k_tiles.begin) * tile_size;
  }
  __device__ __forceinline__ bool at_end(const Slab &slab) const { return column >= slab.columns.count; }
  __device__ __forceinline__ int tiles() const { return min(kTilesPerStage, left); }
  __device__ __forceinline__ void next(const DecodeParams &p, const Slab &slab, int teams, int tile_size) {
    left -= kTilesPerStage;
    tile += kTilesPerStage * tile_size;
    if (left <= 0) seek(p, slab, column + teams, tile_size);
  }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

template <int kTeams>
struct RingBarriers {
  uint64_t full[kTeams][kClusterStages];   // one arrival (the producer's) and the stage's bytes
  uint64_t empty[kTeams][kClusterStages];  // four arrivals: the team's warps
};

/// A stage always belongs to the same team: were it passed on, a team could ask for a phase two ahead of the barrier,
/// whose parity looks complete.
template <int kTeams, int kTileBytes>
struct BulkRing {
  static constexpr int kStageBytes = kTilesPerStage * kTileBytes;

  const uint8_t *ring;   // of this team
  uint32_t full, empty;  // addresses of the team's barriers
  int stages;
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ BulkRing(uint8_t *rings, RingBarriers<kTeams> &barriers, int stages, int team)
      : ring(rings + team * stages * kStageBytes), full(smem_address(barriers.full[team])),
        empty(smem_address(barriers.empty[team])), stages(stages) {}

  __device__ __forceinline__ void advance() {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ const uint8_t *wait() {
    mbarrier_wait(full + 8 * stage, parity);
    return ring + stage * kStageBytes;
  }
  __device__ __forceinline__ void release(int lane) {
    __syncwarp();
    if (lane == 0) mbarrier_arrive(empty + 8 * stage);
    advance();
  }
};

/// One lane: makes the barriers of all rings; a block-wide barrier must follow.
template <int kTeams>
__device__ __forceinline__ void init_rings(RingBarriers<kTeams> &barriers) {
  const uint32_t full = smem_address(barriers.full), empty = smem_address(barriers.empty);
#pragma unroll
  for (int i = 0; i < kTeams * kClusterStages; ++i) {
    mbarrier_init(full + 8 * i, 1);
    mbarrier_init(empty + 8 * i, kStripsPerTile);
  }
  mbarrier_init_fence();
}

/// The producer warp's whole work: lane t fills the ring of team t, all a stage at a time. Weights never change, so it
/// starts before the kernel ahead has ended, and asks for the next kernel's.
template <int kTeams, int kTileBytes>
__device__ __forceinline__ void fill_rings(const DecodeParams &p, const Slab &slab, uint8_t *rings,
                                           RingBarriers<kTeams> &barriers) {
  constexpr int kStageBytes = kTilesPerStage * kTileBytes;
  const int team = threadIdx.x % 32;
  if (team < kTeams) {
    const uint64_t policy = evict_first_policy();
    const uint32_t ring = smem_address(rings) + team * p.plan.stages * kStageBytes;
    const uint32_t full = smem_address(barriers.full[team]), empty = smem_address(barriers.empty[team]);
    StageCursor cursor;
    cursor.seek(p, slab, team, kTileBytes);
    uint32_t parity = 1;  // the first time round, every place is free
    for (int stage = 0; !cursor.at_end(slab);) {
      mbarrier_wait(empty + 8 * stage, parity);
      mbarrier_arrive_expect(full + 8 * stage, cursor.tiles() * kTileBytes);
      bulk_copy(ring + stage * kStageBytes, cursor.tile, cursor.tiles() * kTileBytes, full + 8 * stage, policy);
      cursor.next(p, slab, kTeams, kTileBytes);
      if (++stage == p.plan.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
  __syncwarp();
  allow_next_kernel();
  prefetch_share(p.prefetch, 32 * blockIdx.x + threadIdx.x % 32, 32 * gridDim.x);
}

#endif

template <int kTeams, int kStages, int kTileBytes>
struct AsyncRing {
  static constexpr int kStageBytes = kTilesPerStage * kTileBytes;
  static constexpr int kThreads = 32 * kStripsPerTile;

  const DecodeParams &p;
  const Slab &slab;
  uint8_t *ring;  // of this team
  int team, thread;
  StageCursor cursor;
  int stage = 0;

  __device__ __forceinline__ AsyncRing(const DecodeParams &p, const Slab &slab, uint8_t *rings, int team)
      : p(p), slab(slab), ring(rings + team * kStages * kStageBytes), team(team), thread(threadIdx.x % kThreads) {
    cursor.seek(p, slab, team, kTileBytes);
    for (int i = 0; i + 1 < kStages; ++i) fill(i);
  }
  /// Asks for the next stage, if any; always commits, so that the count of groups stays known.
  __device__ __forceinline__ void fill(int into) {
    if (!cursor.at_end(slab)) {
      const uint32_t smem = smem_address(ring + into * kStageBytes);
      const int chunks = cursor.tiles() * (kTileBytes / 16);
      for (int i = thread; i < chunks; i += kThreads) cp_async_16(smem + 16 * i, cursor.tile + 16 * i);
      cursor.next(p, slab, kTeams, kTileBytes);
    }
    cp_async_commit();
  }
  __device__ __forceinline__ const uint8_t *wait() {
    cp_async_wait<kStages - 2>();
    named_barrier(1 + team, kThreads);
    // Every warp of the team has read the stage before this one: its place can be filled.
    fill(stage == 0 ? kStages - 1 : stage - 1);
    return ring + stage * kStageBytes;
  }
  __device__ __forceinline__ void release(int) { stage = stage + 1 == kStages ? 0 : stage + 1; }
};

}  // namespace quern
