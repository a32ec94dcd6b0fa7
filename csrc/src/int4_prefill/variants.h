// The compiled prefill kernels, and launching one with a plan of one's own. Called by the entry point, which chooses the
// plan, and by tests and benches, which try them all.
#pragma once

#include "int4_prefill/params.h"
#include "quern_kernels.h"

namespace quern {

/// A kernel: rows of x of an output block and thread blocks that share them. cluster = 0: the portable kernel.
struct PrefillVariant {
  int tokens, cluster;
};
constexpr PrefillVariant kHopperVariants[] = {{32, 1},  {64, 1},  {64, 2},  {96, 2},  {128, 1},
                                              {160, 2}, {176, 2}, {192, 2}, {224, 2}, {256, 2}};
constexpr PrefillVariant kPortableVariants[] = {{32, 0}, {128, 0}};

/// Teams of a thread block: four hide each other's waits where registers suffice. (Two blocks on a multiprocessor would,
/// too, but the older one's warps go first: it ends early, and the other runs on alone.)
constexpr int kFewTokens = 64;  // most rows of x of an output block that four teams have
constexpr int teams_of(PrefillVariant variant) { return variant.cluster == 1 && variant.tokens <= kFewTokens ? 4 : 2; }

enum class PrefillSplit { kNever, kAlways, kBest };

/// The plan of one variant for a shape, and its estimated time in no particular unit.
struct PrefillChoice {
  PrefillPlan plan;
  bool portable;
  double cost;
};
PrefillChoice plan_prefill(const QuernDevice &device, const QuernLinear &args, PrefillVariant variant, PrefillSplit split);
/// Bytes at the start of the workspace that must be zero once and that kernels leave so.
uint64_t zeroed_workspace(const QuernDevice &device);
/// The cheapest of all.
PrefillChoice choose_prefill(const QuernDevice &device, const QuernLinear &args);

/// What the kernels are launched with.
PrefillParams prefill_params(const QuernDevice &device, const QuernLinear &args, const PrefillPlan &plan);

/// Launches after the entry point's checks.
int32_t launch_prefill(const QuernDevice &device, const QuernLinear &args, const PrefillChoice &choice, void *stream);

/// Dense layers: one of `dense_variants()` kernels, after the entry point's checks.
int32_t launch_dense(const QuernDevice &device, const QuernDense &args, int variant, PrefillSplit split, void *stream);
int dense_variants();

// One function a source file, so that kernels compile side by side.
int32_t launch_hopper_prefill(const QuernDevice &device, const PrefillParams &params, void *stream);
int32_t launch_portable_prefill(const QuernDevice &device, const PrefillParams &params, void *stream);
int32_t hopper_prefill_prepare(const QuernDevice &device);
int32_t portable_prefill_prepare(const QuernDevice &device);

}  // namespace quern
