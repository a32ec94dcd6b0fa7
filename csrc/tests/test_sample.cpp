// The sampler against its definition: every parameter, biases, masks, vocabularies from 7 to 152064, ties, peaks, extreme values, fp16
// and fp32 logits, clusters and single blocks; logits that are not finite; the same bits in repeats and in any company.
#include <algorithm>
#include <cstring>
#include <string>

#include "half.h"
#include "parallel.h"
#include "sample_reference.h"
#include "tests.h"

namespace quern::test {
namespace {

constexpr QuernSamplingRow kGreedy = {0, 0, 1.f, 1.f, 1.f, 1.f, 0.f, 0.f, 0, 0, 0, 0, -1, 0, 0, 0};

/// How logits of a row look.
enum class Look { kNormal, kTies, kEqual, kPeak, kExtreme, kCount };

std::vector<float> random_logits(int vocab, Look look, bool half, Rng &rng) {
  std::vector<float> x(vocab);
  for (float &v : x) {
    float sum = -6.f;
    for (int i = 0; i < 12; ++i) sum += rng.uniform(0.f, 1.f);
    v = 3.f * sum;
    if (look == Look::kTies) v = std::round(v * 2.f) / 2.f;
    if (look == Look::kEqual) v = 1.25f;
    if (look == Look::kExtreme) v *= half ? 5000.f : 1e37f;
  }
  if (look == Look::kPeak) x[rng.below(vocab)] = 40.f;
  if (look == Look::kTies) x[0] = -0.f;
  if (half) {
    for (float &v : x) v = to_float(to_half(std::fmax(-65504.f, std::fmin(65504.f, v))));
  }
  return x;
}

QuernSamplingRow random_row(int vocab, int slot, Rng &rng) {
  QuernSamplingRow row = kGreedy;
  const auto maybe = [&] { return rng.below(2) == 0; };
  row.slot = slot;
  row.do_sample = rng.below(4) != 0;
  row.seed = rng.next();
  row.position = rng.below(3) == 0 ? rng.next() : rng.below(9000);
  row.temperature = rng.uniform(0.2f, 2.f);
  if (maybe()) row.top_k = 1 + rng.below(maybe() ? 60 : vocab + 3);
  if (maybe()) row.top_p = rng.uniform(0.05f, 1.f);
  if (maybe()) row.typical_p = rng.uniform(0.05f, 1.f);
  if (maybe()) row.top_n_tokens = rng.below(QUERN_MAX_TOP_TOKENS + 1);
  if (maybe()) {
    row.count_slot = slot;
    row.repetition_penalty = maybe() ? rng.uniform(0.8f, 1.5f) : 1.f;
    row.frequency_penalty = maybe() ? rng.uniform(-1.f, 1.f) : 0.f;
    row.presence_penalty = maybe() ? rng.uniform(-1.f, 1.f) : 0.f;
  }
  if (rng.below(3) == 0) {
    row.count_slot = slot;
    row.n_biases = rng.below(std::min(vocab, maybe() ? 8 : QUERN_MAX_BIASES) + 1);
  }
  return row;
}

/// A batch on the host.
struct SampleCase {
  int vocab, ld;
  bool half;
  std::vector<QuernSamplingRow> rows;
  std::vector<std::vector<float>> logits;
  std::vector<std::vector<uint32_t>> counts;        // by row, which is its slot
  std::vector<std::vector<QuernTokenBias>> biases;  // by slot
  std::vector<std::vector<uint32_t>> masks;         // by row of masks

  std::string name() const {
    return "sample vocab=" + std::to_string(vocab) + (half ? " fp16" : " fp32") + " rows=" + std::to_string(rows.size());
  }
};

/// Different tokens, all over the vocabulary.
std::vector<QuernTokenBias> random_biases(int vocab, int n, Rng &rng) {
  std::vector<QuernTokenBias> biases;
  const int first = rng.below(vocab);
  for (int i = 0; i < n; ++i) {
    const int id = int((first + int64_t(i) * vocab / n) % vocab);
    biases.push_back({id, rng.below(4) == 0 ? 100.f : rng.uniform(-100.f, 8.f)});
  }
  return biases;
}

/// A few tokens, about half of them, or all but a few: at least one.
std::vector<uint32_t> random_mask(int vocab, Rng &rng) {
  std::vector<uint32_t> mask((vocab + 31) / 32, 0);
  const int look = rng.below(3);
  for (uint32_t &word : mask) word = look == 0 ? 0 : look == 1 ? uint32_t(rng.next()) : ~0u;
  for (int i = 0; i <= rng.below(9); ++i) {
    const int id = rng.below(vocab);
    mask[id / 32] ^= 1u << id % 32;
  }
  const int kept = rng.below(vocab);
  mask[kept / 32] |= 1u << kept % 32;
  return mask;
}

SampleCase random_case(int vocab, int n_rows, bool half, Rng &rng) {
  SampleCase c = {vocab, (vocab + 7) / 8 * 8 + 8, half, {}, {}, {}, {}, {}};
  for (int i = 0; i < n_rows; ++i) {
    c.rows.push_back(random_row(vocab, i, rng));
    c.logits.push_back(random_logits(vocab, i < n_rows / 2 ? Look::kNormal : Look(rng.below(int(Look::kCount))), half, rng));
    std::vector<uint32_t> counts(vocab, 0);
    for (int j = 0; j < 40; ++j) counts[rng.below(vocab)] |= 1u << 31;
    for (int j = 0; j < 40; ++j) counts[rng.below(vocab)] += 1;
    c.counts.push_back(counts);
    c.biases.push_back(random_biases(vocab, c.rows[i].n_biases, rng));
    if (rng.below(3) > 0) {
      c.masks.push_back(random_mask(vocab, rng));
      c.rows[i].mask = int(c.masks.size());
    }
  }
  return c;
}

struct SampleResult {
  std::vector<QuernSampled> out;
  std::vector<int32_t> last_sampled;
  bool operator==(const SampleResult &other) const {
    return std::memcmp(out.data(), other.out.data(), out.size() * sizeof(QuernSampled)) == 0 &&
           last_sampled == other.last_sampled;
  }
};

/// Device copies of a case; logits are uploaded anew for every run, since the sampler may overwrite them.
class SampleRun {
 public:
  explicit SampleRun(const SampleCase &c)
      : c_(c), logits_(c.rows.size() * c.ld * (c.half ? 2 : 4)), counts_(flat(c.counts)), biases_(flat_biases(c)),
        masks_(flat(c.masks)), rows_(c.rows.size() * sizeof(QuernSamplingRow)) {}

  SampleResult run(const QuernDevice &device, const std::vector<QuernSamplingRow> &rows, uint32_t poison, Checks &checks) {
    upload_logits();
    rows_.upload(rows);
    const size_t n = rows.size();
    DeviceBuffer out(n * sizeof(QuernSampled), poison), last(n * 4, poison);
    const size_t scratch_bytes = quern_sample_scratch(&device, int(n), c_.vocab, c_.half);
    const DeviceBuffer scratch(std::max<size_t>(scratch_bytes, 16), poison);
    const QuernSample args = {logits_.data(), static_cast<QuernSamplingRow *>(rows_.data()),
                              static_cast<uint32_t *>(counts_.data()), static_cast<QuernTokenBias *>(biases_.data()),
                              static_cast<uint32_t *>(masks_.data()), static_cast<int32_t *>(last.data()),
                              static_cast<QuernSampled *>(out.data()),
                              scratch_bytes > 0 ? static_cast<float *>(scratch.data()) : nullptr,
                              c_.half, int(n), c_.vocab, c_.ld};
    STATUS_OK(quern_sample(&device, &args, nullptr));
    CUDA_OK(cudaDeviceSynchronize());
    checks.expect(out.guards_intact() && last.guards_intact() && scratch.guards_intact() && logits_.guards_intact() &&
                      counts_.guards_intact() && biases_.guards_intact() && masks_.guards_intact(), c_.name() + " guards");
    return {out.download<QuernSampled>(), last.download<int32_t>()};
  }

 private:
  static std::vector<uint32_t> flat(const std::vector<std::vector<uint32_t>> &rows) {
    std::vector<uint32_t> all;
    for (const std::vector<uint32_t> &row : rows) all.insert(all.end(), row.begin(), row.end());
    if (all.empty()) all.push_back(0);
    return all;
  }
  /// Entries beyond a slot's number would show.
  static std::vector<QuernTokenBias> flat_biases(const SampleCase &c) {
    std::vector<QuernTokenBias> all(c.biases.size() * QUERN_MAX_BIASES, QuernTokenBias{0, 1000.f});
    for (size_t i = 0; i < c.biases.size(); ++i) {
      std::copy(c.biases[i].begin(), c.biases[i].end(), all.begin() + i * QUERN_MAX_BIASES);
    }
    return all;
  }
  /// Columns from vocab on hold NaN.
  void upload_logits() {
    if (c_.half) {
      std::vector<Half> x(c_.rows.size() * c_.ld, 0x7e01);
      for (size_t row = 0; row < c_.rows.size(); ++row) {
        for (int i = 0; i < c_.vocab; ++i) x[row * c_.ld + i] = to_half(c_.logits[row][i]);
      }
      logits_.upload(x);
    } else {
      std::vector<float> x(c_.rows.size() * c_.ld, NAN);
      for (size_t row = 0; row < c_.rows.size(); ++row) {
        std::copy(c_.logits[row].begin(), c_.logits[row].end(), x.begin() + row * c_.ld);
      }
      logits_.upload(x);
    }
  }

  const SampleCase &c_;
  DeviceBuffer logits_, counts_, biases_, masks_, rows_;
};

void expect_row(Checks &checks, const std::string &name, const QuernSampled &got, int32_t last, const ReferenceSample &expected) {
  checks.expect(got.not_finite == !expected.finite, name + " not_finite");
  checks.expect(last == got.token.id, name + " last sampled");
  if (!expected.finite) {
    checks.expect(got.token.id == 0 && got.n_top == 0, name + " token of logits that are not finite");
    return;
  }
  checks.expect(got.token.id == expected.id, name + " token",
                std::to_string(got.token.id) + " expected " + std::to_string(expected.id));
  const auto close = [](double a, double b) { return std::fabs(a - b) <= 1e-5 + 2e-6 * std::fabs(b); };
  checks.expect(close(got.token.logprob, expected.logprob), name + " logprob",
                std::to_string(got.token.logprob) + " expected " + std::to_string(expected.logprob));
  bool right = got.n_top == int(expected.top.size());
  for (int i = 0; right && i < got.n_top; ++i) {
    right = got.top[i].id == expected.top[i].id && close(got.top[i].logprob, expected.top[i].logprob);
  }
  checks.expect(right, name + " best tokens", std::to_string(got.n_top) + " expected " + std::to_string(expected.top.size()));
}

void check_case(TestContext &context, const SampleCase &c, int repeats) {
  Checks &checks = context.checks;
  QuernDevice portable = context.device;
  portable.force_portable = 1;
  SampleRun sampling(c);
  const SampleResult first = sampling.run(context.device, c.rows, kPoison[0], checks);
  std::vector<ReferenceSample> expected(c.rows.size());
  parallel_for(int(c.rows.size()), [&](int i) {
    const QuernSamplingRow &row = c.rows[i];
    ReferenceEdits edits;
    if (row.n_biases > 0) edits.biases = c.biases[i];
    if (row.mask > 0) edits.mask = c.masks[row.mask - 1];
    if (row.count_slot >= 0) edits.counts = c.counts[i];
    expected[i] = sample_by_definition(c.logits[i], row, edits);
  });
  size_t undecided = 0;
  for (size_t i = 0; i < c.rows.size(); ++i) {
    if (expected[i].margin < 1e-7) {
      ++undecided;
      continue;
    }
    expect_row(checks, c.name() + " row " + std::to_string(i), first.out[i], first.last_sampled[i], expected[i]);
  }
  checks.expect(undecided <= 2 + c.rows.size() / 4, c.name() + " too many rows that rounding decides");
  // Bytes that nothing writes (the tail of `top`) are poison, the same in every run.
  checks.expect(sampling.run(portable, c.rows, kPoison[0], checks) == first, c.name() + " portable differs");
  for (int i = 1; i < repeats; ++i) {
    checks.expect(sampling.run(context.device, c.rows, kPoison[0], checks) == first, c.name() + " repeat");
  }
  for (size_t i = 0; i < std::min<size_t>(c.rows.size(), context.small ? 1 : 6); ++i) {
    std::vector<QuernSamplingRow> alone = c.rows;
    for (size_t j = 0; j < alone.size(); ++j) alone[j].slot = i == j ? int(j) : -1;
    const SampleResult result = sampling.run(context.device, alone, kPoison[1], checks);
    const QuernSampled &a = result.out[i], &b = first.out[i];
    const bool same = std::memcmp(&a.token, &b.token, sizeof a.token) == 0 && a.n_top == b.n_top &&
                      std::memcmp(a.top, b.top, a.n_top * sizeof a.top[0]) == 0;
    checks.expect(same, c.name() + " alone differs from in company");
    checks.expect(c.rows.size() == 1 || result.last_sampled[i == 0 ? 1 : 0] == int32_t(kPoison[1]), c.name() + " padding");
  }
}

/// One bad logit, anywhere, flags its row and no other.
void check_not_finite(TestContext &context, int vocab, bool half) {
  for (float bad : {float(NAN), float(INFINITY), float(-INFINITY)}) {
    SampleCase c = random_case(vocab, 8, half, context.rng);
    for (size_t i = 0; i < c.rows.size(); ++i) {
      c.logits[i] = random_logits(vocab, Look::kNormal, half, context.rng);
      if (i % 2 == 1) c.logits[i][i == 1 ? 0 : i == 3 ? vocab - 1 : context.rng.below(vocab)] = bad;
    }
    check_case(context, c, 1);
  }
}

void check_extreme_temperatures(TestContext &context) {
  SampleCase c = random_case(4099, 8, false, context.rng);
  for (size_t i = 0; i < c.rows.size(); ++i) {
    c.rows[i].do_sample = 1;
    c.rows[i].typical_p = 1.f;
    c.rows[i].temperature = std::vector<float>{1.1754944e-38f, 1e-30f, 1e-3f, 1e30f}[i % 4];
    c.logits[i] = random_logits(c.vocab, i < 4 ? Look::kNormal : Look::kExtreme, false, context.rng);
  }
  check_case(context, c, 2);
}

/// The reference's own parts against published numbers and the C library.
void check_reference(Checks &checks) {
  checks.expect(philox_words(0, 0) == 0x6627e8d5e169c58d, "philox of zeros");
  double worst = 0.0;
  for (float x = 0.f; x > -87.f; x -= 0.01f) {
    worst = std::fmax(worst, std::fabs(exp_by_polynomial(x) / std::exp(double(x)) - 1.0));
  }
  checks.expect(worst <= 2.5e-7, "exp", std::to_string(worst));
}

}  // namespace

void test_sample(TestContext &context) {
  Rng &rng = context.rng;
  check_reference(context.checks);
  if (context.small) {
    check_case(context, random_case(7, 2, true, rng), 1);
    check_case(context, random_case(1000, 2, false, rng), 1);
    return;
  }
  for (int vocab : {7, 8, 10, 1000}) {
    for (bool half : {false, true}) check_case(context, random_case(vocab, 24, half, rng), 2);
  }
  check_not_finite(context, 1003, false);
  check_extreme_temperatures(context);
  check_not_finite(context, 152064, true);
  check_case(context, random_case(32000, 40, false, rng), 3);
  check_case(context, random_case(151936, 30, true, rng), 3);
  check_case(context, random_case(152064, 70, false, rng), 50);
}

}  // namespace quern::test
