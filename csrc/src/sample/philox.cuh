// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the request's seed is the key,
// the position of the token the counter. No state: a replayed sequence draws the same numbers.
#pragma once

#include <stdint.h>

namespace quern {

/// A multiple of 2^-53 in [0, 1).
__device__ __forceinline__ double philox_uniform(uint64_t seed, uint64_t position) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32), c2 = 0, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t low0 = 0xd2511f53u * c0, high0 = __umulhi(0xd2511f53u, c0);
    const uint32_t low1 = 0xcd9e8d57u * c2, high1 = __umulhi(0xcd9e8d57u, c2);
    c0 = high1 ^ c1 ^ key0, c1 = low1, c2 = high0 ^ c3 ^ key1, c3 = low0;
    key0 += 0x9e3779b9u, key1 += 0xbb67ae85u;
  }
  const uint64_t word = uint64_t(c0) << 32 | c1;
  return static_cast<double>(word >> 11) * 0x1p-53;
}

}  // namespace quern
