// What the entry points of attention check before they launch anything.
#pragma once

#include "common/launch.h"
#include "kv_layout.h"

namespace quern {

inline bool attention_shape_ok(const QuernAttention &a) {
  const QuernKvCache &cache = a.cache;
  return cache.n_blocks > 0 && cache.n_kv_heads > 0 && kv_head_dim_ok(cache.head_dim) && a.layer >= 0 &&
         a.n_heads > 0 && a.n_heads % cache.n_kv_heads == 0 && a.rope_dim > 0 && a.rope_dim % 16 == 0 &&
         a.rope_dim <= cache.head_dim && a.window >= 0 && a.spans.n_spans > 0 && a.spans.table_stride > 0;
}
inline bool attention_pointers_ok(const QuernAttention &a) {
  const QuernSpans &spans = a.spans;
  return is_aligned(a.cache.data, 128) && is_aligned(a.qkv, 16) && (a.bias == nullptr || is_aligned(a.bias, 16)) &&
         is_aligned(a.angles, 8) && is_aligned(a.query_factors, 4) && is_aligned(a.out, 16) &&
         is_aligned(spans.first_row, 4) && is_aligned(spans.position, 4) && is_aligned(spans.block_tables, 4);
}

}  // namespace quern
