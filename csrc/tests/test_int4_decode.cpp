// The int4 decode GEMM: right for every M, alone and in company the same bits, 50 repeats the same bits, every weight
// recovered exactly by one-hot rows; with bulk copies and clusters, and with the portable kernel.
#include <algorithm>

#include "linear_case.h"

namespace quern::test {
namespace {

constexpr int kMaxM = 16;
constexpr int kRepeats = 50;

/// A workspace that must be all zeros in its counters after every launch; here: equal launches agree.
struct Runner {
  QuernDevice device;
  DeviceBuffer workspace;

  Runner(const QuernDevice &device, int k, int n)
      : device(device), workspace(std::max<size_t>(16, quern_int4_linear_decode_workspace(&device, k, n))) {
    workspace.zero();
  }
  int32_t operator()(QuernLinear args) {
    args.workspace = workspace.data();
    return quern_int4_linear_decode(&device, &args, nullptr);
  }
};

QuernDevice with(const QuernDevice &device, bool portable, bool pdl) {
  QuernDevice changed = device;
  changed.force_portable = portable;
  changed.pdl = pdl && device.pdl;
  return changed;
}

void check_shape(TestContext &context, const LinearShape &shape, bool portable) {
  Checks &checks = context.checks;
  LinearCase linear(shape, kMaxM, context.rng);
  const QuernDevice device = with(context.device, portable, true);
  Runner runner(device, shape.k, shape.n);
  const LinearKernel kernel = [&](const QuernLinear &args) { return runner(args); };
  const std::string name = linear.name() + (portable ? " portable" : "");

  const std::vector<uint8_t> all = linear.run(kernel, kMaxM, kPoison[0], checks);
  linear.expect_right(all, kMaxM, checks);
  const size_t row_bytes = all.size() / kMaxM;
  for (int m = 1; m <= kMaxM; ++m) {
    const std::vector<uint8_t> some = linear.run(kernel, m, kPoison[1], checks);
    checks.expect(std::equal(some.begin(), some.end(), all.begin()), name + " m=" + std::to_string(m) + " differs from m=16");
    checks.expect(some.size() == m * row_bytes, name + " size");
  }
  Runner plain(with(context.device, portable, false), shape.k, shape.n);
  const LinearKernel without_overlap = [&](const QuernLinear &args) { return plain(args); };
  checks.expect(linear.run(without_overlap, kMaxM, kPoison[0], checks) == all, name + " without overlap");
  checks.expect(runner.workspace.guards_intact(), name + " workspace guards");
}

void check_repeats(TestContext &context, const LinearShape &shape, bool portable) {
  LinearCase linear(shape, kMaxM, context.rng);
  Runner runner(with(context.device, portable, true), shape.k, shape.n);
  const LinearKernel kernel = [&](const QuernLinear &args) { return runner(args); };
  for (int m : {5, kMaxM}) {
    const std::vector<uint8_t> first = linear.run(kernel, m, kPoison[0], context.checks);
    for (int i = 1; i < kRepeats; ++i) {
      context.checks.expect(linear.run(kernel, m, kPoison[i % 2], context.checks) == first, linear.name() + " repeat");
    }
  }
}

/// Row i of x is 1 at k = i: row i of the result is row i of W, exactly.
void check_one_hot(TestContext &context, const LinearShape &shape, bool portable) {
  LinearCase linear(shape, 1, context.rng);
  Runner runner(with(context.device, portable, true), shape.k, shape.n);
  const LinearKernel kernel = [&](const QuernLinear &args) { return runner(args); };
  for (int first = 0; first < shape.k; first += kMaxM) {
    std::vector<Half> x(size_t(kMaxM) * shape.k);
    for (int i = 0; i < kMaxM; ++i) x[size_t(i) * shape.k + first + i] = to_half(1.0f);
    const std::vector<float> y = linear.run_rows(kernel, x, kMaxM, context.checks);
    bool exact = true;
    for (int i = 0; i < kMaxM; ++i) {
      for (int column = 0; column < shape.n; ++column) {
        exact &= y[size_t(i) * shape.n + column] == float(linear.matrix().weight(first + i, column));
      }
    }
    context.checks.expect(exact, linear.name() + " one-hot k=" + std::to_string(first));
  }
}

void check_refusals(TestContext &context) {
  DeviceBuffer memory(1 << 16);
  void *p = memory.data();
  const QuernInt4 weight = {p, 128, 64, 128, 0};
  const QuernLinear good = {weight, p, nullptr, p, p, 1, 128, 64, QUERN_STORE_F16, {}, {}};
  const auto status = [&](auto change) {
    QuernLinear args = good;
    change(args);
    return quern_int4_linear_decode(&context.device, &args, nullptr);
  };
  Checks &checks = context.checks;
  checks.expect(status([](QuernLinear &a) { a.m = 0; }) == QUERN_BAD_SHAPE, "m = 0");
  checks.expect(status([](QuernLinear &a) { a.m = 17; }) == QUERN_BAD_SHAPE, "m = 17");
  checks.expect(status([](QuernLinear &a) { a.weight.k = 129; }) == QUERN_BAD_SHAPE, "k = 129");
  checks.expect(status([](QuernLinear &a) { a.ldx = 120; }) == QUERN_BAD_SHAPE, "ldx < k");
  checks.expect(status([](QuernLinear &a) { a.ldo = 63; }) == QUERN_BAD_SHAPE, "ldo < n");
  checks.expect(status([](QuernLinear &a) { a.x = nullptr; }) == QUERN_BAD_POINTER, "no x");
  checks.expect(status([](QuernLinear &a) { a.epilogue = 9; }) == QUERN_UNSUPPORTED, "epilogue 9");
  checks.expect(status([](QuernLinear &a) { a.epilogue = QUERN_SILU_MUL_F16; }) == QUERN_BAD_SHAPE, "silu unpaired");
}

}  // namespace

void test_int4_decode(TestContext &context) {
  const std::vector<LinearShape> small = {
      {128, 8, 128},
      {256, 64, 128, QUERN_STORE_F32},
      {576, 72, 64, QUERN_ADD_F32, 0, true},
      {160, 200, 32, QUERN_STORE_F16, 0, true},
      {640, 256, 128, QUERN_SILU_MUL_F16, 128, true},
      {32, 16, 32, QUERN_STORE_F32},
  };
  const std::vector<LinearShape> large = {
      {5120, 15360, 128, QUERN_STORE_F16, 64, true},
      {5120, 5120, 128, QUERN_ADD_F32},
      {5120, 27392, 128, QUERN_SILU_MUL_F16, 13696},
      {13696, 5120, 128, QUERN_ADD_F32, 0, false, true},
      {5248, 5128, 128, QUERN_STORE_F16, 0, false, true},
      {6912, 1024, 128, QUERN_STORE_F32},   // 54 of 107 groups
      {6784, 1024, 128, QUERN_STORE_F32},   // 53 of 107 groups
      {576, 3072, 64, QUERN_SILU_MUL_F16, 1536},
      {1536, 576, 64, QUERN_ADD_F32},
      {4096, 1032, 32, QUERN_STORE_F16},
      {17408, 512, 128, QUERN_STORE_F32},   // clusters of eight
      {29568, 512, 128, QUERN_STORE_F32},
  };
  for (const bool portable : {false, true}) {
    for (const LinearShape &shape : small) check_shape(context, shape, portable);
    check_one_hot(context, {256, 72, 64, QUERN_STORE_F32}, portable);
    if (context.small) continue;
    for (const LinearShape &shape : large) check_shape(context, shape, portable);
    check_one_hot(context, {1280, 136, 128, QUERN_STORE_F32}, portable);
    check_one_hot(context, {576, 192, 32, QUERN_STORE_F32, 48}, portable);
    check_repeats(context, {5120, 1288, 128, QUERN_STORE_F16}, portable);
    check_repeats(context, {13696, 640, 128, QUERN_ADD_F32}, portable);
  }
  check_refusals(context);
}

}  // namespace quern::test
