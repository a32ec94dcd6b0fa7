// Measuring: CUDA graphs over rotating copies, medians, and one report of figures. Used by the bench_*.cpp files.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "device.h"

namespace quern::test {

/// Copies of an operand that together are far larger than any L2, so that no launch finds its weights there.
constexpr size_t kRotationBytes = 400u << 20;

struct Ceilings {
  double read_gbs = 0;                           // one long launch
  std::vector<std::pair<double, double>> by_size;  // (bytes, GB/s) of launches that read so much, sorted
  double fp16_tflops = 0;                        // 0: no cuBLAS on this machine
  /// GB/s a launch of this many bytes could read: between the measured sizes, linear in time.
  double read_at(double bytes) const;
};

struct BenchContext {
  QuernDevice device;
  Ceilings ceilings;
  std::map<std::string, double> figures;
  std::vector<std::string> table;

  /// One line: time, rate, share of the long-read ceiling and of launches of this size. Figures NAME_us, _gbs, _share.
  void memory_bound(const std::string &name, double us, double bytes);
  /// One line: time, rate and share of the fp16 product's. Figures NAME_us, _tflops, _share.
  void compute_bound(const std::string &name, double us, double operations);
  /// One line: time alone, for launches too short to have a rate. Figure NAME_us.
  void latency_bound(const std::string &name, double us);
};

/// Median microseconds of one launch: `launch(i)` for i = 0..count-1 in a captured graph, replayed.
double time_us(int count, const std::function<void(int, cudaStream_t)> &launch);

/// Device memory of random bytes (fp16 values in +-limit when `halves`).
class RandomBytes {
 public:
  explicit RandomBytes(size_t bytes, bool halves = false, float limit = 1.0f);
  ~RandomBytes() { cudaFree(data_); }
  RandomBytes(const RandomBytes &) = delete;
  RandomBytes &operator=(const RandomBytes &) = delete;
  uint8_t *data() const { return data_; }

 private:
  uint8_t *data_ = nullptr;
};

/// Packed int4 matrices back to back with random q and z and scales of 0.002..0.004.
void fill_random_int4(uint8_t *tiles, size_t bytes, int group);
/// Reads `bytes` and writes almost nothing.
void launch_read(const void *data, size_t bytes, uint32_t *sink, int blocks, cudaStream_t stream);
constexpr int kReadThreads = 512;

void bench_ceilings(BenchContext &context);
void bench_int4_decode(BenchContext &context);
void bench_int4_prefill(BenchContext &context);
void bench_int4_prefill_variants(BenchContext &context);
void bench_head(BenchContext &context);
void bench_dense(BenchContext &context);
void bench_elementwise(BenchContext &context);
void bench_decode_attention(BenchContext &context);
void bench_prefill_attention(BenchContext &context);
void bench_sample(BenchContext &context);

}  // namespace quern::test
