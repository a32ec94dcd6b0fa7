// The sampler: from a row of logits to a token, its log-probability and the best few, in one launch for a batch. Called
// once a step after the output head. The order and the meaning of every stage are the CPU sampler's.
//
// On sm_90 a row is shared by a cluster of 8 blocks and is read from memory once: logits stay in shared memory. Before
// that one block takes a row and works in global memory, on the logits themselves if they are float32.
#include "common/grid.cuh"
#include "common/launch.h"
#include "device.h"
#include "layout.h"
#include "sample/logits.cuh"
#include "sample/philox.cuh"
#include "sample/report.cuh"
#include "sample/warp.cuh"

namespace quern {
namespace {

constexpr int kClusterBlocks = 8;

struct Params {
  QuernSample s;
  int slice;  // tokens a block, a multiple of 4
};

struct Shared {
  GroupMemory group;
  SelectMemory select;
  TopMemory top;
};

/// This block's tokens of the row, and where their logits are kept.
template <int kBlocks, typename Logit>
__device__ __forceinline__ Slice row_slice(const Params &p, int row, float *shared_values) {
  const int first = Group<kBlocks>::rank() * p.slice;
  const int n = max(0, min(p.slice, p.s.vocab - first));
  if constexpr (kBlocks > 1) return {shared_values, first, n};
  if constexpr (sizeof(Logit) == sizeof(float)) return {static_cast<float *>(p.s.logits) + int64_t(row) * p.s.ld, 0, n};
  return {p.s.scratch + int64_t(row) * p.slice, 0, n};
}

/// Shifts the largest logit to 0, divides by the temperature, removes unlikely tokens.
template <int kBlocks>
__device__ __forceinline__ void warp_logits(Group<kBlocks> &group, SelectMemory &memory, const Slice &slice,
                                            const QuernSamplingRow &row, float max, int vocab) {
  const float temperature = row.temperature;
  slice.transform([=](float x) { return __fdiv_rn(__fsub_rn(x, max), temperature); });
  __syncthreads();
  if (row.top_k > 0 && row.top_k < vocab) top_k(group, memory, slice, row.top_k);
  if (row.top_p < 1.f) top_p(group, memory, slice, row.top_p);
  if (row.typical_p < 1.f) typical_p(group, memory, slice, row.typical_p);
}

__device__ __forceinline__ Edits edits_of(const Params &p, const QuernSamplingRow &row) {
  return {row.mask > 0 ? p.s.masks + int64_t(row.mask - 1) * ((p.s.vocab + 31) / 32) : nullptr,
          penalizes(row) ? p.s.counts + int64_t(row.count_slot) * p.s.vocab : nullptr};
}

/// One row; every block of its group calls it.
template <int kBlocks, typename Logit>
__device__ __forceinline__ void sample_row(const Params &p, const QuernSamplingRow &row, Shared &shared,
                                           const Slice &slice) {
  Group<kBlocks> group(shared.group);
  const int index = Group<kBlocks>::row();
  const RowOutput output = {p.s.out + index, p.s.last_sampled + row.slot};
  const bool is_writer = Group<kBlocks>::rank() == 0 && threadIdx.x == 0;
  Best mine = load_slice(slice, static_cast<const Logit *>(p.s.logits) + int64_t(index) * p.s.ld);
  if (row.n_biases > 0) add_biases(slice, p.s.biases + int64_t(row.count_slot) * QUERN_MAX_BIASES, row.n_biases);
  if (row.n_biases > 0 || row.mask > 0 || penalizes(row)) mine = edit(slice, row, edits_of(p, row), mine.finite);
  const uint64_t best = group.max(mine.key());  // and a barrier after the writes to the slice
  if (is_writer) output.out->not_finite = best == kNotFinite, output.out->n_top = 0;
  if (best == kNotFinite) {
    if (is_writer) output.choose({0, 0.f});
    return;
  }
  const int n_top = min(row.top_n_tokens, QUERN_MAX_TOP_TOKENS);
  if (row.do_sample) {
    warp_logits(group, shared.select, slice, row, key_logit(best), p.s.vocab);
    const Distribution distribution = draw(group, slice, philox_uniform(row.seed, row.position), output);
    if (n_top > 0) report_top(group, shared.top, slice, n_top, best_below(slice, kNotFinite), distribution, output.out);
  } else {
    const Distribution distribution = {key_logit(best), log_of_sum(total_weight(group, slice, key_logit(best)))};
    if (is_writer) output.choose(distribution.logprob(key_id(best), key_logit(best)));
    if (n_top > 0) report_top(group, shared.top, slice, n_top, mine.key(), distribution, output.out);
  }
}

template <int kBlocks, typename Logit>
__global__ void __launch_bounds__(kSamplerThreads, 1) sample_kernel(const Params p) {
  // A cluster's code exists for sm_90 and up only; quern_sample launches it nowhere else.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  constexpr bool kExists = kBlocks == 1;
#else
  constexpr bool kExists = true;
#endif
  if constexpr (kExists) {
    extern __shared__ __align__(16) float values[];
    __shared__ Shared shared;
    allow_next_kernel();
    wait_for_previous_kernel();
    const QuernSamplingRow &row = p.s.row[Group<kBlocks>::row()];
    if (row.slot < 0) return;
    sample_row<kBlocks, Logit>(p, row, shared, row_slice<kBlocks, Logit>(p, Group<kBlocks>::row(), values));
    // Another block may still read this one's shared memory.
    Group<kBlocks>::barrier();
  }
}

bool uses_clusters(const QuernDevice &device) { return device.compute_capability >= 90 && !device.force_portable; }

template <typename Logit>
int32_t launch_sample(const QuernDevice &device, const QuernSample &args, void *stream) {
  const bool clusters = uses_clusters(device);
  const int blocks = clusters ? kClusterBlocks : 1;
  const Params params = {args, ceil_div(ceil_div(args.vocab, blocks), 4) * 4};
  LaunchShape shape = {static_cast<unsigned>(args.rows), kSamplerThreads, 0, 1, device.pdl != 0};
  if (!clusters) return launch(sample_kernel<1, Logit>, shape, stream, params);
  shape.blocks *= kClusterBlocks;
  shape.cluster = kClusterBlocks;
  shape.smem_bytes = params.slice * sizeof(float);
  return launch(sample_kernel<kClusterBlocks, Logit>, shape, stream, params);
}

}  // namespace

int32_t sample_prepare(const QuernDevice &device) {
  if (device.compute_capability < 90) return QUERN_OK;
  const int32_t status = raise_smem_limit(sample_kernel<kClusterBlocks, float>, device);
  return status == QUERN_OK ? raise_smem_limit(sample_kernel<kClusterBlocks, __half>, device) : status;
}

}  // namespace quern

using namespace quern;

extern "C" uint64_t quern_sample_scratch(const QuernDevice *device, int32_t rows, int32_t vocab,
                                         int32_t logits_are_f16) {
  if (rows <= 0 || vocab <= 0 || !logits_are_f16 || uses_clusters(*device)) return 0;
  return uint64_t(rows) * ceil_div(vocab, 4) * 4 * sizeof(float);
}

extern "C" int32_t quern_sample(const QuernDevice *device, const QuernSample *args, void *stream) {
  if (args->rows <= 0 || args->vocab <= 0 || args->vocab > kMaxVocab || args->ld < args->vocab || args->ld % 8 != 0) {
    return QUERN_BAD_SHAPE;
  }
  const bool needs_scratch = quern_sample_scratch(device, args->rows, args->vocab, args->logits_are_f16) > 0;
  if (!is_aligned(args->logits, 16) || !is_aligned(args->row, 8) || !is_aligned(args->last_sampled, 4) ||
      !is_aligned(args->out, 4) || !is_aligned(args->masks, 4) || !is_aligned(args->biases, 4) || (needs_scratch && !is_aligned(args->scratch, 16))) {
    return QUERN_BAD_POINTER;
  }
  return args->logits_are_f16 ? launch_sample<__half>(*device, *args, stream)
                              : launch_sample<float>(*device, *args, stream);
}
