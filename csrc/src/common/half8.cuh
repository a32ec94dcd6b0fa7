// Eight fp16 values as one 16-byte access, and what elementwise kernels do with them.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

namespace quern {

/// Eight fp16 values in a register quadruple.
struct alignas(16) Half8 {
  uint32_t word[4];
};

__device__ __forceinline__ void unpack(const Half8 &packed, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2 *>(&packed.word[i]));
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

/// Rounds to fp16; finite values beyond its range become +-65504, infinities and NaN stay what they are.
__device__ __forceinline__ float hold_to_half(float x) {
  return isfinite(x) ? fminf(fmaxf(x, -65504.f), 65504.f) : x;
}
__device__ __forceinline__ uint32_t pack_half2(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t *>(&pair);
}
__device__ __forceinline__ Half8 pack(const float (&values)[8]) {
  Half8 packed;
#pragma unroll
  for (int i = 0; i < 4; ++i) packed.word[i] = pack_half2(values[2 * i], values[2 * i + 1]);
  return packed;
}
__device__ __forceinline__ Half8 pack_held(const float (&values)[8]) {
  float held[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) held[i] = hold_to_half(values[i]);
  return pack(held);
}

__device__ __forceinline__ Half8 load_half8(const __half *from) { return *reinterpret_cast<const Half8 *>(from); }
__device__ __forceinline__ void store_half8(__half *to, const Half8 &values) { *reinterpret_cast<Half8 *>(to) = values; }

}  // namespace quern
