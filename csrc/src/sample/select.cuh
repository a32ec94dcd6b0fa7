// Where to cut a distribution: the smallest threshold such that the tokens with scores up to it have at least a given
// mass. A radix search without sorting: 1024 bins of equal width first, then 10 bits of the float at a time. Masses are
// integers, added in shared memory by 32-bit atomics in pieces of 14 bits, so their order does not matter.
#pragma once

#include "sample/slice.cuh"
#include "sample/weight.cuh"

namespace quern {

constexpr int kBins = kSamplerThreads;  // one a thread
constexpr int kPieces = 3;
constexpr int kPieceBits = 14;  // 2^18 of them fit 32 bits
constexpr uint32_t kInfinityBits = 0x7f800000u;

/// The bin in which the target is reached.
struct FoundBin {
  int bin;  // -1: none
  uint64_t target, before, mass;
};

struct SelectMemory {
  uint32_t pieces[kPieces][kBins];
  uint64_t masses[2][kBins];     // by turn
  uint64_t runs[2][kBins / 32];  // by turn: sums of 32 masses
  FoundBin found[2];             // by turn
};

/// Scores are compared as floats >= 0, which order as their bits do.
struct Threshold {
  uint32_t score;   // bits; infinity if all tokens together have less than the target
  uint64_t target;
  uint64_t before;  // mass of the smaller scores
  uint64_t mass;    // mass of this score
};

namespace select_detail {

/// The scores of one pass: linear bins of 1/32 first, then bins of 2^shift floats within [low, high).
struct Range {
  uint32_t low = 0, high = 0;
  int shift = -1;

  __device__ __forceinline__ bool is_first() const { return shift < 0; }
  /// -1 for a score outside.
  __device__ __forceinline__ int bin(float score) const {
    if (is_first()) return score < kBins / 32.f ? static_cast<int>(score * 32.f) : kBins - 1;
    const uint32_t bits = __float_as_uint(score);
    return bits >= low && bits < high ? static_cast<int>((bits - low) >> shift) : -1;
  }
  __device__ __forceinline__ void narrow(int bin) {
    if (is_first()) {
      low = __float_as_uint(bin / 32.f);
      high = bin == kBins - 1 ? kInfinityBits : __float_as_uint((bin + 1) / 32.f);
    } else {
      low += static_cast<uint32_t>(bin) << shift;
      high = min(high, low + (1u << shift));
    }
    shift = max(0, 32 - __clz(high - low - 1) - 10);
  }
  __device__ __forceinline__ bool is_one_score() const { return !is_first() && high - low == 1; }
};

__device__ __forceinline__ void add_piecewise(SelectMemory &memory, int bin, uint64_t mass) {
  constexpr uint32_t kMask = (1u << kPieceBits) - 1;
  const uint32_t piece[kPieces] = {static_cast<uint32_t>(mass) & kMask,
                                   static_cast<uint32_t>(mass >> kPieceBits) & kMask,
                                   static_cast<uint32_t>(mass >> (2 * kPieceBits))};
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    if (piece[i] != 0) atomicAdd(&memory.pieces[i][bin], piece[i]);
  }
}

/// This thread's bin over the block, to where the group can read it; ends with the group's barrier.
template <int kBlocks>
__device__ __forceinline__ void show_masses(SelectMemory &memory, int turn) {
  const int bin = threadIdx.x;
  uint64_t mass = 0;
#pragma unroll
  for (int i = 0; i < kPieces; ++i) mass += uint64_t(memory.pieces[i][bin]) << (i * kPieceBits);
  memory.masses[turn][bin] = mass;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) mass += __shfl_xor_sync(kFullWarp, mass, offset);
  if (bin % 32 == 0) memory.runs[turn][bin / 32] = mass;
  Group<kBlocks>::barrier();
}

/// Among 32 consecutive masses of the group, one a lane, with `before` in front of them: the lane in which the target
/// is reached, or -1.
struct LaneOfTarget {
  int lane;
  uint64_t before, mass;
};
__device__ __forceinline__ LaneOfTarget lane_of_target(uint64_t mass, uint64_t before, uint64_t target) {
  uint64_t through = mass;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t other = __shfl_up_sync(kFullWarp, through, offset);
    if (threadIdx.x % 32 >= offset) through += other;
  }
  const uint64_t start = before + through - mass;
  const unsigned reached = __ballot_sync(kFullWarp, start < target && target <= start + mass);
  const int lane = __ffs(static_cast<int>(reached)) - 1;
  return {lane, __shfl_sync(kFullWarp, start, max(lane, 0)), __shfl_sync(kFullWarp, mass, max(lane, 0))};
}

/// The group's bin of the target, by one warp: first among runs of 32 bins, then among the 32. A target of 0 is first
/// asked of the total mass.
template <int kBlocks, typename Target>
__device__ __forceinline__ FoundBin find_bin(const SelectMemory &memory, int turn, FoundBin last, Target target) {
  const int lane = threadIdx.x % 32;
  const uint64_t run = Group<kBlocks>::read_sum(&memory.runs[turn][lane]);
  if (last.target == 0) {
    uint64_t total = run;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) total += __shfl_xor_sync(kFullWarp, total, offset);
    last.target = target(total);
  }
  const LaneOfTarget runs = lane_of_target(run, last.before, last.target);
  if (runs.lane < 0) return {-1, last.target, 0, 0};
  const uint64_t mass = Group<kBlocks>::read_sum(&memory.masses[turn][32 * runs.lane + lane]);
  const LaneOfTarget found = lane_of_target(mass, runs.before, last.target);
  return {32 * runs.lane + found.lane, last.target, found.before, found.mass};
}

}  // namespace select_detail

/// score(x) >= 0, small is good; mass(x) <= 2^42; target(total mass) > 0 is asked once. The block must meet before the
/// next call.
template <int kBlocks, typename Target, typename Score, typename Mass>
__device__ __forceinline__ Threshold select(Group<kBlocks> &group, SelectMemory &memory, const Slice &slice,
                                            Target target, Score score, Mass mass) {
  select_detail::Range range;
  FoundBin found = {0, 0, 0, 0};
  while (true) {
    const int turn = group.take_turn();
#pragma unroll
    for (int i = 0; i < kPieces; ++i) memory.pieces[i][threadIdx.x] = 0;
    __syncthreads();
    slice.for_each([&](int, float x) {
      const int bin = range.bin(score(x));
      if (bin >= 0) select_detail::add_piecewise(memory, bin, mass(x));
    });
    __syncthreads();
    select_detail::show_masses<kBlocks>(memory, turn);
    if (threadIdx.x < 32) {
      const FoundBin bin = select_detail::find_bin<kBlocks>(memory, turn, found, target);
      if (threadIdx.x == 0) memory.found[turn] = bin;
    }
    __syncthreads();
    found = memory.found[turn];
    if (found.bin < 0) return {kInfinityBits, found.target, 0, 0};
    range.narrow(found.bin);
    if (range.is_one_score()) return {range.low, found.target, found.before, found.mass};
  }
}

}  // namespace quern
