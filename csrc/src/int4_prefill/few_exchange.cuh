// How the workers that share an output block of few tokens join their sums, through memory that is zero between launches:
// a sum that is not zero has arrived, so that no flag has to follow it, and whoever has read it makes it zero again. A sum
// of zero is sent as minus zero. Either the worker that has an output block's first unit adds what the others send, or,
// where every worker has one block, each finishes some tokens of it. The order of every sum is that of k.
#pragma once

#include "int4_prefill/output.cuh"

namespace quern {

/// Where a team's sums go and come from; those of the next worker lie kTeams * partial_floats further.
template <int kCount, int kTeams>
__device__ __forceinline__ float *sent_sums(const PrefillParams &p, int worker, const Team &team) {
  return p.sent + (int64_t(worker) * kTeams + team.index()) * partial_floats(2 * kCount);
}

__device__ __forceinline__ float not_plus_zero(float sum) { return __float_as_uint(sum) == 0 ? -0.0f : sum; }
__device__ __forceinline__ void send_four(float4 *to, const float *sums) {
  asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(not_plus_zero(sums[0])),
               "f"(not_plus_zero(sums[1])), "f"(not_plus_zero(sums[2])), "f"(not_plus_zero(sums[3]))
               : "memory");
}
__device__ __forceinline__ float4 look(const float4 *from) {
  float4 v;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ bool is_there(const float4 &v) {
  return __float_as_uint(v.x) != 0 && __float_as_uint(v.y) != 0 && __float_as_uint(v.z) != 0 && __float_as_uint(v.w) != 0;
}

/// Writes a team's sums of the first `runs` runs of eight tokens: run i of thread t at float4 i * kTeamThreads + t. Nobody
/// reads, or makes zero again, what lies behind them.
template <int kCount>
__device__ __forceinline__ void send_sums(const float (&sums)[kCount], int runs, float *to, int thread) {
#pragma unroll
  for (int i = 0; i < kCount / 4; ++i) {
    if (i < runs) send_four(reinterpret_cast<float4 *>(to) + i * kTeamThreads + thread, sums + 4 * i);
  }
}

/// Waits for kPieces pieces of this thread, `stride` float4 apart, of which the first `count` exist; adds them to `sum`
/// in order, piece i to sum + kStep i, and makes them zero. All loads are in flight at once.
template <int kPieces, int kStep>
__device__ __forceinline__ void add_pieces(float *sum, float4 *from, int64_t stride, int count) {
  float4 v[kPieces];
  bool all;
  do {
    all = true;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      v[i] = look(from + (i < count ? i : 0) * stride);
      all = all && is_there(v[i]);
    }
  } while (!all);
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    if (i >= count) continue;
    from[i * stride] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    sum[kStep * i] += v[i].x, sum[kStep * i + 1] += v[i].y, sum[kStep * i + 2] += v[i].z, sum[kStep * i + 3] += v[i].w;
  }
}

/// Adds what later workers summed of an output block whose first units this worker has.
template <int kTeams, int kCount>
__device__ __forceinline__ void receive_sums(const PrefillParams &p, float (&sums)[kCount], const Segment &segment,
                                             const Team &team) {
  constexpr int kAtOnce = kCount <= 16 ? 4 : 2;  // pieces
  const int worker = blockIdx.x, end = end_of_workers(p.plan, segment.tile, worker);
  for (int w = worker + 1; w < end; ++w) {
    if (!has_share(p.plan, w)) continue;
    float4 *from = reinterpret_cast<float4 *>(sent_sums<kCount, kTeams>(p, w, team)) + team.thread;
#pragma unroll
    for (int i = 0; i < kCount / 4; i += kAtOnce) add_pieces<kAtOnce, 4>(sums + 4 * i, from + i * kTeamThreads, kTeamThreads, kAtOnce);
  }
}

/// All workers of an output block at once: sends all sums, then finishes and stores this one's runs of eight tokens. Every
/// worker must be running, since they wait for each other: a plan has no more of them than run at once, and the next kernel
/// takes no room before all have started.
template <int kCount, int kTeams>
__device__ __forceinline__ void finish_together(const PrefillParams &p, const float (&sums)[kCount], int worker,
                                                const Team &team) {
  constexpr int kAtOnce = kCount <= 16 ? 8 : 4;  // workers
  const int tile = worker * p.plan.split_tiles / p.plan.workers, first = first_worker(p.plan, tile);
  const int count = first_worker(p.plan, tile + 1) - first, part = worker - first;
  const Segment segment = segment_of(p.plan, tile, 0, 0);
  const int token0 = segment.m_block * 2 * kCount, packed0 = (segment.n_block * kTeams + team.index()) * kTileN;
  const int runs = min(kCount / 4, (p.m - token0 + 7) / 8);
  send_sums(sums, runs, sent_sums<kCount, kTeams>(p, worker, team), team.thread);
  float4 *from = reinterpret_cast<float4 *>(sent_sums<kCount, kTeams>(p, first, team)) + team.thread;
  constexpr int kStride = kTeams * partial_floats(2 * kCount) / 4;  // from worker to worker
  for (int run = part; run < runs; run += count) {
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int w = 0; w < count; w += kAtOnce) {
      add_pieces<kAtOnce, 0>(sum, from + run * kTeamThreads + int64_t(w) * kStride, kStride, count - w);
    }
    store_block<8>(p, sum, packed0, token0 + 8 * run, team);
  }
}

}  // namespace quern
