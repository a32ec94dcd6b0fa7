// One warp, one strip of one tile: 16 outputs x 128 k x up to 16 rows of x, summed into registers.
#pragma once

#include "common/async_copy.cuh"
#include "common/dequant.cuh"
#include "common/mma.cuh"
#include "layout.h"

namespace quern {

/// Sums of a strip: [block of 8 rows of x][row r: 2c, 2c + 1; row r + 8: 2c, 2c + 1] as mma_16816 returns them.
template <int kRowBlocks>
struct StripSums {
  float value[kRowBlocks][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < 4; ++i) value[b][i] = 0.0f;
    }
  }
};

/// Adds scale * (even + odd): rows r and r + 8 have their own scales.
template <int kRowBlocks>
__device__ __forceinline__ void add_scaled(StripSums<kRowBlocks> &sums, const StripSums<kRowBlocks> (&chain)[2],
                                           float2 scale) {
#pragma unroll
  for (int b = 0; b < kRowBlocks; ++b) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float s = i < 2 ? scale.x : scale.y;
      sums.value[b][i] = fmaf(chain[0].value[b][i] + chain[1].value[b][i], s, sums.value[b][i]);
    }
  }
}

/// sums += strip `strip` of `tile` (shared memory) times x. `x_rows[b]` is this lane's ldmatrix address for rows
/// 8b..8b+7 at the tile's first k. Group sums stay unscaled in float32 and are scaled once; two chains of products
/// (even and odd k16 steps) hide the tensor core's latency.
template <int kRowBlocks, int kGroups>
__device__ __forceinline__ void accumulate_strip(StripSums<kRowBlocks> &sums, const uint8_t *tile, int strip,
                                                 const uint32_t (&x_rows)[kRowBlocks]) {
  constexpr int kStepsPerGroup = 8 / kGroups;
  const int lane = threadIdx.x % 32, pair = strip * 8 + lane / 4;
  const uint4 *nibbles = reinterpret_cast<const uint4 *>(tile + strip * kStripBytes) + lane;
  const uint4 halves[2] = {nibbles[0], nibbles[kHalfBytes / 16]};
  const uint32_t words[8] = {halves[0].x, halves[0].y, halves[0].z, halves[0].w,
                             halves[1].x, halves[1].y, halves[1].z, halves[1].w};
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const ZeroPair zero = zero_pair(tile[zero_offset(kGroups, g) + pair]);
    const float2 scale = __half22float2(reinterpret_cast<const __half2 *>(tile + scale_offset(g))[pair]);
    StripSums<kRowBlocks> chain[2];
    chain[0].clear();
    chain[1].clear();
#pragma unroll
    for (int step = g * kStepsPerGroup; step < (g + 1) * kStepsPerGroup; step += 2) {
      uint32_t x[kRowBlocks][4];
#pragma unroll
      for (int b = 0; b < kRowBlocks; ++b) ldmatrix_x4(x[b], x_rows[b] + step * 32);
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        uint32_t w[4];
        dequant_fragment(w, words[step + odd], zero);
#pragma unroll
        for (int b = 0; b < kRowBlocks; ++b) mma_16816(chain[odd].value[b], w, x[b][2 * odd], x[b][2 * odd + 1]);
      }
    }
    add_scaled(sums, chain, scale);
  }
}

}  // namespace quern
