// The decode GEMM's tuned numbers. Measured on an H100; the portable ones keep to what sm_86 and sm_89 have.
#pragma once

namespace quern {

// With clusters (sm_90). Four teams hide each other's latency; four stages of two tiles each are 136 KB in flight.
constexpr int kClusterTeams = 4;
constexpr int kClusterStages = 4;      // at most; fewer if x and the sums of many rows need the room
constexpr int kClusterSlabTiles = 32;  // of a slab: x of 16 rows takes 128 KB

// Portable (sm_80 and up): x of 16 rows and the rings fit 99 KB.
constexpr int kPortableTeams = 2;
constexpr int kPortableStages = 3;
constexpr int kPortableSlabTiles = 9;

}  // namespace quern
