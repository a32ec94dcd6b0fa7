// Probabilities as integers: e^x for x <= 0 in units of 2^-42. Sums of integers are exact in any order, so every block
// size, cluster size and device gives the same tokens; the CPU sums the same exponentials in float64, which agrees to
// about 1e-7.
#pragma once

#include <stdint.h>

namespace quern {

constexpr int kWeightBits = 42;
constexpr int kHalfBits = kWeightBits / 2;
/// So that 2^18 weights of 1 stay below 2^60, and a thread's share of the halves below 2^31.
constexpr int kMaxVocab = (1 << 18) - 1;

/// high 2^21 + low, |low| <= 2^20.
struct Weight {
  uint32_t high;
  int32_t low;
  __device__ __forceinline__ uint64_t value() const { return (uint64_t(high) << kHalfBits) + int64_t(low); }
  __device__ __forceinline__ void operator+=(const Weight &other) { high += other.high, low += other.low; }
};

/// e^x for x <= 0, within 2 ulp of float32 and rounded to 2^-42: the CPU sampler's polynomial (Cephes' expf), with
/// fused operations written out so that every device gives the same bits. 0 for -inf.
__device__ __forceinline__ Weight weight_of(float x) {
  constexpr float kRounder = 12582912.f + kHalfBits;  // 1.5 * 2^23: adding it rounds to an integer; 21: times 2^21
  constexpr float kLn2High = 0.6933594f, kLn2Low = -2.1219444e-4f;
  constexpr float kPolynomial[6] = {1.9875691e-4f, 1.3981999e-3f, 8.333452e-3f, 4.1665796e-2f, 1.6666665e-1f, 0.5f};
  const float clamped = fmaxf(x, -87.f);
  const float rounded = __fmaf_rn(clamped, 1.44269504f, kRounder);
  const float n = __fsub_rn(rounded, kRounder);
  const float r = __fmaf_rn(n, -kLn2Low, __fmaf_rn(n, -kLn2High, clamped));
  float tail = kPolynomial[0];
#pragma unroll
  for (int i = 1; i < 6; ++i) tail = __fmaf_rn(tail, r, kPolynomial[i]);
  const float fraction = __fadd_rn(__fmaf_rn(tail, __fmul_rn(r, r), r), 1.f);
  // The low bits of `rounded` are n + 21: the exponent to add.
  const float scaled = __uint_as_float(__float_as_uint(fraction) + (__float_as_uint(rounded) << 23));
  const float high = __fadd_rn(scaled, 8388608.f);
  const float rest = __fsub_rn(scaled, __fsub_rn(high, 8388608.f));
  const float low = __fmaf_rn(rest, float(1 << kHalfBits), 12582912.f);
  return {__float_as_uint(high) - 0x4b000000u, static_cast<int32_t>(__float_as_uint(low) - 0x4b400000u)};
}

/// Natural logarithm of a sum of weights.
__device__ __forceinline__ double log_of_sum(uint64_t sum) {
  return log(static_cast<double>(sum)) - kWeightBits * 0.69314718055994530942;
}

}  // namespace quern
