// Made-up weights for benchmarks: fills memory with numbers that follow from their index, so that nothing has to be
// copied. Called while a model is loaded without a checkpoint; never on a step's path.
#include <cuda_fp16.h>

#include "common/grid.cuh"
#include "common/launch.h"

namespace quern {
namespace {

constexpr int kThreads = 256;

/// The low half of splitmix64's output function (Steele, Lea, Flood 2014).
__device__ __forceinline__ uint32_t draw(uint64_t counter) {
  uint64_t z = counter * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(z ^ (z >> 31));
}

__global__ void __launch_bounds__(kThreads) fill_kernel(const QuernFill p) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const uint64_t size = p.kind == QUERN_FILL_BITS ? 4 : 2;
  const uint64_t count = p.bytes / size;
  for (uint64_t i = blockIdx.x * uint64_t(kThreads) + threadIdx.x; i < count; i += uint64_t(gridDim.x) * kThreads) {
    const uint32_t bits = draw(p.seed + i);
    if (p.kind == QUERN_FILL_BITS) {
      static_cast<uint32_t *>(p.data)[i] = bits;
    } else {
      const float unit = __fmul_rn(static_cast<float>(bits >> 8), 1.f / 16777216.f);
      const float value = __fadd_rn(p.low, __fmul_rn(__fsub_rn(p.high, p.low), unit));
      static_cast<__half *>(p.data)[i] = __float2half_rn(value);
    }
  }
}

}  // namespace
}  // namespace quern

using namespace quern;

extern "C" int32_t quern_fill(const QuernDevice *device, const QuernFill *args, void *stream) {
  if (args->kind != QUERN_FILL_BITS && args->kind != QUERN_FILL_F16) return QUERN_UNSUPPORTED;
  if (args->bytes == 0 || args->bytes % (args->kind == QUERN_FILL_BITS ? 4 : 2) != 0) return QUERN_BAD_SHAPE;
  if (!is_aligned(args->data, 4)) return QUERN_BAD_POINTER;
  const LaunchShape shape = {static_cast<unsigned>(8 * device->sm_count), kThreads, 0, 1, device->pdl != 0};
  return launch(fill_kernel, shape, stream, *args);
}
