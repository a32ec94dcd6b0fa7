// Log-probabilities of given tokens and of the best ones against float64's exp and log: vocabularies that end inside a thread's four, rows far
// apart in size, logits that are not finite; the same bits in repeats and in any company.
#include <algorithm>
#include <cmath>
#include <string>

#include "parallel.h"
#include "tests.h"

namespace quern::test {
namespace {

struct ScoreCase {
  int vocab, ld;
  std::vector<float> logits;  // [rows, ld]; NaN from vocab on
  std::vector<int32_t> ids;

  int rows() const { return int(ids.size()); }
  float &at(int row, int id) { return logits[size_t(row) * ld + id]; }
  std::string name() const { return "score vocab=" + std::to_string(vocab) + " rows=" + std::to_string(rows()); }
};

/// Logits of every kind: ordinary, all equal, one that is certain, far from zero, at the edge of float32.
ScoreCase random_case(int vocab, int rows, Rng &rng) {
  ScoreCase c = {vocab, (vocab + 3) / 4 * 4 + 4, {}, std::vector<int32_t>(rows)};
  c.logits.assign(size_t(rows) * c.ld, NAN);
  for (int row = 0; row < rows; ++row) {
    const float scales[] = {12.f, 0.f, 3.f, 12.f, 1e38f}, offsets[] = {0.f, 1.25f, 0.f, -3000.f, 0.f};
    const int kind = row % 5;
    for (int id = 0; id < vocab; ++id) c.at(row, id) = offsets[kind] + scales[kind] * rng.uniform(-1.f, 1.f);
    if (kind == 2) c.at(row, rng.below(vocab)) = 60.f;
    c.ids[row] = row == 0 ? vocab - 1 : row == 1 ? 0 : rng.below(vocab);
  }
  return c;
}

struct Expected {
  double logprob;
  int best;
  double best_logprob;
};

Expected by_definition(const ScoreCase &c, int row) {
  const float *x = c.logits.data() + size_t(row) * c.ld;
  if (!std::all_of(x, x + c.vocab, [](float v) { return std::isfinite(v); })) return {NAN, 0, NAN};
  const int best = int(std::max_element(x, x + c.vocab) - x);
  const double max = x[best];
  double sum = 0.0;
  for (int id = 0; id < c.vocab; ++id) sum += std::exp(x[id] - max);
  return {x[c.ids[row]] - max - std::log(sum), best, -std::log(sum)};
}

/// Scores rows [first, first + n).
std::vector<QuernScored> run(TestContext &context, const ScoreCase &c, int first, int n, uint32_t poison) {
  const auto begin = c.logits.begin() + size_t(first) * c.ld;
  const DeviceBuffer logits(std::vector<float>(begin, begin + size_t(n) * c.ld));
  const DeviceBuffer ids(std::vector<int32_t>(c.ids.begin() + first, c.ids.begin() + first + n));
  DeviceBuffer out(size_t(n) * sizeof(QuernScored), poison);
  const QuernScore args = {static_cast<float *>(logits.data()), static_cast<int32_t *>(ids.data()),
                           static_cast<QuernScored *>(out.data()), n, c.vocab, c.ld};
  STATUS_OK(quern_score(&context.device, &args, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  context.checks.expect(out.guards_intact() && logits.guards_intact() && ids.guards_intact(), c.name() + " guards");
  return out.download<QuernScored>();
}

bool same_bits(const QuernScored *a, const QuernScored *b, size_t n) { return std::memcmp(a, b, n * sizeof *a) == 0; }

bool close(float got, double expected) {
  if (std::isnan(expected)) return std::isnan(got);
  return std::fabs(got - expected) <= 1e-6 + 1.2e-7 * std::fabs(expected);
}

void check_case(TestContext &context, const ScoreCase &c) {
  Checks &checks = context.checks;
  std::vector<Expected> expected(c.rows());
  parallel_for(c.rows(), [&](int row) { expected[row] = by_definition(c, row); });
  const std::vector<QuernScored> got = run(context, c, 0, c.rows(), kPoison[0]);
  for (int row = 0; row < c.rows(); ++row) {
    const std::string name = c.name() + " row " + std::to_string(row);
    checks.expect(close(got[row].logprob, expected[row].logprob), name,
                  std::to_string(got[row].logprob) + " expected " + std::to_string(expected[row].logprob));
    checks.expect(got[row].best.id == expected[row].best && close(got[row].best.logprob, expected[row].best_logprob),
                  name + " best", std::to_string(got[row].best.id) + " expected " + std::to_string(expected[row].best));
  }
  checks.expect(same_bits(run(context, c, 0, c.rows(), kPoison[1]).data(), got.data(), got.size()), c.name() + " repeat");
  for (int row = 0; row < c.rows(); row += 7) {
    checks.expect(same_bits(run(context, c, row, 1, kPoison[1]).data(), &got[row], 1), c.name() + " alone");
  }
}

}  // namespace

void test_score(TestContext &context) {
  for (int vocab : {1, 7, 1000}) check_case(context, random_case(vocab, 5, context.rng));
  if (context.small) return;
  for (float bad : {float(NAN), float(INFINITY), float(-INFINITY)}) {
    ScoreCase c = random_case(4099, 6, context.rng);
    c.at(1, 0) = c.at(3, c.vocab - 1) = c.at(4, context.rng.below(c.vocab)) = bad;
    check_case(context, c);
  }
  check_case(context, random_case(49152, 33, context.rng));
  check_case(context, random_case(152064, 64, context.rng));
}

}  // namespace quern::test
