// Sizes of decode attention: the shapes it takes, how much work a launch may have, and its workspace. Host code, pure; used
// by its entry points alone.
#pragma once

#include "attention/decode_plan.h"
#include "quern_kernels.h"

namespace quern {

constexpr int kDecodeBlocksPerSm = 2;

inline SplitPolicy split_policy(const QuernDevice &device, const QuernDecodeShape &shape) {
  return {device.sm_count * kDecodeBlocksPerSm, shape.n_kv_heads, shape.n_spans};
}
inline bool decode_shape_ok(const QuernDecodeShape &shape) {
  return shape.n_spans > 0 && shape.max_tokens > 0 && shape.n_kv_heads > 0 && shape.n_heads > 0 &&
         shape.n_heads % shape.n_kv_heads == 0 && shape.n_heads / shape.n_kv_heads <= kMaxQueries &&
         kv_head_dim_ok(shape.head_dim) && shape.window >= 0;
}
inline int max_items(const QuernDevice &device, const QuernDecodeShape &shape) {
  return shape.n_spans * split_policy(device, shape).max_splits(shape.max_tokens);
}

/// Parts of the workspace: offsets in bytes, and the size. The counters are in front.
struct Workspace {
  uint64_t weights, partial, total;
};
constexpr int kBlockCounters = 2;
constexpr uint64_t round_up(uint64_t bytes) { return (bytes + 255) / 256 * 256; }
inline uint64_t counter_bytes(const QuernDecodeShape &shape) {
  return round_up((kBlockCounters + uint64_t(shape.n_spans) * shape.n_kv_heads) * sizeof(int32_t));
}
inline Workspace workspace(const QuernDevice &device, const QuernDecodeShape &shape) {
  const uint64_t results = uint64_t(max_items(device, shape)) * shape.n_heads;
  const uint64_t weights = counter_bytes(shape);
  const uint64_t partial = weights + round_up(results * 2 * sizeof(float));
  return {weights, partial, partial + round_up(results * shape.head_dim * sizeof(float))};
}

}  // namespace quern
