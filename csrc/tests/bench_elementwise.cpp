// The kernels between the matrix products, at the sizes of a 14B model: one row is latency, thousands are memory.
#include "bench.h"

namespace quern::test {
namespace {

constexpr int kHidden = 5120, kIntermediate = 13696, kRows = 2048;

void bench_norm(BenchContext &context, int rows) {
  // Copies so that what is read does not sit in L2 when a real step's would not.
  const size_t elements = size_t(rows) * kHidden;
  const int copies = rows == 1 ? 1 : int(kRotationBytes / (elements * 8)) + 1;
  const RandomBytes residual(copies * elements * 4), weight(kHidden * 2, true), out(elements * 2);
  CUDA_OK(cudaMemset(residual.data(), 0, copies * elements * 4));
  const double us = time_us(std::max(24, copies), [&](int i, cudaStream_t stream) {
    const float *from = reinterpret_cast<float *>(residual.data()) + size_t(i % copies) * elements;
    const QuernRmsNorm args = {from, weight.data(), out.data(), rows, kHidden, 1e-6f, nullptr};
    STATUS_OK(quern_rms_norm(&context.device, &args, stream));
  });
  const std::string name = "rms_norm_m" + std::to_string(rows);
  if (rows == 1) {
    context.latency_bound(name, us);
  } else {
    context.memory_bound(name, us, double(elements) * 6);
  }
}

void bench_silu_mul(BenchContext &context, int rows) {
  const RandomBytes x(size_t(rows) * kIntermediate * 4, true), out(size_t(rows) * kIntermediate * 2);
  const double us = time_us(24, [&](int, cudaStream_t stream) {
    const QuernSiluMul args = {x.data(), out.data(), rows, kIntermediate};
    STATUS_OK(quern_silu_mul(&context.device, &args, stream));
  });
  context.memory_bound("silu_mul_m" + std::to_string(rows), us, double(rows) * kIntermediate * 6);
}

void bench_embed(BenchContext &context) {
  const RandomBytes table(size_t(kHidden) * 2 * 152064, true), out(size_t(kHidden) * 4);
  const DeviceBuffer tokens(std::vector<int32_t>{12345});
  const QuernEmbed args = {table.data(), static_cast<int32_t *>(tokens.data()), nullptr, reinterpret_cast<float *>(out.data()),
                           nullptr, nullptr, 1, kHidden, 152064};
  context.latency_bound("embed_m1", time_us(24, [&](int, cudaStream_t stream) {
    STATUS_OK(quern_embed(&context.device, &args, stream));
  }));
}

}  // namespace

void bench_elementwise(BenchContext &context) {
  for (int rows : {1, 64, kRows}) bench_norm(context, rows);
  bench_silu_mul(context, kRows);
  bench_embed(context);
}

}  // namespace quern::test
