// The sampler by its definition: sorts, float64 sums, one row at a time. Used by the sampler's tests.
#pragma once

#include <cstdint>
#include <vector>

#include "quern_kernels.h"

namespace quern::test {

struct ReferenceSample {
  bool finite = true;
  int id = 0;
  double logprob = 0.0;
  std::vector<QuernTokenLogprob> top;
  /// How near a sum came to the bound that it was compared with, relative to the total; and how near two different
  /// scores of typical-p. Below 1e-7 rounding decides, and the result means nothing.
  double margin = 1.0;
};

/// What changes a row's logits before they are warped; each may be empty.
struct ReferenceEdits {
  std::vector<QuernTokenBias> biases;
  std::vector<uint32_t> mask;    // [ceil(vocab / 32)]
  std::vector<uint32_t> counts;  // [vocab], as in QuernSample
};

/// `logits` of a row of the batch.
ReferenceSample sample_by_definition(const std::vector<float> &logits, const QuernSamplingRow &row,
                                     const ReferenceEdits &edits);

/// e^x for x <= 0 as the samplers compute it, in float32.
double exp_by_polynomial(float x);

/// Philox4x32-10's first two words for a counter and a key.
uint64_t philox_words(uint64_t seed, uint64_t position);

}  // namespace quern::test
