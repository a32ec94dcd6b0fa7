// Where a token's K and V lie in the paged cache. Used by the kernels that write it (rope, decode), those that read it
// (decode, prefill) and the tests. Plain C++: no CUDA calls.
//
// The cache is fp16 [layer][block][K|V][kv_head] tiles; a tile is the 32 tokens of a block by head_dim, contiguous, so
// that one bulk copy brings it. Inside a tile:
//
//   [slab head_dim / 64][token 32][chunk 8] of 8 elements; chunk c of token t lies at c ^ (t % 8).
//
// A slab row is 128 bytes and the exclusive-or is the tensor cores' 128-byte swizzle: a tile copied as it is can be
// read from shared memory by wgmma, and by ldmatrix without bank conflicts.
#pragma once

#include <stdint.h>

#include "layout.h"

namespace quern {

constexpr int kKvBlock = 32;      // tokens
constexpr int kSlabWidth = 64;    // elements of a token in a slab
constexpr int kSlabElements = kKvBlock * kSlabWidth;

QUERN_HD constexpr bool kv_head_dim_ok(int head_dim) { return head_dim == 64 || head_dim == 128; }

/// Sizes that offsets are made of.
struct KvShape {
  int n_blocks;
  int n_kv_heads;
  int head_dim;
};
QUERN_HD constexpr int kv_tile_elements(int head_dim) { return kKvBlock * head_dim; }
QUERN_HD constexpr int64_t kv_layer_elements(const KvShape &shape) {
  return int64_t(shape.n_blocks) * 2 * shape.n_kv_heads * kv_tile_elements(shape.head_dim);
}
/// First element of a head's K tile in a block of a layer; its V tile is kv_value_offset further.
QUERN_HD constexpr int64_t kv_tile_offset(const KvShape &shape, int layer, int block, int kv_head) {
  return layer * kv_layer_elements(shape) +
         (int64_t(block) * 2 * shape.n_kv_heads + kv_head) * kv_tile_elements(shape.head_dim);
}
QUERN_HD constexpr int kv_value_offset(const KvShape &shape) {
  return shape.n_kv_heads * kv_tile_elements(shape.head_dim);
}
/// First element, within a tile, of the 8 elements 8 chunk.. of a token of the block.
QUERN_HD constexpr int kv_chunk_offset(int token, int chunk) {
  return chunk / 8 * kSlabElements + token * kSlabWidth + ((chunk ^ token) & 7) * 8;
}
/// The same for one element.
QUERN_HD constexpr int kv_element_offset(int token, int element) {
  return kv_chunk_offset(token, element / 8) + element % 8;
}

}  // namespace quern
