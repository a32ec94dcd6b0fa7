// What a prefill kernel is launched with.
#pragma once

#include <cuda_fp16.h>

#include "int4_prefill/plan.h"
#include "quern_kernels.h"

namespace quern {

struct PrefillParams {
  const uint8_t *tiles;
  const __half *x;     // [m, k], row distance ldx
  const __half *bias;  // [n] logical, or nullptr
  void *out;
  int *flags;          // [partial_count], 0 between launches
  float *partials;     // [partial_count][partial_floats]
  float *sent;         // likewise, of the kernels of few tokens: 0 between launches
  int m, k, n, ldx, ldo;
  int groups;          // quantization groups a tile
  int pair_stride;
  int epilogue;
  bool wide_stores;    // rows of out are aligned for 16 bytes at once
  QuernPrefetch prefetch;
  QuernCarry carry;
  PrefillPlan plan;
};

}  // namespace quern
