// The warpers: top-k, top-p, typical-p, in that order, each on the distribution that the one before it left. Logits are
// divided by the temperature and shifted so that the largest is 0; a removed token's becomes -inf, and one always stays.
#pragma once

#include "sample/select.cuh"

namespace quern {

/// Removes what scores worse than the threshold.
template <typename Score>
__device__ __forceinline__ void remove_beyond(const Slice &slice, uint32_t threshold, Score score) {
  slice.for_each([&](int i, float x) {
    if (__float_as_uint(score(x)) > threshold) slice.values[i] = -INFINITY;
  });
  __syncthreads();
}

/// The mass that p of a total comes to, rounded up.
struct ShareOf {
  float p;
  __device__ __forceinline__ uint64_t operator()(uint64_t total) const {
    return static_cast<uint64_t>(ceil(static_cast<double>(p) * static_cast<double>(total)));
  }
};
struct WeightMass {
  __device__ __forceinline__ uint64_t operator()(float x) const { return weight_of(x).value(); }
};

/// Keeps the k largest logits and whatever equals the k-th.
template <int kBlocks>
__device__ __forceinline__ void top_k(Group<kBlocks> &group, SelectMemory &memory, const Slice &slice, int k) {
  const auto score = [](float x) { return fabsf(x); };
  const Threshold cut = select(
      group, memory, slice, [=](uint64_t) { return uint64_t(k); }, score, [](float) { return uint64_t(1); });
  remove_beyond(slice, cut.score, score);
}

/// Of the tokens with exactly this score, keeps the `kept` with the lowest ids.
template <int kBlocks>
__device__ __forceinline__ void keep_first_equals(Group<kBlocks> &group, const Slice &slice, uint32_t score,
                                                  uint64_t kept) {
  uint64_t equals = 0;
  slice.for_each_in_order([&](int, float x) { equals += __float_as_uint(fabsf(x)) == score; });
  uint64_t rank = group.scan(equals).before;
  slice.for_each_in_order([&](int i, float x) {
    if (__float_as_uint(fabsf(x)) == score && rank++ >= kept) slice.values[i] = -INFINITY;
  });
  __syncthreads();
}

/// Keeps the most likely tokens until their probabilities reach p; equals go by lowest id.
template <int kBlocks>
__device__ __forceinline__ void top_p(Group<kBlocks> &group, SelectMemory &memory, const Slice &slice, float p) {
  const auto score = [](float x) { return fabsf(x); };
  const Threshold cut = select(group, memory, slice, ShareOf{p}, score, WeightMass());
  remove_beyond(slice, cut.score, score);
  if (cut.mass == 0) return;
  const uint64_t weight = weight_of(-__uint_as_float(cut.score)).value();
  const uint64_t kept = (cut.target - cut.before + weight - 1) / weight;
  if (kept * weight < cut.mass) keep_first_equals(group, slice, cut.score, kept);
}

/// Locally typical sampling (Meister et al., 2022): keeps the tokens whose surprisal is nearest to the entropy until
/// their probabilities reach p, and whatever is as near as the last.
template <int kBlocks>
__device__ __forceinline__ void typical_p(Group<kBlocks> &group, SelectMemory &memory, const Slice &slice, float p) {
  uint64_t sum = 0, weighted = 0;  // of weights, and of weights times -x; weight times -x is below 2^41
  slice.for_each([&](int, float x) {
    const uint64_t weight = weight_of(x).value();
    sum += weight;
    weighted += static_cast<uint64_t>(static_cast<double>(weight) * -static_cast<double>(x));
  });
  const double mean = -static_cast<double>(group.sum(weighted)) / static_cast<double>(group.sum(sum));
  const auto score = [=](float x) { return static_cast<float>(fabs(mean - static_cast<double>(x))); };
  const Threshold cut = select(group, memory, slice, ShareOf{p}, score, WeightMass());
  remove_beyond(slice, cut.score, score);
}

}  // namespace quern
