// The rotary embedding of one pair, shared by prefill (rope.cu) and decode, so that both give the same bits.
#pragma once

#include <cuda_fp16.h>

namespace quern {

/// The two elements of a head that are rotated together, or pass through together.
struct Pair {
  int low, high;  // element indices
  bool rotated;
};
/// Pair `i` of head_dim / 2; those beyond the rotated dimensions are neighbours.
__device__ __forceinline__ Pair head_pair(int i, int half) {
  if (i < half) return {i, i + half, true};
  return {2 * i, 2 * i + 1, false};
}

/// Which product is rounded first is written out: the compiler would choose anew in every kernel.
__device__ __forceinline__ float2 rotate(float low, float high, float2 angle) {
  return make_float2(__fmaf_rn(low, angle.x, -__fmul_rn(high, angle.y)),
                     __fmaf_rn(high, angle.x, __fmul_rn(low, angle.y)));
}

__device__ __forceinline__ float biased(const __half *x, const __half *bias, int at) {
  const float value = __half2float(x[at]);
  return bias == nullptr ? value : value + __half2float(bias[at]);
}

}  // namespace quern
