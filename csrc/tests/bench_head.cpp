// The fp16 output head of a 14B model: 5120 x 152064, M = 1..16. The matrix is far larger than any L2.
#include "bench.h"

namespace quern::test {

void bench_head(BenchContext &context) {
  constexpr int kK = 5120, kV = 152064;
  const size_t bytes = size_t(kK) * kV * 2;
  const RandomBytes weight(bytes, true, 0.05f), x(size_t(16) * kK * 2, true), logits(size_t(16) * kV * 4);
  for (int m : {1, 2, 4, 8, 16}) {
    const double us = time_us(4, [&](int, cudaStream_t stream) {
      const QuernHead args = {weight.data(), x.data(), reinterpret_cast<float *>(logits.data()), m, kK, kV, kK, kV};
      STATUS_OK(quern_head_decode(&context.device, &args, stream));
    });
    context.memory_bound("head_m" + std::to_string(m), us, double(bytes) + m * (2.0 * kK + 4.0 * kV));
  }
}

}  // namespace quern::test
