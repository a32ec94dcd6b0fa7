// Blocks among blocks: clusters, their shared memory, and the overlap of one kernel with the next; one instruction a
// function. On devices before sm_90 the overlap calls do nothing, and there are no clusters.
#pragma once

#include <stdint.h>

namespace quern {

/// Waits until the kernels this one depends on have finished and their writes are visible. Every kernel launched with
/// overlap calls it before its first access to anything an earlier kernel writes or reads, weights apart.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Lets the next kernel start once every block has called this or ended; it still waits for this one's results. A kernel
/// that leaves the multiprocessors room calls it first of all, so that the next one can fetch its weights meanwhile.
__device__ __forceinline__ void allow_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

/// Arrive and wait come in pairs, by all threads of all blocks of the cluster. What was written before arriving is seen
/// after waiting, in any block's shared memory; the relaxed form orders nothing.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// Which cluster this is of the grid, and which block of the cluster; a launch without clusters has clusters of one.
__device__ __forceinline__ int cluster_index() {
  int index;
  asm("mov.u32 %0, %clusterid.x;" : "=r"(index));
  return index;
}
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// The address of this block's `smem` in block `rank` of the cluster.
__device__ __forceinline__ uint32_t cluster_address(uint32_t smem, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(smem), "r"(rank));
  return address;
}
__device__ __forceinline__ void cluster_store(uint32_t address, float2 value) {
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(value.x), "f"(value.y) : "memory");
}

#endif

}  // namespace quern
