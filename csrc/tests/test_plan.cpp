// How the int4 GEMMs are cut over blocks, on the host alone: for many shapes and devices every unit has one owner, everything
// fits, and nothing that orders a sum of the decode GEMM depends on M or N.
#include <algorithm>
#include <string>
#include <vector>

#include "int4_decode/make_plan.h"
#include "int4_prefill/variants.h"
#include "tests.h"

namespace quern::test {
namespace {

QuernDevice device_of(int capability, int sms, int smem) {
  QuernDevice device = {0, capability, sms, smem, 50 << 20, {0, 0, 0, 0}, 0, 0};
  if (capability >= 90) {
    device.clusters[0] = sms;
    device.clusters[1] = sms / 2;
    device.clusters[2] = sms / 4 - 3;
    device.clusters[3] = sms / 8 - 1;
  }
  return device;
}

bool same_order(const DecodePlan &a, const DecodePlan &b) {
  return a.portable == b.portable && a.split == b.split && a.slab_cut.base == b.slab_cut.base &&
         a.slab_cut.longer == b.slab_cut.longer;
}

void check_plan(Checks &checks, const QuernDevice &device, const QuernInt4 &weight, int m) {
  const DecodePlan plan = make_decode_plan(device, weight, m);
  const std::string name = "plan cc=" + std::to_string(device.compute_capability) + " k=" + std::to_string(weight.k) +
                           " n=" + std::to_string(weight.n) + " g=" + std::to_string(weight.group) +
                           " m=" + std::to_string(m);
  checks.expect(same_order(plan, make_decode_plan(device, weight, kMaxDecodeRows)), name, "order depends on M");
  checks.expect(plan.smem_bytes <= device.smem_per_block - 1024, name, "shared memory");
  checks.expect(plan.stages >= 2 && plan.split <= plan.k_tiles, name, "cut");
  checks.expect(plan.portable || plan.split <= kMaxCluster, name, "cluster too large");
  int columns = 0, k_tiles = 0;
  for (int group = 0; group < plan.groups; ++group) {
    const Run run = run_of(plan.column_cut, group);
    checks.expect(run.begin == columns && run.count >= 1 && run.count <= plan.columns, name, "columns");
    columns += run.count;
  }
  for (int rank = 0; rank < plan.split; ++rank) {
    const Run run = run_of(plan.slab_cut, rank);
    checks.expect(run.begin == k_tiles && run.count >= 1 && run.count <= plan.slab_tiles, name, "slabs");
    k_tiles += run.count;
  }
  checks.expect(columns == plan.n_tiles && k_tiles == plan.k_tiles, name, "not every unit has an owner");
}

/// Every unit of the prefill GEMM is one worker's; where an output block has workers of its own, they know each other.
void check_prefill_plan(Checks &checks, const QuernDevice &device, const QuernLinear &args, PrefillVariant variant) {
  const PrefillPlan plan = plan_prefill(device, args, variant, PrefillSplit::kAlways).plan;
  const std::string name = "prefill plan cc=" + std::to_string(device.compute_capability) + " k=" +
                           std::to_string(args.weight.k) + " n=" + std::to_string(args.weight.n) + " m=" +
                           std::to_string(args.m) + " tokens=" + std::to_string(plan.tokens);
  std::vector<int> owners(size_t(tile_count(plan)) * plan.k_tiles);
  bool alone = true, known = true;
  for (int worker = 0; worker < plan.workers; ++worker) {
    SegmentWalk walk(plan, worker);
    int segments = 0;
    for (Segment segment; walk.next(segment); ++segments) {
      for (int k = 0; k < segment.k_count; ++k) ++owners[size_t(segment.tile) * plan.k_tiles + segment.k_begin + k];
      const bool first = segment.k_begin == 0;
      if (first) known = known && (!plan.whole_workers || first_worker(plan, segment.tile) == worker);
      if (first && segment.k_count < plan.k_tiles) {
        const int end = end_of_workers(plan, segment.tile, worker);
        known = known && share_begin(plan, end) >= (segment.tile + 1) * plan.k_tiles &&
                share_begin(plan, end - 1) < (segment.tile + 1) * plan.k_tiles;
      }
    }
    alone = alone && (!plan.whole_workers || segments == 1);
  }
  checks.expect(std::all_of(owners.begin(), owners.end(), [](int n) { return n == 1; }), name, "owners of units");
  checks.expect(alone, name, "a share of two output blocks");
  checks.expect(known, name, "workers of an output block");
}

/// What is brought to L2 ahead lies within the matrix and is about as much as asked for.
void check_prefetch(Checks &checks, int k, int n, int group, uint64_t bytes) {
  const uint64_t all = quern_int4_bytes(k, n, group), column = all / ceil_div(n, kTileN);
  const uintptr_t tiles = 1 << 20;  // never read
  const QuernInt4 weight = {reinterpret_cast<const void *>(tiles), k, n, group, 0};
  const QuernPrefetch wanted = quern_int4_prefetch(&weight, bytes);
  const std::string name = "prefetch k=" + std::to_string(k) + " n=" + std::to_string(n) + " of " + std::to_string(bytes);
  const uintptr_t first = reinterpret_cast<uintptr_t>(wanted.data);
  checks.expect(wanted.run_bytes % 16 == 0 && wanted.stride % 16 == 0 && first % 16 == 0, name, "alignment");
  checks.expect(wanted.runs > 0 && first >= tiles &&
                    first + (wanted.runs - 1) * wanted.stride + wanted.run_bytes <= tiles + all, name, "outside the matrix");
  const uint64_t sum = uint64_t(wanted.runs) * wanted.run_bytes;
  checks.expect(sum <= std::max(bytes, column) && 2 * sum + column >= std::min(bytes, all), name, "amount");
}

}  // namespace

void test_plan(TestContext &context) {
  const QuernDevice devices[] = {device_of(90, 132, 232448), device_of(80, 108, 166912), device_of(86, 84, 101376),
                                 device_of(89, 128, 101376)};
  for (int n : {8, 64, 72, 5120, 27392}) {
    for (uint64_t bytes : {uint64_t(1), uint64_t(1) << 20, uint64_t(12) << 20, ~uint64_t(0)}) {
      check_prefetch(context.checks, 5120, n, 128, bytes);
      check_prefetch(context.checks, 13696, n, 64, bytes);
    }
  }
  for (const QuernDevice &device : devices) {
    for (int group : {32, 64, 128}) {
      for (int k_groups : {1, 2, 3, 5, 8, 9, 24, 40, 45, 53, 54, 107, 136, 231}) {
        for (int n : {8, 64, 72, 576, 1536, 5120, 5128, 15360, 27392, 49152}) {
          for (int m : {17, 32, 33, 64, 65, 200}) {
            const QuernLinear args = {{nullptr, k_groups * group, n, group, 0}, nullptr, nullptr, nullptr, nullptr,
                                      m, k_groups * group, n, QUERN_STORE_F16, {}, {}};
            const PrefillVariant widest = device.compute_capability == 90 ? PrefillVariant{128, 1} : PrefillVariant{128, 0};
            const int narrow = m > 32 && device.compute_capability == 90 ? 64 : 32;
            check_prefill_plan(context.checks, device, args, {narrow, widest.cluster});
            check_prefill_plan(context.checks, device, args, widest);
          }
          for (int m = 1; m <= kMaxDecodeRows; ++m) {
            check_plan(context.checks, device, {nullptr, k_groups * group, n, group, 0}, m);
          }
        }
      }
    }
  }
}

}  // namespace quern::test
