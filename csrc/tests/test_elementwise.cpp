// Embedding, gather, RMSNorm and SiLU times up against their definitions in float64, ragged widths and row counts,
// padded with guards; every kernel twice with different poison.
#include <string>

#include "half.h"
#include "tests.h"

namespace quern::test {
namespace {

std::vector<Half> random_halves(size_t n, float limit, Rng &rng) {
  std::vector<Half> values(n);
  for (Half &value : values) value = to_half(rng.uniform(-limit, limit));
  return values;
}

void check_embed(TestContext &context, int rows, int hidden, int vocab) {
  Rng &rng = context.rng;
  const std::string name = "embed rows=" + std::to_string(rows) + " hidden=" + std::to_string(hidden);
  const std::vector<Half> table = random_halves(size_t(vocab) * hidden, 2.f, rng);
  constexpr int kSlots = 5, kCountSlots = 3;
  std::vector<int32_t> tokens(rows), sampled(kSlots), count_rows(rows);
  std::vector<uint32_t> counts(size_t(kCountSlots) * vocab, 0), expected_counts;
  for (int32_t &token : sampled) token = rng.below(vocab);
  counts[3] = 7;
  expected_counts = counts;
  std::vector<float> expected(size_t(rows) * hidden);
  for (int row = 0; row < rows; ++row) {
    tokens[row] = rng.below(3) == 0 ? -1 - rng.below(kSlots) : rng.below(vocab);
    const int token = tokens[row] < 0 ? sampled[-1 - tokens[row]] : tokens[row];
    count_rows[row] = rng.below(2 * kCountSlots + 1) - 1;
    if (count_rows[row] >= 0) {
      uint32_t &count = expected_counts[size_t(count_rows[row] / 2) * vocab + token];
      count = count_rows[row] % 2 == 0 ? count | 1u << 31 : count + 1;
    }
    for (int i = 0; i < hidden; ++i) expected[size_t(row) * hidden + i] = to_float(table[size_t(token) * hidden + i]);
  }
  const DeviceBuffer d_table(table), d_tokens(tokens), d_sampled(sampled), d_counts(counts), d_rows(count_rows);
  for (uint32_t poison : kPoison) {
    DeviceBuffer residual(expected.size() * 4, poison);
    const bool counting = poison == kPoison[0];
    const QuernEmbed args = {d_table.data(), static_cast<int32_t *>(d_tokens.data()),
                             static_cast<int32_t *>(d_sampled.data()), static_cast<float *>(residual.data()),
                             counting ? static_cast<uint32_t *>(d_counts.data()) : nullptr,
                             counting ? static_cast<int32_t *>(d_rows.data()) : nullptr, rows, hidden, vocab};
    STATUS_OK(quern_embed(&context.device, &args, nullptr));
    CUDA_OK(cudaDeviceSynchronize());
    context.checks.expect(residual.download<float>() == expected, name);
    context.checks.expect(residual.guards_intact() && d_counts.guards_intact(), name + " guards");
  }
  context.checks.expect(d_counts.download<uint32_t>() == expected_counts, name + " counts");
}

void check_gather(TestContext &context, int rows, int cols) {
  const std::vector<Half> x = random_halves(size_t(37) * cols, 1.f, context.rng);
  std::vector<int32_t> index(rows);
  std::vector<Half> expected;
  for (int32_t &i : index) {
    i = context.rng.below(37);
    expected.insert(expected.end(), x.begin() + size_t(i) * cols, x.begin() + size_t(i + 1) * cols);
  }
  const DeviceBuffer d_x(x), d_index(index), out(expected.size() * 2);
  const QuernGather args = {d_x.data(), static_cast<int32_t *>(d_index.data()), out.data(), rows, cols};
  STATUS_OK(quern_gather_rows(&context.device, &args, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  context.checks.expect(out.download<Half>() == expected && out.guards_intact(), "gather cols=" + std::to_string(cols));
}

void check_gather_columns(TestContext &context, int rows, int ldx, int cols) {
  const std::vector<Half> x = random_halves(size_t(rows) * ldx, 1.f, context.rng);
  std::vector<int32_t> index(cols);
  for (int32_t &i : index) i = context.rng.below(ldx);
  std::vector<Half> expected;
  for (int r = 0; r < rows; ++r) {
    for (const int32_t i : index) expected.push_back(x[size_t(r) * ldx + i]);
  }
  const DeviceBuffer d_x(x), d_index(index), out(expected.size() * 2);
  const QuernGatherColumns args = {d_x.data(), static_cast<int32_t *>(d_index.data()), out.data(), rows, ldx, cols};
  STATUS_OK(quern_gather_columns(&context.device, &args, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  context.checks.expect(out.download<Half>() == expected && out.guards_intact(),
                        "gather columns " + std::to_string(ldx) + " to " + std::to_string(cols));
}

/// The low half of splitmix64's output function.
uint32_t draw(uint64_t counter) {
  uint64_t z = counter * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(z ^ (z >> 31));
}

void check_fill(TestContext &context, int kind, size_t elements) {
  const std::string name = "fill kind=" + std::to_string(kind) + " elements=" + std::to_string(elements);
  const uint64_t seed = context.rng.below(1 << 30) * 0x123456789ull;
  const size_t size = kind == QUERN_FILL_BITS ? 4 : 2;
  const float low = -0.035f, high = 0.05f;
  for (uint32_t poison : kPoison) {
    DeviceBuffer out(elements * size, poison);
    const QuernFill args = {out.data(), elements * size, seed, kind, low, high};
    STATUS_OK(quern_fill(&context.device, &args, nullptr));
    CUDA_OK(cudaDeviceSynchronize());
    bool right = out.guards_intact();
    if (kind == QUERN_FILL_BITS) {
      const std::vector<uint32_t> got = out.download<uint32_t>();
      for (size_t i = 0; i < elements; ++i) right = right && got[i] == draw(seed + i);
    } else {
      const std::vector<Half> got = out.download<Half>();
      for (size_t i = 0; i < elements; ++i) {
        const volatile float scaled = (high - low) * (float(draw(seed + i) >> 8) / 16777216.f);  // no fused product
        right = right && got[i] == to_half(low + scaled);
      }
    }
    context.checks.expect(right, name);
  }
}

struct NormCase {
  int rows, hidden;
  float scale;  // of the residual
};

void check_rms_norm(TestContext &context, NormCase c) {
  Rng &rng = context.rng;
  const std::string name = "rms_norm rows=" + std::to_string(c.rows) + " hidden=" + std::to_string(c.hidden);
  const size_t n = size_t(c.rows) * c.hidden;
  constexpr float kEps = 1e-6f;
  std::vector<float> residual(n);
  for (float &x : residual) x = c.scale * rng.uniform(-1.f, 1.f);
  const std::vector<Half> weight = random_halves(c.hidden, 2.f, rng);
  std::vector<double> expected(n), magnitude(n, 0.0);
  for (int row = 0; row < c.rows; ++row) {
    double squares = 0.0;
    for (int i = 0; i < c.hidden; ++i) squares += double(residual[size_t(row) * c.hidden + i]) * residual[size_t(row) * c.hidden + i];
    const double factor = 1.0 / std::sqrt(squares / c.hidden + kEps);
    for (int i = 0; i < c.hidden; ++i) {
      const size_t at = size_t(row) * c.hidden + i;
      expected[at] = std::fmax(-65504.0, std::fmin(65504.0, residual[at] * factor * to_float(weight[i])));
    }
  }
  const DeviceBuffer d_weight(weight), d_residual(residual);
  for (int repeat = 0; repeat < 2; ++repeat) {
    DeviceBuffer out(n * 2, kPoison[repeat]);
    const QuernRmsNorm args = {static_cast<const float *>(d_residual.data()), d_weight.data(), out.data(), c.rows, c.hidden, kEps,
                               nullptr};
    STATUS_OK(quern_rms_norm(&context.device, &args, nullptr));
    CUDA_OK(cudaDeviceSynchronize());
    const std::vector<double> y = to_double(out.download<Half>());
    for (int row = 0; row < c.rows; ++row) {
      const size_t at = size_t(row) * c.hidden;
      expect_close(context.checks, name, y.data() + at, expected.data() + at, magnitude.data() + at, c.hidden,
                   kHalfTolerance);
    }
    context.checks.expect(out.guards_intact() && d_residual.guards_intact(), name + " guards");
  }
}

void check_silu_mul(TestContext &context, int rows, int width, float limit) {
  const std::string name = "silu_mul rows=" + std::to_string(rows) + " width=" + std::to_string(width);
  const std::vector<Half> x = random_halves(size_t(rows) * 2 * width, limit, context.rng);
  std::vector<double> expected(size_t(rows) * width), magnitude(expected.size(), 0.0);
  for (int row = 0; row < rows; ++row) {
    for (int i = 0; i < width; ++i) {
      const double gate = to_float(x[size_t(row) * 2 * width + i]), up = to_float(x[size_t(row) * 2 * width + width + i]);
      expected[size_t(row) * width + i] = std::fmax(-65504.0, std::fmin(65504.0, gate / (1.0 + std::exp(-gate)) * up));
    }
  }
  const DeviceBuffer d_x(x), out(expected.size() * 2);
  const QuernSiluMul args = {d_x.data(), out.data(), rows, width};
  STATUS_OK(quern_silu_mul(&context.device, &args, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  const std::vector<double> y = to_double(out.download<Half>());
  for (int row = 0; row < rows; ++row) {
    const size_t at = size_t(row) * width;
    expect_close(context.checks, name, y.data() + at, expected.data() + at, magnitude.data() + at, width, kHalfTolerance);
  }
  context.checks.expect(out.guards_intact(), name + " guards");
}

}  // namespace

void test_elementwise(TestContext &context) {
  check_embed(context, 3, 64, 100);
  check_embed(context, 65, 576, 1000);
  check_gather(context, 5, 8);
  for (int kind : {QUERN_FILL_BITS, QUERN_FILL_F16}) {
    for (size_t elements : {size_t(2), size_t(258), size_t(1'000'000)}) check_fill(context, kind, elements);
  }
  for (NormCase c : {NormCase{1, 8, 1.f}, {3, 576, 1e4f}, {2, 8200, 1e-3f}}) check_rms_norm(context, c);
  for (float limit : {8.f, 60000.f}) check_silu_mul(context, 3, 1032, limit);
  if (context.small) return;
  check_embed(context, 511, 5120, 500);
  check_gather(context, 64, 5120);
  check_gather_columns(context, 1, 96, 8);
  check_gather_columns(context, 33, 5120, 10240);
  check_gather_columns(context, 5, 13696, 27392);
  for (NormCase c : {NormCase{64, 5120, 3e4f}, {511, 4096, 1.f}, {2, 16384, 10.f}}) check_rms_norm(context, c);
  check_silu_mul(context, 64, 13696, 8.f);
}

}  // namespace quern::test
