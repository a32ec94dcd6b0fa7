// RMSNorm of the float32 residual into the fp16 input of the next linear layer. One block a row, one pass: the row stays in
// registers between the sum and the scaling.
#include "common/grid.cuh"
#include "common/half8.cuh"
#include "common/launch.h"
#include "common/reduce.cuh"
#include "layout.h"

namespace quern {
namespace {

constexpr int kMaxThreads = 1024;
/// Rows up to which the next layer's weights may come in while this waits; with more, its blocks are in the way.
constexpr int kEarlyRows = 8;

__device__ __forceinline__ void load_f32(const float *from, float (&values)[8]) {
  const float4 low = reinterpret_cast<const float4 *>(from)[0], high = reinterpret_cast<const float4 *>(from)[1];
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

/// kChunks: runs of 8 elements a thread.
template <int kChunks>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_kernel(const QuernRmsNorm p) {
  __shared__ float scratch[32];
  const __half *weight = static_cast<const __half *>(p.weight);
  Half8 weights[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int col = (c * blockDim.x + threadIdx.x) * 8;
    if (col < p.hidden) weights[c] = load_half8(weight + col);
  }
  if (p.rows <= kEarlyRows) allow_next_kernel();
  wait_for_previous_kernel();
  if (p.rows > kEarlyRows) allow_next_kernel();
  const int64_t row = int64_t(blockIdx.x) * p.hidden;
  float values[kChunks][8] = {};
  float sum = 0.f;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int col = (c * blockDim.x + threadIdx.x) * 8;
    if (col >= p.hidden) continue;
    load_f32(p.residual + row + col, values[c]);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += values[c][i] * values[c][i];
  }
  const float squares = block_sum(sum, scratch);
  const float scale = 1.f / sqrtf(squares / static_cast<float>(p.hidden) + p.eps);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int col = (c * blockDim.x + threadIdx.x) * 8;
    if (col >= p.hidden) continue;
    float gamma[8];
    unpack(weights[c], gamma);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[c][i] = values[c][i] * scale * gamma[i];
    store_half8(static_cast<__half *>(p.out) + row + col, pack_held(values[c]));
  }
  if (p.squares == nullptr) return;
  const int parts = carry_parts(p.rows, p.hidden);
  for (int i = threadIdx.x; i < parts; i += blockDim.x) p.squares[int64_t(blockIdx.x) * parts + i] = i == 0 ? squares : 0.f;
}

}  // namespace
}  // namespace quern

using namespace quern;

extern "C" uint64_t quern_carry_bytes(int32_t columns) {
  if (columns <= 0 || columns > 1 << 20) return 0;
  const int few = 16 * carry_parts(16, columns), many = QUERN_CARRY_ROWS * carry_parts(QUERN_CARRY_ROWS, columns);
  return uint64_t(few > many ? few : many) * sizeof(float);
}

extern "C" int32_t quern_rms_norm(const QuernDevice *device, const QuernRmsNorm *args, void *stream) {
  if (args->rows <= 0 || args->hidden <= 0 || args->hidden % 8 != 0 || args->hidden > 16 * kMaxThreads) {
    return QUERN_BAD_SHAPE;
  }
  if (!is_aligned(args->residual, 16) || !is_aligned(args->weight, 16) || !is_aligned(args->out, 16) ||
      (args->squares != nullptr && (!is_aligned(args->squares, 4) || args->rows > QUERN_CARRY_ROWS))) {
    return QUERN_BAD_POINTER;
  }
  const int chunks = args->hidden <= 8 * kMaxThreads ? 1 : 2;
  const unsigned threads = ceil_div(ceil_div(args->hidden / 8, chunks), 32) * 32;
  const LaunchShape shape = {static_cast<unsigned>(args->rows), threads, 0, 1, device->pdl != 0};
  return launch(chunks == 1 ? rms_norm_kernel<1> : rms_norm_kernel<2>, shape, stream, *args);
}
