// The tokens of a row that one block holds, and the keys that order them. Every stage of the sampler works on slices.
#pragma once

#include <math.h>
#include <stdint.h>

#include "sample/group.cuh"

namespace quern {

/// `values` are the logits, -inf for a token that was removed; room for a multiple of 4, the rest -inf.
struct Slice {
  float *values;
  int first;  // id of values[0]
  int n;

  /// f(index, logit) for the tokens that are possible, four neighbours a thread; rising indices within a thread.
  template <typename F>
  __device__ __forceinline__ void for_each(F f) const {
    // Four tokens at once hide each other's latency; more copies of the code would only have to be fetched.
#pragma unroll 1
    for (int i = 4 * threadIdx.x; i < n; i += 4 * kSamplerThreads) {
      const float4 four = *reinterpret_cast<const float4 *>(values + i);
      const float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (x[e] != -INFINITY) f(i + e, x[e]);
      }
    }
  }
  /// The same, but consecutive threads hold consecutive runs of tokens.
  template <typename F>
  __device__ __forceinline__ void for_each_in_order(F f) const {
    const int length = ((n + kSamplerThreads - 1) / kSamplerThreads) | 1;  // odd: no bank conflicts
    const int begin = threadIdx.x * length, end = min(begin + length, n);
    for (int i = begin; i < end; ++i) {
      const float x = values[i];
      if (x != -INFINITY) f(i, x);
    }
  }
  /// logit = f(logit); -inf stays.
  template <typename F>
  __device__ __forceinline__ void transform(F f) const {
#pragma unroll 1
    for (int i = 4 * threadIdx.x; i < n; i += 4 * kSamplerThreads) {
      float4 *at = reinterpret_cast<float4 *>(values + i);
      const float4 x = *at;
      *at = make_float4(f(x.x), f(x.y), f(x.z), f(x.w));
    }
  }
};

/// Larger logits have larger keys, and of equal ones (0 and -0 are) the lowest id; 0 for -inf is less than all.
__device__ __forceinline__ uint64_t rank_key(float x, int id) {
  if (x == -INFINITY) return 0;
  const uint32_t bits = __float_as_uint(x + 0.f);
  const uint32_t ordered = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
  return uint64_t(ordered) << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ float key_logit(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered ^ (ordered >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}
__device__ __forceinline__ int key_id(uint64_t key) { return static_cast<int>(~static_cast<uint32_t>(key)); }

constexpr uint64_t kNotFinite = ~uint64_t(0);  // above every key

/// The best of the tokens that a thread saw, in rising order of ids.
struct Best {
  float x = -INFINITY;
  int id = 0;
  bool finite = true;
  __device__ __forceinline__ void see(float other, int other_id) {
    finite &= isfinite(other);
    if (other > x) x = other, id = other_id;
  }
  __device__ __forceinline__ uint64_t key() const { return finite ? rank_key(x, id) : kNotFinite; }
};

/// The largest key below `bound` among this thread's tokens, or 0.
__device__ __forceinline__ uint64_t best_below(const Slice &slice, uint64_t bound) {
  uint64_t best = 0;
  slice.for_each([&](int i, float x) {
    const uint64_t key = rank_key(x, slice.first + i);
    if (key < bound && key > best) best = key;
  });
  return best;
}

}  // namespace quern
