// The int4 decode GEMM on the four shapes of a 14B model, M = 1..16, with and without overlap of launches. Bytes: packed
// weights, x and out once.
#include <algorithm>

#include "bench.h"

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

size_t workspace_bytes(const QuernDevice &device, const BenchShape &shape) {
  return std::max<size_t>(16, quern_int4_linear_decode_workspace(&device, shape.k, shape.n));
}

class DecodeBench {
 public:
  explicit DecodeBench(const BenchShape &shape, const QuernDevice &device)
      : shape_(shape), bytes_(quern_int4_bytes(shape.k, shape.n, kGroup)),
        // Copies start at the packed size rounded up to the alignment.
        stride_((bytes_ + 127) / 128 * 128), copies_(int(kRotationBytes / bytes_) + 1), tiles_(stride_ * copies_),
        x_(size_t(16) * shape.k * 2, true), out_(size_t(16) * shape.n * 4),
        workspace_(workspace_bytes(device, shape)) {
    for (int i = 0; i < copies_; ++i) fill_random_int4(tiles_.data() + i * stride_, bytes_, kGroup);
    CUDA_OK(cudaMemset(out_.data(), 0, size_t(16) * shape.n * 4));
    CUDA_OK(cudaMemset(workspace_.data(), 0, workspace_bytes(device, shape)));
  }
  double us(const QuernDevice &device, int m) const {
    const int ldo = shape_.epilogue == QUERN_SILU_MUL_F16 ? shape_.n / 2 : shape_.n;
    const int rounds = std::max(1, 24 / copies_);
    return time_us(copies_ * rounds, [&](int i, cudaStream_t stream) {
      const QuernInt4 weight = {tiles_.data() + (i % copies_) * stride_, shape_.k, shape_.n, kGroup, shape_.pair_stride};
      const QuernLinear args = {weight, x_.data(), nullptr, out_.data(), workspace_.data(), m, shape_.k, ldo,
                                shape_.epilogue, {}, {}};
      STATUS_OK(quern_int4_linear_decode(&device, &args, stream));
    });
  }
  double moved(int m) const {
    const int columns = shape_.epilogue == QUERN_SILU_MUL_F16 ? shape_.n / 2 : shape_.n;
    return double(bytes_) + double(m) * (2.0 * shape_.k + (shape_.epilogue == QUERN_ADD_F32 ? 8.0 : 2.0) * columns);
  }

 private:
  BenchShape shape_;
  size_t bytes_, stride_;
  int copies_;
  RandomBytes tiles_, x_, out_, workspace_;
};

}  // namespace

void bench_int4_decode(BenchContext &context) {
  QuernDevice apart = context.device, portable = context.device;
  apart.pdl = 0;
  portable.force_portable = 1;
  double layer[17] = {};
  for (const BenchShape &shape : kShapes) {
    const DecodeBench bench(shape, portable);
    const std::string name = std::string("int4_decode_") + shape.name;
    for (int m : {1, 2, 4, 8, 16}) {
      const double us = bench.us(context.device, m);
      layer[m] += us;
      context.memory_bound(name + "_m" + std::to_string(m), us, bench.moved(m));
      if (m == 1 || m == 16) {
        context.memory_bound(name + "_apart_m" + std::to_string(m), bench.us(apart, m), bench.moved(m));
      }
    }
    context.memory_bound(name + "_portable_m1", bench.us(portable, 1), bench.moved(1));
    context.memory_bound(name + "_portable_m16", bench.us(portable, 16), bench.moved(16));
  }
  for (int m : {1, 2, 4, 8, 16}) {
    context.figures["int4_decode_layer_m" + std::to_string(m) + "_us"] = layer[m];
    std::printf("int4_decode: four layers, m=%d: %.1f us\n", m, layer[m]);
  }
}

}  // namespace quern::test
