// The repack kernel against the CPU packer, bit for bit: groups, padding in K and N, joined parts, paired rows.
#include <string>

#include "awq.h"
#include "tests.h"

namespace quern::test {
namespace {

struct RepackCase {
  int k, group, pair_stride;
  std::vector<int> parts;  // columns of each
};

void check_case(TestContext &context, const RepackCase &c) {
  std::vector<AwqMatrix> parts;
  std::vector<DeviceBuffer *> buffers;
  QuernAwqSource source = {};
  for (int n : c.parts) {
    parts.push_back(random_awq(c.k, n, c.group, context.rng));
    buffers.push_back(new DeviceBuffer(parts.back().qweight));
    buffers.push_back(new DeviceBuffer(parts.back().qzeros));
    buffers.push_back(new DeviceBuffer(parts.back().scales));
    DeviceBuffer *const *last = &buffers[buffers.size() - 3];
    source.parts[source.n_parts++] = {last[0]->data(), last[1]->data(), last[2]->data(), n};
  }
  const AwqMatrix whole = join(parts);
  const std::vector<uint8_t> expected = pack(whole, c.pair_stride);
  const std::string name = "repack k=" + std::to_string(c.k) + " n=" + std::to_string(whole.n) +
                           " g=" + std::to_string(c.group) + " pair=" + std::to_string(c.pair_stride);
  for (uint32_t poison : kPoison) {
    DeviceBuffer tiles(quern_int4_bytes(c.k, whole.n, c.group), poison);
    const QuernInt4 packed = {tiles.data(), c.k, whole.n, c.group, c.pair_stride};
    STATUS_OK(quern_awq_repack(&source, &packed, nullptr));
    CUDA_OK(cudaDeviceSynchronize());
    context.checks.expect(tiles.download<uint8_t>() == expected, name);
    context.checks.expect(tiles.guards_intact(), name + " guards");
  }
  for (DeviceBuffer *buffer : buffers) delete buffer;
}

void check_refusals(TestContext &context) {
  DeviceBuffer memory(1 << 16);
  const QuernAwqSource source = {{{memory.data(), memory.data(), memory.data(), 64}}, 1};
  const auto status = [&](QuernInt4 packed) { return quern_awq_repack(&source, &packed, nullptr); };
  void *tiles = memory.data();
  context.checks.expect(status({tiles, 100, 64, 128, 0}) == QUERN_BAD_SHAPE, "K not in whole groups");
  context.checks.expect(status({tiles, 128, 64, 16, 0}) == QUERN_BAD_SHAPE, "group 16");
  context.checks.expect(status({tiles, 128, 72, 128, 0}) == QUERN_BAD_SHAPE, "parts do not add up");
  context.checks.expect(status({tiles, 128, 64, 128, 24}) == QUERN_BAD_SHAPE, "pairs do not divide N");
  context.checks.expect(status({static_cast<uint8_t *>(tiles) + 16, 128, 64, 128, 0}) == QUERN_BAD_POINTER, "alignment");
  context.checks.expect(quern_int4_bytes(128, 60, 128) == 0, "N not a multiple of 8");
}

}  // namespace

void test_repack(TestContext &context) {
  const std::vector<RepackCase> cases = {
      {128, 128, 0, {64}},         {256, 128, 0, {8}},          {576, 64, 0, {72}},
      {160, 32, 0, {40, 8, 8}},    {384, 128, 64, {128, 128}},  {256, 64, 72, {72, 72}},
      {640, 128, 136, {136, 136}}, {96, 32, 8, {16, 16}},
  };
  for (const RepackCase &c : cases) check_case(context, c);
  if (!context.small) {
    check_case(context, {13696, 128, 0, {264}});
    check_case(context, {576, 64, 1536, {1536, 1536}});
    check_case(context, {5120, 128, 64, {640, 640, 640}});
  }
  check_refusals(context);
}

}  // namespace quern::test
