// See sample_reference.h.
#include "sample_reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace quern::test {

namespace {

/// A float32 operation on its own: the compiler may not fuse it with the next.
float rounded(float x) {
  volatile float kept = x;
  return kept;
}

/// e^x for x <= 0 by the sampler's own polynomial, so that sums differ by the rounding of their terms to 2^-42 only. That
/// it is the exponential within 2 ulp is checked in test_sample.cpp.
double weight(float x) {
  constexpr float kRounder = 12582933.f;
  constexpr float kPolynomial[6] = {1.9875691e-4f, 1.3981999e-3f, 8.333452e-3f, 4.1665796e-2f, 1.6666665e-1f, 0.5f};
  if (x < -87.f) return 0.0;
  const float n = rounded(std::fma(x, 1.44269504f, kRounder)) - kRounder;
  const float r = std::fma(n, 2.1219444e-4f, std::fma(n, -0.6933594f, x));
  float tail = kPolynomial[0];
  for (int i = 1; i < 6; ++i) tail = std::fma(tail, r, kPolynomial[i]);
  return std::ldexp(std::fma(tail, rounded(r * r), r) + 1.f, int(n));
}

bool all_finite(const std::vector<float> &x) {
  return std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
}

void penalize(std::vector<float> &x, const QuernSamplingRow &row, const std::vector<uint32_t> &counts) {
  for (size_t id = 0; id < x.size(); ++id) {
    if (counts[id] == 0) continue;
    x[id] = x[id] < 0.f ? x[id] * row.repetition_penalty : x[id] / row.repetition_penalty;
    const uint32_t generated = counts[id] & 0x7fffffffu;
    if (generated == 0) continue;
    x[id] -= rounded(rounded(row.frequency_penalty * float(generated)) + row.presence_penalty);
  }
}

std::vector<int> possible(const std::vector<float> &x) {
  std::vector<int> ids;
  for (size_t id = 0; id < x.size(); ++id) {
    if (std::isfinite(x[id])) ids.push_back(int(id));
  }
  return ids;
}

double total(const std::vector<float> &x) {
  double sum = 0.0;
  for (float v : x) sum += weight(v);
  return sum;
}

void near(double a, double b, double scale, double &margin) { margin = std::min(margin, std::fabs(a - b) / scale); }

void top_k(std::vector<float> &x, int k) {
  std::vector<float> sorted = x;
  std::nth_element(sorted.begin(), sorted.begin() + k - 1, sorted.end(), std::greater<float>());
  for (float &v : x) {
    if (v < sorted[k - 1]) v = -INFINITY;
  }
}

/// Length of the shortest prefix of `order` whose weights reach p of the total.
size_t shortest_prefix(const std::vector<float> &x, const std::vector<int> &order, float p, double &margin) {
  const double all = total(x), mass = double(p) * all;
  double sum = 0.0;
  for (size_t i = 0; i < order.size(); ++i) {
    sum += weight(x[order[i]]);
    near(sum, mass, all, margin);
    if (sum >= mass) return i + 1;
  }
  return order.size();
}

void top_p(std::vector<float> &x, float p, double &margin) {
  std::vector<int> order = possible(x);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  const size_t kept = shortest_prefix(x, order, p, margin);
  for (size_t i = kept; i < order.size(); ++i) x[order[i]] = -INFINITY;
}

void typical_p(std::vector<float> &x, float p, double &margin) {
  std::vector<int> order = possible(x);
  const double all = total(x);
  double mean = 0.0;
  for (int id : order) mean += weight(x[id]) / all * x[id];
  std::vector<double> score(x.size());
  for (int id : order) score[id] = std::fabs(mean - x[id]);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return score[a] < score[b]; });
  const size_t kept = shortest_prefix(x, order, p, margin);
  const int last = order[kept - 1];
  for (size_t i = 0; i < order.size(); ++i) {
    // Different logits on both sides of the entropy with all but equal distances: rounding orders them.
    if (x[order[i]] != x[last]) near(score[order[i]], score[last], 10.0 * std::max(1.0, score[last] / 4), margin);
  }
  const std::vector<float> before = x;
  for (size_t i = kept; i < order.size(); ++i) {
    if (before[order[i]] != before[last]) x[order[i]] = -INFINITY;
  }
}

/// The token at `uniform` of the cumulative distribution in the order of ids.
int draw(const std::vector<float> &x, double uniform, double &margin) {
  const double all = total(x), at = uniform * all;
  double sum = 0.0;
  int chosen = -1;
  for (size_t id = 0; id < x.size(); ++id) {
    if (weight(x[id]) == 0.0) continue;
    sum += weight(x[id]);
    near(sum, at, all, margin);
    if (chosen < 0 && at < sum) chosen = int(id);
  }
  return chosen;
}

}  // namespace

double exp_by_polynomial(float x) { return weight(x); }

uint64_t philox_words(uint64_t seed, uint64_t position) {
  uint32_t c[4] = {uint32_t(position), uint32_t(position >> 32), 0, 0}, key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53) * c[0], b = uint64_t(0xCD9E8D57) * c[2];
    const uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ key[1], uint32_t(a)};
    std::copy(next, next + 4, c);
    key[0] += 0x9E3779B9, key[1] += 0xBB67AE85;
  }
  return uint64_t(c[0]) << 32 | c[1];
}

ReferenceSample sample_by_definition(const std::vector<float> &logits, const QuernSamplingRow &row,
                                     const ReferenceEdits &edits) {
  ReferenceSample result;
  std::vector<float> x = logits;
  result.finite = all_finite(x);
  for (const QuernTokenBias &bias : edits.biases) x[bias.id] = rounded(x[bias.id] + bias.bias);
  if (result.finite && !edits.counts.empty()) penalize(x, row, edits.counts);
  const auto allowed = [&](size_t id) { return edits.mask.empty() || (edits.mask[id / 32] >> id % 32 & 1) != 0; };
  for (size_t id = 0; id < x.size(); ++id) {
    if (allowed(id)) result.finite &= std::isfinite(x[id]);
    else x[id] = -INFINITY;
  }
  if (!result.finite) return result;
  const float max = *std::max_element(x.begin(), x.end());
  if (row.do_sample) {
    for (float &v : x) v = rounded(v - max) / row.temperature;
    if (row.top_k > 0 && row.top_k < int(x.size())) top_k(x, row.top_k);
    if (row.top_p < 1.f) top_p(x, row.top_p, result.margin);
    if (row.typical_p < 1.f) typical_p(x, row.typical_p, result.margin);
    result.id = draw(x, double(philox_words(row.seed, row.position) >> 11) * 0x1p-53, result.margin);
  } else {
    result.id = int(std::max_element(x.begin(), x.end()) - x.begin());
  }
  const double shift = row.do_sample ? 0.0 : double(max);
  double sum = 0.0;
  for (float v : x) sum += weight(float(v - shift));
  const auto logprob = [&](int id) { return double(x[id]) - shift - std::log(sum); };
  result.logprob = logprob(result.id);
  std::vector<int> order = possible(x);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  order.resize(std::min(order.size(), size_t(row.top_n_tokens)));
  for (int id : order) result.top.push_back({id, float(logprob(id))});
  return result;
}

}  // namespace quern::test
