// The packed int4 layout: one copy of a weight matrix that feeds decode (mma.sync) and prefill (wgmma) alike.
// Used by the repack kernel, every int4 kernel and the CPU packer of the tests. Plain C++: no CUDA calls.
//
// W is [K, N] (y = x W). N is cut into strips of 16 (the M side of m16n8k16), four strips a tile; K into tiles of
// 128. Tiles are stored [n_tile][k_tile], n_tile = n / 64, k_tile = k / 128, so the tiles of 64 outputs along K are
// contiguous. K and N are padded to whole tiles with q = z = 0 and scale 0, which contributes exactly 0.
// With G = 128 / group (1, 2 or 4) groups a tile, a tile is, in bytes:
//
//   | offset          | size   | content                                                                     |
//   |-----------------|--------|-----------------------------------------------------------------------------|
//   | 0               | 4096   | nibbles: u32 [strip 4][half 2][lane 32][step 4]; half = 64 k, step = 16 k   |
//   | 4096            | 128 G  | scales: fp16 pairs [group G][strip 4][r 8] {row r, row r + 8}               |
//   | 4096 + 128 G    | 32 G   | zeros: u8 [group G][strip 4][r 8], low nibble row r, high nibble row r + 8  |
//
// = 4256, 4416, 4736 bytes for group 128, 64, 32: multiples of 32, so that one bulk copy brings a tile.
// A lane's four steps are 16 contiguous bytes and a warp's 512: conflict-free 128-bit shared-memory loads.
//
// One u32 is a lane's whole A fragment of one m16n8k16 (and of warp `strip` of one wgmma m64nNk16):
// lane = 4 r + c, k0 = 128 k_tile + 64 half + 16 step:
//
//   | nibble | 0        | 1          | 2            | 3              | 4            | 5              | 6          | 7              |
//   |--------|----------|------------|--------------|----------------|--------------|----------------|------------|----------------|
//   | row    | r        | r + 8      | r            | r + 8          | r            | r + 8          | r          | r + 8          |
//   | k - k0 | 2c       | 2c         | 2c + 8       | 2c + 8         | 2c + 1       | 2c + 1         | 2c + 9     | 2c + 9         |
//   | half of| a0 low   | a1 low     | a2 low       | a3 low         | a0 high      | a1 high        | a2 high    | a3 high        |
//
// so w & 0x000f000f is a0 and w & 0x00f000f0 is 16 a1; w >> 8 gives a2 and a3 (see common/dequant.cuh). Register a0
// and a2 belong to row r, a1 and a3 to row r + 8: a lane needs two zero points and two scales a group.
//
// pair_stride P > 0 permutes rows: of every run of 2P logical rows, logical i and i + P (i < P) become packed rows
// 16 (i / 8) + i % 8 and that + 8 of the run: rows r and r + 8 of one strip, held by the same lane.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define QUERN_HD __host__ __device__ __forceinline__
#else
#define QUERN_HD inline
#endif

namespace quern {

constexpr int kTileN = 64;
constexpr int kTileK = 128;
constexpr int kStripN = 16;
constexpr int kStripsPerTile = kTileN / kStripN;
constexpr int kNibbleBytes = kTileN * kTileK / 2;
constexpr int kStripBytes = kNibbleBytes / kStripsPerTile;
constexpr int kHalfBytes = kStripBytes / 2;
constexpr int kScaleBytes = kTileN * 2;  // a group of one tile
constexpr int kZeroBytes = kTileN / 2;   // a group of one tile

QUERN_HD constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
QUERN_HD constexpr int groups_per_tile(int group) { return kTileK / group; }
QUERN_HD constexpr int tile_bytes(int groups) { return kNibbleBytes + groups * (kScaleBytes + kZeroBytes); }
QUERN_HD constexpr int scale_offset(int group_in_tile) { return kNibbleBytes + group_in_tile * kScaleBytes; }
QUERN_HD constexpr int zero_offset(int groups, int group_in_tile) {
  return kNibbleBytes + groups * kScaleBytes + group_in_tile * kZeroBytes;
}

/// Whether a matrix of this shape can be packed.
QUERN_HD constexpr bool int4_shape_ok(int k, int n, int group) {
  return (group == 32 || group == 64 || group == 128) && k > 0 && n > 0 && k % group == 0 && n % 8 == 0 &&
         k <= 1 << 20 && n <= 1 << 20;
}
QUERN_HD constexpr uint64_t int4_bytes(int k, int n, int group) {
  return uint64_t(ceil_div(n, kTileN)) * uint64_t(ceil_div(k, kTileK)) * uint64_t(tile_bytes(groups_per_tile(group)));
}

/// Whether `pair_stride` can permute a matrix of n rows.
QUERN_HD constexpr bool pair_stride_ok(int n, int pair_stride) {
  return pair_stride == 0 || (pair_stride > 0 && pair_stride % 8 == 0 && n % (2 * pair_stride) == 0);
}
/// Packed row of a logical row, and back. Rows beyond N (padding) map to themselves.
QUERN_HD constexpr int packed_row(int logical, int pair_stride) {
  if (pair_stride == 0) return logical;
  const int run = logical / (2 * pair_stride), i = logical % (2 * pair_stride);
  const int upper = i / pair_stride, j = i % pair_stride;
  return run * 2 * pair_stride + 16 * (j / 8) + 8 * upper + j % 8;
}
QUERN_HD constexpr int logical_row(int packed, int n, int pair_stride) {
  if (pair_stride == 0 || packed >= n) return packed;
  const int run = packed / (2 * pair_stride), i = packed % (2 * pair_stride);
  return run * 2 * pair_stride + (i / 8 % 2) * pair_stride + 8 * (i / 16) + i % 8;
}

/// Sums of squares of a row of `columns` that a product of m rows leaves (QuernCarry): decode one a strip, prefill a tile.
QUERN_HD constexpr int carry_parts(int m, int columns) { return ceil_div(columns, m <= 16 ? kStripN : kTileN); }

/// Where one weight's nibble lies within its tile; n and k within the tile.
struct NibblePlace {
  int byte;   // offset of the u32
  int shift;  // bits
};
QUERN_HD constexpr NibblePlace nibble_place(int n, int k) {
  const int strip = n / kStripN, row = n % kStripN, half = k / 64, step = k / 16 % 4, kk = k % 16;
  const int lane = 4 * (row % 8) + kk % 8 / 2;
  const int nibble = row / 8 + 2 * (kk / 8) + 4 * (kk % 2);
  return {strip * kStripBytes + half * kHalfBytes + lane * 16 + step * 4, 4 * nibble};
}
/// Index, within one group's scales, of a row's fp16; zeros use the same index as a nibble index.
QUERN_HD constexpr int scale_index(int n) { return n / kStripN * kStripN + n % 8 * 2 + n % kStripN / 8; }

}  // namespace quern
