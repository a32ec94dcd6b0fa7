// An RMSNorm that two products carry between them, so that no kernel stands there (QuernCarry): the product that adds to
// the residual stores it scaled, with the sums of its squares; the next one multiplies its own sums by what is missing.
// Called by the linear kernels. All sums have a fixed order.
#pragma once

#include <cuda_fp16.h>

#include "common/async_copy.cuh"
#include "common/epilogue.cuh"
#include "layout.h"
#include "quern_kernels.h"

namespace quern {

/// Room for a row to grow from one norm to the next and still be of float16s: to 2^20 times its root mean square before.
/// What is lost to subnormal numbers is below 2^-20 of it.
constexpr float kCarryScale = 1.0f / 16;

/// What every sum of a row is multiplied by, or, where x carries no norm but the output will, the scale of the row that
/// is stored: to `factors`, row r of the product at [r]. kLanes lanes a row; `warp` of `warps` that share the rows. Only
/// for threads that have waited for the previous kernel.
template <int kLanes>
__device__ __forceinline__ void find_row_factors(const QuernCarry &carry, int m, int hidden, float *factors, int warp,
                                                 int warps) {
  constexpr int kRows = 32 / kLanes;  // of a warp at a time
  const int lane = threadIdx.x % 32, parts = carry_parts(m, hidden);
  for (int first = kRows * warp; first < m; first += kRows * warps) {
    const int row = first + lane / kLanes;
    float sum = 0.0f, known = kCarryScale;
    if (row < m) {
      if (carry.next_squares == nullptr) known = 1.0f / __ldcg(carry.scales + row);
      const float *squares = carry.squares + int64_t(row) * parts;
      // As many loads at once as 5120 columns have.
#pragma unroll 10
      for (int i = lane % kLanes; i < parts; i += kLanes) sum += __ldcg(squares + i);
    }
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (row >= m || lane % kLanes != 0) continue;
    factors[row] = known / sqrtf(sum / float(hidden) + carry.eps);
  }
}

/// Asks for the weights of the norm that begins here. No kernel writes them, so nothing has to be waited for; thread
/// `worker` of all blocks' takes a line.
__device__ __forceinline__ void prefetch_norm_weight(const QuernCarry &carry, int columns, int worker) {
  constexpr int kLine = 64;  // halves
  if (carry.next_squares == nullptr || worker * kLine >= columns) return;
  prefetch_l2(static_cast<const __half *>(carry.weight) + worker * kLine);
}

/// The sum over the 16 lanes of a half warp, in each of them; all 16 must call it.
__device__ __forceinline__ float half_warp_sum(float value) {
  const unsigned mask = 0xffffu << (threadIdx.x & 16);
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) value += __shfl_xor_sync(mask, value, offset);
  return value;
}

/// One element of the new residual as the next product's input.
__device__ __forceinline__ __half carried(const QuernCarry &carry, int column, float residual, float scale) {
  return to_half_held(residual * scale * __half2float(static_cast<const __half *>(carry.weight)[column]));
}

}  // namespace quern
