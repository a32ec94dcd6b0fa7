// Rotary embedding: the angles of a step (once, in float64), and for prefill rows the bias, the rotation of q and k and
// the write of k and v into the paged cache (once a layer). Decode does the latter inside its attention kernel.
#include "attention/check.h"
#include "common/grid.cuh"
#include "common/half8.cuh"
#include "common/launch.h"
#include "kv_layout.h"
#include "layout.h"
#include "attention/rotate.cuh"

namespace quern {
namespace {

constexpr int kAngleThreads = 128;
constexpr int kStoreThreads = 320;
constexpr double kInverseTwoPi = 0.15915494309189533577;

/// Position of a row; < 0 for padding.
__device__ __forceinline__ int row_position(const QuernSpans &spans, int span, int row) {
  const int first = spans.position[span];
  return first < 0 ? -1 : first + row - spans.first_row[span];
}

__global__ void __launch_bounds__(kAngleThreads) rope_angles_kernel(const QuernRopeAngles p) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const int half = p.rope_dim / 2;
  const int64_t at = int64_t(blockIdx.x) * kAngleThreads + threadIdx.x;
  if (at >= int64_t(p.rows) * half) return;
  const int row = static_cast<int>(at / half), i = static_cast<int>(at % half);
  const int span = p.row_span[row];
  const double position = max(row_position(p.spans, span, row), 0);
  const double factor_of_pair = p.factors == nullptr ? 1.0 : p.factors[i];
  const double frequency = pow(p.theta[span], -2.0 * i / p.rope_dim) * factor_of_pair;
  // Whole turns go before the sine, in float64: positions far into a sequence are as exact as the first.
  const double turns = position * frequency * kInverseTwoPi;
  double sine, cosine;
  sincospi(2.0 * (turns - rint(turns)), &sine, &cosine);
  reinterpret_cast<float2 *>(p.angles)[at] =
      make_float2(static_cast<float>(cosine * p.scale), static_cast<float>(sine * p.scale));
  if (i > 0) return;
  const double factor = p.logn_seq_length == 0 ? 1.0 : log(position + 1.0) / log(double(p.logn_seq_length));
  p.query_factors[row] = static_cast<float>(fmax(factor, 1.0));
}

struct StoreParams {
  QuernAttention a;
  const int32_t *row_span;
  int32_t first_row;
};

/// One run of 16 elements of a head: 8 and their 8 partners of the rotation, or 16 neighbours beyond it.
struct Run {
  int low, high;  // first elements
  bool rotated;
};
__device__ __forceinline__ Run head_run(int i, int half) {
  if (8 * i < half) return {8 * i, 8 * i + half, true};
  return {16 * i, 16 * i + 8, false};
}

__device__ __forceinline__ void load_biased(const __half *row, const __half *bias, int at, float (&values)[8]) {
  unpack(load_half8(row + at), values);
  if (bias == nullptr) return;
  float added[8];
  unpack(load_half8(bias + at), added);
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] += added[i];
}

__device__ __forceinline__ void rotate_run(const float2 *angles, float factor, float (&low)[8], float (&high)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 rotated = rotate(low[i], high[i], angles[i]);
    low[i] = rotated.x * factor;
    high[i] = rotated.y * factor;
  }
}

/// The place of a K or V tile's token in the cache.
__device__ __forceinline__ __half *cache_tile(const QuernAttention &a, int block, int kv_head, bool is_value) {
  const KvShape shape = {a.cache.n_blocks, a.cache.n_kv_heads, a.cache.head_dim};
  return static_cast<__half *>(a.cache.data) + kv_tile_offset(shape, a.layer, block, kv_head) +
         (is_value ? kv_value_offset(shape) : 0);
}

/// One block a row; a thread takes runs of 16 elements of all heads.
__global__ void __launch_bounds__(kStoreThreads) rope_store_kernel(const StoreParams p) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const QuernAttention &a = p.a;
  const int row = p.first_row + blockIdx.x, span = p.row_span[row];
  const int position = row_position(a.spans, span, row);
  if (position < 0) return;
  const int head_dim = a.cache.head_dim, n_kv_heads = a.cache.n_kv_heads, half = a.rope_dim / 2;
  const int n_heads = a.n_heads + 2 * n_kv_heads, runs = head_dim / 16;
  const int block = a.spans.block_tables[int64_t(span) * a.spans.table_stride + position / kKvBlock];
  const float2 *angles = reinterpret_cast<const float2 *>(a.angles) + int64_t(row) * half;
  const float query_factor = a.query_factors[row];
  __half *qkv = static_cast<__half *>(a.qkv) + int64_t(row) * n_heads * head_dim;
  for (int i = threadIdx.x; i < n_heads * runs; i += kStoreThreads) {
    const int head = i / runs;
    const Run run = head_run(i % runs, half);
    const int at = head * head_dim;
    float low[8], high[8];
    load_biased(qkv, static_cast<const __half *>(a.bias), at + run.low, low);
    load_biased(qkv, static_cast<const __half *>(a.bias), at + run.high, high);
    const bool is_query = head < a.n_heads, is_value = head >= a.n_heads + n_kv_heads;
    const float factor = is_query ? query_factor : 1.f;
    if (run.rotated && !is_value) {
      rotate_run(angles + run.low, factor, low, high);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) low[j] *= factor, high[j] *= factor;
    }
    if (is_query) {
      store_half8(qkv + at + run.low, pack_held(low));
      store_half8(qkv + at + run.high, pack_held(high));
    } else {
      const int kv_head = head - a.n_heads - (is_value ? n_kv_heads : 0);
      __half *tile = cache_tile(a, block, kv_head, is_value);
      store_half8(tile + kv_chunk_offset(position % kKvBlock, run.low / 8), pack_held(low));
      store_half8(tile + kv_chunk_offset(position % kKvBlock, run.high / 8), pack_held(high));
    }
  }
}

bool angles_ok(const QuernRopeAngles &args) {
  return args.rows > 0 && args.rope_dim > 0 && args.rope_dim % 16 == 0 && args.spans.n_spans > 0 &&
         (args.logn_seq_length == 0 || args.logn_seq_length >= 2) && args.scale > 0.0;
}

}  // namespace
}  // namespace quern

using namespace quern;

extern "C" uint64_t quern_kv_layer_bytes(int32_t n_blocks, int32_t n_kv_heads, int32_t head_dim) {
  if (n_blocks <= 0 || n_kv_heads <= 0 || !kv_head_dim_ok(head_dim)) return 0;
  return 2 * static_cast<uint64_t>(kv_layer_elements({n_blocks, n_kv_heads, head_dim}));
}

extern "C" int32_t quern_rope_angles(const QuernDevice *device, const QuernRopeAngles *args, void *stream) {
  if (!angles_ok(*args)) return QUERN_BAD_SHAPE;
  if (!is_aligned(args->row_span, 4) || !is_aligned(args->theta, 8) || !is_aligned(args->angles, 8) ||
      reinterpret_cast<uintptr_t>(args->factors) % 8 != 0 ||
      !is_aligned(args->query_factors, 4) || !is_aligned(args->spans.position, 4) ||
      !is_aligned(args->spans.first_row, 4)) {
    return QUERN_BAD_POINTER;
  }
  const int64_t threads = int64_t(args->rows) * (args->rope_dim / 2);
  const unsigned blocks = static_cast<unsigned>((threads + kAngleThreads - 1) / kAngleThreads);
  return launch(rope_angles_kernel, {blocks, kAngleThreads, 0, 1, device->pdl != 0}, stream, *args);
}

extern "C" int32_t quern_rope_store(const QuernDevice *device, const QuernAttention *args, const int32_t *row_span,
                                    int32_t first_row, int32_t rows, void *stream) {
  if (!attention_shape_ok(*args) || rows <= 0 || first_row < 0) return QUERN_BAD_SHAPE;
  if (!attention_pointers_ok(*args) || !is_aligned(row_span, 4)) return QUERN_BAD_POINTER;
  const StoreParams params = {*args, row_span, first_row};
  const LaunchShape shape = {static_cast<unsigned>(rows), kStoreThreads, 0, 1, device->pdl != 0};
  return launch(rope_store_kernel, shape, stream, params);
}
