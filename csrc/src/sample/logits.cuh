// From logits in memory to a block's slice: loading, the check for NaN and infinities, biases, the mask of allowed tokens,
// penalties. First stage of the sampler; what comes after works on the slice alone.
#pragma once

#include <cuda_fp16.h>

#include "quern_kernels.h"
#include "sample/slice.cuh"

namespace quern {

__device__ __forceinline__ float4 load_four(const float *from) { return __ldg(reinterpret_cast<const float4 *>(from)); }
__device__ __forceinline__ float4 load_four(const __half *from) {
  const uint2 bits = __ldg(reinterpret_cast<const uint2 *>(from));
  const float2 low = __half22float2(*reinterpret_cast<const __half2 *>(&bits.x));
  const float2 high = __half22float2(*reinterpret_cast<const __half2 *>(&bits.y));
  return make_float4(low.x, low.y, high.x, high.y);
}

/// Fills the slice from the row's logits. `row` may be the same memory as the slice.
template <typename Logit>
__device__ __forceinline__ Best load_slice(const Slice &slice, const Logit *row) {
  Best best;
#pragma unroll 5
  for (int i = 4 * threadIdx.x; i < slice.n; i += 4 * kSamplerThreads) {
    const float4 four = load_four(row + slice.first + i);
    float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (i + e < slice.n) {
        best.see(x[e], slice.first + i + e);
      } else {
        x[e] = -INFINITY;
      }
    }
    *reinterpret_cast<float4 *>(slice.values + i) = make_float4(x[0], x[1], x[2], x[3]);
  }
  return best;
}

__device__ __forceinline__ bool penalizes(const QuernSamplingRow &p) {
  return p.count_slot >= 0 &&
         (p.repetition_penalty != 1.f || p.frequency_penalty != 0.f || p.presence_penalty != 0.f);
}

/// The repetition penalty for every token of the sequence, then frequency and presence for those that were generated.
/// Rounded after every operation, as on the CPU.
__device__ __forceinline__ float penalized(float x, uint32_t count, const QuernSamplingRow &p) {
  constexpr uint32_t kInPrompt = 1u << 31;
  if (count == 0) return x;
  x = x < 0.f ? __fmul_rn(x, p.repetition_penalty) : __fdiv_rn(x, p.repetition_penalty);
  const uint32_t generated = count & ~kInPrompt;
  if (generated == 0) return x;
  const float frequency = __fmul_rn(p.frequency_penalty, static_cast<float>(generated));
  return __fsub_rn(x, __fadd_rn(frequency, p.presence_penalty));
}

/// Adds the row's biases to the slice, each by one thread. The block meets before and after.
__device__ __forceinline__ void add_biases(const Slice &slice, const QuernTokenBias *biases, int n) {
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += kSamplerThreads) {
    const int at = __ldg(&biases[i].id) - slice.first;
    if (at >= 0 && at < slice.n) slice.values[at] = __fadd_rn(slice.values[at], __ldg(&biases[i].bias));
  }
  __syncthreads();
}

/// What changes a row's logits before they are warped.
struct Edits {
  const uint32_t *mask;    // of the row; nullptr: all tokens are allowed
  const uint32_t *counts;  // of the row's sequence; nullptr: no penalties
};

/// Removes tokens that are not allowed and applies penalties to the others. `finite`: what loading saw.
__device__ __forceinline__ Best edit(const Slice &slice, const QuernSamplingRow &p, const Edits &edits, bool finite) {
  Best best;
  best.finite = finite;
#pragma unroll 1
  for (int i = 4 * threadIdx.x; i < slice.n; i += 4 * kSamplerThreads) {
    // Four neighbours from a multiple of four: bits of one word.
    const int id = slice.first + i;
    const uint32_t allowed = edits.mask == nullptr ? ~0u : __ldg(edits.mask + id / 32) >> id % 32;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (i + e >= slice.n) continue;
      if ((allowed >> e & 1) == 0) {
        slice.values[i + e] = -INFINITY;
        continue;
      }
      float x = slice.values[i + e];
      if (edits.counts != nullptr) x = penalized(x, __ldg(edits.counts + id + e), p);
      slice.values[i + e] = x;
      best.see(x, id + e);
    }
  }
  return best;
}

}  // namespace quern
