// kernel_tests [--small] [--seed N] [--only NAME]: every kernel against its float64 reference on fresh random inputs.
// Prints one line a family; exit code 1 if a check failed, 2 if CUDA did.
#include <chrono>
#include <cstdlib>
#include <string>

#include "tests.h"

namespace {

struct Family {
  const char *name;
  void (*run)(quern::test::TestContext &);
};
constexpr Family kFamilies[] = {
    {"plan", quern::test::test_plan},
    {"repack", quern::test::test_repack},
    {"int4_decode", quern::test::test_int4_decode},
    {"int4_prefill", quern::test::test_int4_prefill},
    {"carry", quern::test::test_carry},
    {"head", quern::test::test_head},
    {"dense", quern::test::test_dense},
    {"elementwise", quern::test::test_elementwise},
    {"rope", quern::test::test_rope},
    {"decode_attention", quern::test::test_decode_attention},
    {"prefill_attention", quern::test::test_prefill_attention},
    {"sample", quern::test::test_sample},
    {"score", quern::test::test_score},
};

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

int main(int argc, char **argv) {
  using namespace quern::test;
  uint64_t seed = uint64_t(std::chrono::system_clock::now().time_since_epoch().count());
  std::string only;
  bool small = false;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--small") {
      small = true;
    } else if (flag == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--only" && i + 1 < argc) {
      only = argv[++i];
    } else {
      std::fprintf(stderr, "usage: kernel_tests [--small] [--seed N] [--only NAME]\n");
      return 2;
    }
  }
  QuernDevice device;
  STATUS_OK(quern_device_open(0, &device));
  std::printf("seed %llu, compute capability %d, %d multiprocessors, clusters of 2, 4, 8: %d %d %d\n",
              (unsigned long long)seed, device.compute_capability, device.sm_count, device.clusters[1],
              device.clusters[2], device.clusters[3]);
  int failed = 0;
  for (const Family &family : kFamilies) {
    if (!only.empty() && only != family.name) continue;
    TestContext context = {device, Rng(seed), small, {}};
    const double start = seconds();
    family.run(context);
    std::printf("%-18s %6d checks, %d failed, worst relative error %.2e, %.1f s\n", family.name, context.checks.count(),
                context.checks.failed(), context.checks.worst, seconds() - start);
    std::fflush(stdout);
    failed += context.checks.failed();
  }
  return failed == 0 ? 0 : 1;
}
