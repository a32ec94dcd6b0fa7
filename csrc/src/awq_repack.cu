// AutoAWQ tensors to the packed int4 layout, on the device, once a layer at load. Tested bit for bit against the CPU
// packer of csrc/tests.
//
// One block a tile. A tile's 64 rows are eight octets; pair_stride keeps octets whole, so every octet is one column of
// words in one source tensor, found once a block. The source words go through shared memory because each is needed by
// eight lanes of the packed order.
#include <cuda_fp16.h>

#include <algorithm>

#include "common/launch.h"
#include "layout.h"

namespace quern {
namespace {

constexpr int kThreads = 256;
constexpr int kOctets = kTileN / 8;

struct RepackParams {
  QuernAwqSource source;
  uint8_t *tiles;
  int k, n, group, pair_stride, k_tiles;
};

/// Where an octet of packed rows comes from: word column `word` of one part; `words` is that part's row length.
struct OctetSource {
  const uint32_t *qweight;  // nullptr: padding
  const uint32_t *qzeros;
  const __half *scales;
  int word;
  int words;
};

__device__ OctetSource find_octet(const RepackParams &p, int packed) {
  int column = logical_row(packed, p.n, p.pair_stride);
  for (int i = 0; i < p.source.n_parts; ++i) {
    const QuernAwqPart &part = p.source.parts[i];
    if (column < part.n) {
      return {static_cast<const uint32_t *>(part.qweight), static_cast<const uint32_t *>(part.qzeros),
              static_cast<const __half *>(part.scales), column / 8, part.n / 8};
    }
    column -= part.n;
  }
  return {nullptr, nullptr, nullptr, 0, 0};
}

/// Column j (0..7) of an AutoAWQ word.
__device__ uint32_t awq_nibble(uint32_t word, int j) { return word >> (4 * (j / 2 + 4 * (j % 2))) & 0xf; }

__device__ uint32_t packed_word(const uint32_t (&words)[kTileK][kOctets + 1], int index) {
  const int strip = index / 256, half = index / 128 % 2, lane = index / 4 % 32, step = index % 4;
  const int r = lane / 4, k0 = 64 * half + 16 * step + 2 * (lane % 4);
  uint32_t out = 0;
  for (int nibble = 0; nibble < 8; ++nibble) {
    const int k = k0 + nibble / 2 % 2 * 8 + nibble / 4;
    out |= awq_nibble(words[k][2 * strip + nibble % 2], r) << (4 * nibble);
  }
  return out;
}

__device__ void write_scales_and_zeros(const RepackParams &p, const OctetSource (&octets)[kOctets], uint8_t *tile,
                                       int k_tile) {
  const int groups = groups_per_tile(p.group);
  for (int i = threadIdx.x; i < groups * kTileN / 2; i += kThreads) {
    const int in_tile = i / 32, pair = i % 32, strip = pair / 8, r = pair % 8;
    const int group = k_tile * groups + in_tile;
    uint32_t zeros = 0;
    __half scales[2] = {__half(0.0f), __half(0.0f)};
    for (int upper = 0; upper < 2; ++upper) {
      const OctetSource &octet = octets[2 * strip + upper];
      if (octet.qweight == nullptr || group * p.group >= p.k) continue;
      const int64_t word = int64_t(group) * octet.words + octet.word;
      zeros |= awq_nibble(octet.qzeros[word], r) << (4 * upper);
      scales[upper] = octet.scales[8 * word + r];
    }
    tile[zero_offset(groups, in_tile) + pair] = uint8_t(zeros);
    reinterpret_cast<__half2 *>(tile + scale_offset(in_tile))[pair] = __halves2half2(scales[0], scales[1]);
  }
}

__global__ void __launch_bounds__(kThreads) awq_repack_kernel(const __grid_constant__ RepackParams p) {
  __shared__ OctetSource octets[kOctets];
  __shared__ uint32_t words[kTileK][kOctets + 1];
  const int k_tile = blockIdx.x % p.k_tiles, n_tile = blockIdx.x / p.k_tiles;
  if (threadIdx.x < kOctets) octets[threadIdx.x] = find_octet(p, n_tile * kTileN + 8 * threadIdx.x);
  __syncthreads();
  for (int i = threadIdx.x; i < kTileK * kOctets; i += kThreads) {
    const int k = k_tile * kTileK + i / kOctets;
    const OctetSource &octet = octets[i % kOctets];
    const bool inside = octet.qweight != nullptr && k < p.k;
    words[i / kOctets][i % kOctets] = inside ? octet.qweight[int64_t(k) * octet.words + octet.word] : 0;
  }
  __syncthreads();
  uint8_t *tile = p.tiles + int64_t(blockIdx.x) * tile_bytes(groups_per_tile(p.group));
  for (int i = threadIdx.x; i < kNibbleBytes / 4; i += kThreads) {
    reinterpret_cast<uint32_t *>(tile)[i] = packed_word(words, i);
  }
  write_scales_and_zeros(p, octets, tile, k_tile);
}

int32_t check(const QuernAwqSource *source, const QuernInt4 *packed) {
  if (source == nullptr || packed == nullptr) return QUERN_BAD_POINTER;
  if (!int4_shape_ok(packed->k, packed->n, packed->group) || !pair_stride_ok(packed->n, packed->pair_stride) ||
      source->n_parts < 1 || source->n_parts > QUERN_MAX_PARTS) {
    return QUERN_BAD_SHAPE;
  }
  if (!is_aligned(packed->tiles, 128)) return QUERN_BAD_POINTER;
  int64_t n = 0;
  for (int i = 0; i < source->n_parts; ++i) {
    const QuernAwqPart &part = source->parts[i];
    if (part.n < 8 || part.n % 8 != 0) return QUERN_BAD_SHAPE;
    if (!is_aligned(part.qweight, 4) || !is_aligned(part.qzeros, 4) || !is_aligned(part.scales, 2)) {
      return QUERN_BAD_POINTER;
    }
    n += part.n;
  }
  return n == packed->n ? QUERN_OK : QUERN_BAD_SHAPE;
}

}  // namespace
}  // namespace quern

extern "C" uint64_t quern_int4_bytes(int32_t k, int32_t n, int32_t group) {
  return quern::int4_shape_ok(k, n, group) ? quern::int4_bytes(k, n, group) : 0;
}

extern "C" QuernPrefetch quern_int4_prefetch(const QuernInt4 *weight, uint64_t bytes) {
  using namespace quern;
  if (weight == nullptr || weight->tiles == nullptr || bytes == 0) return {};
  const uint64_t all = quern_int4_bytes(weight->k, weight->n, weight->group);
  const uint64_t n_tiles = ceil_div(weight->n, kTileN), column = all / n_tiles;  // bytes: less than 2^32 for every k
  if (all == 0) return {};
  const uint64_t every = bytes >= all ? 1 : std::min(n_tiles, (all + bytes - 1) / bytes);
  const uint8_t *last = static_cast<const uint8_t *>(weight->tiles) + (every - 1) * column;
  return {last, every * column, uint32_t(column), uint32_t(n_tiles / every)};
}

extern "C" int32_t quern_awq_repack(const QuernAwqSource *source, const QuernInt4 *packed, void *stream) {
  using namespace quern;
  const int32_t status = check(source, packed);
  if (status != QUERN_OK) return status;
  const int k_tiles = ceil_div(packed->k, kTileK);
  const RepackParams params = {*source,       static_cast<uint8_t *>(const_cast<void *>(packed->tiles)),
                               packed->k,     packed->n,
                               packed->group, packed->pair_stride,
                               k_tiles};
  const unsigned blocks = unsigned(ceil_div(packed->n, kTileN)) * unsigned(k_tiles);
  return launch(awq_repack_kernel, {blocks, kThreads, 0, 1, false}, stream, params);
}
