// How the prefill GEMM is cut, in plain C++ that host and device share. Called by the entry point, the kernels and the
// tests; knows shapes, never pointers.
//
// Output blocks of 64 n a team (times the teams of a thread block, times the thread blocks of a cluster) x `tokens` rows of
// x. A worker (one thread block, or one cluster that shares x) first takes its equal share of the units (one unit: one
// output block's k tile of 128) of the first `split_tiles` output blocks, then whole output blocks in turn. A share may
// begin and end inside an output block: its first segment, if it does not begin at k = 0, goes to the workspace; the worker
// that holds k = 0 adds these partial sums in worker order and finishes the block. So only shares' first segments are ever
// waited for, and nobody who is waited for waits. With several workers an output block, no share is of two, and the block's
// workers may finish it together (exchange.cuh). The order of every sum follows from the shape alone.
#pragma once

#include "layout.h"

namespace quern {

constexpr int kMinSegment = 3;                        // shares do not cut fewer units than this off an output block
constexpr int kMaxTokens = 256;

struct PrefillPlan {
  int tokens;       // rows of x of an output block
  int cluster;      // thread blocks that share x, side by side in n
  int teams;        // of a thread block, side by side in n: groups of four warps, each with a packed tile of 64 n
  int workers;
  int k_tiles, n_tiles;
  int n_blocks, m_blocks;
  int split_tiles;  // output blocks cut into shares
  int share, longer;  // units of a share; the first `longer` workers have one more
  bool whole_workers;  // no share is of two output blocks: each block is cut evenly for workers of its own
  int band;         // m blocks that are swept together along n, so that their x stays in L2
};

/// A run of units of one output block.
struct Segment {
  int n_block, m_block;
  int k_begin, k_count;
  int tile;  // index of the output block
};

QUERN_HD constexpr int tile_count(const PrefillPlan &plan) { return plan.n_blocks * plan.m_blocks; }

/// First worker of an output block that is cut for workers of its own.
QUERN_HD constexpr int first_worker(const PrefillPlan &plan, int tile) {
  return (tile * plan.workers + plan.split_tiles - 1) / plan.split_tiles;
}

/// First unit of worker w's share, moved to the edge of an output block if that is near. Never decreases with w.
QUERN_HD constexpr int share_begin(const PrefillPlan &plan, int w) {
  if (plan.whole_workers) {
    const int tile = w * plan.split_tiles / plan.workers, first = first_worker(plan, tile);
    const int parts = first_worker(plan, tile + 1) - first, part = w - first;
    const int base = plan.k_tiles / parts, longer = plan.k_tiles % parts;
    return tile * plan.k_tiles + part * base + (part < longer ? part : longer);
  }
  const int unit = w * plan.share + (w < plan.longer ? w : plan.longer);
  const int inside = unit % plan.k_tiles;
  if (inside < kMinSegment) return unit - inside;
  return plan.k_tiles - inside < kMinSegment ? unit - inside + plan.k_tiles : unit;
}

/// The worker after those that share output block `tile` with `owner`, who has its first unit.
QUERN_HD constexpr int end_of_workers(const PrefillPlan &plan, int tile, int owner) {
  if (plan.whole_workers) return first_worker(plan, tile + 1);
  int w = owner + 1;
  while (w < plan.workers && share_begin(plan, w) < (tile + 1) * plan.k_tiles) ++w;
  return w;
}
/// Whether a worker has a share at all.
QUERN_HD constexpr bool has_share(const PrefillPlan &plan, int w) {
  return plan.whole_workers || share_begin(plan, w) < share_begin(plan, w + 1);
}

/// Output block `tile` in sweep order, with the units [k_begin, k_begin + k_count).
QUERN_HD constexpr Segment segment_of(const PrefillPlan &plan, int tile, int k_begin, int k_count) {
  const int band_tiles = plan.band * plan.n_blocks;
  const int band = tile / band_tiles, inside = tile % band_tiles;
  const int left = plan.m_blocks - band * plan.band;
  const int rows = left < plan.band ? left : plan.band;
  return {inside / rows, band * plan.band + inside % rows, k_begin, k_count, tile};
}

/// The segments of one worker in order: `while (walk.next(segment))`.
struct SegmentWalk {
  const PrefillPlan &plan;
  int unit, end;  // what is left of the share
  int tile;       // next whole output block

  QUERN_HD SegmentWalk(const PrefillPlan &plan, int worker)
      : plan(plan), unit(share_begin(plan, worker)), end(share_begin(plan, worker + 1)),
        tile(plan.split_tiles + worker) {}

  QUERN_HD bool at_end() const { return unit >= end && tile >= tile_count(plan); }
  QUERN_HD bool next(Segment &segment) {
    if (unit < end) {
      const int k_begin = unit % plan.k_tiles, left = plan.k_tiles - k_begin;
      const int count = end - unit < left ? end - unit : left;
      segment = segment_of(plan, unit / plan.k_tiles, k_begin, count);
      unit += count;
      return true;
    }
    if (tile >= tile_count(plan)) return false;
    segment = segment_of(plan, tile, 0, plan.k_tiles);
    tile += plan.workers;
    return true;
  }
};

/// Floats of partial sums a team may have to keep, and of all workers.
QUERN_HD constexpr int partial_floats(int tokens) { return kTileN * tokens; }
/// Index of a team's flag and partial sums.
QUERN_HD constexpr int partial_index(const PrefillPlan &plan, int worker, int rank, int team) {
  return (worker * plan.cluster + rank) * plan.teams + team;
}
QUERN_HD constexpr int partial_count(const PrefillPlan &plan) { return plan.workers * plan.cluster * plan.teams; }

}  // namespace quern
