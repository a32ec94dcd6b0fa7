// Log-softmax of one given token a row and of the best one: what the model thought of a prompt's next token. Called after the output head for
// requests that ask for a prompt's log-probabilities, never else. One block takes a row and reads it twice, the second time
// from L2. Sums are the sampler's integers, so a row's result does not depend on its company or the device.
#include "common/grid.cuh"
#include "common/launch.h"
#include "sample/logits.cuh"
#include "sample/report.cuh"

namespace quern {
namespace {

/// f(id, logit) for all of the row, four neighbours a thread.
template <typename F>
__device__ __forceinline__ void for_each_logit(const float *row, int vocab, F f) {
#pragma unroll 2
  for (int i = 4 * threadIdx.x; i < vocab; i += 4 * kSamplerThreads) {
    const float4 four = load_four(row + i);
    const float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (i + e < vocab) f(i + e, x[e]);
    }
  }
}

__global__ void __launch_bounds__(kSamplerThreads, 1) score_kernel(const QuernScore p) {
  __shared__ GroupMemory memory;
  allow_next_kernel();
  wait_for_previous_kernel();
  Group<1> group(memory);
  const float *row = p.logits + int64_t(blockIdx.x) * p.ld;
  Best mine;
  for_each_logit(row, p.vocab, [&](int id, float x) { mine.see(x, id); });
  const uint64_t best = group.max(mine.key());
  if (best == kNotFinite) {
    if (threadIdx.x == 0) p.out[blockIdx.x] = {NAN, {0, NAN}};
    return;
  }
  const float max = key_logit(best);
  Weight sum = {0, 0};
  for_each_logit(row, p.vocab, [&](int, float x) { sum += weight_of(__fsub_rn(x, max)); });
  const Distribution distribution = {max, log_of_sum(group.sum(sum.value()))};
  if (threadIdx.x > 0) return;
  const int id = p.ids[blockIdx.x];
  p.out[blockIdx.x] = {distribution.logprob(id, row[id]).logprob, distribution.logprob(key_id(best), max)};
}

}  // namespace
}  // namespace quern

using namespace quern;

extern "C" int32_t quern_score(const QuernDevice *device, const QuernScore *args, void *stream) {
  if (args->rows <= 0 || args->vocab <= 0 || args->vocab > kMaxVocab || args->ld < args->vocab || args->ld % 4 != 0) {
    return QUERN_BAD_SHAPE;
  }
  if (!is_aligned(args->logits, 16) || !is_aligned(args->ids, 4) || !is_aligned(args->out, 4)) return QUERN_BAD_POINTER;
  const LaunchShape shape = {static_cast<unsigned>(args->rows), kSamplerThreads, 0, 1, device->pdl != 0};
  return launch(score_kernel, shape, stream, *args);
}
