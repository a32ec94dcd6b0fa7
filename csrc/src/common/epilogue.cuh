// What happens to a finished sum: bias, residual add, SiLU times up, conversion. Shared by the linear kernels.
#pragma once

#include <cuda_fp16.h>

#include "quern_kernels.h"

namespace quern {

struct OutputTarget {
  void *out;
  const __half *bias;  // [N] or nullptr
  int ldo;
  int epilogue;
};

/// Finite values beyond fp16's range become +-65504; infinities and NaNs stay what they are.
__device__ __forceinline__ __half to_half_held(float value) {
  if (fabsf(value) > 65504.0f && !isinf(value)) value = copysignf(65504.0f, value);
  return __float2half_rn(value);
}
/// Two at once; the check is rarely true.
__device__ __forceinline__ __half2 to_halves_held(float low, float high) {
  const __half2 rounded = __floats2half2_rn(low, high);
  const uint32_t bits = *reinterpret_cast<const uint32_t *>(&rounded);
  const bool special = (((bits & 0x7fff7fff) + 0x04000400) & 0x80008000) != 0;  // an infinity or a NaN
  return special ? __halves2half2(to_half_held(low), to_half_held(high)) : rounded;
}
__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

__device__ __forceinline__ float with_bias(const OutputTarget &target, int n, float sum) {
  return target.bias == nullptr ? sum : sum + __half2float(target.bias[n]);
}

/// y[row, n] for every epilogue but SiLU.
__device__ __forceinline__ void store_output(const OutputTarget &target, int row, int n, float sum) {
  const int64_t at = int64_t(row) * target.ldo + n;
  const float y = with_bias(target, n, sum);
  if (target.epilogue == QUERN_STORE_F16) {
    static_cast<__half *>(target.out)[at] = to_half_held(y);
  } else if (target.epilogue == QUERN_STORE_F32) {
    static_cast<float *>(target.out)[at] = y;
  } else {
    static_cast<float *>(target.out)[at] += y;
  }
}

/// silu(gate) * up to out[row, n], n the gate's column, n_up the up's.
__device__ __forceinline__ void store_silu_mul(const OutputTarget &target, int row, int n, int n_up, float gate,
                                               float up) {
  const float product = silu(with_bias(target, n, gate)) * with_bias(target, n_up, up);
  static_cast<__half *>(target.out)[int64_t(row) * target.ldo + n] = to_half_held(product);
}

}  // namespace quern
