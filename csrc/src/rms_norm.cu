// RMSNorm of the float32 residual into the fp16 input of the next linear layer, with the addition of what the layer
// before it gave. One block a row, one pass: the row stays in registers between the sum and the scaling.
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

enum class Delta { kNone, kF16, kF32 };

__device__ __forceinline__ void load_f32(const float *from, float (&values)[8]) {
  const float4 low = reinterpret_cast<const float4 *>(from)[0], high = reinterpret_cast<const float4 *>(from)[1];
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}
__device__ __forceinline__ void store_f32(float *to, const float (&values)[8]) {
  reinterpret_cast<float4 *>(to)[0] = make_float4(values[0], values[1], values[2], values[3]);
  reinterpret_cast<float4 *>(to)[1] = make_float4(values[4], values[5], values[6], values[7]);
}

/// values += 8 elements of the delta at `at`.
template <Delta kDelta>
__device__ __forceinline__ void add_delta(const void *delta, int64_t at, float (&values)[8]) {
  if constexpr (kDelta != Delta::kNone) {
    float added[8];
    if constexpr (kDelta == Delta::kF16) {
      unpack(load_half8(static_cast<const __half *>(delta) + at), added);
    } else {
      load_f32(static_cast<const float *>(delta) + at, added);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] += added[i];
  }
}

/// kChunks: runs of 8 elements a thread.
template <Delta kDelta, int kChunks>
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
    add_delta<kDelta>(p.delta, row + col, values[c]);
    if (kDelta != Delta::kNone) store_f32(p.residual + row + col, values[c]);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += values[c][i] * values[c][i];
  }
  const float scale = 1.f / sqrtf(block_sum(sum, scratch) / static_cast<float>(p.hidden) + p.eps);
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
}

template <Delta kDelta>
int32_t launch_rms_norm(const QuernDevice *device, const QuernRmsNorm &args, void *stream) {
  const int chunks = args.hidden <= 8 * kMaxThreads ? 1 : 2;
  const unsigned threads = ceil_div(ceil_div(args.hidden / 8, chunks), 32) * 32;
  const LaunchShape shape = {static_cast<unsigned>(args.rows), threads, 0, 1, device->pdl != 0};
  return launch(chunks == 1 ? rms_norm_kernel<kDelta, 1> : rms_norm_kernel<kDelta, 2>, shape, stream, args);
}

}  // namespace
}  // namespace quern

using namespace quern;

extern "C" int32_t quern_rms_norm(const QuernDevice *device, const QuernRmsNorm *args, void *stream) {
  if (args->rows <= 0 || args->hidden <= 0 || args->hidden % 8 != 0 || args->hidden > 16 * kMaxThreads) {
    return QUERN_BAD_SHAPE;
  }
  if (!is_aligned(args->residual, 16) || !is_aligned(args->weight, 16) || !is_aligned(args->out, 16) ||
      (args->delta != nullptr && !is_aligned(args->delta, 16))) {
    return QUERN_BAD_POINTER;
  }
  if (args->delta == nullptr) return launch_rms_norm<Delta::kNone>(device, *args, stream);
  return args->delta_is_f32 ? launch_rms_norm<Delta::kF32>(device, *args, stream)
                            : launch_rms_norm<Delta::kF16>(device, *args, stream);
}
