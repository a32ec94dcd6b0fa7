// The int4 prefill GEMM: every variant, cut into shares and whole, and the plan the library picks, against float64; equal
// bits in repeats, without overlap and from a dirty workspace; every weight recovered by one-hot rows.
#include <algorithm>

#include "int4_prefill/variants.h"
#include "linear_case.h"

namespace quern::test {
namespace {

constexpr int kRepeats = 50;
/// Rows with a reference: edges of output blocks and a few between.
const std::vector<int> kCheckedRows = {0,   1,   8,   16,  30,  31,  32,  33,   62,   63,   64,   65,   126,  127, 128,
                                       191, 192, 255, 256, 300, 510, 767, 1023, 1500, 2046, 2048, 3000, 3695, 4095};

std::vector<int> checked_rows(int max_m) {
  std::vector<int> rows;
  for (int row : kCheckedRows) {
    if (row < max_m - 1) rows.push_back(row);
  }
  rows.push_back(max_m - 1);
  return rows;
}

/// What kernels leave zero is zeroed once, other partial sums are NaN: nothing unwritten may be read, and nothing sent may
/// be left after a launch.
struct Workspace {
  DeviceBuffer memory;
  size_t zeroed;

  explicit Workspace(const QuernDevice &device)
      : memory(quern_int4_linear_prefill_workspace(&device)), zeroed(zeroed_workspace(device)) {
    CUDA_OK(cudaMemset(memory.data(), 0, zeroed));
  }
  bool is_left_clean() const {
    std::vector<uint64_t> left(zeroed / 8);
    CUDA_OK(cudaMemcpy(left.data(), memory.data(), zeroed, cudaMemcpyDeviceToHost));
    return std::all_of(left.begin(), left.end(), [](uint64_t word) { return word == 0; }) && memory.guards_intact();
  }
};

struct Way {
  PrefillVariant variant;
  PrefillSplit split;
  std::string name() const {
    return std::to_string(variant.tokens) + (variant.cluster == 0 ? " portable" : " x" + std::to_string(variant.cluster)) +
           (split == PrefillSplit::kAlways ? " shares" : " whole");
  }
};
std::vector<Way> all_ways(const QuernDevice &device) {
  std::vector<Way> ways;
  const auto add = [&](PrefillVariant variant) {
    for (PrefillSplit split : {PrefillSplit::kNever, PrefillSplit::kAlways}) ways.push_back({variant, split});
  };
  for (PrefillVariant variant : kPortableVariants) add(variant);
  if (device.compute_capability != 90) return ways;
  for (PrefillVariant variant : kHopperVariants) add(variant);
  return ways;
}

LinearKernel kernel_of(const QuernDevice &device, const Workspace &workspace, Way way) {
  return [=, &workspace](QuernLinear args) {
    args.workspace = workspace.memory.data();
    return launch_prefill(device, args, plan_prefill(device, args, way.variant, way.split), nullptr);
  };
}
LinearKernel chosen_kernel(const QuernDevice &device, const Workspace &workspace) {
  return [&device, &workspace](QuernLinear args) {
    args.workspace = workspace.memory.data();
    return quern_int4_linear_prefill(&device, &args, nullptr);
  };
}

/// Every way on one shape, in two differently poisoned runs.
void check_ways(TestContext &context, const LinearShape &shape, const std::vector<int> &rows) {
  Checks &checks = context.checks;
  const int max_m = rows.back();
  LinearCase linear(shape, max_m, context.rng, checked_rows(max_m));
  const Workspace workspace(context.device);
  for (const Way &way : all_ways(context.device)) {
    const LinearKernel kernel = kernel_of(context.device, workspace, way);
    for (int m : rows) {
      const std::string name = linear.name() + " m=" + std::to_string(m) + " " + way.name();
      const std::vector<uint8_t> first = linear.run(kernel, m, kPoison[0], checks);
      linear.expect_right(first, m, checks, true);
      checks.expect(linear.run(kernel, m, kPoison[1], checks) == first, name + " second run");
      checks.expect(workspace.is_left_clean(), name + " workspace");
    }
  }
}

/// The library's own choice for many M.
void check_chosen(TestContext &context, const LinearShape &shape, const std::vector<int> &rows, bool portable) {
  Checks &checks = context.checks;
  LinearCase linear(shape, rows.back(), context.rng, checked_rows(rows.back()));
  const Workspace workspace(context.device);
  QuernDevice device = context.device, apart = context.device;
  device.force_portable = apart.force_portable = portable;
  apart.pdl = 0;
  for (int m : rows) {
    const std::vector<uint8_t> out = linear.run(chosen_kernel(device, workspace), m, kPoison[0], checks);
    linear.expect_right(out, m, checks, true);
    checks.expect(workspace.is_left_clean(), linear.name() + " m=" + std::to_string(m) + " workspace");
    if (m > 600) continue;
    checks.expect(linear.run(chosen_kernel(apart, workspace), m, kPoison[1], checks) == out,
                  linear.name() + " m=" + std::to_string(m) + " without overlap");
  }
}

/// Launches that follow each other at once, sharing a workspace.
void check_repeats(TestContext &context, const LinearShape &shape, int m, bool portable) {
  LinearCase linear(shape, m, context.rng, {0, m - 1});
  const Workspace workspace(context.device);
  QuernDevice device = context.device;
  device.force_portable = portable;
  const LinearKernel once = chosen_kernel(device, workspace);
  const LinearKernel thrice = [&](const QuernLinear &args) {
    STATUS_OK(once(args));
    STATUS_OK(once(args));
    return once(args);
  };
  const std::vector<uint8_t> first = linear.run(once, m, kPoison[0], context.checks);
  linear.expect_right(first, m, context.checks, true);
  for (int i = 1; i < kRepeats; ++i) {
    context.checks.expect(linear.run(i % 2 ? thrice : once, m, kPoison[i % 2], context.checks) == first,
                          linear.name() + " m=" + std::to_string(m) + " repeat");
  }
}

/// Row i of x is 1 at k = first + i: row i of the result is that row of W, each weight rounded to fp16.
void check_one_hot(TestContext &context, const LinearShape &shape) {
  const int m = shape.k;
  LinearCase linear(shape, 1, context.rng);
  const Workspace workspace(context.device);
  std::vector<Half> x(size_t(m) * shape.k);
  for (int i = 0; i < m; ++i) x[size_t(i) * shape.k + i] = to_half(1.0f);
  for (const Way &way : all_ways(context.device)) {
    const std::vector<float> y = linear.run_rows(kernel_of(context.device, workspace, way), x, m, context.checks);
    bool exact = true;
    for (int i = 0; i < m; ++i) {
      for (int column = 0; column < shape.n; ++column) {
        const float weight = to_float(to_half(float(linear.matrix().weight(i, column))));
        exact &= y[size_t(i) * shape.n + column] == weight;
      }
    }
    context.checks.expect(exact, linear.name() + " one-hot " + way.name());
  }
}

void check_refusals(TestContext &context) {
  DeviceBuffer memory(1 << 16);
  void *p = memory.data();
  const QuernInt4 weight = {p, 128, 64, 128, 0};
  const QuernLinear good = {weight, p, nullptr, p, p, 17, 128, 64, QUERN_STORE_F16, {}, {}};
  const auto status = [&](auto change) {
    QuernLinear args = good;
    change(args);
    return quern_int4_linear_prefill(&context.device, &args, nullptr);
  };
  Checks &checks = context.checks;
  checks.expect(status([](QuernLinear &a) { a.m = 16; }) == QUERN_BAD_SHAPE, "m = 16");
  checks.expect(status([](QuernLinear &a) { a.weight.k = 129; }) == QUERN_BAD_SHAPE, "k = 129");
  checks.expect(status([](QuernLinear &a) { a.ldx = 132; }) == QUERN_BAD_SHAPE, "ldx % 8");
  checks.expect(status([](QuernLinear &a) { a.ldo = 63; }) == QUERN_BAD_SHAPE, "ldo < n");
  checks.expect(status([](QuernLinear &a) { a.workspace = nullptr; }) == QUERN_BAD_POINTER, "no workspace");
  checks.expect(status([](QuernLinear &a) { a.x = static_cast<const char *>(a.x) + 2; }) == QUERN_BAD_POINTER, "x");
  checks.expect(status([](QuernLinear &a) { a.epilogue = 9; }) == QUERN_UNSUPPORTED, "epilogue 9");
  checks.expect(status([](QuernLinear &a) { a.epilogue = QUERN_SILU_MUL_F16; }) == QUERN_BAD_SHAPE, "silu unpaired");
}

}  // namespace

void test_int4_prefill(TestContext &context) {
  const std::vector<LinearShape> small = {
      {128, 8, 128},
      {1280, 64, 128, QUERN_STORE_F32},
      {576, 72, 64, QUERN_ADD_F32, 0, true},
      {160, 200, 32, QUERN_STORE_F16, 0, true},
      {640, 256, 128, QUERN_SILU_MUL_F16, 128, true},
  };
  const std::vector<LinearShape> large = {
      {5120, 15360, 128, QUERN_STORE_F16, 64, true},
      {5120, 5120, 128, QUERN_ADD_F32},
      {5120, 27392, 128, QUERN_SILU_MUL_F16, 13696},
      {13696, 5120, 128, QUERN_ADD_F32, 0, false, true},
  };
  for (const LinearShape &shape : small) check_ways(context, shape, context.small ? std::vector<int>{37} : std::vector<int>{17, 33, 300});
  check_refusals(context);
  if (context.small) return;
  check_one_hot(context, {768, 136, 128, QUERN_STORE_F32});
  check_one_hot(context, {576, 192, 32, QUERN_STORE_F32, 48});
  check_one_hot(context, {704, 200, 64, QUERN_STORE_F32});
  check_ways(context, {5120, 1288, 128, QUERN_ADD_F32, 0, true}, {129, 520});
  check_ways(context, {4096, 1032, 32, QUERN_STORE_F16}, {65, 257});
  check_ways(context, {1536, 3072, 64, QUERN_SILU_MUL_F16, 1536}, {511});
  const std::vector<int> rows = {17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 511, 2047, 3696, 4096};
  for (const LinearShape &shape : large) check_chosen(context, shape, rows, false);
  check_chosen(context, {5248, 5128, 128, QUERN_STORE_F16, 0, false, true}, {17, 100, 511}, false);
  check_chosen(context, {6912, 1024, 128, QUERN_STORE_F32}, {63, 129, 2047}, false);
  check_chosen(context, {5120, 5120, 128, QUERN_ADD_F32}, {17, 65, 511}, true);
  check_chosen(context, {13696, 1024, 128, QUERN_STORE_F16}, {33, 300}, true);
  for (const bool portable : {false, true}) {
    check_repeats(context, {5120, 1288, 128, QUERN_STORE_F16}, 100, portable);
    check_repeats(context, {13696, 640, 128, QUERN_STORE_F32}, 300, portable);
  }
}

}  // namespace quern::test
