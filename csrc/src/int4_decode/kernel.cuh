// What both decode kernels share: a block's share, x in shared memory, a team's work, and finished outputs.
#pragma once

#include "common/carry.cuh"
#include "common/epilogue.cuh"
#include "int4_decode/ring.cuh"
#include "int4_decode/tile.cuh"

namespace quern {

/// What a variant is made of. kRowBlocks: 8 or 16 rows of x; kGroups: quantization groups a tile.
template <int kRowBlocks_, int kGroups_, int kTeams_>
struct DecodeConfig {
  static constexpr int kRowBlocks = kRowBlocks_;
  static constexpr int kGroups = kGroups_;
  static constexpr int kTeams = kTeams_;
  static constexpr int kTileBytes = tile_bytes(kGroups);
  static constexpr int kConsumers = kTeams * kStripsPerTile * 32;
};

__device__ __forceinline__ Slab slab_of(const DecodePlan &plan, int group, int rank) {
  return {rank, run_of(plan.column_cut, group), run_of(plan.slab_cut, rank)};
}

/// x[:, slab] to shared memory, zeros beyond K; the caller waits for the copies. By the block's consumers.
template <int kThreads>
__device__ __forceinline__ void load_x(const DecodeParams &p, const Slab &slab, __half *x) {
  const int stride = x_stride(p.plan.slab_tiles), first = slab.k_tiles.begin * kTileK;
  for (int k = 8 * threadIdx.x; k < slab.k_tiles.count * kTileK; k += 8 * kThreads) {
    const bool inside = first + k < p.k;
    const __half *source = p.x + (inside ? first + k : 0);
#pragma unroll 1
    for (int row = 0; row < p.m; ++row) {
      cp_async_16_or_zero(smem_address(x + row * stride + k), source + int64_t(row) * p.ldx, inside);
    }
  }
  cp_async_commit();
}

/// One consumer warp: its strip of the team's columns; `finish(column, sums)` takes each column's sums over the slab.
template <class Config, class Ring, class Finish>
__device__ __forceinline__ void consume(const DecodeParams &p, const Slab &slab, Ring &ring, const __half *x,
                                        Finish finish) {
  const int lane = threadIdx.x % 32, strip = threadIdx.x / 32 % kStripsPerTile;
  // Rows of x beyond M repeat row M - 1: their sums are dropped, and columns of a product do not mix.
  uint32_t x_rows[Config::kRowBlocks];
#pragma unroll
  for (int b = 0; b < Config::kRowBlocks; ++b) {
    const int row = min(8 * b + lane % 8, p.m - 1);
    x_rows[b] = smem_address(x + row * x_stride(p.plan.slab_tiles) + 8 * (lane / 8));
  }
  for (int column = threadIdx.x / (32 * kStripsPerTile); column < slab.columns.count; column += Config::kTeams) {
    StripSums<Config::kRowBlocks> sums;
    sums.clear();
    for (int first = 0; first < slab.k_tiles.count; first += kTilesPerStage) {
      const uint8_t *stage = ring.wait();
#pragma unroll
      for (int i = 0; i < kTilesPerStage; ++i) {
        if (first + i < slab.k_tiles.count) {
          uint32_t x_tile[Config::kRowBlocks];
#pragma unroll
          for (int b = 0; b < Config::kRowBlocks; ++b) x_tile[b] = x_rows[b] + (first + i) * (kTileK * 2);
          accumulate_strip<Config::kRowBlocks, Config::kGroups>(sums, stage + i * Config::kTileBytes, strip, x_tile);
        }
      }
      ring.release(lane);
    }
    finish(column, sums);
  }
}

/// Hands a lane's sums on as pairs: store(pair of rows of x, output within the strip, {even row, odd row}).
template <int kRowBlocks, class Store>
__device__ __forceinline__ void each_pair(const StripSums<kRowBlocks> &sums, int m, Store store) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int b = 0; b < kRowBlocks; ++b) {
    const int pair = 4 * b + lane % 4;
    if (2 * pair < m) {
      store(pair, lane / 4, make_float2(sums.value[b][0], sums.value[b][1]));
      store(pair, lane / 4 + 8, make_float2(sums.value[b][2], sums.value[b][3]));
    }
  }
}

/// parts[0] + parts[step] + ... in this order; four loads at a time do not wait for each other.
template <class Load>
__device__ __forceinline__ float2 sum_slabs(const float2 *parts, int step, int count, Load load) {
  constexpr int kAtOnce = 4;
  float2 sum = {0.0f, 0.0f};
  for (int first = 0; first < count; first += kAtOnce) {
    float2 part[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < count) part[i] = load(parts + (first + i) * step);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < count) {
        sum.x += part[i].x;
        sum.y += part[i].y;
      }
    }
  }
  return sum;
}

/// The factors of the rows of x, to shared memory; by the block's consumers, who have waited for the previous kernel.
template <int kThreads>
__device__ __forceinline__ void load_factors(const DecodeParams &p, float *factors) {
  if (p.carry.squares == nullptr) return;
  const int hidden = p.carry.next_squares != nullptr ? p.n : p.k;
  find_row_factors<32>(p.carry, p.m, hidden, factors, threadIdx.x / 32, kThreads / 32);
}

/// Adds a sum to the residual at `token`, `n` and stores it for the next product, too. Its square.
__device__ __forceinline__ float add_and_carry(const DecodeParams &p, int token, int n, float sum, float scale) {
  float *out = static_cast<float *>(p.out) + int64_t(token) * p.ldo + n;
  const float residual = *out + with_bias({p.out, p.bias, p.ldo, p.epilogue}, n, sum);
  *out = residual;
  static_cast<__half *>(p.carry.normed)[int64_t(token) * p.n + n] = carried(p.carry, n, residual, scale);
  return residual * residual;
}
/// The same for two rows of x, by 16 lanes that hold the outputs of one strip; the first one writes the sums of squares.
__device__ __forceinline__ void carry_pair(const DecodeParams &p, const float *factors, int packed_strip, int token, int row,
                                           float2 y) {
  const int n = packed_strip * kStripN + row, parts = carry_parts(p.m, p.n);
  const bool two = token + 1 < p.m;
  float2 squares = {0.0f, 0.0f};
  if (n < p.n) {
    squares.x = add_and_carry(p, token, n, y.x, factors[token]);
    if (two) squares.y = add_and_carry(p, token + 1, n, y.y, factors[token + 1]);
  }
  squares = {half_warp_sum(squares.x), half_warp_sum(squares.y)};
  if (row != 0 || n >= p.n) return;
  p.carry.next_squares[token * parts + packed_strip] = squares.x;
  if (two) p.carry.next_squares[(token + 1) * parts + packed_strip] = squares.y;
  if (n > 0) return;
  p.carry.scales[token] = factors[token];
  if (two) p.carry.scales[token + 1] = factors[token + 1];
}

/// Writes outputs `row` (and, of a SiLU pair, row + 8) of a strip for two rows of x; `sum(row)` is a finished sum.
/// `factors`: of the rows of x, where a norm is carried. By whole half warps: lane i has output i % 16 or i % 8.
template <class Sum>
__device__ __forceinline__ void write_pair(const DecodeParams &p, const float *factors, int packed_strip, int pair, int row,
                                           Sum sum) {
  const int packed = packed_strip * kStripN + row, token = 2 * pair;
  if (token >= p.m) return;
  if (p.carry.next_squares != nullptr) return carry_pair(p, factors, packed_strip, token, row, sum(row));
  if (packed >= p.n) return;
  const int n = logical_row(packed, p.n, p.pair_stride);
  const OutputTarget target = {p.out, p.bias, p.ldo, p.epilogue};
  const bool carried = p.carry.squares != nullptr;
  const float2 factor = {carried ? factors[token] : 1.0f, carried && token + 1 < p.m ? factors[token + 1] : 1.0f};
  float2 y = sum(row);
  y = {y.x * factor.x, y.y * factor.y};
  if (p.epilogue == QUERN_SILU_MUL_F16) {
    float2 up = sum(row + 8);
    up = {up.x * factor.x, up.y * factor.y};
    store_silu_mul(target, token, n, n + p.pair_stride, y.x, up.x);
    if (token + 1 < p.m) store_silu_mul(target, token + 1, n, n + p.pair_stride, y.y, up.y);
  } else {
    store_output(target, token, n, y.x);
    if (token + 1 < p.m) store_output(target, token + 1, n, y.y);
  }
}

/// Outputs of a strip that have a thread of their own: all 16, or the 8 gates of SiLU pairs.
__device__ __forceinline__ int row_shift_of(int epilogue) { return epilogue == QUERN_SILU_MUL_F16 ? 3 : 4; }

}  // namespace quern
