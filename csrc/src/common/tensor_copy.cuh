// The tensor copy engine and barriers across a cluster; one instruction a function. sm_90.
#pragma once

#include <cuda.h>
#include <stdint.h>

#include "common/grid.cuh"

namespace quern {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// The box at (column, row) of `map` to `smem`; outside the tensor: zeros. One thread; `barrier` counts the box's bytes.
__device__ __forceinline__ void tensor_copy(uint32_t smem, const CUtensorMap *map, int column, int row,
                                            uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          smem),
      "l"(map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}
/// The same to every block of the cluster whose bit is set in `blocks`, each at its own `smem` and `barrier`.
__device__ __forceinline__ void tensor_copy_to(uint32_t smem, const CUtensorMap *map, int column, int row,
                                               uint32_t barrier, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
      "{%3, %4}], [%2], %5;" ::"r"(smem),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "h"(blocks)
      : "memory");
}

/// A cache policy for bulk copies of data that others will read again.
__device__ __forceinline__ uint64_t evict_normal_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// Arrives at this block's `barrier` in block `rank` of the cluster. Orders reads, as its waiter needs; not writes across blocks.
__device__ __forceinline__ void mbarrier_arrive_at(uint32_t barrier, uint32_t rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(cluster_address(barrier, rank))
               : "memory");
}

#endif
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Gives registers of this warpgroup back, or takes some; all its warps, kCount a multiple of 8.
template <int kCount>
__device__ __forceinline__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

#endif

}  // namespace quern
