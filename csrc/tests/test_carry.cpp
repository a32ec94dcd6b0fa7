// An RMSNorm carried by the products around it: what the one leaves (input, scales, sums of squares) and what the other makes
// of it, for every kernel that M <= 64 may get; and the sums of squares that the norm's own kernel begins with.
#include <algorithm>
#include <cmath>

#include "int4_prefill/variants.h"
#include "linear_case.h"

namespace quern::test {
namespace {

constexpr float kEps = 1e-6f, kScale = 1.0f / 16;
constexpr double kFactorTolerance = 2e-6;  // of a sum of squares in float32

/// A way to run a product of m rows.
struct Way {
  std::string name;
  LinearKernel kernel;
};

/// What kernels share: workspaces, zeroed once.
struct Machine {
  QuernDevice device, portable;
  DeviceBuffer decode, prefill;

  Machine(const QuernDevice &opened, const LinearShape &shape)
      : device(opened), portable(opened), decode(decode_bytes(opened, shape)), prefill(quern_int4_linear_prefill_workspace(&opened)) {
    portable.force_portable = 1;
    decode.zero();
    prefill.zero();
  }
  static size_t decode_bytes(QuernDevice device, const LinearShape &shape) {
    device.force_portable = 1;
    return std::max<size_t>(16, quern_int4_linear_decode_workspace(&device, shape.k, shape.n));
  }
  std::vector<Way> ways(int m) const {
    std::vector<Way> ways;
    for (const QuernDevice *of : {&device, &portable}) {
      const std::string name = of == &device ? "" : " portable";
      ways.push_back({name, [this, of, m](QuernLinear args) {
                        args.workspace = m <= 16 ? decode.data() : prefill.data();
                        return m <= 16 ? quern_int4_linear_decode(of, &args, nullptr)
                                       : quern_int4_linear_prefill(of, &args, nullptr);
                      }});
    }
    if (m <= 16 || device.compute_capability != 90) return ways;
    for (const PrefillVariant variant : kHopperVariants) {
      if (variant.tokens > QUERN_CARRY_ROWS) continue;
      for (PrefillSplit split : {PrefillSplit::kNever, PrefillSplit::kAlways}) {
        const std::string name = " " + std::to_string(variant.tokens) + " x" + std::to_string(variant.cluster) +
                                 (split == PrefillSplit::kAlways ? " shares" : " whole");
        ways.push_back({name, [this, variant, split](QuernLinear args) {
                          args.workspace = prefill.data();
                          return launch_prefill(device, args, plan_prefill(device, args, variant, split), nullptr);
                        }});
      }
    }
    return ways;
  }
};

int parts_of(int m, int columns) { return (columns + (m <= 16 ? 15 : 63)) / (m <= 16 ? 16 : 64); }

/// Random sums of squares of m rows; each row has a size of its own.
std::vector<float> random_squares(int m, int columns, Rng &rng) {
  const int parts = parts_of(m, columns);
  std::vector<float> squares(size_t(m) * parts);
  for (size_t i = 0; i < squares.size(); ++i) squares[i] = std::exp2(float(int(i / parts) % 9 - 4)) * rng.uniform(0.5f, 2.0f) * 16;
  return squares;
}
double inverse_rms(const std::vector<float> &squares, int row, int parts, int columns) {
  double sum = 0.0;
  for (int i = 0; i < parts; ++i) sum += squares[size_t(row) * parts + i];
  return 1.0 / std::sqrt(sum / columns + kEps);
}

/// x carries a norm: every sum is multiplied by the row's factor.
void check_reader(TestContext &context, LinearShape shape, int m) {
  const std::vector<float> squares = random_squares(m, shape.k, context.rng);
  std::vector<float> scales;
  for (int row = 0; row < m; ++row) {
    const double inverse = inverse_rms(squares, row, parts_of(m, shape.k), shape.k);
    scales.push_back(float(inverse) / context.rng.uniform(0.5f, 1.5f));
    shape.row_factors.push_back(float(inverse / scales[row]));
  }
  LinearCase linear(shape, m, context.rng);
  const Machine machine(context.device, shape);
  DeviceBuffer d_squares(squares), d_scales(scales);
  for (const Way &way : machine.ways(m)) {
    const LinearKernel kernel = [&](QuernLinear args) {
      args.carry.squares = static_cast<const float *>(d_squares.data());
      args.carry.scales = static_cast<float *>(d_scales.data());
      args.carry.eps = kEps;
      return way.kernel(args);
    };
    const std::vector<uint8_t> out = linear.run(kernel, m, kPoison[0], context.checks);
    linear.expect_right(out, m, context.checks, m > 16);
    context.checks.expect(linear.run(kernel, m, kPoison[1], context.checks) == out, linear.name() + way.name + " repeat");
  }
  context.checks.expect(d_squares.guards_intact() && d_scales.guards_intact(), linear.name() + " carry guards");
}

/// What a product left for the next one.
struct Left {
  std::vector<float> residual, squares, scales;
  std::vector<Half> normed;
};

/// Against the residual that the kernel itself wrote, which `expect_right` has judged.
void expect_left(Checks &checks, const std::string &name, const Left &left, const std::vector<float> &before,
                 const std::vector<Half> &weight, int m) {
  const int columns = int(weight.size()), parts = parts_of(m, columns), run = m <= 16 ? 16 : 64;
  bool scales = true, normed = true, squares = true;
  for (int row = 0; row < m; ++row) {
    const double scale = kScale * inverse_rms(before, row, parts, columns);
    scales &= std::fabs(left.scales[row] - scale) <= kFactorTolerance * scale;
    for (int part = 0; part < parts; ++part) {
      double sum = 0.0;
      for (int i = part * run; i < std::min(columns, (part + 1) * run); ++i) {
        const size_t at = size_t(row) * columns + i;
        const double r = left.residual[at], wanted = std::clamp(r * scale * to_float(weight[i]), -65504.0, 65504.0);
        normed &= std::fabs(to_float(left.normed[at]) - wanted) <= std::fabs(wanted) / 2000 + 4e-8;
        sum += r * r;
      }
      squares &= std::fabs(left.squares[size_t(row) * parts + part] - sum) <= kFactorTolerance * sum;
    }
  }
  checks.expect(scales, name + " scales");
  checks.expect(normed, name + " normed");
  checks.expect(squares, name + " squares");
}

/// A product that adds to the residual and carries its norm.
void check_writer(TestContext &context, const LinearShape &shape, int m) {
  Checks &checks = context.checks;
  const std::vector<float> before = random_squares(m, shape.n, context.rng);
  const std::vector<Half> weight = random_rows(1, shape.n, false, context.rng);
  LinearCase linear(shape, m, context.rng);
  const Machine machine(context.device, shape);
  DeviceBuffer d_before(before), d_weight(weight);
  for (const Way &way : machine.ways(m)) {
    const std::string name = linear.name() + " m=" + std::to_string(m) + way.name;
    std::vector<uint8_t> first;
    for (int repeat = 0; repeat < 2; ++repeat) {
      DeviceBuffer squares(size_t(m) * parts_of(m, shape.n) * 4, kPoison[repeat]), scales(size_t(m) * 4, kPoison[repeat]);
      DeviceBuffer normed(size_t(m) * shape.n * 2, kPoison[repeat]);
      const LinearKernel kernel = [&](QuernLinear args) {
        args.carry = {static_cast<const float *>(d_before.data()), static_cast<float *>(scales.data()),
                      static_cast<float *>(squares.data()), d_weight.data(), normed.data(), kEps};
        return way.kernel(args);
      };
      const std::vector<uint8_t> out = linear.run(kernel, m, kPoison[repeat], checks);
      if (repeat == 0) linear.expect_right(out, m, checks, m > 16);
      Left left = {std::vector<float>(out.size() / 4), squares.download<float>(), scales.download<float>(), normed.download<Half>()};
      std::memcpy(left.residual.data(), out.data(), out.size());
      expect_left(checks, name, left, before, weight, m);
      checks.expect(squares.guards_intact() && scales.guards_intact() && normed.guards_intact(), name + " carry guards");
      if (repeat == 0) first = out;
      checks.expect(out == first, name + " repeat");
    }
  }
}

/// The norm's own kernel, from which a step's first sums of squares come.
void check_beginning(TestContext &context, int m, int columns) {
  const int parts = parts_of(m, columns);
  std::vector<float> residual(size_t(m) * columns);
  for (float &x : residual) x = context.rng.uniform(-9.0f, 9.0f);
  DeviceBuffer d_residual(residual), d_weight(random_rows(1, columns, false, context.rng)), out(residual.size() * 2);
  DeviceBuffer d_squares(size_t(m) * parts * 4);
  const QuernRmsNorm args = {static_cast<const float *>(d_residual.data()), d_weight.data(), out.data(), m, columns, kEps,
                             static_cast<float *>(d_squares.data())};
  STATUS_OK(quern_rms_norm(&context.device, &args, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  const std::vector<float> squares = d_squares.download<float>();
  bool right = d_squares.guards_intact();
  for (int row = 0; row < m; ++row) {
    double wanted = 0.0, got = 0.0;
    for (int i = 0; i < columns; ++i) wanted += double(residual[size_t(row) * columns + i]) * residual[size_t(row) * columns + i];
    for (int i = 0; i < parts; ++i) got += squares[size_t(row) * parts + i];
    right = right && std::fabs(got - wanted) <= kFactorTolerance * wanted;
  }
  context.checks.expect(right, "rms_norm m=" + std::to_string(m) + " columns=" + std::to_string(columns) + " squares");
}

void check_refusals(TestContext &context) {
  DeviceBuffer memory(1 << 16);
  void *p = memory.data();
  float *f = static_cast<float *>(p);
  const QuernLinear good = {{p, 128, 64, 128, 0}, p, nullptr, p, p, 1, 128, 64, QUERN_ADD_F32, {}, {f, f, f, p, p, kEps}};
  const auto status = [&](auto change) {
    QuernLinear args = good;
    change(args);
    return args.m <= 16 ? quern_int4_linear_decode(&context.device, &args, nullptr)
                        : quern_int4_linear_prefill(&context.device, &args, nullptr);
  };
  Checks &checks = context.checks;
  checks.expect(status([](QuernLinear &a) { a.m = 65; }) == QUERN_BAD_SHAPE, "carry m = 65");
  checks.expect(status([](QuernLinear &a) { a.carry.squares = nullptr; }) == QUERN_BAD_POINTER, "carry squares");
  checks.expect(status([](QuernLinear &a) { a.carry.scales = nullptr; }) == QUERN_BAD_POINTER, "carry scales");
  checks.expect(status([](QuernLinear &a) { a.carry.weight = nullptr; }) == QUERN_BAD_POINTER, "carry weight");
  checks.expect(status([](QuernLinear &a) { a.carry.normed = nullptr; }) == QUERN_BAD_POINTER, "carry normed");
  checks.expect(status([](QuernLinear &a) { a.epilogue = QUERN_STORE_F32; }) == QUERN_UNSUPPORTED, "carry without adding");
  checks.expect(quern_carry_bytes(0) == 0 && quern_carry_bytes(576) == 64 * 9 * 4, "carry bytes");
}

}  // namespace

void test_carry(TestContext &context) {
  const std::vector<LinearShape> readers = {
      {576, 72, 64, QUERN_STORE_F32},
      {160, 200, 32, QUERN_STORE_F16, 0, true},
      {640, 1024, 128, QUERN_SILU_MUL_F16, 512, true},
  };
  const std::vector<LinearShape> writers = {{576, 72, 64, QUERN_ADD_F32, 0, true}, {1280, 200, 32, QUERN_ADD_F32}};
  const std::vector<int> rows = context.small ? std::vector<int>{3, 37} : std::vector<int>{1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64};
  for (int m : rows) {
    for (const LinearShape &shape : readers) check_reader(context, shape, m);
    for (const LinearShape &shape : writers) check_writer(context, shape, m);
    check_beginning(context, m, 576);
  }
  check_refusals(context);
  if (context.small) return;
  for (int m : {1, 5, 16, 17, 32, 64}) {
    check_reader(context, {5120, 15360, 128, QUERN_STORE_F16, 64}, m);
    check_reader(context, {5120, 27392, 128, QUERN_SILU_MUL_F16, 13696}, m);
    check_writer(context, {5120, 5120, 128, QUERN_ADD_F32}, m);
    check_writer(context, {13696, 5120, 128, QUERN_ADD_F32}, m);
    check_beginning(context, m, 5120);
  }
}

}  // namespace quern::test
