// Device side of the benches: random contents, and the read-only kernel that every bandwidth is compared with.
#include <cuda_fp16.h>

#include "bench.h"
#include "layout.h"

namespace quern::test {
namespace {

__device__ uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

__global__ void fill_words(uint32_t *out, size_t words, bool halves, float limit) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < words; i += size_t(gridDim.x) * blockDim.x) {
    const uint64_t bits = mix(i * 0x9e3779b97f4a7c15 + 1);
    if (halves) {
      const float low = (uint32_t(bits) >> 8) * (2.0f / (1 << 24)) - 1.0f;
      const float high = (uint32_t(bits >> 40)) * (2.0f / (1 << 24)) - 1.0f;
      reinterpret_cast<__half2 *>(out)[i] = __floats2half2_rn(limit * low, limit * high);
    } else {
      out[i] = uint32_t(bits);
    }
  }
}

__global__ void fill_scales(uint8_t *tiles, size_t n_tiles, int groups) {
  const size_t tile = blockIdx.x;
  __half *scales = reinterpret_cast<__half *>(tiles + tile * tile_bytes(groups) + kNibbleBytes);
  for (int i = threadIdx.x; i < groups * kTileN; i += blockDim.x) {
    scales[i] = __float2half(0.002f + 0.002f * float(mix(tile * 512 + i) >> 40) / (1 << 24));
  }
}

__global__ void __launch_bounds__(kReadThreads) read_kernel(const uint4 *data, size_t count, uint32_t *sink) {
  constexpr int kUnroll = 8;
  const size_t step = size_t(gridDim.x) * blockDim.x;
  size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x;
  uint32_t folded = 0;
  for (; i + (kUnroll - 1) * step < count; i += kUnroll * step) {
    uint4 v[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) v[u] = __ldcs(data + i + u * step);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) folded ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  for (; i < count; i += step) {
    const uint4 v = __ldcs(data + i);
    folded ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (folded == 0x12345678) *sink = folded;  // keeps the loads
}

}  // namespace

RandomBytes::RandomBytes(size_t bytes, bool halves, float limit) {
  CUDA_OK(cudaMalloc(&data_, bytes));
  fill_words<<<1024, 256>>>(reinterpret_cast<uint32_t *>(data_), bytes / 4, halves, limit);
  CUDA_OK(cudaDeviceSynchronize());
}

void fill_random_int4(uint8_t *tiles, size_t bytes, int group) {
  const int groups = groups_per_tile(group);
  const size_t n_tiles = bytes / tile_bytes(groups);
  fill_words<<<1024, 256>>>(reinterpret_cast<uint32_t *>(tiles), bytes / 4, false, 0.0f);
  fill_scales<<<unsigned(n_tiles), 64>>>(tiles, n_tiles, groups);
  CUDA_OK(cudaDeviceSynchronize());
}

void launch_read(const void *data, size_t bytes, uint32_t *sink, int blocks, cudaStream_t stream) {
  read_kernel<<<blocks, kReadThreads, 0, stream>>>(static_cast<const uint4 *>(data), bytes / 16, sink);
}

}  // namespace quern::test
