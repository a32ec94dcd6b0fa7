// The int4 prefill GEMM on the four shapes of a 14B model, M = 32..4096: the library's choice, and for tuning every
// variant. Operations: 2 M N K. Bytes: packed weights, x and out once.
#include <algorithm>

#include "bench.h"
#include "int4_prefill/variants.h"

namespace quern::test {
namespace {

struct BenchShape {
  const char *name;
  int k, n, epilogue, pair_stride;
};
constexpr BenchShape kShapes[] = {
    {"qkv", 5120, 15360, QUERN_STORE_F16, 64},
    {"o", 5120, 5120, QUERN_ADD_F32, 0},
    {"gate_up", 5120, 27392, QUERN_SILU_MUL_F16, 13696},
    {"down", 13696, 5120, QUERN_ADD_F32, 0},
};
constexpr int kGroup = 128;
constexpr int kMaxM = 4096;

class PrefillBench {
 public:
  PrefillBench(const BenchShape &shape, const QuernDevice &device)
      : shape_(shape), bytes_(quern_int4_bytes(shape.k, shape.n, kGroup)), stride_((bytes_ + 127) / 128 * 128),
        copies_(int(kRotationBytes / bytes_) + 1), tiles_(stride_ * copies_), x_(size_t(kMaxM) * shape.k * 2, true),
        out_(size_t(kMaxM) * shape.n * 4), workspace_(quern_int4_linear_prefill_workspace(&device)) {
    for (int i = 0; i < copies_; ++i) fill_random_int4(tiles_.data() + i * stride_, bytes_, kGroup);
    CUDA_OK(cudaMemset(out_.data(), 0, size_t(kMaxM) * shape.n * 4));
    CUDA_OK(cudaMemset(workspace_.data(), 0, quern_int4_linear_prefill_workspace(&device)));
    CUDA_OK(cudaDeviceSynchronize());  // launches are timed on a stream that does not wait for this one
  }
  QuernLinear args(int m, int copy) const {
    const int ldo = shape_.epilogue == QUERN_SILU_MUL_F16 ? shape_.n / 2 : shape_.n;
    const QuernInt4 weight = {tiles_.data() + copy * stride_, shape_.k, shape_.n, kGroup, shape_.pair_stride};
    return {weight, x_.data(), nullptr, out_.data(), workspace_.data(), m, shape_.k, ldo, shape_.epilogue, {}, {}};
  }
  double us(const QuernDevice &device, int m) const {
    return time_us(launches(m), [&](int i, cudaStream_t stream) {
      const QuernLinear linear = args(m, i % copies_);
      STATUS_OK(quern_int4_linear_prefill(&device, &linear, stream));
    });
  }
  double us(const QuernDevice &device, int m, const PrefillChoice &choice) const {
    return time_us(launches(m), [&](int i, cudaStream_t stream) {
      STATUS_OK(launch_prefill(device, args(m, i % copies_), choice, stream));
    });
  }
  double operations(int m) const { return 2.0 * m * shape_.n * shape_.k; }
  double moved(int m) const {
    const int columns = shape_.epilogue == QUERN_SILU_MUL_F16 ? shape_.n / 2 : shape_.n;
    return double(bytes_) + double(m) * (2.0 * shape_.k + (shape_.epilogue == QUERN_ADD_F32 ? 8.0 : 2.0) * columns);
  }

 private:
  /// Every copy once where that is quick, so that weights come from memory.
  int launches(int m) const { return m >= 1024 ? std::min(copies_, 6) : copies_; }

  BenchShape shape_;
  size_t bytes_, stride_;
  int copies_;
  RandomBytes tiles_, x_, out_, workspace_;
};

void report(BenchContext &context, const std::string &name, double us, double operations, double bytes) {
  const double tflops = operations / us * 1e-6, gbs = bytes / us * 1e-3;
  context.figures[name + "_us"] = us;
  context.figures[name + "_tflops"] = tflops;
  if (context.ceilings.fp16_tflops > 0) context.figures[name + "_share"] = tflops / context.ceilings.fp16_tflops;
  char line[160];
  std::snprintf(line, sizeof line, "%-34s %9.2f us %7.1f TFLOP/s %6.1f %% of matmul %7.0f GB/s %6.1f %% of read", name.c_str(),
                us, tflops, context.ceilings.fp16_tflops > 0 ? 100 * tflops / context.ceilings.fp16_tflops : 0.0, gbs,
                100 * gbs / context.ceilings.read_gbs);
  context.table.push_back(line);
  std::printf("%s\n", line);
  std::fflush(stdout);
}

}  // namespace

void bench_int4_prefill(BenchContext &context) {
  constexpr int kRows[] = {32, 64, 128, 256, 512, 1024, 2048, 4096};
  QuernDevice portable = context.device;
  portable.force_portable = 1;
  std::map<int, double> layer;
  for (const BenchShape &shape : kShapes) {
    const PrefillBench bench(shape, context.device);
    const std::string name = std::string("int4_prefill_") + shape.name;
    for (int m : kRows) {
      const double us = bench.us(context.device, m);
      layer[m] += us;
      report(context, name + "_m" + std::to_string(m), us, bench.operations(m), bench.moved(m));
    }
    for (int m : {64, 2048}) {
      report(context, name + "_portable_m" + std::to_string(m), bench.us(portable, m), bench.operations(m), bench.moved(m));
    }
  }
  for (const auto &[m, us] : layer) {
    double operations = 0;
    for (const BenchShape &shape : kShapes) operations += 2.0 * m * shape.n * shape.k;
    context.figures["int4_prefill_layer_m" + std::to_string(m) + "_us"] = us;
    context.figures["int4_prefill_layer_m" + std::to_string(m) + "_tflops"] = operations / us * 1e-6;
    std::printf("int4_prefill: four layers, m=%d: %.1f us, %.1f TFLOP/s\n", m, us, operations / us * 1e-6);
  }
}

void bench_int4_prefill_variants(BenchContext &context) {
  for (const BenchShape &shape : kShapes) {
    const PrefillBench bench(shape, context.device);
    for (int m : {32, 64, 128, 192, 256, 512, 1024, 2048, 4096}) {
      for (const PrefillVariant variant : kHopperVariants) {
        if (variant.tokens < m / 4 && variant.tokens < 160) continue;
        if (variant.tokens >= m + 64) continue;
        for (PrefillSplit split : {PrefillSplit::kNever, PrefillSplit::kAlways}) {
          const PrefillChoice choice = plan_prefill(context.device, bench.args(m, 0), variant, split);
          if (split == PrefillSplit::kAlways && choice.plan.split_tiles == 0) continue;
          const double us = bench.us(context.device, m, choice);
          std::printf("%-8s m %4d tokens %3d cluster %d %s %9.2f us %6.1f TFLOP/s model %8.0f\n", shape.name, m,
                      variant.tokens, variant.cluster, choice.plan.split_tiles > 0 ? "shares" : "whole ", us,
                      bench.operations(m) / us * 1e-6, choice.cost);
        }
      }
      std::fflush(stdout);
    }
  }
}

}  // namespace quern::test
