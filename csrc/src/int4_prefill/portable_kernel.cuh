// sm_80 and up: cp.async into two stages of 128 k, fragments of packed weights made by each warp, m16n8k16 products. Two
// teams of four warps share 128 n; each has its half of the tokens. Slower than wgmma, right everywhere.
#pragma once

#include "common/async_copy.cuh"
#include "common/grid.cuh"
#include "common/mma.cuh"
#include "int4_prefill/exchange.cuh"
#include "int4_prefill/variants.h"
#include "int4_prefill/weights.cuh"

namespace quern {

template <int kTokens_, bool kFine_>
struct PortablePrefillConfig {
  static constexpr int kTokens = kTokens_;
  static constexpr bool kFine = kFine_;
  static constexpr int kTeams = teams_of({kTokens, 0});
  static constexpr int kTeamTokens = kTokens / kTeams;
  static constexpr int kBlocks = kTeams;  // packed tiles side by side, in every warp
  static constexpr int kThreads = kTeams * kTeamThreads;
  static constexpr int kHalfStageBytes = kTokens * 128;  // 64 k of x
  static constexpr int kXBytes = 2 * kHalfStageBytes;
  static constexpr int kTileSlot = LaneWeights<kFine ? 4 : 2>::kMaxTileBytes;
  static constexpr int kStageBytes = kXBytes + kBlocks * kTileSlot;
  static constexpr int kStages = 2;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kStageMemory = kTeams * kStagingBytes;  // takes the ring's place
  static constexpr int kSmemBytes = kRingBytes > kStageMemory ? kRingBytes : kStageMemory;
};

/// Byte offset of 16 bytes of x, `chunk` of 0..7, within 64 k of token `row`: swizzled, so ldmatrix has no conflicts.
__device__ __forceinline__ int swizzled_chunk(int row, int chunk) { return row * 128 + ((chunk ^ row % 8) * 16); }

/// One k tile of x and of the packed weights; all threads.
template <class Config>
__device__ __forceinline__ void copy_stage(const PrefillParams &p, const Segment &segment, int k_tile, uint32_t stage) {
  constexpr int kChunks = kTileK / 8;
  for (int i = threadIdx.x; i < Config::kTokens * kChunks; i += Config::kThreads) {
    const int row = i / kChunks, chunk = i % kChunks, k = k_tile * kTileK + 8 * chunk;
    const int token = segment.m_block * Config::kTokens + row;
    const bool inside = token < p.m && k < p.k;
    const __half *source = inside ? p.x + int64_t(token) * p.ldx + k : p.x;
    cp_async_16_or_zero(stage + chunk / 8 * Config::kHalfStageBytes + swizzled_chunk(row, chunk % 8), source, inside);
  }
  const int bytes = tile_bytes(p.groups);
#pragma unroll
  for (int block = 0; block < Config::kBlocks; ++block) {
    const int n_tile = segment.n_block * Config::kBlocks + block;
    // Beyond N a tile that exists takes the place: its sums are not stored.
    const int tile = n_tile < p.plan.n_tiles ? n_tile : p.plan.n_tiles - 1;
    const uint8_t *source = p.tiles + (int64_t(tile) * p.plan.k_tiles + k_tile) * bytes;
    const uint32_t target = stage + Config::kXBytes + block * Config::kTileSlot;
    for (int i = 16 * threadIdx.x; i < bytes; i += 16 * Config::kThreads) cp_async_16(target + i, source + i);
  }
  cp_async_commit();
}

template <class Config>
using PortableSums = float[Config::kBlocks][Config::kTeamTokens / 2];

/// One half (64 k) of a stage.
template <class Config, int kHalf>
__device__ __forceinline__ void multiply_half(PortableSums<Config> &sums,
                                              const LaneWeights<Config::kFine ? 4 : 2> (&weights)[Config::kBlocks], uint32_t x,
                                              int team_index, int lane) {
  uint32_t a[Config::kBlocks][4][4];
#pragma unroll
  for (int block = 0; block < Config::kBlocks; ++block) weights[block].template dequantize<kHalf>(a[block]);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int pair = 0; pair < Config::kTeamTokens / 16; ++pair) {
      const int row = team_index * Config::kTeamTokens + 16 * pair + lane / 16 * 8 + lane % 8;
      uint32_t b[4];
      ldmatrix_x4(b, x + kHalf * Config::kHalfStageBytes + swizzled_chunk(row, 2 * step + lane / 8 % 2));
#pragma unroll
      for (int block = 0; block < Config::kBlocks; ++block) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float(&sum)[4] = *reinterpret_cast<float(*)[4]>(&sums[block][4 * (2 * pair + i)]);
          mma_16816(sum, a[block][step], b[2 * i], b[2 * i + 1]);
        }
      }
    }
  }
}

/// The sums of one segment; leaves no copy in flight and no thread reading the ring.
template <class Config>
__device__ __forceinline__ void accumulate_portable(const PrefillParams &p, PortableSums<Config> &sums,
                                                    const Segment &segment, const Team &team, int team_index,
                                                    uint8_t *smem) {
#pragma unroll
  for (int block = 0; block < Config::kBlocks; ++block) {
#pragma unroll
    for (float &sum : sums[block]) sum = 0.0f;
  }
  copy_stage<Config>(p, segment, segment.k_begin, smem_address(smem));
  for (int i = 0; i < segment.k_count; ++i) {
    cp_async_wait<0>();
    __syncthreads();  // this stage is there, and everybody has read the other
    if (i + 1 < segment.k_count) {
      copy_stage<Config>(p, segment, segment.k_begin + i + 1, smem_address(smem) + (i + 1) % 2 * Config::kStageBytes);
    }
    const uint8_t *stage = smem + i % 2 * Config::kStageBytes;
    LaneWeights<Config::kFine ? 4 : 2> weights[Config::kBlocks];
#pragma unroll
    for (int block = 0; block < Config::kBlocks; ++block) {
      weights[block].load(stage + Config::kXBytes + block * Config::kTileSlot, p.groups, team.thread / 32, team.thread % 32);
    }
    multiply_half<Config, 0>(sums, weights, smem_address(stage), team_index, team.thread % 32);
    multiply_half<Config, 1>(sums, weights, smem_address(stage), team_index, team.thread % 32);
  }
  __syncthreads();
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    int4_prefill_portable_kernel(const __grid_constant__ PrefillParams p) {
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ float factors[QUERN_CARRY_ROWS];
  const int team_index = threadIdx.x / kTeamThreads, worker = blockIdx.x;
  float *staging = reinterpret_cast<float *>(smem + team_index * kStagingBytes);
  const Team team = {int(threadIdx.x) % kTeamThreads, 1 + team_index, staging, factors};
  constexpr int kFloats = Config::kBlocks * partial_floats(Config::kTeamTokens);
  wait_for_previous_kernel();
  allow_next_kernel();
  if (p.carry.squares != nullptr) {
    load_factors(p, factors, threadIdx.x / 32, Config::kThreads / 32);
    __syncthreads();
  }
  PortableSums<Config> sums;
  SegmentWalk walk(p.plan, worker);
  for (Segment segment; walk.next(segment);) {
    accumulate_portable<Config>(p, sums, segment, team, team_index, smem);
    float(&all)[Config::kBlocks * Config::kTeamTokens / 2] =
        *reinterpret_cast<float(*)[Config::kBlocks * Config::kTeamTokens / 2]>(&sums);
    if (segment.k_begin > 0) {
      const int index = partial_index(p.plan, worker, 0, team_index);
      store_partial(all, p.partials + int64_t(index) * kFloats, team.thread);
      raise_flag(p.flags + index, team);
      continue;
    }
    if (segment.k_count < p.plan.k_tiles) {
      add_partials(p, all, segment, worker, {partial_index(p.plan, 0, 0, team_index), Config::kTeams, kFloats}, team);
    }
#pragma unroll
    for (int block = 0; block < Config::kBlocks; ++block) {
      store_block<Config::kTeamTokens>(p, sums[block], (segment.n_block * Config::kBlocks + block) * kTileN,
                                       segment.m_block * Config::kTokens + team_index * Config::kTeamTokens, team);
    }
    __syncthreads();  // the ring takes the staging memory's place again
  }
}

}  // namespace quern
