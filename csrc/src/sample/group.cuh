// The blocks that sample one row together: a cluster that reads each other's shared memory, or a single block. Every
// sum, maximum and scan of the sampler goes through here; all threads of the group call each function together.
#pragma once

#include <stdint.h>

#include "common/async_copy.cuh"
#include "common/reduce.cuh"

namespace quern {

constexpr int kSamplerThreads = 1024;
constexpr int kSamplerWarps = kSamplerThreads / 32;

/// Shared memory of the functions below.
struct GroupMemory {
  uint64_t warps[kSamplerWarps];
  uint64_t slots[2];  // by turn
};

template <int kBlocks>
class Group {
 public:
  __device__ __forceinline__ explicit Group(GroupMemory &memory) : memory_(memory) {}

  static __device__ __forceinline__ int rank() { return blockIdx.x % kBlocks; }
  static __device__ __forceinline__ int row() { return blockIdx.x / kBlocks; }

  /// All threads of the group, with their writes to shared memory.
  static __device__ __forceinline__ void barrier() {
    if constexpr (kBlocks == 1) {
      __syncthreads();
    } else {
      __syncwarp();
      asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
    }
  }
  /// The value of `mine`, a variable in shared memory, in another block.
  static __device__ __forceinline__ uint64_t read(const uint64_t *mine, int rank) {
    if constexpr (kBlocks == 1) {
      return *mine;
    } else {
      uint64_t value;
      asm volatile(
          "{\n.reg .b32 address;\n"
          "mapa.shared::cluster.u32 address, %1, %2;\n"
          "ld.shared::cluster.u64 %0, [address];\n}"
          : "=l"(value)
          : "r"(smem_address(mine)), "r"(rank)
          : "memory");
      return value;
    }
  }
  /// The sum of `mine` over all blocks.
  static __device__ __forceinline__ uint64_t read_sum(const uint64_t *mine) {
    uint64_t sum = 0;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) sum += read(mine, i);
    return sum;
  }

  __device__ __forceinline__ uint64_t sum(uint64_t value) {
    const uint64_t *slot = leave(block_reduce(value, [](uint64_t a, uint64_t b) { return a + b; }));
    return read_sum(slot);
  }
  __device__ __forceinline__ uint64_t max(uint64_t value) {
    const uint64_t *slot = leave(block_max(value));
    uint64_t most = 0;
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) most = larger(most, read(slot, i));
    return most;
  }
  /// The largest value of this block, in thread 0's warp; the block must meet before the next call.
  __device__ __forceinline__ uint64_t block_max(uint64_t value) {
    return block_reduce(value, [](uint64_t a, uint64_t b) { return larger(a, b); });
  }

  /// 0 and 1 in turns. What other blocks read is kept twice and written by turn: one barrier a turn is then enough.
  __device__ __forceinline__ int take_turn() { return turn_ ^= 1; }

  struct Scan {
    uint64_t before, total;  // the values of earlier threads and blocks; all values
  };
  /// Prefix sums in the order of blocks and threads.
  __device__ __forceinline__ Scan scan(uint64_t value) {
    uint64_t block_total;
    const uint64_t before = block_scan(value, block_total);
    const uint64_t *slot = leave(block_total);
    Scan scan = {before, 0};
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      const uint64_t total = read(slot, i);
      if (i < rank()) scan.before += total;
      scan.total += total;
    }
    return scan;
  }

  /// Sum of the values of this block's earlier threads, and of all. Ends without a barrier.
  __device__ __forceinline__ uint64_t block_scan(uint64_t value, uint64_t &total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint64_t through = warp_scan(value);
    if (lane == 31) memory_.warps[warp] = through;
    __syncthreads();
    const uint64_t warps = warp_scan(memory_.warps[lane]);
    total = __shfl_sync(kFullWarp, warps, kSamplerWarps - 1);
    const uint64_t earlier = __shfl_sync(kFullWarp, warps, warp == 0 ? 0 : warp - 1);
    return (warp == 0 ? 0 : earlier) + through - value;
  }

 private:
  static __device__ __forceinline__ uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

  static __device__ __forceinline__ uint64_t warp_scan(uint64_t value) {
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint64_t other = __shfl_up_sync(kFullWarp, value, offset);
      if (threadIdx.x % 32 >= offset) value += other;
    }
    return value;
  }
  template <typename Op>
  __device__ __forceinline__ uint64_t block_reduce(uint64_t value, Op op) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
    if (threadIdx.x % 32 == 0) memory_.warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x / 32 > 0) return 0;
    value = memory_.warps[threadIdx.x];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
    return value;
  }
  /// Shows thread 0's value to the group.
  __device__ __forceinline__ const uint64_t *leave(uint64_t value) {
    uint64_t *slot = &memory_.slots[take_turn()];
    if (threadIdx.x == 0) *slot = value;
    barrier();
    return slot;
  }

  GroupMemory &memory_;
  int turn_ = 0;
};

}  // namespace quern
