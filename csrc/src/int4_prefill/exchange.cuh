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

/// A counter of the workers that share an output block: arrivals in its lower half, departures in its upper half.
constexpr int kArrived = 1, kDeparted = 1 << 16;

__device__ __forceinline__ int add_release(int *counter, int value) {
  int before;
  asm volatile("atom.add.acq_rel.gpu.s32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(value) : "memory");
  return before;
}
__device__ __forceinline__ void await_arrivals(const int *counter, int count) {
  int value;
  do {
    asm volatile("ld.acquire.gpu.s32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  } while (value % kDeparted < count);
}

/// The sum of one run of eight tokens over `count` workers, in their order; each one's sums lie `stride` floats apart.
__device__ __forceinline__ void sum_run(float (&sum)[4], const float *first, int stride, int count, int thread) {
  constexpr int kAtOnce = 4;
  sum[0] = sum[1] = sum[2] = sum[3] = 0.0f;
  for (int w = 0; w < count; w += kAtOnce) {
    float4 v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float4 *from = reinterpret_cast<const float4 *>(first + (w + i) * stride) + thread;
      v[i] = w + i < count ? __ldcg(from) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) sum[0] += v[i].x, sum[1] += v[i].y, sum[2] += v[i].z, sum[3] += v[i].w;
  }
}

/// All workers of an output block at once: sends all sums, then finishes and stores this one's runs of eight tokens. Every
/// worker must be running, since they wait for each other: a plan has no more of them than run at once, and the next kernel
/// takes no room before all have started.
template <int kCount, int kTeams>
__device__ __forceinline__ void finish_together(const PrefillParams &p, const float (&sums)[kCount], int worker,
                                                int team_index, const Team &team) {
  constexpr int kFloats = partial_floats(2 * kCount), kStride = kTeams * kFloats;
  store_partial(sums, p.partials + int64_t(worker) * kStride + team_index * kFloats, team.thread);
  __threadfence();
  team.sync();
  const int tile = worker * p.plan.split_tiles / p.plan.workers, first = first_worker(p.plan, tile);
  const int count = first_worker(p.plan, tile + 1) - first, part = worker - first;
  const Segment segment = segment_of(p.plan, tile, 0, 0);
  const int token0 = segment.m_block * 2 * kCount, packed0 = (segment.n_block * kTeams + team_index) * kTileN;
  const int runs = min(kCount / 4, (p.m - token0 + 7) / 8);
  const float *partial = p.partials + int64_t(first) * kStride + team_index * kFloats;
  int *counter = p.flags + first * kTeams + team_index;
  const bool finishes = part < runs;
  if (team.thread == 0) {
    add_release(counter, finishes ? kArrived : kArrived + kDeparted);
    if (finishes) await_arrivals(counter, count);
  }
  if (!finishes) return;
  team.sync();
  for (int run = part; run < runs; run += count) {
    float sum[4];
    sum_run(sum, partial + run * kTeamThreads * 4, kStride, count, team.thread);
    store_block<8>(p, sum, packed0, token0 + 8 * run, team);
  }
  team.sync();
  // Only one that finishes can be the last to depart: it has seen all arrive.
  if (team.thread == 0 && add_release(counter, kDeparted) / kDeparted == count - 1) *counter = 0;
}

}  // namespace quern
