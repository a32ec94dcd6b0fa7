// Device memory for tests: buffers with guard bands and poison, and a check of every CUDA call. Used by tests and benches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "quern_kernels.h"

namespace quern::test {

#define CUDA_OK(call) ::quern::test::cuda_ok((call), #call, __FILE__, __LINE__)
#define STATUS_OK(call) ::quern::test::status_ok((call), #call, __FILE__, __LINE__)

/// A CUDA error ends the program: nothing after it can be trusted.
inline void cuda_ok(cudaError_t error, const char *call, const char *file, int line) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s:%d: %s: %s\n", file, line, call, cudaGetErrorString(error));
  std::exit(2);
}
inline void status_ok(int32_t status, const char *call, const char *file, int line) {
  if (status == QUERN_OK) return;
  std::fprintf(stderr, "%s:%d: %s: %s\n", file, line, call, quern_status_message(status));
  std::exit(2);
}

constexpr size_t kGuardBytes = 256;
constexpr uint8_t kGuardByte = 0xa5;
/// fp16 NaNs (0x7e01 twice, a NaN as fp32 too) and, for a second run, an ordinary number: what a kernel fails to write
/// shows up in at least one of them.
constexpr uint32_t kPoison[2] = {0x7e017e01, 0x7fc0dead};

/// Device memory between two guard bands, filled with poison.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes, uint32_t poison = kPoison[0]) : bytes_(bytes) {
    // Guards are kept to 256 bytes in front and behind, whatever the alignment of the size.
    CUDA_OK(cudaMalloc(reinterpret_cast<void **>(&base_), bytes + 2 * kGuardBytes));
    CUDA_OK(cudaMemset(base_, kGuardByte, bytes + 2 * kGuardBytes));
    fill(poison);
  }
  template <typename T>
  explicit DeviceBuffer(const std::vector<T> &host) : DeviceBuffer(host.size() * sizeof(T)) {
    CUDA_OK(cudaMemcpy(data(), host.data(), bytes_, cudaMemcpyHostToDevice));
  }
  ~DeviceBuffer() { cudaFree(base_); }
  DeviceBuffer(const DeviceBuffer &) = delete;
  DeviceBuffer &operator=(const DeviceBuffer &) = delete;

  void *data() const { return base_ + kGuardBytes; }
  size_t bytes() const { return bytes_; }
  void fill(uint32_t word) {
    const std::vector<uint32_t> words((bytes_ + 3) / 4, word);
    CUDA_OK(cudaMemcpy(data(), words.data(), bytes_, cudaMemcpyHostToDevice));
  }
  void zero() { CUDA_OK(cudaMemset(data(), 0, bytes_)); }
  template <typename T>
  void upload(const std::vector<T> &host) {
    CUDA_OK(cudaMemcpy(data(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  template <typename T>
  std::vector<T> download() const {
    std::vector<T> host(bytes_ / sizeof(T));
    CUDA_OK(cudaMemcpy(host.data(), data(), host.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  bool guards_intact() const {
    std::vector<uint8_t> guards(2 * kGuardBytes);
    CUDA_OK(cudaMemcpy(guards.data(), base_, kGuardBytes, cudaMemcpyDeviceToHost));
    CUDA_OK(cudaMemcpy(guards.data() + kGuardBytes, base_ + kGuardBytes + bytes_, kGuardBytes, cudaMemcpyDeviceToHost));
    for (uint8_t byte : guards) {
      if (byte != kGuardByte) return false;
    }
    return true;
  }

 private:
  uint8_t *base_ = nullptr;
  size_t bytes_;
};

}  // namespace quern::test
