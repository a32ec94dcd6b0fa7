// See linear_case.h.
#include "linear_case.h"

#include <algorithm>
#include <cmath>

namespace quern::test {
namespace {

constexpr int kRowPadding = 8;  // elements after every row of x and out

double silu(double x) { return x / (1.0 + std::exp(-x)); }
double held(double x) { return std::min(65504.0, std::max(-65504.0, x)); }

/// Rows of `columns` elements at distance ldx; NaN between them.
std::vector<Half> padded(const std::vector<Half> &rows, int columns, int ldx) {
  std::vector<Half> out(rows.size() / columns * ldx, Half(0x7e01));
  for (size_t row = 0; row < rows.size() / columns; ++row) {
    std::copy_n(rows.begin() + row * columns, columns, out.begin() + row * ldx);
  }
  return out;
}

std::vector<Half> rows_of(const std::vector<Half> &x, int columns, const std::vector<int> &rows) {
  std::vector<Half> out;
  for (int row : rows) out.insert(out.end(), x.begin() + size_t(row) * columns, x.begin() + size_t(row + 1) * columns);
  return out;
}

}  // namespace

LinearCase::LinearCase(const LinearShape &shape, int max_m, Rng &rng, std::vector<int> checked_rows)
    : shape_(shape), matrix_(random_awq(shape.k, shape.n, shape.group, rng)), checked_rows_(std::move(checked_rows)),
      ldx_(shape.k + kRowPadding), ldo_(columns() + kRowPadding) {
  const std::vector<Half> x = random_rows(max_m, shape.k, shape.outliers, rng);
  x_ = std::make_unique<DeviceBuffer>(padded(x, shape.k, ldx_));
  tiles_ = std::make_unique<DeviceBuffer>(pack(matrix_, shape.pair_stride));
  if (shape.bias) {
    for (int i = 0; i < shape.n; ++i) bias_host_.push_back(to_half(rng.uniform(-3.0f, 3.0f)));
    bias_ = std::make_unique<DeviceBuffer>(bias_host_);
  }
  if (checked_rows_.empty()) {
    for (int row = 0; row < max_m; ++row) checked_rows_.push_back(row);
  }
  Product product = multiply(to_double(rows_of(x, shape.k, checked_rows_)), int(checked_rows_.size()), matrix_);
  for (size_t i = 0; i < product.y.size() && !shape.row_factors.empty(); ++i) {
    const float factor = shape.row_factors[checked_rows_[i / shape.n]];
    product.y[i] *= factor, product.magnitude[i] *= factor;
  }
  for (size_t i = 0; i < product.y.size() && shape.bias; ++i) product.y[i] += to_float(bias_host_[i % shape.n]);
  if (shape.epilogue == QUERN_ADD_F32) {
    for (size_t i = 0; i < size_t(max_m) * shape.n; ++i) residual_.push_back(rng.uniform(-100.0f, 100.0f));
    for (size_t i = 0; i < product.y.size(); ++i) {
      product.y[i] += residual_[size_t(checked_rows_[i / shape.n]) * shape.n + i % shape.n];
    }
  }
  if (shape.epilogue == QUERN_STORE_F16) std::transform(product.y.begin(), product.y.end(), product.y.begin(), held);
  expected_ = product.y;
  magnitude_ = product.magnitude;
  if (shape.epilogue != QUERN_SILU_MUL_F16) return;
  const int half = shape.n / 2;
  expected_.resize(checked_rows_.size() * half);
  magnitude_.resize(checked_rows_.size() * half);
  for (size_t row = 0; row < checked_rows_.size(); ++row) {
    for (int i = 0; i < half; ++i) {
      const size_t gate = row * shape.n + i, up = gate + half, at = row * half + i;
      expected_[at] = held(silu(product.y[gate]) * product.y[up]);
      // Errors of gate and up, each times the other; silu's slope is below 1.1.
      magnitude_[at] = 1.1 * product.magnitude[gate] * std::fabs(product.y[up]) +
                       std::fabs(silu(product.y[gate])) * product.magnitude[up];
    }
  }
}

std::string LinearCase::name() const {
  static const char *const kEpilogues[] = {"f16", "f32", "add", "silu"};
  return "k=" + std::to_string(shape_.k) + " n=" + std::to_string(shape_.n) + " g=" + std::to_string(shape_.group) +
         " pair=" + std::to_string(shape_.pair_stride) + " " + kEpilogues[shape_.epilogue];
}

void LinearCase::expect_padding(const std::vector<uint8_t> &rows, size_t row_bytes, uint32_t poison,
                                Checks &checks) const {
  const size_t stride = size_t(ldo_) * element_bytes();
  bool intact = true;
  for (size_t row = 0; row * stride < rows.size(); ++row) {
    for (size_t i = row_bytes; i < stride; ++i) {
      const size_t at = row * stride + i;
      intact &= rows[at] == uint8_t(poison >> 8 * (at % 4));
    }
  }
  checks.expect(intact, name() + " writes between rows");
}

std::vector<uint8_t> LinearCase::run(const LinearKernel &kernel, int m, uint32_t poison, Checks &checks) {
  const size_t row_bytes = size_t(columns()) * element_bytes(), stride = size_t(ldo_) * element_bytes();
  DeviceBuffer out(stride * m, poison);
  if (shape_.epilogue == QUERN_ADD_F32) {
    CUDA_OK(cudaMemcpy2D(out.data(), stride, residual_.data(), row_bytes, row_bytes, m, cudaMemcpyHostToDevice));
  }
  const QuernInt4 matrix = weight();
  const QuernLinear args = {matrix, x_->data(), bias_ ? bias_->data() : nullptr, out.data(), nullptr, m, ldx_, ldo_,
                            shape_.epilogue, quern_int4_prefetch(&matrix, 1 << 18), {}};
  STATUS_OK(kernel(args));
  CUDA_OK(cudaDeviceSynchronize());
  const std::vector<uint8_t> rows = out.download<uint8_t>();
  checks.expect(out.guards_intact() && x_->guards_intact() && tiles_->guards_intact(), name() + " guards");
  expect_padding(rows, row_bytes, poison, checks);
  std::vector<uint8_t> dense;
  for (int row = 0; row < m; ++row) {
    dense.insert(dense.end(), rows.begin() + row * stride, rows.begin() + row * stride + row_bytes);
  }
  return dense;
}

void LinearCase::expect_right(const std::vector<uint8_t> &out, int m, Checks &checks, bool scaled_weights) const {
  const size_t n = columns();
  Tolerance tolerance = element_bytes() == 4 ? kFloatTolerance : kHalfTolerance;
  // Weights rounded to fp16, and a tensor core that cuts off what does not fit beside the sum, every 16 k.
  if (scaled_weights) tolerance = {kHalfTolerance.relative, tolerance.rounding, 1.0 / 2048 + shape_.k / 16 * 1.2e-7 + 2e-6};
  std::vector<double> y(n);
  for (size_t i = 0; i < checked_rows_.size() && checked_rows_[i] < m; ++i) {
    const size_t row = checked_rows_[i];
    for (size_t column = 0; column < n; ++column) {
      const uint8_t *at = out.data() + (row * n + column) * element_bytes();
      float wide;
      Half narrow;
      if (element_bytes() == 4) {
        std::memcpy(&wide, at, 4);
      } else {
        std::memcpy(&narrow, at, 2);
        wide = to_float(narrow);
      }
      y[column] = wide;
    }
    expect_close(checks, name() + " m=" + std::to_string(m) + " row " + std::to_string(row), y.data(),
                 expected_.data() + i * n, magnitude_.data() + i * n, int(n), tolerance);
  }
}

std::vector<float> LinearCase::run_rows(const LinearKernel &kernel, const std::vector<Half> &x, int m, Checks &checks) {
  DeviceBuffer rows(x), out(size_t(m) * shape_.n * 4);
  const QuernLinear args = {weight(), rows.data(), nullptr, out.data(), nullptr, m, shape_.k, shape_.n, QUERN_STORE_F32, {}, {}};
  STATUS_OK(kernel(args));
  CUDA_OK(cudaDeviceSynchronize());
  checks.expect(out.guards_intact(), name() + " guards");
  return out.download<float>();
}

}  // namespace quern::test
