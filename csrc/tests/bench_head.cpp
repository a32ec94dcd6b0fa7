// The fp16 output head of a 14B model: 5120 x 152064, M = 1..128. The matrix is far larger than any L2.
#include "bench.h"
#include "head.h"

namespace quern::test {

void bench_head(BenchContext &context) {
  constexpr int kK = 5120, kV = 152064, kMaxM = 128;
  const size_t bytes = size_t(kK) * kV * 2;
  const RandomBytes weight(bytes, true, 0.05f), x(size_t(kMaxM) * kK * 2, true), logits(size_t(kMaxM) * kV * 4);
  const auto args = [&](int m) -> QuernHead {
    return {weight.data(), x.data(), reinterpret_cast<float *>(logits.data()), m, kK, kV, kK, kV};
  };
  for (int m : {1, 2, 4, 8, 16, 32, 64, 128}) {
    const double us = time_us(4, [&](int, cudaStream_t stream) {
      const QuernHead head = args(m);
      STATUS_OK(quern_head_decode(&context.device, &head, stream));
    });
    context.memory_bound("head_m" + std::to_string(m), us, double(bytes) * ((m + 63) / 64) + m * (2.0 * kK + 4.0 * kV));
  }
  if (context.device.compute_capability != 90) return;
  for (int m : {1, 8, 16, 17}) {
    const double us = time_us(4, [&](int, cudaStream_t stream) {
      STATUS_OK(launch_hopper_head(context.device, args(m), 0, m, stream));
    });
    context.memory_bound("head_hopper_m" + std::to_string(m), us, double(bytes) + m * (2.0 * kK + 4.0 * kV));
  }
}

}  // namespace quern::test
