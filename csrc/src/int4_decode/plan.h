// How a decode GEMM (M = 1..16) is cut over blocks: pure arithmetic shared by the host and the kernel, no CUDA calls.
//
// K is cut into `split` slabs. A group of `split` blocks owns a run of n tiles ("columns"); each of its blocks takes one
// slab, so that its part of x (up to 16 rows) stays in shared memory. The unit of work, one column x one slab, is done by
// one team of four warps (a warp a strip of 16 outputs); teams take the block's columns in turn.
//
// Order of every sum: the k of a slab in order, then the slabs by rank. The slabs depend on K, the group size and the
// device, never on M or N.
#pragma once

#include "layout.h"

namespace quern {

constexpr int kMaxDecodeRows = 16;
constexpr int kMaxCluster = 8;     // blocks
constexpr int kTilesPerStage = 2;  // k tiles that travel together
constexpr int kRowPad = 8;         // halves after a row of x: ldmatrix without bank conflicts
constexpr int kPairStride = 20;    // float2 from one pair of rows of x to the next in a unit's sums: no bank conflicts
constexpr int kUnitFloat2 = (kMaxDecodeRows / 2) * kPairStride;  // portable: sums of one strip of one unit

/// `total` things in `parts` contiguous runs, the first `longer` runs one longer than `base`.
struct Cut {
  int base;
  int longer;
};
struct Run {
  int begin;
  int count;
};
QUERN_HD constexpr Cut cut_evenly(int total, int parts) { return {total / parts, total % parts}; }
QUERN_HD constexpr Run run_of(Cut cut, int i) {
  return {i * cut.base + (i < cut.longer ? i : cut.longer), cut.base + (i < cut.longer ? 1 : 0)};
}

struct DecodePlan {
  int k_tiles;
  int n_tiles;
  int split;       // slabs of K and blocks of a group; a power of two up to kMaxCluster with clusters
  int groups;
  Cut slab_cut;    // k tiles over ranks
  Cut column_cut;  // n tiles over groups
  int slab_tiles;  // k tiles of the largest slab
  int columns;     // n tiles of the largest group
  int stages;      // stages of each team's ring
  int pair_shift;  // log2 of the pairs of rows of x that sums have room for
  int smem_bytes;
  bool portable;   // cp.async and sums through global memory; else bulk copies and clusters
};

QUERN_HD constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
/// Room for ceil(m / 2) pairs of rows, rounded up to a power of two.
QUERN_HD constexpr int pair_shift_of(int m) { return m <= 2 ? 0 : m <= 4 ? 1 : m <= 8 ? 2 : 3; }
QUERN_HD constexpr int x_stride(int slab_tiles) { return slab_tiles * kTileK + kRowPad; }
QUERN_HD constexpr int x_bytes(int slab_tiles, int m) { return m * x_stride(slab_tiles) * 2; }
/// Strips of each column that a block of the cluster finishes: strip s belongs to rank s % split.
QUERN_HD constexpr int owned_strips(int split) { return split < kStripsPerTile ? kStripsPerTile / split : 1; }
/// Sums that a block of a cluster receives, float2 [column][rank][owned strip][pair of rows][kPairStride].
QUERN_HD constexpr int received_bytes(const DecodePlan &plan) {
  return plan.columns * plan.split * owned_strips(plan.split) * (kPairStride << plan.pair_shift) * 8;
}
QUERN_HD constexpr int stage_bytes(int groups) { return kTilesPerStage * tile_bytes(groups); }
/// Offset of the rings in shared memory: after x and, in a cluster, the received sums.
QUERN_HD constexpr int ring_offset(const DecodePlan &plan, int m) {
  return round_up(x_bytes(plan.slab_tiles, m) + (plan.portable ? 0 : received_bytes(plan)), 128);
}

}  // namespace quern
