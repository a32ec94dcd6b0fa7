// What a team of four warps does with 64 packed rows x kTokens tokens of finished sums: bias, SiLU, residual and store.
// Called by both prefill kernels and exchange.cuh. Sums are in the tensor core's order: warp i holds rows 16i + {r, r + 8},
// sums[4j..] = tokens 8j + {2c, 2c + 1} of row r, then of row r + 8, lane 4r + c.
#pragma once

#include "common/async_copy.cuh"
#include "common/carry.cuh"
#include "common/epilogue.cuh"
#include "common/mma.cuh"
#include "int4_prefill/params.h"

namespace quern {

constexpr int kTeamThreads = 128;
constexpr int kStageStride = kTileN + 4;  // floats a staged token: no bank conflicts, 16-byte aligned

constexpr int kStagingBytes = 32 * kStageStride * 4;  // a team: 32 tokens of fp32 or 64 of fp16

/// A team inside its block: threads 0..127, its barrier id, its staging memory and the factors of all rows of x (where a
/// norm is carried).
struct Team {
  int thread, barrier;
  float *staging;
  const float *factors;

  __device__ __forceinline__ void sync() const { named_barrier(barrier, kTeamThreads); }
  /// Of the teams of its block, whose barriers are 1, 2, ...
  __device__ __forceinline__ int index() const { return barrier - 1; }
};

/// The rows' factors to shared memory; by `warps` warps that have waited for the previous kernel.
__device__ __forceinline__ void load_factors(const PrefillParams &p, float *factors, int warp, int warps) {
  const int hidden = p.carry.next_squares != nullptr ? p.n : p.k;
  find_row_factors<8>(p.carry, p.m, hidden, factors, warp, warps);
}

/// Completes the norm that x carries, on the sums of tokens token0...
template <int kCount>
__device__ __forceinline__ void apply_factors(const PrefillParams &p, float (&sums)[kCount], int token0, const Team &team) {
  if (p.carry.squares == nullptr || p.carry.next_squares != nullptr) return;
  const float *factors = team.factors + token0 + 2 * (team.thread % 4);
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] *= factors[i / 4 * 8 + i % 2];
}

/// Bias on all sums of rows `packed` and `packed` + 8.
template <int kCount>
__device__ __forceinline__ void add_bias(const PrefillParams &p, float (&sums)[kCount], int packed) {
  if (p.bias == nullptr) return;
  float bias[2] = {0.0f, 0.0f};
#pragma unroll
  for (int upper = 0; upper < 2; ++upper) {
    const int row = packed + 8 * upper;
    if (row < p.n) bias[upper] = __half2float(p.bias[logical_row(row, p.n, p.pair_stride)]);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] += bias[i / 2 % 2];
}

/// Byte offset of 16 bytes, `chunk` of a token's 8 (64 columns) or 4 (32 columns): swizzled against bank conflicts.
template <int kColumns>
__device__ __forceinline__ int staged_halves(int token, int chunk) {
  constexpr int kTokensALine = 64 / kColumns;
  const int line = token / kTokensALine;
  return line * 128 + (((token % kTokensALine * (kColumns / 8) + chunk) ^ line % 8) * 16);
}

/// Fp16 outputs of kFirst.. (a multiple of 16 tokens) to the staging memory. kColumns = 64: rows r and r + 8; 32: only
/// the even pairs of sums, silu(gate) * up.
template <int kColumns, int kTokens, int kFirst, int kChunk>
__device__ __forceinline__ void stage_halves(const float (&sums)[kTokens / 2], const Team &team) {
  const int lane = team.thread % 32, strip = team.thread / 32, matrix = lane / 8;
  constexpr int kTokensAStore = kColumns == 64 ? 16 : 32;
#pragma unroll
  for (int token = 0; token < kChunk; token += kTokensAStore) {
    uint32_t d[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int block = (kFirst + token) / 8 + (kColumns == 64 ? i / 2 : i);
      const bool inside = 8 * block < kTokens;  // 32 tokens of a width that is a multiple of 16
      const float *sum = sums + (inside ? 4 * block + (kColumns == 64 ? i % 2 * 2 : 0) : 0);
      const __half2 pair = inside ? to_halves_held(sum[0], sum[1]) : __half2();
      d[i] = *reinterpret_cast<const uint32_t *>(&pair);
    }
    const int row = token + (kColumns == 64 ? matrix / 2 : matrix) * 8 + lane % 8;
    const int chunk = kColumns == 64 ? 2 * strip + matrix % 2 : strip;
    store_transposed_x4(smem_address(team.staging) + staged_halves<kColumns>(row, chunk), d);
  }
}

/// Eight neighbouring outputs of one row.
__device__ __forceinline__ void store_eight(const PrefillParams &p, int64_t at, const uint4 &values) {
  __half *out = static_cast<__half *>(p.out) + at;
  if (p.wide_stores) {
    *reinterpret_cast<uint4 *>(out) = values;
    return;
  }
  const uint32_t words[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = __ushort_as_half(uint16_t(words[i / 2] >> 16 * (i % 2)));
}

/// Stores fp16 rows, 64 tokens at a time. `column`: where the eight columns of this thread's chunk go, -1: nowhere.
template <int kColumns, int kTokens, int kFirst = 0>
__device__ __forceinline__ void store_halves(const PrefillParams &p, const float (&sums)[kTokens / 2], int column,
                                             int token0, const Team &team) {
  constexpr int kChunk = kTokens - kFirst < 64 ? kTokens - kFirst : 64;
  constexpr int kChunks = kColumns / 8, kStep = kTeamThreads / kChunks;
  team.sync();  // the staging memory has been read
  stage_halves<kColumns, kTokens, kFirst, kChunk>(sums, team);
  team.sync();
#pragma unroll
  for (int i = 0; i < (kChunk + kStep - 1) / kStep; ++i) {
    const int staged = team.thread / kChunks + i * kStep, token = token0 + kFirst + staged;
    if (column < 0 || staged >= kChunk || token >= p.m) continue;
    const uint8_t *at = reinterpret_cast<const uint8_t *>(team.staging) + staged_halves<kColumns>(staged, team.thread % kChunks);
    store_eight(p, int64_t(token) * p.ldo + column, *reinterpret_cast<const uint4 *>(at));
  }
  if constexpr (kFirst + kChunk < kTokens) store_halves<kColumns, kTokens, kFirst + kChunk>(p, sums, column, token0, team);
}

/// Four neighbouring fp32 outputs of one row.
__device__ __forceinline__ void store_four(const PrefillParams &p, int64_t at, const float4 &y) {
  float *out = static_cast<float *>(p.out) + at;
  if (p.wide_stores) {
    *reinterpret_cast<float4 *>(out) = y;
  } else {
    out[0] = y.x, out[1] = y.y, out[2] = y.z, out[3] = y.w;
  }
}
__device__ __forceinline__ float4 load_four(const PrefillParams &p, int64_t at) {
  const float *out = static_cast<const float *>(p.out) + at;
  return p.wide_stores ? *reinterpret_cast<const float4 *>(out) : make_float4(out[0], out[1], out[2], out[3]);
}

constexpr int kFloatTokens = 32;  // tokens of fp32 staged at once
constexpr int kFloatStep = kTeamThreads / (kTileN / 4);  // tokens the team reads at once, four columns a thread
constexpr int kFours = kFloatTokens / kFloatStep;

/// Four columns (the team's 16 lanes of a token have 64; -1: none) of a token's new residual as the next product's input.
__device__ __forceinline__ void carry_four(const PrefillParams &p, const float4 &y, int token, int column, const Team &team) {
  float squares = 0.0f;
  const float scale = team.factors[token];
  if (column >= 0) {
    const QuernCarry &carry = p.carry;
    const __half2 low = __halves2half2(carried(carry, column, y.x, scale), carried(carry, column + 1, y.y, scale));
    const __half2 high = __halves2half2(carried(carry, column + 2, y.z, scale), carried(carry, column + 3, y.w, scale));
    *reinterpret_cast<uint2 *>(static_cast<__half *>(carry.normed) + int64_t(token) * p.n + column) =
        make_uint2(reinterpret_cast<const uint32_t &>(low), reinterpret_cast<const uint32_t &>(high));
    squares = y.x * y.x + y.y * y.y + y.z * y.z + y.w * y.w;
  }
  squares = half_warp_sum(squares);
  if (team.thread % (kTileN / 4) != 0 || column < 0) return;
  p.carry.next_squares[token * carry_parts(p.m, p.n) + column / kTileN] = squares;
  if (column == 0) p.carry.scales[token] = scale;
}
/// The same for all staged tokens, whose new residual this thread has put where it will look for it.
__device__ __forceinline__ void carry_staged(const PrefillParams &p, int tokens, int token0, int column, const Team &team) {
#pragma unroll 1
  for (int staged = team.thread / (kTileN / 4); staged < tokens && token0 + staged < p.m; staged += kFloatStep) {
    const float4 *y = reinterpret_cast<const float4 *>(team.staging + staged * kStageStride + 4 * (team.thread % (kTileN / 4)));
    carry_four(p, *y, token0 + staged, column, team);
  }
}

QUERN_HD constexpr int float_chunk(int left) { return left < kFloatTokens ? left : kFloatTokens; }

/// The residual of a chunk of kChunk tokens, for the columns that this thread will store.
template <int kChunk>
__device__ __forceinline__ void load_residual(const PrefillParams &p, float4 (&before)[kFours], int column, int token0,
                                              const Team &team) {
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int staged = team.thread / (kTileN / 4) + i * kFloatStep, token = token0 + staged;
    const bool inside = p.epilogue == QUERN_ADD_F32 && column >= 0 && staged < kChunk && token < p.m;
    before[i] = inside ? load_four(p, int64_t(token) * p.ldo + column) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
}

/// Stores fp32 rows, a chunk at a time; the next chunk's residual is on its way meanwhile.
template <int kTokens, int kFirst = 0>
__device__ __forceinline__ void store_floats(const PrefillParams &p, const float (&sums)[kTokens / 2],
                                             const float4 (&before)[kFours], int column, int token0, const Team &team) {
  constexpr int kChunk = float_chunk(kTokens - kFirst);
  constexpr bool kMore = kFirst + kChunk < kTokens;
  const int lane = team.thread % 32;
  float4 next[kFours];
  if constexpr (kMore) load_residual<float_chunk(kTokens - kFirst - kChunk)>(p, next, column, token0 + kFirst + kChunk, team);
  team.sync();  // the staging memory has been read
  float *at = team.staging + 2 * (lane % 4) * kStageStride + kStripN * (team.thread / 32) + lane / 4;
#pragma unroll
  for (int j = 0; j < kChunk / 8; ++j) {
    const float *sum = sums + kFirst / 2 + 4 * j;
    float *row = at + 8 * j * kStageStride;
    row[0] = sum[0], row[kStageStride] = sum[1], row[8] = sum[2], row[kStageStride + 8] = sum[3];
  }
  team.sync();
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int staged = team.thread / (kTileN / 4) + i * kFloatStep, token = token0 + kFirst + staged;
    if (staged >= kChunk || column < 0 || token >= p.m) continue;
    float4 &staged_y = *reinterpret_cast<float4 *>(team.staging + staged * kStageStride + 4 * (team.thread % (kTileN / 4)));
    float4 y = staged_y;
    y.x += before[i].x, y.y += before[i].y, y.z += before[i].z, y.w += before[i].w;
    store_four(p, int64_t(token) * p.ldo + column, y);
    if (p.carry.next_squares != nullptr) staged_y = y;
  }
  if (p.carry.next_squares != nullptr) carry_staged(p, kChunk, token0 + kFirst, column, team);
  if constexpr (kMore) store_floats<kTokens, kFirst + kChunk>(p, sums, next, column, token0, team);
}

/// Where packed row `row` goes, -1 beyond N.
__device__ __forceinline__ int column_of(const PrefillParams &p, int row) {
  return row < p.n ? logical_row(row, p.n, p.pair_stride) : -1;
}

/// Finishes and stores packed rows packed0.. of tokens token0..
template <int kTokens>
__device__ __forceinline__ void store_block(const PrefillParams &p, float (&sums)[kTokens / 2], int packed0, int token0,
                                            const Team &team) {
  const int lane = team.thread % 32, strip = team.thread / 32;
  apply_factors(p, sums, token0, team);
  if (p.epilogue == QUERN_STORE_F32 || p.epilogue == QUERN_ADD_F32) {
    const int column = column_of(p, packed0 + 4 * (team.thread % (kTileN / 4)));
    float4 before[kFours];
    load_residual<float_chunk(kTokens)>(p, before, column, token0, team);
    add_bias(p, sums, packed0 + kStripN * strip + lane / 4);
    store_floats<kTokens>(p, sums, before, column, token0, team);
    return;
  }
  add_bias(p, sums, packed0 + kStripN * strip + lane / 4);
  if (p.epilogue == QUERN_STORE_F16) {
    store_halves<64, kTokens>(p, sums, column_of(p, packed0 + 8 * (team.thread % 8)), token0, team);
    return;
  }
#pragma unroll
  for (int i = 0; i < kTokens / 2; i += 4) {
    sums[i] = silu(sums[i]) * sums[i + 2];
    sums[i + 1] = silu(sums[i + 1]) * sums[i + 3];
  }
  store_halves<32, kTokens>(p, sums, column_of(p, packed0 + kStripN * (team.thread % 4)), token0, team);
}

}  // namespace quern
