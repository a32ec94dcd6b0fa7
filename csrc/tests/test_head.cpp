// The fp16 output head: right for every M, the same bits alone and in company, 50 repeats the same bits, by the entry
// point and by each kernel.
#include <functional>
#include <string>

#include "awq.h"
#include "head.h"
#include "tests.h"

namespace quern::test {
namespace {

using Launch = std::function<int32_t(const QuernHead &)>;

/// A way to run m rows, and the largest m to try.
struct Way {
  std::string name;
  std::vector<int> rows;  // ascending
  Launch launch;
};
std::vector<Way> all_ways(const QuernDevice &device) {
  std::vector<Way> ways;
  const bool hopper = device.compute_capability == 90;
  std::vector<int> few, many = {17, 31, 32, 33, 63, 64, 65, 130};
  for (int m = 1; m <= 16; ++m) few.push_back(m);
  const auto chosen = [&device](const QuernHead &args) { return quern_head_decode(&device, &args, nullptr); };
  ways.push_back({"few", few, chosen});
  ways.push_back({"many", many, chosen});
  ways.push_back({"portable", {1, 16, 17, 40}, [&device](const QuernHead &args) {
                    QuernDevice portable = device;
                    portable.force_portable = 1;
                    return quern_head_decode(&portable, &args, nullptr);
                  }});
  if (hopper) {
    ways.push_back({"hopper", {1, 2, 8, 9, 16, 40, 64}, [&device](const QuernHead &args) {
                      return launch_hopper_head(device, args, 0, args.m, nullptr);
                    }});
  }
  return ways;
}

struct HeadCase {
  int k, v;
};

std::vector<float> run(const Launch &launch, const DeviceBuffer &weight, const DeviceBuffer &x, HeadCase c, int m,
                       uint32_t poison, Checks &checks) {
  const int ldo = c.v + 3;
  DeviceBuffer logits(size_t(m) * ldo * 4, poison);
  const QuernHead args = {weight.data(), x.data(), static_cast<float *>(logits.data()), m, c.k, c.v, c.k, ldo};
  STATUS_OK(launch(args));
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
  constexpr int kMaxM = 130;
  std::vector<Half> weight(size_t(c.k) * c.v);
  for (Half &w : weight) w = to_half(context.rng.uniform(-0.05f, 0.05f));
  const std::vector<Half> x = random_rows(kMaxM, c.k, false, context.rng);
  const DeviceBuffer device_weight(weight), device_x(x);
  const Product product = multiply_rows(to_double(x), kMaxM, weight, c.k);
  Checks &checks = context.checks;
  for (const Way &way : all_ways(context.device)) {
    const std::string name = "head " + way.name + " k=" + std::to_string(c.k) + " v=" + std::to_string(c.v);
    const int most = way.rows.back();
    const std::vector<float> all = run(way.launch, device_weight, device_x, c, most, kPoison[0], checks);
    for (int row = 0; row < most; ++row) {
      const size_t at = size_t(row) * c.v;
      const std::vector<double> y(all.begin() + at, all.begin() + at + c.v);
      expect_close(checks, name + " row " + std::to_string(row), y.data(), product.y.data() + at,
                   product.magnitude.data() + at, c.v, kFloatTolerance);
    }
    for (int m : way.rows) {
      checks.expect(same_bits(run(way.launch, device_weight, device_x, c, m, kPoison[1], checks), all),
                    name + " m=" + std::to_string(m) + " differs from m=" + std::to_string(most));
    }
    for (int i = 1; i < repeats; ++i) {
      checks.expect(same_bits(run(way.launch, device_weight, device_x, c, most, kPoison[0], checks), all), name + " repeat");
    }
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
