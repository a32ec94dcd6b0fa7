// Bringing what a later kernel reads to L2. Called by kernels that read much, when they have asked for all they need; never
// waited for.
#pragma once

#include <stdint.h>

#include "quern_kernels.h"

namespace quern {

constexpr uint32_t kPrefetchPiece = 4096;  // bytes a request: a multiple of 16

/// Asks for the `worker`th of `workers` shares, where workers are threads of all blocks.
__device__ __forceinline__ void prefetch_share(const QuernPrefetch &wanted, uint32_t worker, uint32_t workers) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (wanted.data == nullptr) return;
  const uint32_t pieces = (wanted.run_bytes + kPrefetchPiece - 1) / kPrefetchPiece;
  for (uint32_t i = worker; i < wanted.runs * pieces; i += workers) {
    const uint32_t run = i / pieces, first = i % pieces * kPrefetchPiece, left = wanted.run_bytes - first;
    const char *from = static_cast<const char *>(wanted.data) + run * wanted.stride + first;
    const uint32_t bytes = left < kPrefetchPiece ? left : kPrefetchPiece;
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
  }
#endif
}

}  // namespace quern
