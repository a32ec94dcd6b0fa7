// Sums and maxima over a warp or a block in a fixed order: the same inputs give the same bits.
#pragma once

#include <stdint.h>

namespace quern {

constexpr unsigned kFullWarp = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kFullWarp, value, offset);
  return value;
}

/// The sum over the block in every thread. `scratch` has 32 floats and may be used again after the next barrier.
__device__ __forceinline__ float block_sum(float value, float *scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  value = warp_sum(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : 0.f);
}

}  // namespace quern
