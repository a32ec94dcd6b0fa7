// What this machine can do at best, measured in the same run: reading memory, in one long launch and in launches of the
// layers' sizes, and an fp16 matrix product by cuBLAS where the machine has it (opened at run time).
#include <dlfcn.h>

#include <algorithm>

#include "bench.h"

namespace quern::test {
namespace {

double read_gbs(const RandomBytes &data, size_t total, size_t bytes, int blocks) {
  RandomBytes sink(256);
  const int copies = int(total / bytes), count = std::max(copies, 8);
  const double us = time_us(count, [&](int i, cudaStream_t stream) {
    launch_read(data.data() + size_t(i % copies) * bytes, bytes, reinterpret_cast<uint32_t *>(sink.data()), blocks, stream);
  });
  return double(bytes) / us * 1e-3;
}

/// The best of a few grids.
double best_read_gbs(const BenchContext &context, const RandomBytes &data, size_t total, size_t bytes) {
  double best = 0;
  for (int a_multiprocessor : {1, 2, 4, 16}) {
    best = std::max(best, read_gbs(data, total, bytes, a_multiprocessor * context.device.sm_count));
  }
  return best;
}

void *open_cublas() {
  for (const char *name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"}) {
    if (void *library = dlopen(name, RTLD_NOW)) return library;
  }
  return nullptr;
}

/// TFLOP/s of an fp16 n x n x n product with float32 sums; 0 without cuBLAS.
double fp16_tflops(int n) {
  using Create = int (*)(void **);
  using SetStream = int (*)(void *, cudaStream_t);
  using Gemm = int (*)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,
                       const void *, void *, int, int, int, int);
  void *library = open_cublas();
  if (library == nullptr) return 0;
  const auto create = reinterpret_cast<Create>(dlsym(library, "cublasCreate_v2"));
  const auto set_stream = reinterpret_cast<SetStream>(dlsym(library, "cublasSetStream_v2"));
  const auto gemm = reinterpret_cast<Gemm>(dlsym(library, "cublasGemmEx"));
  void *handle = nullptr;
  if (create == nullptr || set_stream == nullptr || gemm == nullptr || create(&handle) != 0) return 0;
  constexpr int kF16 = 2, kCompute32F = 68, kDefaultAlgorithm = -1, kTransposed = 1, kPlain = 0;
  const size_t bytes = size_t(n) * n * 2;
  RandomBytes a(bytes, true), b(bytes, true), c(bytes);
  const float one = 1.0f, zero = 0.0f;
  int status = 0;
  const auto multiply = [&](int, cudaStream_t stream) {
    status |= set_stream(handle, stream);
    status |= gemm(handle, kTransposed, kPlain, n, n, n, &one, a.data(), kF16, n, b.data(), kF16, n, &zero, c.data(), kF16,
                   n, kCompute32F, kDefaultAlgorithm);
  };
  multiply(0, nullptr);
  CUDA_OK(cudaDeviceSynchronize());
  const double us = time_us(4, multiply);
  return status == 0 ? 2e-6 * n * n / us * n : 0;
}

}  // namespace

void bench_ceilings(BenchContext &context) {
  constexpr size_t kTotal = size_t(4) << 30;
  Ceilings &ceilings = context.ceilings;
  {
    const RandomBytes data(kTotal);
    ceilings.read_gbs = best_read_gbs(context, data, kTotal, kTotal);
    for (size_t mib : {4, 13, 39, 70, 256}) {
      const double bytes = double(mib << 20);
      ceilings.by_size.push_back({bytes, best_read_gbs(context, data, kTotal / 4, mib << 20)});
      context.figures["ceiling_read_" + std::to_string(mib) + "mib_gbs"] = ceilings.by_size.back().second;
      std::printf("ceiling: launches reading %3zu MiB %22.2f us %7.0f GB/s\n", mib,
                  bytes / ceilings.by_size.back().second * 1e-3, ceilings.by_size.back().second);
    }
  }
  ceilings.fp16_tflops = fp16_tflops(8192);
  context.figures["ceiling_read_gbs"] = ceilings.read_gbs;
  context.figures["ceiling_fp16_tflops"] = ceilings.fp16_tflops;
  std::printf("ceiling: read %.0f GB/s, fp16 matmul %.0f TFLOP/s\n", ceilings.read_gbs, ceilings.fp16_tflops);
}

}  // namespace quern::test
