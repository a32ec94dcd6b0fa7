// kernel_bench [--json FILE] [--commit ID] [--only NAME]: ceilings, then every kernel; a table on stdout and the figures
// as JSON {"device", "commit", "settings", "figures": {name: number}}.
#include <cstdlib>

#include "bench.h"

namespace {

struct Family {
  const char *name;
  void (*run)(quern::test::BenchContext &);
};
constexpr Family kFamilies[] = {
    {"int4_decode", quern::test::bench_int4_decode},
    {"int4_prefill", quern::test::bench_int4_prefill},
    {"head", quern::test::bench_head},
    {"dense", quern::test::bench_dense},
    {"elementwise", quern::test::bench_elementwise},
    {"decode_attention", quern::test::bench_decode_attention},
    {"prefill_attention", quern::test::bench_prefill_attention},
    {"sample", quern::test::bench_sample},
};

void write_json(const std::string &path, const std::string &commit, const std::string &device,
                const quern::test::BenchContext &context) {
  FILE *file = std::fopen(path.c_str(), "w");
  if (file == nullptr) {
    std::fprintf(stderr, "kernel_bench: cannot write %s\n", path.c_str());
    std::exit(2);
  }
  std::fprintf(file, "{\n  \"device\": \"%s\",\n  \"commit\": \"%s\",\n", device.c_str(), commit.c_str());
  std::fprintf(file, "  \"settings\": {\"group\": 128, \"rotation_mib\": %zu, \"timing\": \"median of graph replays\"},\n",
               quern::test::kRotationBytes >> 20);
  std::fprintf(file, "  \"figures\": {");
  const char *separator = "\n";
  for (const auto &[name, value] : context.figures) {
    std::fprintf(file, "%s    \"%s\": %.5g", separator, name.c_str(), value);
    separator = ",\n";
  }
  std::fprintf(file, "\n  }\n}\n");
  std::fclose(file);
}

}  // namespace

int main(int argc, char **argv) {
  using namespace quern::test;
  std::string json, commit = "unknown", only;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    std::string *value = flag == "--json" ? &json : flag == "--commit" ? &commit : flag == "--only" ? &only : nullptr;
    if (value == nullptr || i + 1 == argc) {
      std::fprintf(stderr, "usage: kernel_bench [--json FILE] [--commit ID] [--only NAME]\n");
      return 2;
    }
    *value = argv[++i];
  }
  BenchContext context = {};
  STATUS_OK(quern_device_open(0, &context.device));
  cudaDeviceProp properties;
  CUDA_OK(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s, %d multiprocessors, commit %s\n", properties.name, context.device.sm_count, commit.c_str());
  bench_ceilings(context);
  for (const Family &family : kFamilies) {
    if (only.empty() || only == family.name) family.run(context);
  }
  // Slow and for tuning: only when asked for.
  if (only == "int4_prefill_variants") bench_int4_prefill_variants(context);
  if (!json.empty()) write_json(json, commit, properties.name, context);
  return 0;
}
