// First and last gathers of a step: embeddings into the float32 residual (with the token just sampled, if the host has
// not seen it yet), and the rows whose logits are wanted. Called once a step.
#include "common/grid.cuh"
#include "common/half8.cuh"
#include "common/launch.h"

namespace quern {
namespace {

constexpr int kThreads = 256;
constexpr uint32_t kInPrompt = 1u << 31;

__device__ __forceinline__ int input_token(const QuernEmbed &p, int row) {
  const int token = p.tokens[row];
  return token >= 0 ? token : p.last_sampled[-1 - token];
}

/// A token enters its sequence: what the penalties will see. Integer atomics: the order does not matter.
__device__ __forceinline__ void count_token(const QuernEmbed &p, int row, int token) {
  const int where = p.count_rows[row];
  if (where < 0) return;
  uint32_t *count = p.counts + int64_t(where / 2) * p.vocab + token;
  if (where % 2 == 0) {
    atomicOr(count, kInPrompt);
  } else {
    atomicAdd(count, 1u);
  }
}

__global__ void __launch_bounds__(kThreads) embed_kernel(const QuernEmbed p) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const int row = blockIdx.y;
  const int token = input_token(p, row);
  if (p.counts != nullptr && blockIdx.x == 0 && threadIdx.x == 0) count_token(p, row, token);
  const int col = (blockIdx.x * kThreads + threadIdx.x) * 8;
  if (col >= p.hidden) return;
  float values[8];
  unpack(load_half8(static_cast<const __half *>(p.table) + int64_t(token) * p.hidden + col), values);
  float4 *out = reinterpret_cast<float4 *>(p.residual + int64_t(row) * p.hidden + col);
  out[0] = make_float4(values[0], values[1], values[2], values[3]);
  out[1] = make_float4(values[4], values[5], values[6], values[7]);
}

__global__ void __launch_bounds__(kThreads) gather_kernel(const QuernGather p) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const int row = blockIdx.y;
  const int col = (blockIdx.x * kThreads + threadIdx.x) * 8;
  if (col >= p.cols) return;
  const __half *x = static_cast<const __half *>(p.x) + int64_t(p.index[row]) * p.cols + col;
  store_half8(static_cast<__half *>(p.out) + int64_t(row) * p.cols + col, load_half8(x));
}

LaunchShape row_grid(const QuernDevice *device, int rows, int cols) {
  const unsigned blocks = (cols / 8 + kThreads - 1) / kThreads;
  return {blocks, kThreads, 0, 1, device->pdl != 0, static_cast<unsigned>(rows)};
}
bool rows_ok(int rows, int cols) { return rows > 0 && rows <= 65535 && cols > 0 && cols % 8 == 0; }

}  // namespace
}  // namespace quern

using namespace quern;

extern "C" int32_t quern_embed(const QuernDevice *device, const QuernEmbed *args, void *stream) {
  if (!rows_ok(args->rows, args->hidden) || args->vocab <= 0) return QUERN_BAD_SHAPE;
  if (!is_aligned(args->table, 16) || !is_aligned(args->residual, 16) || !is_aligned(args->tokens, 4) ||
      (args->counts != nullptr && !is_aligned(args->count_rows, 4))) {
    return QUERN_BAD_POINTER;
  }
  return launch(embed_kernel, row_grid(device, args->rows, args->hidden), stream, *args);
}

extern "C" int32_t quern_gather_rows(const QuernDevice *device, const QuernGather *args, void *stream) {
  if (!rows_ok(args->rows, args->cols)) return QUERN_BAD_SHAPE;
  if (!is_aligned(args->x, 16) || !is_aligned(args->out, 16) || !is_aligned(args->index, 4)) return QUERN_BAD_POINTER;
  return launch(gather_kernel, row_grid(device, args->rows, args->cols), stream, *args);
}
