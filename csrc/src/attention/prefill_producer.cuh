// The producer of the sm_90 prefill kernel: one warp that keeps the ring of K and V tiles full.
#pragma once

#include "attention/prefill_wgmma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace quern::prefill {

template <int kHeadDim, bool kWindowed>
class Producer {
 public:
  using Mem = Memory<kHeadDim>;
  __device__ __forceinline__ Producer(const PrefillParams &p, Mem memory)
      : p_(p), memory_(memory), shape_({p.a.cache.n_blocks, p.a.cache.n_kv_heads, kHeadDim}) {}

  __device__ __forceinline__ void run() {
    ItemWalk walk(p_);
    for (QueryTile q; walk.next(q);) load_item(q);
  }

 private:
  __device__ __forceinline__ void load_item(const QueryTile &q) {
    const int32_t *table = p_.a.spans.block_tables + int64_t(q.span) * p_.a.spans.table_stride;
    for (int tile = q.first_tile<kWindowed>(kTokens, p_.a.window); tile < tiles_for(q.n_tokens()); ++tile) {
      const int written = min(kTokens, q.n_written - tile * kTokens), blocks = ceil_div(written, kKvBlock);
      const int lane = threadIdx.x % 32;
      // Each lane of the first kBlocks * kSlabs copies one slab of one block.
      const int block = lane / Mem::kSlabs, slab = lane % Mem::kSlabs;
      const __half *from = nullptr;
      if (block < blocks) {
        from = static_cast<const __half *>(p_.a.cache.data) + slab * kSlabElements +
               kv_tile_offset(shape_, p_.a.layer, table[tile * kBlocks + block], q.kv_head);
      }
      const uint32_t to = slab * kTileSlabBytes + block * kBlockSlabBytes;
      const uint32_t bytes = blocks * Mem::kSlabs * kBlockSlabBytes;
      mbarrier_wait(memory_.empty_keys(turn_.stage), turn_.phase ^ 1);
      copy(memory_.keys(turn_.stage) + to, from, memory_.full_keys(turn_.stage), bytes);
      mbarrier_wait(memory_.empty_values(turn_.stage), turn_.phase ^ 1);
      if (from != nullptr) from += kv_value_offset(shape_);
      if (written == kTokens) {
        copy(memory_.values(turn_.stage) + to, from, memory_.full_values(turn_.stage), bytes);
      } else {
        copy_tail(to, from, bytes, written);
      }
      turn_.next();
    }
  }

  __device__ __forceinline__ void copy(uint32_t to, const __half *from, uint32_t barrier, uint32_t bytes) {
    if (threadIdx.x % 32 == 0) mbarrier_arrive_expect(barrier, bytes);
    __syncwarp();
    if (from != nullptr) bulk_copy(to, from, kBlockSlabBytes, barrier, policy_);
  }

  /// Values that nothing has written yet could be NaN, which a weight of 0 does not undo: they become zeros.
  __device__ __forceinline__ void copy_tail(uint32_t to, const __half *from, uint32_t bytes, int written) {
    copy(memory_.values(turn_.stage) + to, from, memory_.tail_barrier(), bytes);
    mbarrier_wait(memory_.tail_barrier(), tail_phase_);
    tail_phase_ ^= 1;
    for (int i = threadIdx.x % 32; i < (kTokens - written) * 8 * Mem::kSlabs; i += 32) {
      const int slab = i % Mem::kSlabs, row = written + i / Mem::kSlabs / 8, chunk = i / Mem::kSlabs % 8;
      const uint32_t at = memory_.values(turn_.stage) + slab * kTileSlabBytes + row * 128 + chunk * 16;
      asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory");
    }
    async_proxy_fence();
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(memory_.full_values(turn_.stage));
  }

  const PrefillParams &p_;
  Mem memory_;
  KvShape shape_;
  Turn turn_;
  uint32_t tail_phase_ = 0;
  uint64_t policy_ = normal_policy();

  /// K and V are read again by the other blocks of the head.
  static __device__ __forceinline__ uint64_t normal_policy() {
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
  }
};

}  // namespace quern::prefill

#endif  // __CUDA_ARCH_FEAT_SM90_ALL
