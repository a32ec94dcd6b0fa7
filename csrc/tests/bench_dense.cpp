// Dense fp16 layers, the four shapes of a 14B model, as the shard launches them on sm_90: up to 64 rows the head's product,
// then dense_output, which is limited by memory (weights, x and out once); beyond, the prefill kernel, by the products.
#include <algorithm>

#include "bench.h"
#include "int4_prefill/variants.h"

namespace quern::test {
namespace {

struct DenseShape {
  const char *name;
  int k, n, epilogue;
};
constexpr DenseShape kShapes[] = {
    {"qkv", 5120, 15360, QUERN_STORE_F16},
    {"o", 5120, 5120, QUERN_ADD_F32},
    {"gate_up", 5120, 27392, QUERN_SILU_MUL_F16},
    {"down", 13696, 5120, QUERN_ADD_F32},
};
constexpr int kMaxM = 2048;
constexpr int kFewRows = 64;

class DenseBench {
 public:
  DenseBench(const DenseShape &shape, const QuernDevice &device)
      : shape_(shape), bytes_(size_t(shape.k) * shape.n * 2), copies_(int(kRotationBytes / bytes_) + 1),
        weights_(bytes_ * copies_, true, 0.05f), x_(size_t(kMaxM) * shape.k * 2, true), bias_(size_t(shape.n) * 2, true),
        sums_(size_t(kFewRows) * shape.n * 4), out_(size_t(kMaxM) * columns() * element()),
        workspace_(quern_int4_linear_prefill_workspace(&device)) {
    CUDA_OK(cudaMemset(workspace_.data(), 0, zeroed_workspace(device)));
    CUDA_OK(cudaMemset(out_.data(), 0, size_t(kMaxM) * columns() * element()));
    CUDA_OK(cudaDeviceSynchronize());  // launches are timed on a stream that does not wait for this one
  }
  double us(const QuernDevice &device, int m) const {
    return time_us(std::max(m <= kFewRows ? 12 : 2, copies_), [&](int i, cudaStream_t stream) {
      m <= kFewRows ? launch_few(device, i % copies_, m, stream) : launch_many(device, i % copies_, m, stream);
    });
  }
  double operations(int m) const { return 2.0 * m * shape_.n * shape_.k; }
  double moved(int m) const { return double(bytes_) + m * (2.0 * shape_.k + double(columns()) * moved_an_element()); }

 private:
  int columns() const { return shape_.epilogue == QUERN_SILU_MUL_F16 ? shape_.n / 2 : shape_.n; }
  int element() const { return shape_.epilogue == QUERN_ADD_F32 ? 4 : 2; }
  int moved_an_element() const { return shape_.epilogue == QUERN_ADD_F32 ? 8 : 2; }
  void launch_few(const QuernDevice &device, int copy, int m, cudaStream_t stream) const {
    float *sums = reinterpret_cast<float *>(sums_.data());
    const QuernHead product = {weights_.data() + copy * bytes_, x_.data(), sums, m, shape_.k, shape_.n, shape_.k, shape_.n};
    STATUS_OK(quern_head_decode(&device, &product, stream));
    const QuernDenseOutput output = {sums, bias_.data(), out_.data(), m, shape_.n, shape_.n, columns(), shape_.epilogue};
    STATUS_OK(quern_dense_output(&device, &output, stream));
  }
  void launch_many(const QuernDevice &device, int copy, int m, cudaStream_t stream) const {
    const QuernDense args = {weights_.data() + copy * bytes_, x_.data(), bias_.data(), out_.data(), workspace_.data(), m, shape_.k,
                             shape_.n, shape_.k, columns(), shape_.epilogue};
    STATUS_OK(quern_dense_linear(&device, &args, stream));
  }

  DenseShape shape_;
  size_t bytes_;
  int copies_;
  RandomBytes weights_, x_, bias_, sums_, out_, workspace_;
};

}  // namespace

void bench_dense(BenchContext &context) {
  constexpr int kDecode[] = {1, 8, 16, 64}, kPrefill[] = {512, kMaxM};
  std::map<int, double> layer_us, layer_bytes, layer_operations;
  for (const DenseShape &shape : kShapes) {
    const DenseBench bench(shape, context.device);
    const auto measure = [&](int m) {
      const double us = bench.us(context.device, m);
      layer_us[m] += us, layer_bytes[m] += bench.moved(m), layer_operations[m] += bench.operations(m);
      return us;
    };
    const auto name = [&](int m) { return std::string("dense_") + shape.name + "_m" + std::to_string(m); };
    for (int m : kDecode) context.memory_bound(name(m), measure(m), bench.moved(m));
    for (int m : kPrefill) context.compute_bound(name(m), measure(m), bench.operations(m));
  }
  for (int m : kDecode) context.memory_bound("dense_layer_m" + std::to_string(m), layer_us[m], layer_bytes[m]);
  for (int m : kPrefill) context.compute_bound("dense_layer_m" + std::to_string(m), layer_us[m], layer_operations[m]);
}

}  // namespace quern::test
