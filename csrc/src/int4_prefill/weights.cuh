// A lane's part of one packed tile (64 n x 128 k): loaded from shared memory once, turned into scaled fp16 A fragments
// of 64 k at a time. Both prefill kernels give warp i of a team strip i of the tile.
#pragma once

#include "common/dequant.cuh"
#include "layout.h"

namespace quern {

/// kSets: scales of each row that a lane keeps, at least one a group: 1 (group 128), 2 (group 64 or 128) or 4 (group 32).
template <int kSets>
struct LaneWeights {
  static constexpr int kMaxTileBytes = tile_bytes(kSets);
  uint4 words[2];         // four k16 steps each
  uint32_t scale[kSets];  // fp16 of rows r and r + 8
  uint32_t zero[kSets];   // a byte of the layout

  __device__ __forceinline__ void load(const uint8_t *tile, int groups, int strip, int lane) {
    const uint4 *nibbles = reinterpret_cast<const uint4 *>(tile + strip * kStripBytes) + lane;
    words[0] = nibbles[0];
    words[1] = nibbles[kHalfBytes / 16];
    const int pair = strip * 8 + lane / 4;
#pragma unroll
    for (int i = 0; i < kSets; ++i) {
      const int g = kSets == 4 ? i : i * (groups - 1);
      scale[i] = reinterpret_cast<const uint32_t *>(tile + scale_offset(g))[pair];
      zero[i] = tile[zero_offset(kSets == 4 ? 4 : groups, g) + pair];
    }
  }

  /// The A fragments of half `kHalf`: (q - z) exactly, times the scale, rounded once.
  template <int kHalf>
  __device__ __forceinline__ void dequantize(uint32_t (&a)[4][4]) const {
    const uint32_t steps[4] = {words[kHalf].x, words[kHalf].y, words[kHalf].z, words[kHalf].w};
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int set = kSets == 4 ? 2 * kHalf + step / 2 : kSets == 2 ? kHalf : 0;
      const __half2 both = as_half2(scale[set]);
      const __half2 lower = __low2half2(both), upper = __high2half2(both);
      dequant_fragment(a[step], steps[step], zero_pair(zero[set]));
      a[step][0] = as_bits(__hmul2(as_half2(a[step][0]), lower));
      a[step][1] = as_bits(__hmul2(as_half2(a[step][1]), upper));
      a[step][2] = as_bits(__hmul2(as_half2(a[step][2]), lower));
      a[step][3] = as_bits(__hmul2(as_half2(a[step][3]), upper));
    }
  }
};

}  // namespace quern
