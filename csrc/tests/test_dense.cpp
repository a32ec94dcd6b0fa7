// Dense fp16 layers: the head's product and then dense_output for few rows, the prefill kernel in all its ways for many;
// with every epilogue, with and without bias; all of out written, nothing beside it.
#include <algorithm>
#include <functional>
#include <string>
#include <tuple>

#include "half.h"
#include "int4_prefill/variants.h"
#include "parallel.h"
#include "tests.h"

namespace quern::test {
namespace {

struct DenseCase {
  int m, k, n;
  bool bias;
};

struct Inputs {
  std::vector<Half> weight, x, bias;
  std::vector<float> before;           // of out, for QUERN_ADD_F32
  std::vector<double> sum, magnitude;  // [m, n]: y + bias, and the sum of magnitudes
};

Inputs make_inputs(const DenseCase &c, Rng &rng) {
  Inputs in;
  in.weight.resize(size_t(c.n) * c.k), in.x.resize(size_t(c.m) * c.k), in.bias.resize(c.n);
  for (Half &w : in.weight) w = to_half(rng.uniform(-0.1f, 0.1f));
  for (Half &x : in.x) x = to_half(rng.uniform(-2.f, 2.f));
  for (Half &b : in.bias) b = c.bias ? to_half(rng.uniform(-1.f, 1.f)) : 0;
  in.before.resize(size_t(c.m) * c.n);
  for (float &y : in.before) y = rng.uniform(-3.f, 3.f);
  in.sum.resize(size_t(c.m) * c.n), in.magnitude.resize(in.sum.size());
  parallel_for(c.m, [&](int row) {
    for (int n = 0; n < c.n; ++n) {
      double sum = to_float(in.bias[n]), magnitude = std::fabs(sum);
      for (int k = 0; k < c.k; ++k) {
        const double product =
            double(to_float(in.x[size_t(row) * c.k + k])) * to_float(in.weight[size_t(n) * c.k + k]);
        sum += product, magnitude += std::fabs(product);
      }
      in.sum[size_t(row) * c.n + n] = sum, in.magnitude[size_t(row) * c.n + n] = magnitude;
    }
  });
  return in;
}

double silu(double x) { return x / (1.0 + std::exp(-x)); }

/// What column n of a row must be, and the bound's magnitude.
std::pair<double, double> expected(const DenseCase &c, const Inputs &in, int row, int n, int epilogue) {
  const size_t at = size_t(row) * c.n + n;
  if (epilogue == QUERN_ADD_F32) return {in.before[at] + in.sum[at], in.magnitude[at] + std::fabs(in.before[at])};
  if (epilogue != QUERN_SILU_MUL_F16) return {in.sum[at], in.magnitude[at]};
  const double gate = in.sum[at], up = in.sum[at + c.n / 2];
  const double magnitude = in.magnitude[at] * (1.0 + std::fabs(up)) + in.magnitude[at + c.n / 2] * (1.0 + std::fabs(gate));
  return {silu(gate) * up, 4.0 * magnitude};
}

using DenseKernel = std::function<void(const QuernDense &)>;
struct Way {
  std::string name;
  DenseKernel kernel;
};

/// The head's product, then its output.
DenseKernel two_kernels(const QuernDevice &device) {
  return [&device](const QuernDense &args) {
    const int ld_sums = args.n + 4;
    DeviceBuffer sums(size_t(args.m) * ld_sums * 4);
    const QuernHead head = {args.weight, args.x, static_cast<float *>(sums.data()), args.m, args.k, args.n, args.ldx, ld_sums};
    STATUS_OK(quern_head_decode(&device, &head, nullptr));
    const QuernDenseOutput output = {static_cast<float *>(sums.data()), args.bias, args.out, args.m,
                                     args.n, ld_sums, args.ldo, args.epilogue};
    STATUS_OK(quern_dense_output(&device, &output, nullptr));
    CUDA_OK(cudaDeviceSynchronize());
  };
}
std::vector<Way> all_ways(const QuernDevice &device, const DenseCase &c, int epilogue) {
  std::vector<Way> ways = {{"", two_kernels(device)}};
  if (device.compute_capability != 90 || c.m < 17 || c.n % (epilogue == QUERN_SILU_MUL_F16 ? 16 : 8) != 0) return ways;
  ways.push_back({" prefill", [&device](const QuernDense &args) { STATUS_OK(quern_dense_linear(&device, &args, nullptr)); }});
  for (int variant = 0; variant < dense_variants(); ++variant) {
    for (PrefillSplit split : {PrefillSplit::kNever, PrefillSplit::kAlways}) {
      ways.push_back({" prefill " + std::to_string(variant) + (split == PrefillSplit::kAlways ? " shares" : " whole"),
                      [&device, variant, split](const QuernDense &args) {
                        STATUS_OK(launch_dense(device, args, variant, split, nullptr));
                      }});
    }
  }
  return ways;
}

void check_epilogue(TestContext &context, const DenseCase &c, const Inputs &in, int epilogue, const Way &way) {
  Checks &checks = context.checks;
  const bool gated = epilogue == QUERN_SILU_MUL_F16, f16_out = gated || epilogue == QUERN_STORE_F16;
  const int columns = gated ? c.n / 2 : c.n, ldo = columns + 8;
  const std::string name = "dense " + std::to_string(c.m) + "x" + std::to_string(c.k) + "x" + std::to_string(c.n) +
                           " epilogue " + std::to_string(epilogue) + (c.bias ? " bias" : "") + way.name;
  const DeviceBuffer weight(in.weight), x(in.x), bias(in.bias);
  DeviceBuffer workspace(quern_int4_linear_prefill_workspace(&context.device));
  CUDA_OK(cudaMemset(workspace.data(), 0, zeroed_workspace(context.device)));
  for (uint32_t poison : kPoison) {
    DeviceBuffer out(size_t(c.m) * ldo * (f16_out ? 2 : 4), poison);
    if (epilogue == QUERN_ADD_F32) {
      std::vector<float> rows = out.download<float>();
      for (int row = 0; row < c.m; ++row) {
        std::copy_n(in.before.begin() + size_t(row) * c.n, c.n, rows.begin() + size_t(row) * ldo);
      }
      out.upload(rows);
    }
    way.kernel({weight.data(), x.data(), c.bias ? bias.data() : nullptr, out.data(), workspace.data(), c.m, c.k, c.n, c.k, ldo,
                epilogue});
    CUDA_OK(cudaDeviceSynchronize());
    checks.expect(workspace.guards_intact() && out.guards_intact(), name + " guards");
    const std::vector<Half> halves = out.download<Half>();
    const std::vector<float> floats = f16_out ? std::vector<float>() : out.download<float>();
    for (int row = 0; row < c.m; ++row) {
      std::vector<double> y(columns), ref(columns), magnitude(columns);
      for (int n = 0; n < columns; ++n) {
        const size_t at = size_t(row) * ldo + n;
        y[n] = f16_out ? to_float(halves[at]) : floats[at];
        std::tie(ref[n], magnitude[n]) = expected(c, in, row, n, epilogue);
      }
      expect_close(checks, name, y.data(), ref.data(), magnitude.data(), columns,
                   f16_out ? kHalfTolerance : kFloatTolerance);
    }
    bool intact = true;
    for (int row = 0; row < c.m; ++row) {
      for (int n = columns; n < ldo; ++n) {
        const size_t at = size_t(row) * ldo + n;
        uint32_t word;
        if (!f16_out) std::memcpy(&word, &floats[at], 4);
        intact &= f16_out ? halves[at] == Half(poison >> (at % 2 * 16)) : word == poison;
      }
    }
    checks.expect(intact, name + " writes beside its columns");
  }
}

void check_refusals(TestContext &context) {
  const DeviceBuffer memory(4096);
  const auto status = [&](int rows, int n, int ld_sums, int ldo, int epilogue, int shift) {
    void *out = static_cast<char *>(memory.data()) + shift;
    const QuernDenseOutput args = {static_cast<float *>(memory.data()), nullptr, out, rows, n, ld_sums, ldo, epilogue};
    return quern_dense_output(&context.device, &args, nullptr);
  };
  Checks &checks = context.checks;
  checks.expect(status(0, 8, 8, 8, QUERN_STORE_F16, 0) == QUERN_BAD_SHAPE, "dense without rows");
  checks.expect(status(1, 8, 7, 8, QUERN_STORE_F16, 0) == QUERN_BAD_SHAPE, "dense sums too narrow");
  checks.expect(status(1, 8, 8, 7, QUERN_STORE_F16, 0) == QUERN_BAD_SHAPE, "dense out too narrow");
  checks.expect(status(1, 7, 8, 8, QUERN_SILU_MUL_F16, 0) == QUERN_BAD_SHAPE, "dense gate without up");
  checks.expect(status(1, 8, 8, 8, 9, 0) == QUERN_UNSUPPORTED, "dense unknown epilogue");
  checks.expect(status(1, 8, 8, 8, QUERN_STORE_F32, 2) == QUERN_BAD_POINTER, "dense unaligned");
  if (context.device.compute_capability != 90) return;
  void *p = memory.data();
  const auto linear = [&](auto change) {
    QuernDense args = {p, p, nullptr, p, p, 17, 64, 16, 64, 16, QUERN_STORE_F16};
    change(args);
    return quern_dense_linear(&context.device, &args, nullptr);
  };
  checks.expect(linear([](QuernDense &a) { a.m = 16; }) == QUERN_BAD_SHAPE, "dense prefill m = 16");
  checks.expect(linear([](QuernDense &a) { a.k = 96; }) == QUERN_BAD_SHAPE, "dense prefill k = 96");
  checks.expect(linear([](QuernDense &a) { a.n = 8, a.epilogue = QUERN_SILU_MUL_F16; }) == QUERN_BAD_SHAPE, "dense prefill gate");
  checks.expect(linear([](QuernDense &a) { a.ldx = 72 + 4; }) == QUERN_BAD_SHAPE, "dense prefill ldx");
  checks.expect(linear([](QuernDense &a) { a.ldo = 15; }) == QUERN_BAD_SHAPE, "dense prefill ldo");
  checks.expect(linear([](QuernDense &a) { a.workspace = nullptr; }) == QUERN_BAD_POINTER, "dense prefill workspace");
  checks.expect(linear([](QuernDense &a) { a.epilogue = 9; }) == QUERN_UNSUPPORTED, "dense prefill epilogue");
}

}  // namespace

void test_dense(TestContext &context) {
  check_refusals(context);
  std::vector<DenseCase> cases = {{1, 64, 24, true}, {3, 128, 130, false}, {150, 320, 208, true}};
  if (!context.small) {
    const std::vector<DenseCase> large = {{1, 5120, 5120, false}, {16, 576, 960, true}, {17, 576, 3072, true},
                                          {64, 1536, 576, false}, {70, 896, 1152, true}, {200, 256, 512, false},
                                          {129, 5120, 1288, true}, {511, 1088, 2064, false}, {1100, 704, 640, true}};
    cases.insert(cases.end(), large.begin(), large.end());
  }
  for (const DenseCase &c : cases) {
    const Inputs in = make_inputs(c, context.rng);
    for (int epilogue = QUERN_STORE_F16; epilogue <= QUERN_SILU_MUL_F16; ++epilogue) {
      for (const Way &way : all_ways(context.device, c, epilogue)) check_epilogue(context, c, in, epilogue, way);
    }
  }
}

}  // namespace quern::test
