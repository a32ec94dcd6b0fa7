// sm_90a: dense fp16 layers for many rows. A producer thread fills a ring of shared memory with 64 k of x (shared by a
// cluster) and of the weights, both by the tensor copy engine; two consumer warpgroups (teams) multiply them by wgmma, 64 n
// each. Cut and finished as the int4 kernel is (int4_prefill/plan.h, exchange.cuh, output.cuh).
#pragma once

#include "common/async_copy.cuh"
#include "common/ring.cuh"
#include "common/tensor_copy.cuh"
#include "common/wgmma.cuh"
#include "int4_prefill/exchange.cuh"

namespace quern {

struct DenseParams {
  CUtensorMap weight_map;  // [n, k], boxes of 64 rows (of 8, if rows are paired) x 64 k, 128-byte swizzle
  CUtensorMap x_map;       // [m, k], boxes of tokens / cluster rows x 64 k, likewise
  PrefillParams p;         // without tiles; pair_stride: gate and up meet in a tile, eight rows of each in turn
};

template <int kTokens_, int kCluster_>
struct DenseConfig {
  static constexpr int kTokens = kTokens_;
  static constexpr int kCluster = kCluster_;
  static constexpr int kTeams = 2;
  static constexpr int kStepK = 64;  // k of one stage
  static constexpr int kXBytes = kTokens * kStepK * 2;
  static constexpr int kTeamBytes = kTileN * kStepK * 2;
  static constexpr int kStageBytes = kXBytes + kTeams * kTeamBytes;
  static constexpr int kStages = 196608 / kStageBytes;
  static constexpr int kStagingOffset = kStages * kStageBytes;
  static constexpr int kAlignment = 1024;
  static constexpr int kSmemBytes = kStagingOffset + kTeams * kStagingBytes + kAlignment;
  static constexpr int kThreads = kTeamThreads * (kTeams + 1);
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = 232;
};

template <class Config>
struct DenseBarriers {
  alignas(8) uint64_t full[Config::kStages], empty[Config::kStages];

  __device__ __forceinline__ void init() {
    for (int i = 0; i < Config::kStages; ++i) {
      mbarrier_init(smem_address(&full[i]), 1);
      mbarrier_init(smem_address(&empty[i]), Config::kTeams * 4 * Config::kCluster);
    }
    mbarrier_init_fence();
  }
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// One team's 64 packed rows. Rows beyond N, or beyond their half, are not stored by anybody.
__device__ __forceinline__ void copy_dense_tile(const DenseParams &params, uint32_t target, int column, int n_tile,
                                                uint32_t full) {
  const int pair_stride = params.p.pair_stride;
  if (pair_stride == 0) return tensor_copy(target, &params.weight_map, column, n_tile * kTileN, full);
#pragma unroll
  for (int i = 0; i < kTileN / 8; ++i) {
    const int row = n_tile * (kTileN / 2) + 8 * (i / 2) + i % 2 * pair_stride;
    tensor_copy(target + i * 1024, &params.weight_map, column, row, full);
  }
}

/// One thread.
template <class Config>
__device__ __forceinline__ void produce_dense(const DenseParams &params, int worker, int rank, uint32_t ring,
                                              DenseBarriers<Config> &barriers) {
  constexpr int kRows = Config::kTokens / Config::kCluster;
  prefetch_tensor_map(&params.weight_map);
  prefetch_tensor_map(&params.x_map);
  wait_for_previous_kernel();
  RingPosition<Config::kStages> place;
  SegmentWalk walk(params.p.plan, worker);
  for (Segment segment; walk.next(segment);) {
    const int row = segment.m_block * Config::kTokens + rank * kRows;
    const int n_tile = (segment.n_block * Config::kCluster + rank) * Config::kTeams;
    for (int i = 0; i < 2 * segment.k_count; ++i) {
      const uint32_t full = smem_address(&barriers.full[place.stage]), stage = ring + place.stage * Config::kStageBytes;
      const int column = segment.k_begin * kTileK + i * Config::kStepK;
      mbarrier_wait(smem_address(&barriers.empty[place.stage]), place.parity ^ 1);
      mbarrier_arrive_expect(full, Config::kStageBytes);
      const uint32_t x = stage + rank * kRows * Config::kStepK * 2;
      if constexpr (Config::kCluster == 1) {
        tensor_copy(x, &params.x_map, column, row, full);
      } else {
        tensor_copy_to(x, &params.x_map, column, row, full, uint16_t((1 << Config::kCluster) - 1));
      }
      for (int team = 0; team < Config::kTeams; ++team) {
        copy_dense_tile(params, stage + Config::kXBytes + team * Config::kTeamBytes, column, n_tile + team, full);
      }
      place.advance();
    }
  }
}

/// A consumer warpgroup: 64 n x kTokens.
template <class Config>
struct DenseConsumer {
  const PrefillParams &p;
  const TeamPlace at;
  const Team team;
  const uint32_t ring;
  DenseBarriers<Config> &barriers;
  RingPosition<Config::kStages> place;

  /// Gives the stage `back` steps before the next one to the producers of the cluster.
  __device__ __forceinline__ void release(int back) {
    const uint32_t empty = smem_address(&barriers.empty[place.before(back)]);
    const int lane = team.thread % 32;
    if constexpr (Config::kCluster == 1) {
      if (lane == 0) mbarrier_arrive(empty);
    } else {
      if (lane < Config::kCluster) mbarrier_arrive_at(empty, lane);
    }
  }
  __device__ __forceinline__ void accumulate(float (&sums)[Config::kTokens / 2], int k_count) {
    for (int i = 0; i < 2 * k_count; ++i) {
      mbarrier_wait(smem_address(&barriers.full[place.stage]), place.parity);
      const uint32_t stage = ring + place.stage * Config::kStageBytes;
      const uint64_t a = swizzled_operand(stage + Config::kXBytes + at.index * Config::kTeamBytes), b = swizzled_operand(stage);
      place.advance();
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 4; ++step) wgmma_shared<Config::kTokens>(sums, a + 2 * step, b + 2 * step, i > 0 || step > 0);
      wgmma_commit();
      wgmma_wait<1>();
      if (i > 0) release(2);
    }
    wgmma_wait<0>();
    release(1);
  }
  __device__ __forceinline__ void run() {
    float sums[Config::kTokens / 2];
    SegmentWalk walk(p.plan, at.worker);
    for (Segment segment; walk.next(segment);) {
      accumulate(sums, segment.k_count);
      if (segment.k_begin > 0) {
        const int index = partial_index(p.plan, at.worker, at.rank, at.index);
        store_partial(sums, p.partials + int64_t(index) * partial_floats(Config::kTokens), team.thread);
        raise_flag(p.flags + index, team);
        continue;
      }
      join_and_store<Config::kTokens, Config::kTeams, Config::kCluster>(p, sums, segment, at, team);
    }
  }
};

#endif

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1) dense_prefill_kernel(const __grid_constant__ DenseParams params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t raw_smem[];
  __shared__ DenseBarriers<Config> barriers;
  // The same offset in every block of a cluster: the window of dynamic shared memory starts alike.
  const uint32_t base = smem_address(raw_smem);
  uint8_t *smem = raw_smem + ((Config::kAlignment - base % Config::kAlignment) % Config::kAlignment);
  const int worker = blockIdx.x / Config::kCluster, rank = blockIdx.x % Config::kCluster;
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
    if (threadIdx.x % kTeamThreads == 0) produce_dense<Config>(params, worker, rank, smem_address(smem), barriers);
    __syncwarp();
  } else {
    take_registers<Config::kConsumerRegisters>();
    wait_for_previous_kernel();
    float *staging = reinterpret_cast<float *>(smem + Config::kStagingOffset + warpgroup * kStagingBytes);
    const Team team = {int(threadIdx.x) % kTeamThreads, 1 + warpgroup, staging, nullptr};
    DenseConsumer<Config>{params.p, {worker, rank, warpgroup}, team, smem_address(smem), barriers, {}}.run();
  }
  if constexpr (Config::kCluster > 1) {
    // No block ends while another of the cluster may still copy into it or arrive at its barriers.
    cluster_arrive();
    cluster_wait();
  }
#endif
}

}  // namespace quern
