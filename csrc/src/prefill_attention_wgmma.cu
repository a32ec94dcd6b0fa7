// Paged prefill attention for sm_90: one producer warp and two warpgroups of 64 queries, K and V in tiles of 128 tokens
// by bulk copies (a block's tile is swizzled in the cache already), products by wgmma, scores and weights in registers.
//
// Blocks are persistent, one a multiprocessor, and take items in turns that run back and forth over the list, longest
// first, which balances them.
#include "attention/prefill.h"
#include "attention/prefill_consumer.cuh"
#include "attention/prefill_producer.cuh"
#include "common/grid.cuh"
#include "device.h"

namespace quern {
namespace {

using namespace prefill;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;

template <int kHeadDim>
__device__ __forceinline__ void init_barriers(const Memory<kHeadDim> &memory) {
  for (int stage = 0; stage < kStages; ++stage) {
    mbarrier_init(memory.full_keys(stage), 1);
    mbarrier_init(memory.full_values(stage), 1);
    mbarrier_init(memory.empty_keys(stage), 4 * kConsumers);
    mbarrier_init(memory.empty_values(stage), 4 * kConsumers);
  }
  mbarrier_init(memory.tail_barrier(), 1);
  mbarrier_init_fence();
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

template <int kHeadDim, bool kWindowed>
__global__ void __launch_bounds__(kThreads, 1) prefill_wgmma_kernel(const __grid_constant__ PrefillParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char smem[];
  const Memory<kHeadDim> memory = {(smem_address(smem) + 1023) / 1024 * 1024};
  if (threadIdx.x == 0) init_barriers(memory);
  __syncthreads();
  wait_for_previous_kernel();
  allow_next_kernel();
  const int group = threadIdx.x / 128;
  if (group == kConsumers) {
    give_registers<kProducerRegisters>();
    if (threadIdx.x % 128 < 32) Producer<kHeadDim, kWindowed>(p, memory).run();
  } else {
    take_registers<kConsumerRegisters>();
    Consumer<kHeadDim, kWindowed>(p, memory, group).run();
  }
#endif
}

}  // namespace

int32_t prefill_wgmma_prepare(const QuernDevice &device) {
  for (const auto kernel : {prefill_wgmma_kernel<64, false>, prefill_wgmma_kernel<64, true>, prefill_wgmma_kernel<128, false>,
                            prefill_wgmma_kernel<128, true>}) {
    const int32_t status = raise_smem_limit(kernel, device);
    if (status != QUERN_OK) return status;
  }
  return QUERN_OK;
}

int32_t prefill_wgmma(const QuernDevice &device, const PrefillParams &params, void *stream) {
  const bool small = params.a.cache.head_dim == 64;
  const int blocks = params.n_items < device.sm_count ? params.n_items : device.sm_count;
  const LaunchShape shape = {static_cast<unsigned>(blocks), kThreads,
                             unsigned(small ? Memory<64>::kBytes : Memory<128>::kBytes), 1, device.pdl != 0};
  if (params.a.window > 0) {
    return launch(small ? prefill_wgmma_kernel<64, true> : prefill_wgmma_kernel<128, true>, shape, stream, params);
  }
  return launch(small ? prefill_wgmma_kernel<64, false> : prefill_wgmma_kernel<128, false>, shape, stream, params);
}

}  // namespace quern
