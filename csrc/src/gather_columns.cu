// The inputs of a linear layer whose rows are in an order of their own, or there twice: GPTQ's "desc_act" and its 8 bits.
// Called before such a layer only. Limited by memory: reads and writes 2 bytes an element, the reads from a row that
// stays in the first-level cache.
#include "common/grid.cuh"
#include "common/half8.cuh"
#include "common/launch.h"

namespace quern {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) gather_columns_kernel(const QuernGatherColumns p) {
  allow_next_kernel();
  const int col = (blockIdx.x * kThreads + threadIdx.x) * 8;
  const bool inside = col < p.cols;
  int4 low = {}, high = {};
  if (inside) {
    // Weights: no kernel before this one writes them.
    const int4 *index = reinterpret_cast<const int4 *>(p.index + col);
    low = index[0];
    high = index[1];
  }
  wait_for_previous_kernel();
  if (!inside) return;
  const __half *x = static_cast<const __half *>(p.x) + int64_t(blockIdx.y) * p.ldx;
  const int from[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  alignas(16) __half values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = x[from[i]];
  __half *out = static_cast<__half *>(p.out) + int64_t(blockIdx.y) * p.cols + col;
  *reinterpret_cast<uint4 *>(out) = *reinterpret_cast<const uint4 *>(values);
}

}  // namespace
}  // namespace quern

using namespace quern;

extern "C" int32_t quern_gather_columns(const QuernDevice *device, const QuernGatherColumns *args, void *stream) {
  if (args->rows <= 0 || args->rows > 65535 || args->ldx <= 0 || args->cols <= 0 || args->cols % 8 != 0) {
    return QUERN_BAD_SHAPE;
  }
  if (!is_aligned(args->x, 2) || !is_aligned(args->index, 16) || !is_aligned(args->out, 16)) return QUERN_BAD_POINTER;
  const unsigned blocks = (args->cols / 8 + kThreads - 1) / kThreads;
  const LaunchShape shape = {blocks, kThreads, 0, 1, device->pdl != 0, static_cast<unsigned>(args->rows)};
  return launch(gather_columns_kernel, shape, stream, *args);
}
