// Attention of a 14B model (40 heads of 128, no grouping) over paged caches with shuffled blocks. Decode: bytes of K and
// V once, layers rotate so that nothing sits in L2. Prefill: operations under the causal mask.
#include <algorithm>
#include <memory>
#include <numeric>

#include "attention/decode_plan.h"
#include "bench.h"
#include "half.h"
#include "rng.h"

namespace quern::test {
namespace {

constexpr int kHeads = 40, kHeadDim = 128, kWidth = 3 * kHeads * kHeadDim;

struct AttentionBenchShape {
  int spans, position, rows;  // rows of each span from `position` on
};

/// Device memory of one step, and its arguments.
class AttentionBench {
 public:
  explicit AttentionBench(AttentionBenchShape shape)
      : shape_(shape), blocks_(ceil_div(shape.position + shape.rows, kKvBlock)),
        layer_bytes_(quern_kv_layer_bytes(blocks_ * shape.spans, kHeads, kHeadDim)),
        layers_(int(kRotationBytes / layer_bytes_) + 1), cache_(layers_ * layer_bytes_, true), qkv_(rows() * kWidth * 2, true),
        out_(rows() * kHeads * kHeadDim * 2), angles_(rows() * kHeadDim * 4), factors_(rows() * 4) {
    std::vector<int32_t> first_row, n_rows(shape.spans, shape.rows), row_span;
    for (int i = 0; i < shape.spans; ++i) {
      first_row.push_back(i * shape.rows);
      row_span.insert(row_span.end(), shape.rows, i);
    }
    std::vector<int32_t> table(blocks_ * shape.spans);
    std::iota(table.begin(), table.end(), 0);
    Rng rng(1);
    for (size_t i = table.size() - 1; i > 0; --i) std::swap(table[i], table[rng.below(int(i) + 1)]);
    first_row_ = std::make_unique<DeviceBuffer>(first_row), n_rows_ = std::make_unique<DeviceBuffer>(n_rows);
    position_ = std::make_unique<DeviceBuffer>(positions()), table_ = std::make_unique<DeviceBuffer>(table);
    row_span_ = std::make_unique<DeviceBuffer>(row_span);
    theta_ = std::make_unique<DeviceBuffer>(std::vector<double>(shape.spans, 1e4));
  }
  size_t rows() const { return size_t(shape_.spans) * shape_.rows; }
  int layers() const { return layers_; }
  std::vector<int32_t> positions() const { return std::vector<int32_t>(shape_.spans, shape_.position); }
  const int32_t *row_span() const { return ints(row_span_); }
  QuernRopeAngles angles() const {
    return {args(0).spans, row_span(), static_cast<double *>(theta_->data()), nullptr, 1.0,
            reinterpret_cast<float *>(angles_.data()),
            reinterpret_cast<float *>(factors_.data()), int(rows()), kHeadDim, 2048};
  }
  QuernAttention args(int layer) const {
    QuernAttention a = {};
    a.cache = {cache_.data(), blocks_ * shape_.spans, kHeads, kHeadDim};
    a.spans = {ints(first_row_), ints(n_rows_), ints(position_), ints(table_), shape_.spans, blocks_};
    a.qkv = qkv_.data();
    a.angles = reinterpret_cast<float *>(angles_.data());
    a.query_factors = reinterpret_cast<float *>(factors_.data());
    a.out = out_.data();
    a.layer = layer % layers_;
    a.n_heads = kHeads;
    a.rope_dim = kHeadDim;
    return a;
  }

 private:
  static const int32_t *ints(const std::unique_ptr<DeviceBuffer> &buffer) { return static_cast<int32_t *>(buffer->data()); }

  AttentionBenchShape shape_;
  int blocks_;
  size_t layer_bytes_;
  int layers_;
  RandomBytes cache_, qkv_, out_, angles_, factors_;
  std::unique_ptr<DeviceBuffer> first_row_, n_rows_, position_, table_, row_span_, theta_;
};

double decode_us(const QuernDevice &device, const AttentionBench &bench, int target) {
  constexpr int kMaxTokens = 8192;
  const std::vector<int32_t> positions = bench.positions();
  const QuernDecodeShape shape = {int(positions.size()), kMaxTokens, kHeads, kHeads, kHeadDim, 0};
  std::vector<int32_t> plan(quern_decode_plan_ints(&device, &shape) + 8000);
  quern_decode_plan(&device, &shape, positions.data(), plan.data());
  if (target > 0) make_decode_plan({positions.data(), shape.n_spans, kMaxTokens, 0}, plan.data(), [=](int) { return target; });
  const DeviceBuffer d_plan(plan);
  DeviceBuffer space(quern_decode_workspace(&device, &shape));
  space.zero();
  const QuernRopeAngles angles = bench.angles();
  STATUS_OK(quern_rope_angles(&device, &angles, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  return time_us(std::max(24, bench.layers()), [&](int i, cudaStream_t stream) {
    const QuernAttention args = bench.args(i);
    STATUS_OK(quern_decode_attention(&device, &args, static_cast<int32_t *>(d_plan.data()), space.data(), kMaxTokens, stream));
  });
}

}  // namespace

void bench_decode_attention(BenchContext &context) {
  struct Case {
    int batch, context;
  };
  for (Case c : {Case{1, 64}, {1, 128}, {1, 256}, {1, 384}, {1, 576}, {1, 1024}, {1, 2048}, {1, 4096}, {1, 8192}, {8, 576}, {16, 576},
                 {32, 576}, {64, 256}, {64, 576}, {128, 640}}) {
    const AttentionBench bench({c.batch, c.context - 1, 1});
    const std::string name = "decode_attention_b" + std::to_string(c.batch) + "_c" + std::to_string(c.context);
    const double bytes = 2.0 * c.batch * c.context * kHeads * kHeadDim * 2;
    context.memory_bound(name, decode_us(context.device, bench, 0), bytes);
    if (getenv("SWEEP")) for (int t : {96, 192, 288, 352, 384, 704, 1024}) if (t <= c.context * 2 && (c.context + t - 1) / t <= 8) context.memory_bound(name + "_t" + std::to_string(t), decode_us(context.device, bench, t), bytes);
  }
}

void bench_prefill_attention(BenchContext &context) {
  QuernDevice portable = context.device;
  portable.force_portable = 1;
  for (AttentionBenchShape shape : {AttentionBenchShape{1, 0, 512}, {1, 0, 2048}, {1, 0, 3696}, {1, 0, 8192}, {1, 7680, 512}, {8, 0, 512}}) {
    const AttentionBench bench(shape);
    const QuernRopeAngles angles = bench.angles();
    const QuernAttention first = bench.args(0);
    STATUS_OK(quern_rope_angles(&context.device, &angles, nullptr));
    const std::string name = "s" + std::to_string(shape.spans) + "_p" + std::to_string(shape.position) + "_m" + std::to_string(shape.rows);
    const double rope_us = time_us(8, [&](int i, cudaStream_t stream) {
      const QuernAttention args = bench.args(i);
      STATUS_OK(quern_rope_store(&context.device, &args, bench.row_span(), 0, int(bench.rows()), stream));
    });
    context.memory_bound("rope_store_" + name, rope_us, double(bench.rows()) * kWidth * 4);
    STATUS_OK(quern_rope_store(&context.device, &first, bench.row_span(), 0, int(bench.rows()), nullptr));
    const double pairs = shape.spans * (double(shape.rows) * shape.position + 0.5 * shape.rows * (shape.rows + 1.0));
    // One layer again and again: what rope_store has just written is in L2 in a real step, too.
    const auto us = [&](const QuernDevice &device) {
      return time_us(8, [&](int, cudaStream_t stream) {
        STATUS_OK(quern_prefill_attention(&device, &first, shape.rows, stream));
      });
    };
    context.compute_bound("prefill_attention_" + name, us(context.device), 4.0 * pairs * kHeads * kHeadDim);
    context.compute_bound("prefill_attention_portable_" + name, us(portable), 4.0 * pairs * kHeads * kHeadDim);
  }
}

}  // namespace quern::test
