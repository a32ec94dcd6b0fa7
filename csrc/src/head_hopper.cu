// Output head for up to 64 rows of x on sm_90a: logits[M, V] = x[M, K] W[V, K]^T in one pass over W.
//
// A matter of reading W once: the copy engine brings 64 rows x 64 k of W at a time into a deep ring of shared memory, two
// warpgroups multiply them there (m64n64k16, both operands from shared memory) with x, which streams from L2 beside them.
// A block has a run of W's tiles of 64 rows, in passes of at most kPassTiles; the tensor core always multiplies 64 rows
// of x (zeros beyond M), so a logit's sum is the same whatever M is and wherever its row stands.
#include <cuda_fp16.h>

#include <algorithm>

#include "common/async_copy.cuh"
#include "common/grid.cuh"
#include "common/launch.h"
#include "common/ring.cuh"
#include "common/tensor_copy.cuh"
#include "common/tensor_map.h"
#include "common/wgmma.cuh"
#include "device.h"
#include "head.h"
#include "layout.h"

namespace quern {
namespace {

constexpr int kTokens = kHopperHeadRows;
constexpr int kTileRows = 64;
constexpr int kStepK = 64;
constexpr int kTeams = 2;
constexpr int kTeamTiles = 3;
constexpr int kPassTiles = kTeams * kTeamTiles;
constexpr int kStages = 4;
constexpr int kTileBytes = kTileRows * kStepK * 2;
constexpr int kXBytes = kTokens * kStepK * 2;
constexpr int kStageBytes = kPassTiles * kTileBytes + kXBytes;
constexpr int kAlignment = 1024;
constexpr int kSmemBytes = kStages * kStageBytes + kAlignment;
constexpr int kTeamThreads = 128;
constexpr int kThreads = kTeams * kTeamThreads + 32;

struct HeadParams {
  CUtensorMap weight_map;  // [v, k], boxes of 64 x 64
  CUtensorMap x_map;       // [m, k], likewise
  float *logits;
  int m, units, v, ldo;  // units of 64 k
};

/// What a block computes: tiles [begin, begin + count) in `passes`, as even as can be.
struct HeadRun {
  int begin, count, passes;

  __device__ __forceinline__ HeadRun(int v) {
    const int64_t tiles = ceil_div(v, kTileRows);
    begin = int(tiles * blockIdx.x / gridDim.x);
    count = int(tiles * (blockIdx.x + 1) / gridDim.x) - begin;
    passes = ceil_div(count, kPassTiles);
  }
  __device__ __forceinline__ int pass_begin(int pass) const { return begin + count * pass / passes; }
  __device__ __forceinline__ int pass_tiles(int pass) const { return pass_begin(pass + 1) - pass_begin(pass); }
};

struct HeadBarriers {
  alignas(8) uint64_t full[kStages], empty[kStages];
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// The stages of a block in order: all units of a pass, pass after pass.
struct StageCursor {
  const HeadParams &p;
  const HeadRun &run;
  int pass = 0, unit = 0;

  __device__ __forceinline__ bool at_end() const { return pass >= run.passes; }
  __device__ __forceinline__ void next() {
    if (++unit == p.units) {
      unit = 0;
      ++pass;
    }
  }
};

/// One thread: keeps the ring full. W comes before the kernel in front has ended, x after. W, though read once, has L2's
/// usual policy: marked as first to leave, it makes the stores of 64 rows of logits cost 100 us more on an H100.
struct HeadProducer {
  const HeadParams &p;
  const HeadRun &run;
  uint32_t ring;
  HeadBarriers &barriers;

  __device__ __forceinline__ void copy_weights(const StageCursor &cursor, int stage) const {
    const uint32_t full = smem_address(&barriers.full[stage]), target = ring + stage * kStageBytes;
    const int tiles = run.pass_tiles(cursor.pass), first = run.pass_begin(cursor.pass);
    mbarrier_arrive_expect(full, tiles * kTileBytes + kXBytes);
    for (int i = 0; i < tiles; ++i) {
      tensor_copy(target + i * kTileBytes, &p.weight_map, cursor.unit * kStepK, (first + i) * kTileRows, full);
    }
  }
  __device__ __forceinline__ void copy_x(const StageCursor &cursor, int stage) const {
    const uint32_t target = ring + stage * kStageBytes + kPassTiles * kTileBytes;
    tensor_copy(target, &p.x_map, cursor.unit * kStepK, 0, smem_address(&barriers.full[stage]));
  }
  __device__ __forceinline__ void produce() const {
    StageCursor weights = {p, run}, x = {p, run};
    int ahead = 0;
    for (; ahead < kStages && !weights.at_end(); ++ahead, weights.next()) copy_weights(weights, ahead);
    wait_for_previous_kernel();
    for (int stage = 0; stage < ahead; ++stage, x.next()) copy_x(x, stage);
    RingPosition<kStages> place;
    for (; !weights.at_end(); weights.next()) {
      mbarrier_wait(smem_address(&barriers.empty[place.stage]), place.parity);
      copy_weights(weights, place.stage);
      copy_x(weights, place.stage);
      place.advance();
    }
  }
};

/// A warpgroup: up to kTeamTiles tiles of each pass.
struct HeadConsumer {
  const HeadParams &p;
  const HeadRun &run;
  uint32_t ring;
  HeadBarriers &barriers;
  int team, thread;
  RingPosition<kStages> place = {};

  __device__ __forceinline__ void release(int back) const {
    if (thread % 32 == 0) mbarrier_arrive(smem_address(&barriers.empty[place.before(back)]));
  }
  /// The sums of a pass. Tiles that the pass does not have multiply what is left in the ring; nobody stores them.
  __device__ __forceinline__ void accumulate(float (&sums)[kTeamTiles][kTokens / 2]) {
#pragma unroll
    for (int tile = 0; tile < kTeamTiles; ++tile) {
#pragma unroll
      for (float &sum : sums[tile]) sum = 0.0f;
    }
    for (int unit = 0; unit < p.units; ++unit) {
      mbarrier_wait(smem_address(&barriers.full[place.stage]), place.parity);
      const uint32_t stage = ring + place.stage * kStageBytes;
      const uint64_t x = swizzled_operand(stage + kPassTiles * kTileBytes);
      wgmma_fence();
#pragma unroll
      for (int tile = 0; tile < kTeamTiles; ++tile) {
        const uint64_t weights = swizzled_operand(stage + (team * kTeamTiles + tile) * kTileBytes);
#pragma unroll
        for (int step = 0; step < kStepK / 16; ++step) wgmma_shared<kTokens>(sums[tile], weights + 2 * step, x + 2 * step, true);
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (unit > 0) release(1);
      place.advance();
    }
    wgmma_wait<0>();
    release(1);
  }
  /// Rows 16 warp + {r, r + 8} of tile `tile`, tokens 8j + {2c, 2c + 1}: whole sectors of eight logits.
  __device__ __forceinline__ void store(const float (&sums)[kTokens / 2], int tile) const {
    const int lane = thread % 32, row = tile * kTileRows + 16 * (thread / 32) + lane / 4;
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      const int token = i / 4 * 8 + 2 * (lane % 4) + i % 2, at = row + i / 2 % 2 * 8;
      if (token < p.m && at < p.v) p.logits[int64_t(token) * p.ldo + at] = sums[i];
    }
  }
  __device__ __forceinline__ void consume() {
    float sums[kTeamTiles][kTokens / 2];
    for (int pass = 0; pass < run.passes; ++pass) {
      accumulate(sums);
#pragma unroll
      for (int i = 0; i < kTeamTiles; ++i) {
        const int tile = team * kTeamTiles + i;
        if (tile < run.pass_tiles(pass)) store(sums[i], run.pass_begin(pass) + tile);
      }
    }
  }
};

#endif

__global__ void __launch_bounds__(kThreads, 1) head_hopper_kernel(const __grid_constant__ HeadParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t raw_smem[];
  __shared__ HeadBarriers barriers;
  const uint32_t ring = (smem_address(raw_smem) + kAlignment - 1) / kAlignment * kAlignment;
  const HeadRun run(p.v);
  const int team = threadIdx.x / kTeamThreads;
  if (threadIdx.x == kTeams * kTeamThreads) {
    prefetch_tensor_map(&p.weight_map);
    prefetch_tensor_map(&p.x_map);
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(smem_address(&barriers.full[i]), 1);
      mbarrier_init(smem_address(&barriers.empty[i]), kTeams * 4);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  allow_next_kernel();
  if (team == kTeams) {
    if (threadIdx.x % 32 == 0) HeadProducer{p, run, ring, barriers}.produce();
  } else {
    wait_for_previous_kernel();
    HeadConsumer{p, run, ring, barriers, team, int(threadIdx.x) % kTeamThreads}.consume();
  }
#endif
}

}  // namespace

int32_t hopper_head_prepare(const QuernDevice &device) {
  const int32_t status = raise_smem_limit(head_hopper_kernel, device);
  return status == QUERN_OK ? tensor_maps_prepare() : status;
}

int32_t launch_hopper_head(const QuernDevice &device, const QuernHead &args, int first, int m, void *stream) {
  HeadParams params = {};
  const __half *x = static_cast<const __half *>(args.x) + int64_t(first) * args.ldx;
  int32_t status = make_tensor_map({args.weight, args.v, args.k, args.k, kTileRows}, &params.weight_map);
  if (status == QUERN_OK) status = make_tensor_map({x, m, args.k, args.ldx, kTokens}, &params.x_map);
  if (status != QUERN_OK) return status;
  params.logits = args.logits + int64_t(first) * args.ldo;
  params.m = m;
  params.units = args.k / kStepK;
  params.v = args.v;
  params.ldo = args.ldo;
  const unsigned blocks = unsigned(std::min(device.sm_count, ceil_div(args.v, kTileRows)));
  return launch(head_hopper_kernel, {blocks, kThreads, kSmemBytes, 1, device.pdl != 0}, stream, params);
}

}  // namespace quern
