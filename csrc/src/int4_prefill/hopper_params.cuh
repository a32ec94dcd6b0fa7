// What the two sm_90a prefill kernels share: their parameters, where packed tiles lie, and the producer of the factors
// of a carried norm.
#pragma once

#include "common/async_copy.cuh"
#include "common/tensor_copy.cuh"
#include "int4_prefill/output.cuh"

namespace quern {

struct HopperParams {
  CUtensorMap x_map;  // [m, k] fp16, boxes of tokens / cluster rows x 64 k, 128-byte swizzle, zeros outside
  PrefillParams p;
};

/// A packed tile. Beyond N one that exists takes its place: its sums are not stored.
__device__ __forceinline__ const uint8_t *tile_source(const PrefillParams &p, int n_tile, int k_tile, int bytes) {
  const int tile = n_tile < p.plan.n_tiles ? n_tile : p.plan.n_tiles - 1;
  return p.tiles + (int64_t(tile) * p.plan.k_tiles + k_tile) * bytes;
}

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A warp of two: the factors of the rows of x, which are needed when sums are finished; then its lanes arrive at `done`.
__device__ __forceinline__ void produce_factors(const PrefillParams &p, int warp, float *factors, uint32_t done) {
  if (warp == 0) prefetch_norm_weight(p.carry, p.n, 32 * blockIdx.x + threadIdx.x % 32);
  wait_for_previous_kernel();
  load_factors(p, factors, warp, 2);
  mbarrier_arrive(done);
}

#endif

}  // namespace quern
