// The end of a dense fp16 layer: from the float32 sums that the head's kernels leave to what the next operation reads.
// Limited by memory: reads 4 bytes and writes 2 or 4 an element.
#include "common/epilogue.cuh"
#include "common/grid.cuh"
#include "common/launch.h"

namespace quern {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) dense_output_kernel(const QuernDenseOutput p) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const bool gated = p.epilogue == QUERN_SILU_MUL_F16;
  const int columns = gated ? p.n / 2 : p.n, n = blockIdx.x * kThreads + threadIdx.x, row = blockIdx.y;
  if (n >= columns) return;
  const OutputTarget target = {p.out, static_cast<const __half *>(p.bias), p.ldo, p.epilogue};
  const float *sums = p.sums + int64_t(row) * p.ld_sums;
  if (gated) {
    store_silu_mul(target, row, n, n + columns, sums[n], sums[n + columns]);
  } else {
    store_output(target, row, n, sums[n]);
  }
}

}  // namespace
}  // namespace quern

using namespace quern;

extern "C" int32_t quern_dense_output(const QuernDevice *device, const QuernDenseOutput *args, void *stream) {
  const bool gated = args->epilogue == QUERN_SILU_MUL_F16;
  if (args->epilogue < QUERN_STORE_F16 || args->epilogue > QUERN_SILU_MUL_F16) return QUERN_UNSUPPORTED;
  if (args->rows <= 0 || args->rows > 65535 || args->n <= 0 || (gated && args->n % 2 != 0)) return QUERN_BAD_SHAPE;
  const int columns = gated ? args->n / 2 : args->n;
  if (args->ld_sums < args->n || args->ldo < columns) return QUERN_BAD_SHAPE;
  const bool f16_out = gated || args->epilogue == QUERN_STORE_F16;
  if (!is_aligned(args->sums, 4) || !is_aligned(args->out, f16_out ? 2 : 4) ||
      reinterpret_cast<uintptr_t>(args->bias) % 2 != 0) {
    return QUERN_BAD_POINTER;
  }
  const unsigned blocks = (columns + kThreads - 1) / kThreads;
  const LaunchShape shape = {blocks, kThreads, 0, 1, device->pdl != 0, static_cast<unsigned>(args->rows)};
  return launch(dense_output_kernel, shape, stream, *args);
}
