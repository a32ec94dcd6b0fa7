// One warp's share of decode attention: 16 tokens at a time, straight from the cache into tensor-core fragments.
//
// The queries of one KV head (up to 8) are the rows of Q K^T, and the columns of V^T P^T. Which element meets which in
// a dot product's sum is free, so lanes read 16 bytes wherever a fragment wants 4: lane 4g + t holds chunks t, t + 4,
// ... of tokens g and g + 8 for K, and chunk g (and g + 8) of tokens 2t, 2t + 1, 2t + 8, 2t + 9 for V. Scores leave
// the first product exactly where the second wants them.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

#include "attention/decode_plan.h"
#include "common/half8.cuh"
#include "common/mma.cuh"
#include "common/reduce.cuh"
#include "kv_layout.h"

namespace quern {

constexpr int kTileTokens = 16;

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// 16 bytes that are read once: not kept in L1.
__device__ __forceinline__ Half8 load_stream(const __half *from) {
  Half8 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(from)
               : "memory");
  return v;
}

template <int kHeadDim>
struct DecodeTile {
  static constexpr int kSlabs = kHeadDim / kSlabWidth;
  static constexpr int kQuads = kHeadDim / 32;  // runs of 4 chunks, one a lane of a quad

  /// Elements from one query to the next in shared memory: rows of a quarter-warp's loads lie in different banks.
  static constexpr int kQueryStride = kHeadDim + 32;

  Half8 k[2][kQuads];      // tokens g, g + 8; chunks t + 4 quad
  Half8 v[4][kSlabs];      // tokens 2t, 2t + 1, 2t + 8, 2t + 9
  float out[kSlabs][4][4]; // [slab][i]: elements 64 slab + 8g + 2i, + 1 of queries 2t, 2t + 1
  float max;               // of query g
  float sum;               // of query g, this lane's tokens

  __device__ __forceinline__ void start() {
#pragma unroll
    for (int s = 0; s < kSlabs; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) out[s][i][j] = 0.f;
    max = -INFINITY;
    sum = 0.f;
  }

  /// `tile` is a K tile; the 16 tokens start at `first` of the block, and none after `last` is read.
  __device__ __forceinline__ void load_keys(const __half *tile, int first, int last) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int token = min(first + 8 * n + g, last);
      const int even = kv_chunk_offset(token, t), odd = even ^ 32;  // chunk t + 4
#pragma unroll
      for (int i = 0; i < kQuads; ++i) {
        k[n][i] = load_stream(tile + i / 2 * kSlabElements + (i % 2 == 0 ? even : odd));
      }
    }
  }
  /// The same for a V tile.
  __device__ __forceinline__ void load_values(const __half *tile, int first, int last) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int token = min(first + 2 * t + n % 2 + 8 * (n / 2), last);
      const int offset = kv_chunk_offset(token, g);
#pragma unroll
      for (int s = 0; s < kSlabs; ++s) v[n][s] = load_stream(tile + s * kSlabElements + offset);
    }
  }

  /// One token from shared memory, keys and values [kHeadDim] each, as the first of a tile.
  __device__ __forceinline__ void take_token(const __half *key, const __half *value) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      k[0][i] = g == 0 ? load_half8(key + 8 * (t + 4 * i)) : Half8{};
      k[1][i] = Half8{};
    }
#pragma unroll
    for (int s = 0; s < kSlabs; ++s) {
      v[0][s] = t == 0 ? load_half8(value + s * kSlabWidth + 8 * g) : Half8{};
      v[1][s] = v[2][s] = v[3][s] = Half8{};
    }
  }

  /// q k^T of tokens 8n + 2t, + 1 and query g; `queries` in shared memory, all kMaxQueries rows.
  __device__ __forceinline__ void scores(const __half *queries, float (&s)[2][2]) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float c[2][4] = {};
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const Half8 q = load_half8(queries + g * kQueryStride + 8 * (t + 4 * i));
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const uint32_t a[4] = {q.word[2 * e], 0, q.word[2 * e + 1], 0};
#pragma unroll
        for (int n = 0; n < 2; ++n) mma_16816(c[n], a, k[n][i].word[2 * e], k[n][i].word[2 * e + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) s[n][0] = c[n][0], s[n][1] = c[n][1];
  }

  /// Scores to weights relative to the new maximum, packed for the second product. Tokens from `valid` on weigh 0 and, with a
  /// window, those before `unseen`; never all of them.
  template <bool kWindowed>
  __device__ __forceinline__ void softmax(float (&s)[2][2], float scale, int unseen, int valid, uint32_t (&weights)[2]) {
    const int t = threadIdx.x % 4;
    float tile_max = -INFINITY;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int token = 8 * n + 2 * t + e;
        s[n][e] = token < valid ? s[n][e] * scale : -INFINITY;
        if (kWindowed && token < unseen) s[n][e] = -INFINITY;
        tile_max = fmaxf(tile_max, s[n][e]);
      }
    }
    tile_max = fmaxf(tile_max, __shfl_xor_sync(kFullWarp, tile_max, 1));
    tile_max = fmaxf(tile_max, __shfl_xor_sync(kFullWarp, tile_max, 2));
    const float new_max = fmaxf(max, tile_max);
    rescale(exp2_approx(max - new_max));
    max = new_max;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float low = exp2_approx(s[n][0] - max), high = exp2_approx(s[n][1] - max);
      sum += low + high;
      weights[n] = pack_half2(low, high);
    }
  }

  __device__ __forceinline__ void add_values(const uint32_t (&weights)[2]) {
#pragma unroll
    for (int s = 0; s < kSlabs; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t a[4] = {__byte_perm(v[0][s].word[i], v[1][s].word[i], 0x5410),
                               __byte_perm(v[0][s].word[i], v[1][s].word[i], 0x7632),
                               __byte_perm(v[2][s].word[i], v[3][s].word[i], 0x5410),
                               __byte_perm(v[2][s].word[i], v[3][s].word[i], 0x7632)};
        mma_16816(out[s][i], a, weights[0], weights[1]);
      }
    }
  }

 private:
  /// Everything so far times `factor`, the factor of query g.
  __device__ __forceinline__ void rescale(float factor) {
    sum *= factor;
    if (!__any_sync(kFullWarp, factor != 1.f)) return;
    const int t = threadIdx.x % 4;
    const float even = __shfl_sync(kFullWarp, factor, 8 * t), odd = __shfl_sync(kFullWarp, factor, 8 * t + 4);
#pragma unroll
    for (int s = 0; s < kSlabs; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        out[s][i][0] *= even, out[s][i][1] *= odd, out[s][i][2] *= even, out[s][i][3] *= odd;
      }
    }
  }
};

}  // namespace quern
