// The sampler on a vocabulary of 152064, batches of 1 and 64, one stage after the other, and scores of given tokens.
// Logits are float32, normal with a deviation of 3, and as a rule in L2, where the output head has just left them.
#include "bench.h"
#include "rng.h"

namespace quern::test {
namespace {

constexpr int kVocab = 152064, kMaxRows = 64;

struct SampleBenchCase {
  const char *name;
  QuernSamplingRow row;
};

QuernSamplingRow sampling(float temperature, int top_k, float top_p, float typical_p) {
  return {7, 0, temperature, top_p, typical_p, 1.f, 0.f, 0.f, top_k, 1, 0, 0, -1, 0, 0, 0};
}

std::vector<float> normal_logits() {
  Rng rng(3);
  std::vector<float> x(kVocab);
  for (float &v : x) {
    v = -6.f;
    for (int i = 0; i < 12; ++i) v += rng.uniform(0.f, 1.f);
    v *= 3.f;
  }
  return x;
}

std::vector<QuernTokenBias> spread_biases() {
  std::vector<QuernTokenBias> biases(QUERN_MAX_BIASES);
  for (int i = 0; i < QUERN_MAX_BIASES; ++i) biases[i] = {i * (kVocab / QUERN_MAX_BIASES), -1.f};
  return biases;
}

}  // namespace

void bench_sample(BenchContext &context) {
  QuernDevice portable = context.device;
  portable.force_portable = 1;
  const std::vector<float> logits = normal_logits();
  std::vector<float> rows;
  for (int i = 0; i < kMaxRows; ++i) rows.insert(rows.end(), logits.begin(), logits.end());
  const DeviceBuffer d_logits(rows), counts(std::vector<uint32_t>(kVocab, 1)),
      mask(std::vector<uint32_t>((kVocab + 31) / 32, 0x55555555u)), biases(spread_biases()), last(kMaxRows * 4), out(kMaxRows * sizeof(QuernSampled));
  QuernSamplingRow greedy = {0, 0, 1.f, 1.f, 1.f, 1.f, 0.f, 0.f, 0, 0, 0, 0, -1, 0, 0, 0}, top5 = greedy, penalized = greedy,
                   masked = greedy, biased = greedy;
  top5.top_n_tokens = 5;
  masked.mask = 1;
  biased.count_slot = 0, biased.n_biases = 300;
  penalized.count_slot = 0, penalized.repetition_penalty = 1.1f, penalized.frequency_penalty = 0.1f;
  const SampleBenchCase cases[] = {{"greedy", greedy},
                                   {"greedy_top5", top5},
                                   {"greedy_penalties", penalized},
                                   {"greedy_mask", masked},
                                   {"greedy_bias300", biased},
                                   {"draw", sampling(0.8f, 0, 1.f, 1.f)},
                                   {"top_k50", sampling(0.8f, 50, 1.f, 1.f)},
                                   {"top_p90", sampling(0.8f, 0, 0.9f, 1.f)},
                                   {"top_k50_p90", sampling(0.8f, 50, 0.9f, 1.f)},
                                   {"typical_p90", sampling(0.8f, 0, 1.f, 0.9f)}};
  for (const SampleBenchCase &c : cases) {
    for (int batch : {1, kMaxRows}) {
      std::vector<QuernSamplingRow> parameters(batch, c.row);
      for (int i = 0; i < batch; ++i) parameters[i].slot = i, parameters[i].position = i;
      const DeviceBuffer d_rows(parameters);
      const auto us = [&](const QuernDevice &device) {
        return time_us(16, [&](int, cudaStream_t stream) {
          const QuernSample args = {d_logits.data(), static_cast<QuernSamplingRow *>(d_rows.data()),
                                    static_cast<uint32_t *>(counts.data()), static_cast<QuernTokenBias *>(biases.data()),
                                    static_cast<uint32_t *>(mask.data()), static_cast<int32_t *>(last.data()),
                                    static_cast<QuernSampled *>(out.data()), nullptr, 0, batch, kVocab, kVocab};
          STATUS_OK(quern_sample(&device, &args, stream));
        });
      };
      const std::string name = std::string("sample_") + c.name + "_b" + std::to_string(batch);
      context.latency_bound(name, us(context.device));
      if (std::string(c.name) == "greedy") context.latency_bound(name + "_portable", us(portable));
    }
  }
  const DeviceBuffer ids(std::vector<int32_t>(kMaxRows, kVocab / 2));
  context.latency_bound("score_b" + std::to_string(kMaxRows), time_us(16, [&](int, cudaStream_t stream) {
    const QuernScore args = {static_cast<float *>(d_logits.data()), static_cast<int32_t *>(ids.data()),
                             static_cast<QuernScored *>(out.data()), kMaxRows, kVocab, kVocab};
    STATUS_OK(quern_score(&context.device, &args, stream));
  }));
}

}  // namespace quern::test
