// Nibbles of the packed layout to fp16 fragments. Exact: q - z is an integer of -15..15.
//
// 0x6400 is 1024 in fp16 with a step of 1, so OR-ing a nibble into its low bits makes 1024 + q; a nibble four bits
// higher makes 1024 + 16 q, which times 1/16 is 64 + q. Subtracting 1024 + z or 64 + z gives q - z.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

namespace quern {

__device__ __forceinline__ __half2 as_half2(uint32_t bits) { return *reinterpret_cast<const __half2 *>(&bits); }
__device__ __forceinline__ uint32_t as_bits(__half2 value) { return *reinterpret_cast<const uint32_t *>(&value); }

/// (a & mask) | bits in one instruction.
template <uint32_t kMask, uint32_t kBits>
__device__ __forceinline__ uint32_t and_or(uint32_t a) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "n"(kMask), "n"(kBits));
  return d;
}

/// The two zero points a lane needs for one group, as the constants that undo the magic numbers.
struct ZeroPair {
  __half2 low;   // 1024 + z of row r, twice
  __half2 high;  // -(64 + z) of row r + 8, twice
};
/// From a byte of zeros: z of row r in the low nibble, of row r + 8 in the high one.
__device__ __forceinline__ ZeroPair zero_pair(uint32_t byte) {
  const uint32_t twice = byte * 0x00010001u;
  // -(64 + z): the step of fp16 is 1/16 there, so z sits four bits up, where the high nibble already is.
  return {as_half2(and_or<0x000f000f, 0x64006400>(twice)), as_half2(and_or<0x00f000f0, 0xd400d400>(twice))};
}
/// One word of the layout to an A fragment of m16n8k16, zero points subtracted.
__device__ __forceinline__ void dequant_fragment(uint32_t (&a)[4], uint32_t word, const ZeroPair &zero) {
  const __half2 sixteenth = as_half2(0x2c002c00);
  const uint32_t upper = word >> 8;
  a[0] = as_bits(__hsub2(as_half2(and_or<0x000f000f, 0x64006400>(word)), zero.low));
  a[1] = as_bits(__hfma2(as_half2(and_or<0x00f000f0, 0x64006400>(word)), sixteenth, zero.high));
  a[2] = as_bits(__hsub2(as_half2(and_or<0x000f000f, 0x64006400>(upper)), zero.low));
  a[3] = as_bits(__hfma2(as_half2(and_or<0x00f000f0, 0x64006400>(upper)), sixteenth, zero.high));
}

}  // namespace quern
