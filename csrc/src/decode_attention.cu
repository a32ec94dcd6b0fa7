// Split-KV paged attention of decode, with the bias, the rotation and the cache write of the new token in front. Called
// once a layer. Limited by memory: every byte of K and V is read once.
//
// An item of the plan is a run of one sequence's tokens; a block takes (item, KV head) pairs as it comes to them, its
// warps 16 tokens at a time. The newest token comes from shared memory, so that everything else can be fetched before
// the kernel in front has ended, and the next pair's first tokens while this one's warps are merged. Warps are merged
// in order. A sequence of several items leaves partial results in the workspace, and the block that arrives last sums
// them in the order of the splits.
#include "attention/check.h"
#include "attention/decode_sizes.h"
#include "attention/decode_tile.cuh"
#include "attention/merge.cuh"
#include "attention/rotate.cuh"
#include "common/grid.cuh"
#include "device.h"

namespace quern {
namespace {

constexpr int kWarps = 6;
constexpr int kThreads = 32 * kWarps;
constexpr float kLog2E = 1.4426950408889634f;

struct Params {
  QuernAttention a;
  const int32_t *plan;
  int32_t *given;    // pairs given out beyond two a block; behind it: blocks that have ended. 0 between launches
  int32_t *arrived;  // [n_spans, n_kv_heads] blocks that have left their partial result; 0 between launches
  float2 *weights;   // [slots, n_heads] (maximum, sum)
  float *partial;    // [slots, n_heads, head_dim]
  float scale;       // log2(e) / sqrt(head_dim)
  bool early;        // let the next kernel in at once
};

/// What a block works on.
struct Work {
  int kv_head, span, first, end, split, n_splits, slot, row;
  int unseen;      // of its tokens, in front: before the window
  int first_tile;  // with a token that is seen; behind the last tile where only the newest token is
  /// The newest token is the last of the last split.
  __device__ __forceinline__ bool has_newest() const { return split + 1 == n_splits; }
  __device__ __forceinline__ int n_cached() const { return end - first - has_newest(); }
  __device__ __forceinline__ int n_tiles() const { return ceil_div(n_cached(), kTileTokens); }
};

template <int kHeadDim>
struct Shared {
  __half queries[kMaxQueries * DecodeTile<kHeadDim>::kQueryStride];  // unused rows are zeros
  __half key[kHeadDim], value[kHeadDim];  // of the newest token
  float out[kWarps][kMaxQueries][kHeadDim];
  float max[kWarps][kMaxQueries];
  float sum[kWarps][kMaxQueries];
  int next[2];  // the pair after this one, and the one after that, by turns
  bool is_last;
};

template <bool kWindowed>
__device__ __forceinline__ Work load_work(const Params &p, int index) {
  const int4 *item = reinterpret_cast<const int4 *>(p.plan + kPlanInts * (1 + index / p.a.cache.n_kv_heads));
  const int4 a = __ldg(item), b = __ldg(item + 1);
  Work work = {index % p.a.cache.n_kv_heads, a.x, a.y, a.z, a.w, b.x, b.y, __ldg(p.a.spans.first_row + a.x), 0, 0};
  if constexpr (kWindowed) {
    work.unseen = b.z;
    work.first_tile = b.z < work.n_cached() ? b.z / kTileTokens : work.n_tiles();
  }
  return work;
}

__device__ __forceinline__ const int32_t *block_table(const Params &p, const Work &work) {
  return p.a.spans.block_tables + int64_t(work.span) * p.a.spans.table_stride;
}
template <int kHeadDim>
__device__ __forceinline__ __half *key_tile(const Params &p, int kv_head, int block) {
  const KvShape shape = {p.a.cache.n_blocks, p.a.cache.n_kv_heads, kHeadDim};
  return static_cast<__half *>(p.a.cache.data) + kv_tile_offset(shape, p.a.layer, block, kv_head);
}
template <int kHeadDim>
__device__ __forceinline__ int value_offset(const Params &p) {
  return kv_value_offset({p.a.cache.n_blocks, p.a.cache.n_kv_heads, kHeadDim});
}

/// Where an element of the newest token's k (or v) goes: shared memory and the cache.
template <int kHeadDim>
struct NewestToken {
  __half *shared, *tile;
  int token;  // of the block
  __device__ __forceinline__ void store(int element, __half x) const {
    shared[element] = x;
    tile[kv_element_offset(token, element)] = x;
  }
};

/// Rotated queries to shared memory; the newest token's k and v there and to the cache.
template <int kHeadDim>
__device__ __forceinline__ void enter_row(const Params &p, const Work &work, Shared<kHeadDim> &shared) {
  const int n_kv_heads = p.a.cache.n_kv_heads, n_queries = p.a.n_heads / n_kv_heads, half = p.a.rope_dim / 2;
  const int64_t row_width = int64_t(p.a.n_heads + 2 * n_kv_heads) * kHeadDim;
  const __half *row = static_cast<const __half *>(p.a.qkv) + work.row * row_width;
  const __half *bias = static_cast<const __half *>(p.a.bias);
  const float2 *angles = reinterpret_cast<const float2 *>(p.a.angles) + int64_t(work.row) * half;
  const int n_heads = n_queries + (work.has_newest() ? 2 : 0);
  for (int i = threadIdx.x; i < n_heads * (kHeadDim / 2); i += kThreads) {
    const int head = i / (kHeadDim / 2);
    const bool is_query = head < n_queries, is_value = head == n_queries + 1;
    const int place = is_query ? work.kv_head * n_queries + head
                               : p.a.n_heads + (is_value ? n_kv_heads : 0) + work.kv_head;
    const Pair pair = head_pair(i % (kHeadDim / 2), half);
    float2 x = make_float2(biased(row, bias, place * kHeadDim + pair.low),
                           biased(row, bias, place * kHeadDim + pair.high));
    if (pair.rotated && !is_value) x = rotate(x.x, x.y, angles[pair.low]);
    const float factor = is_query ? p.a.query_factors[work.row] : 1.f;
    const __half low = __float2half(hold_to_half(x.x * factor)), high = __float2half(hold_to_half(x.y * factor));
    if (is_query) {
      __half *query = shared.queries + head * DecodeTile<kHeadDim>::kQueryStride;
      query[pair.low] = low;
      query[pair.high] = high;
    } else {
      const int newest = work.end - 1;
      __half *tile = key_tile<kHeadDim>(p, work.kv_head, block_table(p, work)[newest / kKvBlock]);
      const NewestToken<kHeadDim> to = {is_value ? shared.value : shared.key,
                                        tile + (is_value ? value_offset<kHeadDim>(p) : 0), newest % kKvBlock};
      to.store(pair.low, low);
      to.store(pair.high, high);
    }
  }
}

/// The K tile of the block that token tile i of an item lies in; `my_block`: this lane's entry of the item's block table.
template <int kHeadDim>
__device__ __forceinline__ const __half *tile_base(const Params &p, const Work &work, int my_block, int i) {
  return key_tile<kHeadDim>(p, work.kv_head, __shfl_sync(kFullWarp, my_block, i * kTileTokens / kKvBlock));
}
__device__ __forceinline__ int first_token(int i) { return i * kTileTokens % kKvBlock; }
__device__ __forceinline__ int last_token(const Work &work, int i) {
  return first_token(i) + min(kTileTokens, work.n_cached() - i * kTileTokens) - 1;
}

/// Starts this warp's walk through an item's cached tokens, every kWarps-th tile: its first tile is then on the way.
/// Returns this lane's entry of the block table.
template <int kHeadDim>
__device__ __forceinline__ int walk_item(const Params &p, const Work &work, DecodeTile<kHeadDim> &tile) {
  const int lane = threadIdx.x % 32, i = work.first_tile + threadIdx.x / 32;
  const bool used = lane < ceil_div(work.n_cached(), kKvBlock);
  const int my_block = used ? __ldg(block_table(p, work) + work.first / kKvBlock + lane) : 0;
  if (i < work.n_tiles()) {
    const __half *base = tile_base<kHeadDim>(p, work, my_block, i);
    tile.load_keys(base, first_token(i), last_token(work, i));
    tile.load_values(base + value_offset<kHeadDim>(p), first_token(i), last_token(work, i));
  }
  return my_block;
}

template <bool kWindowed, int kHeadDim>
__device__ __forceinline__ void add_tile(DecodeTile<kHeadDim> &tile, float scale, int unseen, int n_tokens,
                                         float (&scores)[2][2]) {
  uint32_t weights[2];
  tile.template softmax<kWindowed>(scores, scale, unseen, n_tokens, weights);
  tile.add_values(weights);
}

/// All of this warp's tokens; its first tile is on the way already.
template <bool kWindowed, int kHeadDim>
__device__ __forceinline__ void attend(const Params &p, const Work &work, int my_block, const Shared<kHeadDim> &shared,
                                       DecodeTile<kHeadDim> &tile) {
  float scores[2][2];
  const int n_tiles = work.n_tiles();
  int i = work.first_tile + threadIdx.x / 32;
  // A tile's registers are filled again as soon as they have been read, so that loads are always in flight.
  for (; i < n_tiles; i += kWarps) {
    const int next = i + kWarps;
    const __half *base = nullptr;
    tile.scores(shared.queries, scores);
    if (next < n_tiles) {
      base = tile_base<kHeadDim>(p, work, my_block, next);
      tile.load_keys(base, first_token(next), last_token(work, next));
    }
    add_tile<kWindowed>(tile, p.scale, work.unseen - i * kTileTokens, work.n_cached() - i * kTileTokens, scores);
    if (next < n_tiles) {
      tile.load_values(base + value_offset<kHeadDim>(p), first_token(next), last_token(work, next));
    }
  }
  if (i == n_tiles && work.has_newest()) {
    tile.take_token(shared.key, shared.value);
    tile.scores(shared.queries, scores);
    add_tile<false>(tile, p.scale, 0, 1, scores);
  }
}

/// This warp's state to shared memory.
template <int kHeadDim>
__device__ __forceinline__ void leave(const DecodeTile<kHeadDim> &tile, int n_queries, Shared<kHeadDim> &shared) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  float sum = tile.sum;
  sum += __shfl_xor_sync(kFullWarp, sum, 1);
  sum += __shfl_xor_sync(kFullWarp, sum, 2);
  if (t == 0) shared.max[warp][g] = tile.max, shared.sum[warp][g] = sum;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    if (2 * t + e >= n_queries) continue;
#pragma unroll
    for (int s = 0; s < DecodeTile<kHeadDim>::kSlabs; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float *to = &shared.out[warp][2 * t + e][s * kSlabWidth + 8 * g + 2 * i];
        *reinterpret_cast<float2 *>(to) = make_float2(tile.out[s][i][e], tile.out[s][i][2 + e]);
      }
    }
  }
}

__device__ __forceinline__ void store_out(const Params &p, const Work &work, int head, int head_dim, int element,
                                          const Merge &merged) {
  __half *out = static_cast<__half *>(p.a.out) + (int64_t(work.row) * p.a.n_heads + head) * head_dim;
  out[element] = __float2half(merged.value / merged.sum);
}

/// Merges the warps; the result, or this item's part of it, to global memory.
template <int kHeadDim>
__device__ __forceinline__ void merge_warps(const Params &p, const Work &work, int n_queries,
                                            const Shared<kHeadDim> &shared) {
  for (int i = threadIdx.x; i < n_queries * kHeadDim; i += kThreads) {
    const int query = i / kHeadDim, element = i % kHeadDim, head = work.kv_head * n_queries + query;
    const int used = min(kWarps, work.n_tiles() - work.first_tile + work.has_newest());
    Merge merged;
    for (int warp = 0; warp < used; ++warp) {
      merged.add(shared.max[warp][query], shared.sum[warp][query], shared.out[warp][query][element]);
    }
    if (work.n_splits == 1) {
      store_out(p, work, head, kHeadDim, element, merged);
    } else {
      const int64_t at = int64_t(work.slot) * p.a.n_heads + head;
      p.partial[at * kHeadDim + element] = merged.value;
      if (element == 0) p.weights[at] = make_float2(merged.max, merged.sum);
    }
  }
}

/// Sums the splits in order, in the block that arrives last.
template <int kHeadDim>
__device__ __forceinline__ void merge_splits(const Params &p, const Work &work, int n_queries,
                                             Shared<kHeadDim> &shared) {
  __syncthreads();
  int32_t *arrived = p.arrived + work.span * p.a.cache.n_kv_heads + work.kv_head;
  if (threadIdx.x == 0) shared.is_last = arrive(arrived) + 1 == work.n_splits;
  __syncthreads();
  if (!shared.is_last) return;
  if (threadIdx.x == 0) *arrived = 0;
  const int first_slot = work.slot - work.split;
  for (int i = threadIdx.x; i < n_queries * kHeadDim; i += kThreads) {
    const int element = i % kHeadDim, head = work.kv_head * n_queries + i / kHeadDim;
    Merge merged;
#pragma unroll 4
    for (int split = 0; split < work.n_splits; ++split) {
      const int64_t at = int64_t(first_slot + split) * p.a.n_heads + head;
      const float2 weight = __ldcg(p.weights + at);
      merged.add(weight.x, weight.y, __ldcg(p.partial + at * kHeadDim + element));
    }
    store_out(p, work, head, kHeadDim, element, merged);
  }
}

template <int kHeadDim, bool kWindowed>
__global__ void __launch_bounds__(kThreads, kDecodeBlocksPerSm) decode_attention_kernel(const Params p) {
  __shared__ Shared<kHeadDim> shared;
  // The plan, the tables and the tokens before the newest were complete before this step's first kernel.
  const int n_queries = p.a.n_heads / p.a.cache.n_kv_heads, n_blocks = gridDim.x;
  const int n_work = __ldg(p.plan) * p.a.cache.n_kv_heads;
  int index = blockIdx.x;
  if (p.early) allow_next_kernel();
  if (index >= n_work) {
    // Not before: this kernel's end must mean that the one before it has ended.
    wait_for_previous_kernel();
    return;
  }
  // A block's first two pairs are fixed, so that little work needs no counting. From there on blocks take what is next:
  // memory does not serve all multiprocessors equally.
  const bool counts = n_work > 2 * n_blocks;
  Work work = load_work<kWindowed>(p, index);
  DecodeTile<kHeadDim> tile;
  int my_block = walk_item(p, work, tile);
  for (int i = threadIdx.x; i < kMaxQueries * DecodeTile<kHeadDim>::kQueryStride; i += kThreads) {
    shared.queries[i] = __half();
  }
  if (threadIdx.x == 0) shared.next[0] = index + n_blocks;
  __syncthreads();
  wait_for_previous_kernel();
  if (!p.early) allow_next_kernel();
  for (int turn = 0;; turn ^= 1) {
    enter_row(p, work, shared);
    __syncthreads();
    index = shared.next[turn];
    int after = n_work;
    if (threadIdx.x == 0 && counts && index < n_work) after = 2 * n_blocks + atomicAdd(p.given, 1);
    tile.start();
    attend<kWindowed>(p, work, my_block, shared, tile);
    leave(tile, n_queries, shared);
    const Work done = work;
    if (index < n_work) {
      work = load_work<kWindowed>(p, index);
      my_block = walk_item(p, work, tile);
    }
    if (threadIdx.x == 0) shared.next[turn ^ 1] = after;
    __syncthreads();
    merge_warps(p, done, n_queries, shared);
    if (done.n_splits > 1) merge_splits(p, done, n_queries, shared);
    if (index >= n_work) break;
  }
  if (counts && threadIdx.x == 0) end_block(p.given);
}

/// Sequences up to which the next layer's weights may come in beside the cache: with more, its blocks are in the way.
constexpr int kEarlySpans = 8;

/// Shared memory that the blocks of a multiprocessor need, in percent of what it has: the rest is L1, through which all of
/// K and V comes. Left to itself a multiprocessor keeps what the matrix product before had it set up for, nearly no L1.
template <int kHeadDim, bool kWindowed>
int32_t leave_room_for_l1() {
  cudaDeviceProp properties;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceProperties(&properties, device) != cudaSuccess) return QUERN_NO_DEVICE;
  const size_t needed = kDecodeBlocksPerSm * (sizeof(Shared<kHeadDim>) + properties.reservedSharedMemPerBlock);
  const int percent = int((100 * needed + properties.sharedMemPerMultiprocessor - 1) / properties.sharedMemPerMultiprocessor);
  return cudaFuncSetAttribute(decode_attention_kernel<kHeadDim, kWindowed>, cudaFuncAttributePreferredSharedMemoryCarveout,
                              percent) == cudaSuccess ? QUERN_OK : QUERN_UNSUPPORTED;
}

}  // namespace

int32_t decode_attention_prepare() {
  for (const auto prepare : {leave_room_for_l1<64, false>, leave_room_for_l1<64, true>, leave_room_for_l1<128, false>,
                             leave_room_for_l1<128, true>}) {
    const int32_t status = prepare();
    if (status != QUERN_OK) return status;
  }
  return QUERN_OK;
}

}  // namespace quern

using namespace quern;

extern "C" int32_t quern_decode_plan_ints(const QuernDevice *device, const QuernDecodeShape *shape) {
  return decode_shape_ok(*shape) ? kPlanInts * (1 + max_items(*device, *shape)) : 0;
}

extern "C" int32_t quern_decode_plan(const QuernDevice *device, const QuernDecodeShape *shape, const int32_t *positions,
                                     int32_t *plan) {
  if (!decode_shape_ok(*shape)) return -1;
  const SplitPolicy policy = split_policy(*device, *shape);
  const DecodeSpans spans = {positions, shape->n_spans, shape->max_tokens, shape->window};
  return make_decode_plan(spans, plan, [&](int length) { return policy.target(length); });
}

extern "C" uint64_t quern_decode_workspace(const QuernDevice *device, const QuernDecodeShape *shape) {
  return decode_shape_ok(*shape) ? workspace(*device, *shape).total : 0;
}

extern "C" uint64_t quern_decode_counter_bytes(const QuernDecodeShape *shape) {
  return decode_shape_ok(*shape) ? counter_bytes(*shape) : 0;
}

extern "C" int32_t quern_decode_attention(const QuernDevice *device, const QuernAttention *args, const int32_t *plan,
                                          void *space, int32_t max_tokens, void *stream) {
  const QuernDecodeShape shape = {args->spans.n_spans, max_tokens, args->n_heads, args->cache.n_kv_heads,
                                  args->cache.head_dim, args->window};
  if (!attention_shape_ok(*args) || !decode_shape_ok(shape)) return QUERN_BAD_SHAPE;
  if (!attention_pointers_ok(*args) || !is_aligned(plan, 32) || !is_aligned(space, 256)) return QUERN_BAD_POINTER;
  const Workspace parts = workspace(*device, shape);
  char *bytes = static_cast<char *>(space);
  const Params params = {*args,
                         plan,
                         reinterpret_cast<int32_t *>(bytes),
                         reinterpret_cast<int32_t *>(bytes) + kBlockCounters,
                         reinterpret_cast<float2 *>(bytes + parts.weights),
                         reinterpret_cast<float *>(bytes + parts.partial),
                         kLog2E / sqrtf(static_cast<float>(shape.head_dim)),
                         shape.n_spans <= kEarlySpans};
  const int64_t most = int64_t(max_items(*device, shape)) * shape.n_kv_heads;
  const int64_t resident = int64_t(device->sm_count) * kDecodeBlocksPerSm;
  const LaunchShape grid = {static_cast<unsigned>(most < resident ? most : resident), kThreads, 0, 1, device->pdl != 0};
  if (args->window > 0) {
    return launch(shape.head_dim == 64 ? decode_attention_kernel<64, true> : decode_attention_kernel<128, true>, grid, stream, params);
  }
  return launch(shape.head_dim == 64 ? decode_attention_kernel<64, false> : decode_attention_kernel<128, false>, grid, stream, params);
}
