// Timing by graph replay, and the report's lines. See bench.h.
#include <algorithm>

#include "bench.h"

namespace quern::test {

double time_us(int count, const std::function<void(int, cudaStream_t)> &launch) {
  constexpr int kReplays = 15;
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaEvent_t start, stop;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_OK(cudaEventCreate(&start));
  CUDA_OK(cudaEventCreate(&stop));
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < count; ++i) launch(i, stream);
  CUDA_OK(cudaStreamEndCapture(stream, &graph));
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  std::vector<float> times;
  for (int i = 0; i < kReplays + 2; ++i) {  // two to warm up
    CUDA_OK(cudaEventRecord(start, stream));
    CUDA_OK(cudaGraphLaunch(exec, stream));
    CUDA_OK(cudaEventRecord(stop, stream));
    CUDA_OK(cudaEventSynchronize(stop));
    float ms = 0;
    CUDA_OK(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 2) times.push_back(ms);
  }
  CUDA_OK(cudaGetLastError());
  std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  cudaStreamDestroy(stream);
  return 1000.0 * times[kReplays / 2] / count;
}

double Ceilings::read_at(double bytes) const {
  if (by_size.size() < 2) return read_gbs;
  size_t i = 1;
  while (i + 1 < by_size.size() && by_size[i].first < bytes) ++i;
  const auto [b0, r0] = by_size[i - 1];
  const auto [b1, r1] = by_size[i];
  const double t0 = b0 / r0, t1 = b1 / r1;
  return bytes / (t0 + (t1 - t0) * (bytes - b0) / (b1 - b0));
}

void BenchContext::memory_bound(const std::string &name, double us, double bytes) {
  const double gbs = bytes / us * 1e-3;
  figures[name + "_us"] = us;
  figures[name + "_gbs"] = gbs;
  figures[name + "_share"] = gbs / ceilings.read_gbs;
  char line[160];
  std::snprintf(line, sizeof line, "%-34s %9.2f us %7.0f GB/s %6.1f %% of read %6.1f %% of a read launch", name.c_str(),
                us, gbs, 100 * gbs / ceilings.read_gbs, 100 * gbs / ceilings.read_at(bytes));
  table.push_back(line);
  std::printf("%s\n", line);
  std::fflush(stdout);
}

void BenchContext::compute_bound(const std::string &name, double us, double operations) {
  const double tflops = operations / us * 1e-6, share = ceilings.fp16_tflops > 0 ? tflops / ceilings.fp16_tflops : 0;
  figures[name + "_us"] = us;
  figures[name + "_tflops"] = tflops;
  figures[name + "_share"] = share;
  char line[160];
  std::snprintf(line, sizeof line, "%-34s %9.2f us %7.1f TFLOP/s %4.1f %% of an fp16 product", name.c_str(), us, tflops,
                100 * share);
  table.push_back(line);
  std::printf("%s\n", line);
  std::fflush(stdout);
}

void BenchContext::latency_bound(const std::string &name, double us) {
  figures[name + "_us"] = us;
  char line[160];
  std::snprintf(line, sizeof line, "%-34s %9.2f us", name.c_str(), us);
  table.push_back(line);
  std::printf("%s\n", line);
  std::fflush(stdout);
}

}  // namespace quern::test
