// SiLU of the gate times up, between the two linear layers of the MLP, where the first one's epilogue has not done it.
// Limited by memory: reads 4 bytes and writes 2 an element.
#include "common/grid.cuh"
#include "common/half8.cuh"
#include "common/launch.h"

namespace quern {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) silu_mul_kernel(const QuernSiluMul p) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const int col = (blockIdx.x * kThreads + threadIdx.x) * 8;
  if (col >= p.width) return;
  const __half *row = static_cast<const __half *>(p.gate_up) + int64_t(blockIdx.y) * 2 * p.width;
  const Half8 gates = load_half8(row + col), ups = load_half8(row + p.width + col);
  float gate[8], up[8];
  unpack(gates, gate);
  unpack(ups, up);
#pragma unroll
  for (int i = 0; i < 8; ++i) gate[i] = gate[i] / (1.f + __expf(-gate[i])) * up[i];
  store_half8(static_cast<__half *>(p.out) + int64_t(blockIdx.y) * p.width + col, pack_held(gate));
}

}  // namespace
}  // namespace quern

using namespace quern;

extern "C" int32_t quern_silu_mul(const QuernDevice *device, const QuernSiluMul *args, void *stream) {
  if (args->rows <= 0 || args->rows > 65535 || args->width <= 0 || args->width % 8 != 0) return QUERN_BAD_SHAPE;
  if (!is_aligned(args->gate_up, 16) || !is_aligned(args->out, 16)) return QUERN_BAD_POINTER;
  const unsigned blocks = (args->width / 8 + kThreads - 1) / kThreads;
  const LaunchShape shape = {blocks, kThreads, 0, 1, device->pdl != 0, static_cast<unsigned>(args->rows)};
  return launch(silu_mul_kernel, shape, stream, *args);
}
