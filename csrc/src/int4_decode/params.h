// What the decode kernel is launched with.
#pragma once

#include <cuda_fp16.h>

#include "int4_decode/plan.h"
#include "quern_kernels.h"

namespace quern {

struct DecodeParams {
  const uint8_t *tiles;
  const __half *x;     // [m, k], row distance ldx
  const __half *bias;  // [n] logical, or nullptr
  void *out;
  float2 *sums;   // portable only: [n tile][rank][strip][8 pairs][kPairStride]
  int *counters;  // portable only: [n tile], 0 between launches
  int m, k, n, ldx, ldo;
  int pair_stride;
  int epilogue;
  QuernPrefetch prefetch;
  QuernCarry carry;
  DecodePlan plan;
};

/// A block's share of the matrix.
struct Slab {
  int rank;
  Run columns;  // n tiles
  Run k_tiles;
};

}  // namespace quern
