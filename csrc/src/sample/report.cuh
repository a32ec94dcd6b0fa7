// The end of sampling a row: the draw, and the log-probabilities of the chosen token and of the best ones.
#pragma once

#include "quern_kernels.h"
#include "sample/slice.cuh"
#include "sample/weight.cuh"

namespace quern {

/// log p(x) = (x - max) - log_sum.
struct Distribution {
  float max;
  double log_sum;
  __device__ __forceinline__ QuernTokenLogprob logprob(int id, float x) const {
    const double shifted = static_cast<double>(x) - static_cast<double>(max);
    return {id, static_cast<float>(shifted - log_sum)};
  }
};

/// Where a row's result goes.
struct RowOutput {
  QuernSampled *out;
  int32_t *last_sampled;
  __device__ __forceinline__ void choose(const QuernTokenLogprob &token) const {
    out->token = token;
    *last_sampled = token.id;
  }
};

/// The sum of the weights of all logits, which are shifted by `max`.
template <int kBlocks>
__device__ __forceinline__ uint64_t total_weight(Group<kBlocks> &group, const Slice &slice, float max) {
  Weight sum = {0, 0};
  slice.for_each([&](int, float x) { sum += weight_of(__fsub_rn(x, max)); });
  return group.sum(sum.value());
}

/// Inverse of the cumulative distribution, in the order of ids, at `uniform` of [0, 1). The largest logit is 0.
template <int kBlocks>
__device__ __forceinline__ Distribution draw(Group<kBlocks> &group, const Slice &slice, double uniform,
                                             const RowOutput &output) {
  Weight sum = {0, 0};
  slice.for_each_in_order([&](int, float x) { sum += weight_of(x); });
  const uint64_t own = sum.value();
  const typename Group<kBlocks>::Scan scan = group.scan(own);
  const Distribution distribution = {0.f, log_of_sum(scan.total)};
  const uint64_t at = min(static_cast<uint64_t>(uniform * static_cast<double>(scan.total)), scan.total - 1);
  if (at < scan.before || at - scan.before >= own) return distribution;
  uint64_t left = at - scan.before;
  bool found = false;
  slice.for_each_in_order([&](int i, float x) {
    const uint64_t weight = weight_of(x).value();
    if (!found && left < weight) {
      found = true;
      output.choose(distribution.logprob(slice.first + i, x));
    }
    left -= weight;
  });
  return distribution;
}

struct TopMemory {
  uint64_t best[QUERN_MAX_TOP_TOKENS];  // of this block, best first; 0 after the last
};

/// Writes the n best tokens: every block finds its own, the first block merges them. `mine`: this thread's best.
template <int kBlocks>
__device__ __forceinline__ void report_top(Group<kBlocks> &group, TopMemory &memory, const Slice &slice, int n,
                                           uint64_t mine, const Distribution &distribution, QuernSampled *out) {
  for (int i = 0; i < n; ++i) {
    const uint64_t best = group.block_max(mine);
    if (threadIdx.x == 0) memory.best[i] = best;
    __syncthreads();
    if (mine != 0 && mine == memory.best[i]) mine = best_below(slice, mine);
  }
  Group<kBlocks>::barrier();
  if (Group<kBlocks>::rank() != 0 || threadIdx.x >= 32) return;
  const int lane = threadIdx.x;
  int taken = 0, n_top = 0;
  uint64_t next = lane < kBlocks ? Group<kBlocks>::read(memory.best, lane) : 0;
  while (n_top < n) {
    uint64_t best = next;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const uint64_t other = __shfl_xor_sync(kFullWarp, best, offset);
      best = other > best ? other : best;
    }
    if (best == 0) break;
    if (lane == 0) out->top[n_top] = distribution.logprob(key_id(best), key_logit(best));
    if (next == best) next = ++taken < n ? Group<kBlocks>::read(memory.best + taken, lane) : 0;
    ++n_top;
  }
  if (lane == 0) out->n_top = n_top;
}

}  // namespace quern
