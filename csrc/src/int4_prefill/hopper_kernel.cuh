// sm_90a, 64 rows of x and more: a producer warpgroup fills two rings of shared memory (x by the tensor copy engine, shared
// by a cluster; packed weights by bulk copies), two consumer warpgroups (teams) turn weights into A fragments in registers
// and multiply them with x by wgmma, 64 k a group of four. The teams double-buffer their fragments: those of the next 64 k are
// made while the tensor core works on the present ones.
#pragma once

#include "common/async_copy.cuh"
#include "common/prefetch.cuh"
#include "common/ring.cuh"
#include "common/tensor_copy.cuh"
#include "common/wgmma.cuh"
#include "int4_prefill/exchange.cuh"
#include "int4_prefill/hopper_params.cuh"
#include "int4_prefill/variants.h"
#include "int4_prefill/weights.cuh"

namespace quern {

template <int kTokens_, int kCluster_, bool kFine_>
struct HopperConfig {
  static constexpr int kTokens = kTokens_;
  static constexpr int kCluster = kCluster_;
  static constexpr bool kFine = kFine_;
  static constexpr int kStepK = 64;  // k of one x stage
  static constexpr int kXStageBytes = kTokens * kStepK * 2;
  static constexpr int kTeams = teams_of({kTokens, kCluster});
  static constexpr bool kWide = kTokens >= 160;  // four products last as long as making the next four fragments
  static constexpr int kXStages = kWide ? 163840 / kXStageBytes : kTokens >= 96 ? 8 : 12;
  static constexpr int kWeightStages = kWide ? 4 : kTokens >= 96 ? 6 : 10;
  static constexpr int kTileSlot = LaneWeights<kFine ? 4 : 2>::kMaxTileBytes;
  static constexpr int kWeightStageBytes = kTeams * kTileSlot;
  static constexpr int kWeightOffset = kXStages * kXStageBytes;
  static constexpr int kStagingOffset = kWeightOffset + kWeightStages * kWeightStageBytes;
  static constexpr int kAlignment = 1024;
  static constexpr int kSmemBytes = kStagingOffset + kTeams * kStagingBytes + kAlignment;
  static constexpr int kConsumerWarps = kTeams * 4;
  static constexpr int kThreads = kTeamThreads * (kTeams + 1);
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = 232;
};

template <class Config>
struct PrefillBarriers {
  alignas(8) uint64_t x_full[Config::kXStages], x_empty[Config::kXStages];
  alignas(8) uint64_t weights_full[Config::kWeightStages], weights_empty[Config::kWeightStages];
  alignas(8) uint64_t factors;  // complete once

  __device__ __forceinline__ void init() {
    for (int i = 0; i < Config::kXStages; ++i) {
      mbarrier_init(smem_address(&x_full[i]), 1);
      mbarrier_init(smem_address(&x_empty[i]), Config::kConsumerWarps * Config::kCluster);
    }
    for (int i = 0; i < Config::kWeightStages; ++i) {
      mbarrier_init(smem_address(&weights_full[i]), 1);
      mbarrier_init(smem_address(&weights_empty[i]), 32 * Config::kConsumerWarps);
    }
    mbarrier_init(smem_address(&factors), 2 * 32);
    mbarrier_init_fence();
  }
};

/// Where this block stands.
struct BlockPlace {
  int worker, rank;
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// One thread: x, for all blocks of the cluster a share of the rows each.
template <class Config>
__device__ __forceinline__ void produce_x(const HopperParams &params, BlockPlace place, uint32_t x,
                                          PrefillBarriers<Config> &barriers) {
  constexpr int kRows = Config::kTokens / Config::kCluster;
  constexpr int kShareBytes = kRows * Config::kStepK * 2;
  prefetch_tensor_map(&params.x_map);
  wait_for_previous_kernel();
  RingPosition<Config::kXStages> ring;
  SegmentWalk walk(params.p.plan, place.worker);
  for (Segment segment; walk.next(segment);) {
    const int row = segment.m_block * Config::kTokens + place.rank * kRows;
    for (int i = 0; i < 2 * segment.k_count; ++i) {
      const uint32_t full = smem_address(&barriers.x_full[ring.stage]);
      mbarrier_wait(smem_address(&barriers.x_empty[ring.stage]), ring.parity ^ 1);
      mbarrier_arrive_expect(full, Config::kXStageBytes);
      const uint32_t target = x + ring.stage * Config::kXStageBytes + place.rank * kShareBytes;
      const int column = segment.k_begin * kTileK + i * Config::kStepK;
      if constexpr (Config::kCluster == 1) {
        tensor_copy(target, &params.x_map, column, row, full);
      } else {
        tensor_copy_to(target, &params.x_map, column, row, full, uint16_t((1 << Config::kCluster) - 1));
      }
      ring.advance();
    }
  }
}

/// One thread: both teams' packed tiles. Weights are no kernel's output, so they need not wait.
template <class Config>
__device__ __forceinline__ void produce_weights(const PrefillParams &p, BlockPlace place, uint32_t weights,
                                                PrefillBarriers<Config> &barriers) {
  const uint64_t policy = p.plan.m_blocks == 1 ? evict_first_policy() : evict_normal_policy();
  const uint32_t bytes = tile_bytes(Config::kFine ? 4 : p.groups);
  RingPosition<Config::kWeightStages> ring;
  SegmentWalk walk(p.plan, place.worker);
  for (Segment segment; walk.next(segment);) {
    const int n_tile = (segment.n_block * Config::kCluster + place.rank) * Config::kTeams;
    for (int i = 0; i < segment.k_count; ++i) {
      const uint32_t full = smem_address(&barriers.weights_full[ring.stage]);
      mbarrier_wait(smem_address(&barriers.weights_empty[ring.stage]), ring.parity ^ 1);
      mbarrier_arrive_expect(full, Config::kTeams * bytes);
#pragma unroll
      for (int team = 0; team < Config::kTeams; ++team) {
        const uint8_t *source = tile_source(p, n_tile + team, segment.k_begin + i, bytes);
        const uint32_t target = weights + ring.stage * Config::kWeightStageBytes + team * Config::kTileSlot;
        bulk_copy(target, source, bytes, full, policy);
      }
      ring.advance();
    }
  }
}

/// A consumer warpgroup: 64 n x kTokens.
template <class Config>
struct Consumer {
  const PrefillParams &p;
  const BlockPlace place;
  const int team_index;
  const Team team;
  const uint32_t x;
  const uint8_t *weights;
  PrefillBarriers<Config> &barriers;
  RingPosition<Config::kXStages> x_ring;
  RingPosition<Config::kWeightStages> weight_ring;

  /// The next tile's words, whose place in the ring is free again at once.
  __device__ __forceinline__ void load(LaneWeights<Config::kFine ? 4 : 2> &lane_weights) {
    mbarrier_wait(smem_address(&barriers.weights_full[weight_ring.stage]), weight_ring.parity);
    const uint8_t *tile = weights + weight_ring.stage * Config::kWeightStageBytes + team_index * Config::kTileSlot;
    lane_weights.load(tile, p.groups, team.thread / 32, team.thread % 32);
    mbarrier_arrive(smem_address(&barriers.weights_empty[weight_ring.stage]));
    weight_ring.advance();
  }
  template <int kHalf>
  static __device__ __forceinline__ void make_fragments(const LaneWeights<Config::kFine ? 4 : 2> &lane_weights,
                                                        uint32_t (&a)[4][4]) {
    lane_weights.template dequantize<kHalf>(a);
    compute_now(a);
  }
  /// sums (+)= fragments x the next x stage, as one group.
  __device__ __forceinline__ void multiply(float (&sums)[Config::kTokens / 2], const uint32_t (&a)[4][4], bool keep) {
    mbarrier_wait(smem_address(&barriers.x_full[x_ring.stage]), x_ring.parity);
    const uint64_t b = swizzled_operand(x + x_ring.stage * Config::kXStageBytes);
    x_ring.advance();
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) wgmma<Config::kTokens>(sums, a[step], b + 2 * step, keep || step > 0);
    wgmma_commit();
  }
  static __device__ __forceinline__ void make_tile(const LaneWeights<Config::kFine ? 4 : 2> &lane_weights, uint32_t (&a)[8][4]) {
    lane_weights.template dequantize<0>(reinterpret_cast<uint32_t(&)[4][4]>(a[0]));
    lane_weights.template dequantize<1>(reinterpret_cast<uint32_t(&)[4][4]>(a[4]));
    compute_now(a);
  }
  /// sums (+)= fragments x the next two x stages, as two groups.
  __device__ __forceinline__ void multiply_tile(float (&sums)[Config::kTokens / 2], const uint32_t (&a)[8][4], bool keep) {
    multiply(sums, reinterpret_cast<const uint32_t(&)[4][4]>(a[0]), keep);
    multiply(sums, reinterpret_cast<const uint32_t(&)[4][4]>(a[4]), true);
  }
  __device__ __forceinline__ void release_x_tile(int back) {
    release_x(2 * back);
    release_x(2 * back - 1);
  }
  /// Gives the x stage `back` steps before the next one to the producers of the cluster.
  __device__ __forceinline__ void release_x(int back) {
    const int stage = x_ring.before(back);
    const int lane = team.thread % 32;
    const uint32_t empty = smem_address(&barriers.x_empty[stage]);
    if constexpr (Config::kCluster == 1) {
      if (lane == 0) mbarrier_arrive(empty);
    } else {
      if (lane < Config::kCluster) mbarrier_arrive_at(empty, lane);
    }
  }

  /// The sums of one segment of few tokens: groups of 128 k, so that their products last as long as the making of the
  /// next fragments. Otherwise as `accumulate`.
  __device__ __forceinline__ void accumulate_tiles(float (&sums)[Config::kTokens / 2], int k_count) {
    LaneWeights<Config::kFine ? 4 : 2> lane_weights;
    uint32_t even[8][4], odd[8][4];
    load(lane_weights);
    make_tile(lane_weights, even);
    for (int i = 0; i + 2 <= k_count; i += 2) {
      multiply_tile(sums, even, i > 0);
      load(lane_weights);
      wgmma_wait<2>();
      if (i > 0) release_x_tile(2);
      make_tile(lane_weights, odd);
      multiply_tile(sums, odd, true);
      if (i + 2 < k_count) load(lane_weights);
      wgmma_wait<2>();
      release_x_tile(2);
      make_tile(lane_weights, even);  // once too often at the end of an even count
    }
    if (k_count % 2 != 0) {
      multiply_tile(sums, even, k_count > 1);
      wgmma_wait<0>();
      if (k_count > 1) release_x_tile(2);
    }
    wgmma_wait<0>();
    release_x_tile(1);
  }

  /// The sums of one segment. Fragments may be overwritten, and x released, once the group that reads them is done.
  __device__ __forceinline__ void accumulate(float (&sums)[Config::kTokens / 2], int k_count) {
    LaneWeights<Config::kFine ? 4 : 2> lane_weights;
    uint32_t even[4][4], odd[4][4];
    load(lane_weights);
    make_fragments<0>(lane_weights, even);
    for (int i = 0; i < k_count; ++i) {
      multiply(sums, even, i > 0);
      wgmma_wait<1>();
      if (i > 0) release_x(2);
      make_fragments<1>(lane_weights, odd);
      multiply(sums, odd, true);
      if (i + 1 < k_count) load(lane_weights);
      wgmma_wait<1>();
      release_x(2);
      make_fragments<0>(lane_weights, even);  // once too often at the end
    }
    wgmma_wait<0>();
    release_x(1);
  }

  /// Sums may be finished after it.
  __device__ __forceinline__ void await_factors() {
    if (p.carry.squares != nullptr) mbarrier_wait(smem_address(&barriers.factors), 0);
  }

  __device__ __forceinline__ void run() {
    float sums[Config::kTokens / 2];
    SegmentWalk walk(p.plan, place.worker);
    for (Segment segment; walk.next(segment);) {
      if constexpr (!Config::kWide) {
        accumulate_tiles(sums, segment.k_count);
      } else {
        accumulate(sums, segment.k_count);
      }
      const TeamPlace at = {place.worker, place.rank, team_index};
      if (segment.k_begin > 0) {
        const int index = partial_index(p.plan, at.worker, at.rank, at.index);
        store_partial(sums, p.partials + int64_t(index) * partial_floats(Config::kTokens), team.thread);
        raise_flag(p.flags + index, team);
        continue;
      }
      await_factors();
      join_and_store<Config::kTokens, Config::kTeams, Config::kCluster>(p, sums, segment, at, team);
    }
  }
};

#endif

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    int4_prefill_hopper_kernel(const __grid_constant__ HopperParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t raw_smem[];
  __shared__ PrefillBarriers<Config> barriers;
  __shared__ float factors[QUERN_CARRY_ROWS];
  // The same offset in every block of a cluster: the window of dynamic shared memory starts alike.
  const uint32_t base = smem_address(raw_smem);
  uint8_t *smem = raw_smem + ((Config::kAlignment - base % Config::kAlignment) % Config::kAlignment);
  const uint32_t x = smem_address(smem);
  const PrefillParams &p = params.p;
  const BlockPlace place = {int(blockIdx.x) / Config::kCluster, int(blockIdx.x) % Config::kCluster};
  const int warpgroup = threadIdx.x / kTeamThreads;

  if (threadIdx.x == 0) barriers.init();
  __syncthreads();
  if constexpr (Config::kCluster > 1) {
    cluster_arrive();
    cluster_wait();
  }
  allow_next_kernel();
  if (warpgroup == Config::kTeams) {
    release_registers<Config::kProducerRegisters>();
    const int warp = threadIdx.x / 32 % 4;
    if (threadIdx.x % 32 == 0) {
      if (warp == 0) produce_x<Config>(params, place, x, barriers);
      if (warp == 1) produce_weights<Config>(p, place, x + Config::kWeightOffset, barriers);
    }
    if (warp > 1 && p.carry.squares != nullptr) produce_factors(p, warp - 2, factors, smem_address(&barriers.factors));
    __syncwarp();
    if (warp == 1) prefetch_share(p.prefetch, 32 * blockIdx.x + threadIdx.x % 32, 32 * gridDim.x);
  } else {
    take_registers<Config::kConsumerRegisters>();
    wait_for_previous_kernel();
    float *staging = reinterpret_cast<float *>(smem + Config::kStagingOffset + warpgroup * kStagingBytes);
    const Team team = {int(threadIdx.x) % kTeamThreads, 1 + warpgroup, staging, factors};
    Consumer<Config> consumer = {p, place, warpgroup, team, x, smem + Config::kWeightOffset, barriers, {}, {}};
    consumer.run();
  }
  if constexpr (Config::kCluster > 1) {
    // No block ends while another of the cluster may still copy into it or arrive at its barriers.
    cluster_arrive();
    cluster_wait();
  }
#endif
}

}  // namespace quern
