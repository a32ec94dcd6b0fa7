// The fp16 output head: right for every M, the same bits alone and in company, 50 repeats the same bits.
#include <string>

#include "awq.h"
#include "tests.h"

namespace quern::test {
namespace {

constexpr int kMaxM = 16;

struct HeadCase {
  int k, v;
};

std::vector<float> run(const QuernDevice &device, const DeviceBuffer &weight, const DeviceBuffer &x, HeadCase c, int m,
                       uint32_t poison, Checks &checks) {
  const int ldo = c.v + 3;
  DeviceBuffer logits(size_t(m) * ldo * 4, poison);
  const QuernHead args = {weight.data(), x.data(), static_cast<float *>(logits.data()), m, c.k, c.v, c.k, ldo};
  STATUS_OK(quern_head_decode(&device, &args, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  checks.expect(logits.guards_intact(), "head guards");
  const std::vector<uint32_t> rows = logits.download<uint32_t>();
  std::vector<float> dense(size_t(m) * c.v);
  bool intact = true;
  for (int row = 0; row < m; ++row) {
    std::memcpy(dense.data() + size_t(row) * c.v, rows.data() + size_t(row) * ldo, size_t(c.v) * 4);
    for (int i = c.v; i < ldo; ++i) intact &= rows[size_t(row) * ldo + i] == poison;
  }
  checks.expect(intact, "head writes between rows");
  return dense;
}

bool same_bits(const std::vector<float> &some, const std::vector<float> &all) {
  return std::memcmp(some.data(), all.data(), some.size() * 4) == 0;
}

void check_case(TestContext &context, HeadCase c, int repeats) {
  std::vector<Half> weight(size_t(c.k) * c.v);
  for (Half &w : weight) w = to_half(context.rng.uniform(-0.05f, 0.05f));
  const std::vector<Half> x = random_rows(kMaxM, c.k, false, context.rng);
  const DeviceBuffer device_weight(weight), device_x(x);
  const Product product = multiply_rows(to_double(x), kMaxM, weight, c.k);
  Checks &checks = context.checks;
  const std::string name = "head k=" + std::to_string(c.k) + " v=" + std::to_string(c.v);
  const std::vector<float> all = run(context.device, device_weight, device_x, c, kMaxM, kPoison[0], checks);
  for (int row = 0; row < kMaxM; ++row) {
    const size_t at = size_t(row) * c.v;
    const std::vector<double> y(all.begin() + at, all.begin() + at + c.v);
    expect_close(checks, name + " row " + std::to_string(row), y.data(), product.y.data() + at,
                 product.magnitude.data() + at, c.v, kFloatTolerance);
  }
  for (int m = 1; m <= kMaxM; ++m) {
    checks.expect(same_bits(run(context.device, device_weight, device_x, c, m, kPoison[1], checks), all),
                  name + " m=" + std::to_string(m) + " differs from m=16");
  }
  for (int i = 1; i < repeats; ++i) {
    checks.expect(same_bits(run(context.device, device_weight, device_x, c, kMaxM, kPoison[0], checks), all),
                  name + " repeat");
  }
}

}  // namespace

void test_head(TestContext &context) {
  check_case(context, {64, 16}, 2);
  check_case(context, {576, 1000}, 2);
  if (context.small) return;
  check_case(context, {5120, 4099}, 50);
  check_case(context, {8192, 700}, 2);
  check_case(context, {128, 49152}, 2);
}

}  // namespace quern::test
