// Partial results of decode attention and the count of those that are there. Used by the decode kernel to join warps and
// splits, always in one order.
#pragma once

#include <math.h>
#include <stdint.h>

#include "attention/decode_tile.cuh"

namespace quern {

/// A running weighted mean of partial results: (maximum, sum, element).
struct Merge {
  float max = -INFINITY, sum = 0.f, value = 0.f;
  __device__ __forceinline__ void add(float other_max, float other_sum, float other_value) {
    const float new_max = fmaxf(max, other_max);
    const float mine = exp2_approx(max - new_max), theirs = exp2_approx(other_max - new_max);
    sum = sum * mine + other_sum * theirs;
    value = value * mine + other_value * theirs;
    max = new_max;
  }
};

/// Adds 1 and returns what was there; what this block has written before is then visible to whoever adds later.
__device__ __forceinline__ int arrive(int32_t *counter) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

/// Every block's last act, by one thread: the last of all resets the counters, pairs given out and blocks that have ended.
__device__ __forceinline__ void end_block(int32_t *given) {
  if (atomicAdd(given + 1, 1) == int(gridDim.x) - 1) given[0] = given[1] = 0;
}

}  // namespace quern
