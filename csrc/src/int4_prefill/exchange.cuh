// How the workers that share an output block join their sums, through the workspace: either the one that has the first
// unit adds what the others send (a worker may have parts of several blocks), or, where every worker has one block, each
// finishes some tokens of it, so that no multiprocessor has to read all the sums. The order of every sum is that of k.
#pragma once

#include "int4_prefill/output.cuh"

namespace quern {

/// Writes a team's sums to the workspace.
template <int kCount>
__device__ __forceinline__ void store_partial(const float (&sums)[kCount], float *partial, int thread) {
#pragma unroll
  for (int i = 0; i < kCount / 4; ++i) {
    __stcg(reinterpret_cast<float4 *>(partial) + i * kTeamThreads + thread,
           make_float4(sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]));
  }
}
/// Adds several partial sums, each `stride` floats after the one before, in order; those with present[i] false do not
/// exist. All loads are in flight at once.
template <int kCount, int kPartials>
__device__ __forceinline__ void add_in_order(float (&sums)[kCount], const float *first, int64_t stride,
                                             const bool (&present)[kPartials], int thread) {
  constexpr int kPieces = kCount / 4, kAtOnce = kPieces < 16 ? kPieces : 16;
#pragma unroll
  for (int piece = 0; piece < kPieces; piece += kAtOnce) {
    float4 v[kPartials][kAtOnce];
#pragma unroll
    for (int i = 0; i < kPartials; ++i) {
      const float4 *partial = reinterpret_cast<const float4 *>(first + i * stride) + thread;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (piece + j < kPieces) v[i][j] = present[i] ? __ldcg(partial + (piece + j) * kTeamThreads) : make_float4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int i = 0; i < kPartials; ++i) {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (piece + j >= kPieces) continue;
        float *sum = sums + 4 * (piece + j);
        sum[0] += v[i][j].x, sum[1] += v[i][j].y, sum[2] += v[i][j].z, sum[3] += v[i][j].w;
      }
    }
  }
}

/// Tells the owner that this team's partial sums are in the workspace.
__device__ __forceinline__ void raise_flag(int *flag, const Team &team) {
  __threadfence();
  team.sync();
  if (team.thread == 0) asm volatile("st.release.gpu.s32 [%0], 1;" ::"l"(flag) : "memory");
}
/// One thread waits for it.
__device__ __forceinline__ void await_flag(const int *flag) {
  int raised;
  do {
    asm volatile("ld.acquire.gpu.s32 %0, [%1];" : "=r"(raised) : "l"(flag) : "memory");
  } while (raised == 0);
}

/// Where a team's partial sums and flags lie: those of worker w and w + 1 are this far apart.
struct PartialPlace {
  int index;  // of worker 0
  int step;
  int floats;  // of one partial
};

/// Adds what later workers summed of an output block whose first units this worker has; lowers their flags.
template <int kCount>
__device__ __forceinline__ void add_partials(const PrefillParams &p, float (&sums)[kCount], const Segment &segment,
                                             int worker, PartialPlace place, const Team &team) {
  constexpr int kAtOnce = kCount <= 16 ? 4 : kCount <= 32 ? 2 : 1;
  const int end = end_of_workers(p.plan, segment.tile, worker);
  const auto present = [&](int w) { return w < end && has_share(p.plan, w); };
  for (int w = worker + 1 + team.thread; w < end; w += kTeamThreads) {
    if (present(w)) await_flag(p.flags + place.index + w * place.step);
  }
  team.sync();
  for (int w = worker + 1; w < end; w += kAtOnce) {
    bool some[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) some[i] = present(w + i);
    const float *first = p.partials + int64_t(place.index + w * place.step) * place.floats;
    add_in_order<kCount, kAtOnce>(sums, first, int64_t(place.step) * place.floats, some, team.thread);
  }
  team.sync();
  for (int w = worker + 1 + team.thread; w < end; w += kTeamThreads) {
    if (present(w)) p.flags[place.index + w * place.step] = 0;
  }
}

/// Where a team stands in its launch.
struct TeamPlace {
  int worker, rank, index;
};

/// Ends a segment whose worker has the output block's first unit: adds what the others send and stores the block.
template <int kTokens, int kTeams, int kCluster>
__device__ __forceinline__ void join_and_store(const PrefillParams &p, float (&sums)[kTokens / 2], const Segment &segment,
                                               TeamPlace place, const Team &team) {
  if (segment.k_count < p.plan.k_tiles) {
    const PartialPlace partials = {partial_index(p.plan, 0, place.rank, place.index), kCluster * kTeams,
                                   partial_floats(kTokens)};
    add_partials(p, sums, segment, place.worker, partials, team);
  }
  const int n_tile = (segment.n_block * kCluster + place.rank) * kTeams + place.index;
  store_block<kTokens>(p, sums, n_tile * kTileN, segment.m_block * kTokens, team);
}

}  // namespace quern
