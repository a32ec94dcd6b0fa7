// What the warps of the sm_90 prefill kernel share: sizes, the layout of shared memory, the ring of stages and the walk
// over the items.
#pragma once

#include "attention/prefill_common.cuh"
#include "common/async_copy.cuh"

namespace quern::prefill {

constexpr int kConsumers = 2;  // warpgroups
constexpr int kThreads = 128 * (kConsumers + 1);
constexpr int kQueries = kPrefillQueries / kConsumers;  // a warpgroup
constexpr int kTokens = 128;                            // a tile
constexpr int kBlocks = kTokens / kKvBlock;
constexpr int kStages = 2;
constexpr int kBlockSlabBytes = kSlabElements * 2;
constexpr int kTileSlabBytes = kBlocks * kBlockSlabBytes;
constexpr int kQuerySlabBytes = kQueries * 128;

/// Offsets in shared memory: queries [warpgroup][slab][64 rows], K and V [stage][slab][128 rows], rows of 128 bytes.
template <int kHeadDim>
struct Memory {
  static constexpr int kSlabs = kHeadDim / kSlabWidth;
  static constexpr int kQueryBytes = kSlabs * kQuerySlabBytes;  // a warpgroup
  static constexpr int kTileBytes = kSlabs * kTileSlabBytes;
  static constexpr int kTiles = kConsumers * kQueryBytes;
  static constexpr int kBarriers = kTiles + 2 * kStages * kTileBytes;
  static constexpr int kBytes = kBarriers + 128 + 1024;  // 1024: the base is aligned to that

  uint32_t base;
  __device__ __forceinline__ uint32_t queries(int group) const { return base + group * kQueryBytes; }
  __device__ __forceinline__ uint32_t keys(int stage) const { return base + kTiles + 2 * stage * kTileBytes; }
  __device__ __forceinline__ uint32_t values(int stage) const { return keys(stage) + kTileBytes; }
  // full: the copies have arrived; empty: both warpgroups have read.
  __device__ __forceinline__ uint32_t full_keys(int stage) const { return base + kBarriers + 32 * stage; }
  __device__ __forceinline__ uint32_t full_values(int stage) const { return full_keys(stage) + 8; }
  __device__ __forceinline__ uint32_t empty_keys(int stage) const { return full_keys(stage) + 16; }
  __device__ __forceinline__ uint32_t empty_values(int stage) const { return full_keys(stage) + 24; }
  __device__ __forceinline__ uint32_t tail_barrier() const { return base + kBarriers + 32 * kStages; }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A place in the ring of stages.
struct Turn {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

/// This block's items, back and forth: 0.., then from the other end of the next row of the list. The producer and the
/// consumers walk the same way.
class ItemWalk {
 public:
  __device__ __forceinline__ explicit ItemWalk(const PrefillParams &p) : p_(p) {}
  /// False when there are no more.
  __device__ __forceinline__ bool next(QueryTile &q) {
    for (; round_ * gridDim.x < p_.n_items; ++round_) {
      const int item = round_ * gridDim.x + (round_ % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
      if (item >= p_.n_items) continue;
      q = query_tile(p_.a, p_.n_tiles, item);
      if (q.n_rows <= 0) continue;
      ++round_;
      return true;
    }
    return false;
  }

 private:
  const PrefillParams &p_;
  int round_ = 0;
};

__device__ __forceinline__ int tiles_for(int n_tokens) { return (n_tokens + kTokens - 1) / kTokens; }

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace quern::prefill
