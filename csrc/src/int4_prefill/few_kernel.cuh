// sm_90a, up to 64 rows of x, where memory should be the only limit: a producer warpgroup fills one ring with k tiles of x
// (tensor copy engine) and of four packed n tiles (bulk copies), four consumer warpgroups (teams) turn weights into A
// fragments in registers and multiply them with x by wgmma. A team makes the fragments of the next 64 k while the tensor
// core works on the present ones, and the teams fill each other's waits; what a unit costs beside that is one wait and
// one release. Called by int4_prefill_hopper.cu.
#pragma once

#include "common/prefetch.cuh"
#include "common/ring.cuh"
#include "common/tensor_copy.cuh"
#include "common/wgmma.cuh"
#include "int4_prefill/few_exchange.cuh"
#include "int4_prefill/hopper_params.cuh"
#include "int4_prefill/variants.h"
#include "int4_prefill/weights.cuh"

namespace quern {

template <int kTokens_, int kGroups_>
struct FewConfig {
  static constexpr int kTokens = kTokens_;
  static constexpr int kGroups = kGroups_;  // quantization groups a tile
  static constexpr int kTeams = teams_of({kTokens, 1});
  static constexpr int kBoxBytes = kTokens * 64 * 2;  // 64 k of x
  static constexpr int kXBytes = 2 * kBoxBytes;
  static constexpr int kTileBytes = tile_bytes(kGroups);
  static constexpr int kWeightBytes = kTeams * kTileBytes;
  static constexpr int kStages = kTokens <= 32 ? 7 : 5;
  static constexpr int kWeightOffset = kStages * kXBytes;
  static constexpr int kStagingOffset = kWeightOffset + kStages * kWeightBytes;
  static constexpr int kAlignment = 1024;
  static constexpr int kSmemBytes = kStagingOffset + kTeams * kStagingBytes + kAlignment;
  static constexpr int kConsumerWarps = 4 * kTeams;
  static constexpr int kThreads = kTeamThreads * (kTeams + 1);
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = 104;
};

template <class Config>
struct FewBarriers {
  alignas(8) uint64_t full[Config::kStages], empty[Config::kStages];
  alignas(8) uint64_t factors;  // complete once

  __device__ __forceinline__ void init() {
    for (int i = 0; i < Config::kStages; ++i) {
      mbarrier_init(smem_address(&full[i]), 2);  // x and the weights
      mbarrier_init(smem_address(&empty[i]), 32 * Config::kConsumerWarps);  // every lane reads weights
    }
    mbarrier_init(smem_address(&factors), 2 * 32);
    mbarrier_init_fence();
  }
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// One thread: x.
template <class Config>
__device__ __forceinline__ void produce_few_x(const HopperParams &params, uint32_t x, FewBarriers<Config> &barriers) {
  prefetch_tensor_map(&params.x_map);
  RingPosition<Config::kStages> ring;
  SegmentWalk walk(params.p.plan, blockIdx.x);
  Segment segment;
  bool more = walk.next(segment);
  wait_for_previous_kernel();
  for (; more; more = walk.next(segment)) {
    const int row = segment.m_block * Config::kTokens, end = (segment.k_begin + segment.k_count) * kTileK;
    for (int column = segment.k_begin * kTileK; column < end; column += kTileK) {
      const uint32_t full = smem_address(&barriers.full[ring.stage]), target = x + ring.stage * Config::kXBytes;
      mbarrier_wait(smem_address(&barriers.empty[ring.stage]), ring.parity ^ 1);
      mbarrier_arrive_expect(full, Config::kXBytes);
      tensor_copy(target, &params.x_map, column, row, full);
      tensor_copy(target + Config::kBoxBytes, &params.x_map, column + kTileK / 2, row, full);
      ring.advance();
    }
  }
}

/// One thread: all teams' packed tiles. Weights are no kernel's output, so they need not wait.
template <class Config>
__device__ __forceinline__ void produce_few_weights(const PrefillParams &p, uint32_t weights, FewBarriers<Config> &barriers) {
  const uint64_t policy = p.plan.m_blocks == 1 ? evict_first_policy() : evict_normal_policy();
  RingPosition<Config::kStages> ring;
  SegmentWalk walk(p.plan, blockIdx.x);
  for (Segment segment; walk.next(segment);) {
    for (int i = 0; i < segment.k_count; ++i) {
      const uint32_t full = smem_address(&barriers.full[ring.stage]);
      mbarrier_wait(smem_address(&barriers.empty[ring.stage]), ring.parity ^ 1);
      mbarrier_arrive_expect(full, Config::kWeightBytes);
#pragma unroll 1
      for (int team = 0; team < Config::kTeams; ++team) {
        const uint8_t *source = tile_source(p, segment.n_block * Config::kTeams + team, segment.k_begin + i, Config::kTileBytes);
        bulk_copy(weights + ring.stage * Config::kWeightBytes + team * Config::kTileBytes, source, Config::kTileBytes, full, policy);
      }
      ring.advance();
    }
  }
}

/// A consumer warpgroup: 64 n x kTokens.
template <class Config>
struct FewConsumer {
  using Lane = LaneWeights<Config::kGroups>;
  using Sums = float[Config::kTokens / 2];
  static constexpr int kStoredTokens = 32;  // at once: more would take too many registers

  const PrefillParams &p;
  uint8_t *smem;
  const float *factors;
  const uint8_t *tile;  // this team's in the first stage
  const uint64_t x;     // the operand of the first stage
  FewBarriers<Config> &barriers;
  RingPosition<Config::kStages> ring = {};

  /// Who finishes sums: asked for anew, so that no register keeps it during a segment.
  __device__ __forceinline__ Team team() const {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    const int index = thread / kTeamThreads;
    return {thread % kTeamThreads, 1 + index, reinterpret_cast<float *>(smem + Config::kStagingOffset + index * kStagingBytes), factors};
  }
  /// Until the next unit is there.
  __device__ __forceinline__ void await() const { mbarrier_wait(smem_address(&barriers.full[ring.stage]), ring.parity); }
  /// Its words. Of those of the half that the caller has no use for, nothing is left.
  __device__ __forceinline__ void load(Lane &lane_weights) const {
    lane_weights.load(tile + ring.stage * Config::kWeightBytes, Config::kGroups, threadIdx.x / 32 % 4, threadIdx.x % 32);
  }
  template <int kHalf>
  static __device__ __forceinline__ void make_fragments(const Lane &lane_weights, uint32_t (&a)[4][4]) {
    lane_weights.template dequantize<kHalf>(a);
    compute_now(a);
  }
  /// sums (+)= fragments x half kHalf of the stage, as one group.
  template <int kHalf>
  __device__ __forceinline__ void multiply(Sums &sums, const uint32_t (&a)[4][4], bool keep) const {
    const uint64_t b = x + uint32_t(ring.stage * (Config::kXBytes / 16) + kHalf * (Config::kBoxBytes / 16));
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) wgmma<Config::kTokens>(sums, a[step], b + 2 * step, keep || step > 0);
    wgmma_commit();
  }
  __device__ __forceinline__ void release(int stage) const {
    mbarrier_arrive(smem_address(&barriers.empty[stage]));
  }

  /// The sums of one segment. Fragments may be overwritten, and the stage released, once the group that reads them is done.
  __device__ __forceinline__ void accumulate(Sums &sums, int k_count) {
    Lane lane_weights;
    uint32_t even[4][4], odd[4][4];
    int stage = 0;
    await();
    load(lane_weights);
    make_fragments<0>(lane_weights, even);
    for (int i = 0; i < k_count; ++i) {
      multiply<0>(sums, even, i > 0);
      load(lane_weights);
      wgmma_wait<1>();
      if (i > 0) release(stage);
      make_fragments<1>(lane_weights, odd);
      multiply<1>(sums, odd, true);
      stage = ring.stage;
      ring.advance();
      if (i + 1 < k_count) {
        await();
        load(lane_weights);
      }
      wgmma_wait<1>();
      make_fragments<0>(lane_weights, even);  // once too often at the end
    }
    wgmma_wait<0>();
    release(stage);
  }

  /// Sums may be finished after it.
  __device__ __forceinline__ void await_factors() const {
    if (p.carry.squares != nullptr) mbarrier_wait(smem_address(&barriers.factors), 0);
  }

  /// Where every worker has one segment.
  __device__ __forceinline__ void run_together() {
    Sums sums;
    accumulate(sums, share_begin(p.plan, blockIdx.x + 1) - share_begin(p.plan, blockIdx.x));
    await_factors();
    finish_together<Config::kTokens / 2, Config::kTeams>(p, sums, blockIdx.x, team());
  }

  __device__ __forceinline__ void run() {
    if (p.plan.whole_workers) return run_together();
    Sums sums;
    SegmentWalk walk(p.plan, blockIdx.x);
    for (Segment segment; walk.next(segment);) {
      accumulate(sums, segment.k_count);
      const Team team = this->team();
      if (segment.k_begin > 0) {
        send_sums(sums, Config::kTokens / 8, sent_sums<Config::kTokens / 2, Config::kTeams>(p, blockIdx.x, team), team.thread);
        continue;
      }
      if (segment.k_count < p.plan.k_tiles) receive_sums<Config::kTeams>(p, sums, segment, team);
      await_factors();
      const int n_tile = segment.n_block * Config::kTeams + team.index();
#pragma unroll
      for (int first = 0; first < Config::kTokens; first += kStoredTokens) {
        float(&some)[kStoredTokens / 2] = reinterpret_cast<float(&)[kStoredTokens / 2]>(sums[first / 2]);
        store_block<kStoredTokens>(p, some, n_tile * kTileN, segment.m_block * Config::kTokens + first, team);
      }
    }
  }
};

#endif

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1) int4_prefill_few_kernel(const __grid_constant__ HopperParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t raw_smem[];
  __shared__ FewBarriers<Config> barriers;
  __shared__ float factors[QUERN_CARRY_ROWS];
  const uint32_t base = smem_address(raw_smem);
  uint8_t *smem = raw_smem + ((Config::kAlignment - base % Config::kAlignment) % Config::kAlignment);
  const PrefillParams &p = params.p;
  const int warpgroup = threadIdx.x / kTeamThreads;

  if (threadIdx.x == 0) barriers.init();
  __syncthreads();
  allow_next_kernel();
  if (warpgroup == Config::kTeams) {
    release_registers<Config::kProducerRegisters>();
    const int warp = threadIdx.x / 32 % 4;
    if (threadIdx.x % 32 == 0) {
      if (warp == 0) produce_few_x<Config>(params, smem_address(smem), barriers);
      if (warp == 1) produce_few_weights<Config>(p, smem_address(smem) + Config::kWeightOffset, barriers);
    }
    if (warp > 1 && p.carry.squares != nullptr) produce_factors(p, warp - 2, factors, smem_address(&barriers.factors));
    __syncwarp();
    if (warp == 1) prefetch_share(p.prefetch, 32 * blockIdx.x + threadIdx.x % 32, 32 * gridDim.x);
  } else {
    take_registers<Config::kConsumerRegisters>();
    wait_for_previous_kernel();
    const uint8_t *tile = smem + Config::kWeightOffset + warpgroup * Config::kTileBytes;
    FewConsumer<Config>{p, smem, factors, tile, swizzled_operand(smem_address(smem)), barriers}.run();
  }
#endif
}

}  // namespace quern
