// See attention_case.h. Written plainly: one loop a definition.
#include "attention_case.h"

#include <algorithm>
#include <numeric>

#include "parallel.h"

namespace quern::test {
namespace {

constexpr int kLayers = 2, kLayer = 1;
constexpr Half kNan = 0x7e01;

}  // namespace

AttentionCase::AttentionCase(const AttentionDims &dims, const std::vector<SpanSpec> &spans, Rng &rng)
    : dims_(dims), spans_(spans) {
  for (size_t i = 0; i < spans_.size(); ++i) {
    for (int j = 0; j < spans_[i].n_rows; ++j) {
      row_.push_back({int(i), spans_[i].position + j, spans_[i].position < 0});
    }
  }
  rows_ = int(row_.size());
  place_blocks(rng);
  fill_past(rng);
  qkv_.resize(size_t(rows_) * width());
  for (Half &x : qkv_) x = to_half(rng.uniform(-2.f, 2.f));
  bias_.resize(width());
  for (Half &x : bias_) x = dims_.bias ? to_half(rng.uniform(-1.f, 1.f)) : 0;
  compute_rotated();
  compute_out();

  std::vector<int32_t> first_row, n_rows, row_span, tables;
  std::vector<double> theta_of;
  for (size_t i = 0; i < spans_.size(); ++i) {
    first_row.push_back(int(row_span.size()));
    n_rows.push_back(spans_[i].n_rows);
    row_span.insert(row_span.end(), spans_[i].n_rows, int(i));
    theta_of.push_back(theta(spans_[i].sequence));
    std::vector<int32_t> table = tables_[spans_[i].sequence];
    table.resize(table_stride_, -1);
    tables.insert(tables.end(), table.begin(), table.end());
  }
  const auto device = [](const auto &host) { return std::make_unique<DeviceBuffer>(host); };
  first_row_ = device(first_row), n_rows_ = device(n_rows), row_span_ = device(row_span);
  position_ = device(positions()), block_tables_ = device(tables), theta_ = device(theta_of);
  std::vector<double> pair_factors;
  for (int i = 0; i < dims_.rope_dim / 2; ++i) pair_factors.push_back(pair_factor(i));
  pair_factors_ = device(pair_factors);
  d_bias_ = device(bias_), d_qkv_ = device(qkv_), d_cache_ = device(cache_);
  angles_ = std::make_unique<DeviceBuffer>(size_t(rows_) * dims_.rope_dim * 4);
  factors_ = std::make_unique<DeviceBuffer>(size_t(rows_) * 4);
  out_ = std::make_unique<DeviceBuffer>(size_t(rows_) * dims_.n_heads * dims_.head_dim * 2);
}

/// As many blocks as each sequence needs, in random order, with unused ones between.
void AttentionCase::place_blocks(Rng &rng) {
  int n_sequences = 0;
  for (const SpanSpec &span : spans_) n_sequences = std::max(n_sequences, span.sequence + 1);
  std::vector<int> lengths(n_sequences, 0);
  for (const SpanSpec &span : spans_) {
    if (span.position >= 0) lengths[span.sequence] = std::max(lengths[span.sequence], span.position + span.n_rows);
  }
  int used = 0;
  for (int length : lengths) used += ceil_div(length, kKvBlock);
  n_blocks_ = used + 3;
  std::vector<int32_t> ids(n_blocks_);
  std::iota(ids.begin(), ids.end(), 0);
  for (int i = n_blocks_ - 1; i > 0; --i) std::swap(ids[i], ids[rng.below(i + 1)]);
  auto next = ids.begin();
  for (int length : lengths) {
    const int blocks = ceil_div(length, kKvBlock);
    tables_.emplace_back(next, next + blocks);
    next += blocks;
    table_stride_ = std::max(table_stride_, blocks + 1);
  }
}

size_t AttentionCase::cache_at(int sequence, int position, int kv_head, bool is_value, int element) const {
  const KvShape shape = {n_blocks_, dims_.n_kv_heads, dims_.head_dim};
  return size_t(kv_tile_offset(shape, kLayer, tables_[sequence][position / kKvBlock], kv_head)) +
         (is_value ? kv_value_offset(shape) : 0) + kv_element_offset(position % kKvBlock, element);
}

/// Keys and values of the tokens before each sequence's first span; everything else stays NaN, and so does what only a
/// kernel that ignores the window would read.
void AttentionCase::fill_past(Rng &rng) {
  const size_t bytes = quern_kv_layer_bytes(n_blocks_, dims_.n_kv_heads, dims_.head_dim);
  cache_.assign(kLayers * bytes / 2, kNan);
  std::vector<bool> seen(tables_.size(), false);
  for (const SpanSpec &span : spans_) {
    if (span.position < 0 || seen[span.sequence]) continue;
    seen[span.sequence] = true;
    const int first = first_seen(span.position) / dims_.run * dims_.run;
    for (int position = first; position < span.position; ++position) {
      for (int head = 0; head < dims_.n_kv_heads; ++head) {
        for (int i = 0; i < dims_.head_dim; ++i) {
          cache_[cache_at(span.sequence, position, head, false, i)] = to_half(rng.uniform(-2.f, 2.f));
          cache_[cache_at(span.sequence, position, head, true, i)] = to_half(rng.uniform(-1.f, 1.f));
        }
      }
    }
  }
}

double AttentionCase::angle(const Row &row, int i) const {
  return row.position * std::pow(theta(spans_[row.span].sequence), -2.0 * i / dims_.rope_dim) * pair_factor(i);
}

void AttentionCase::compute_rotated() {
  rotated_.resize(qkv_.size());
  const int d = dims_.head_dim, half = dims_.rope_dim / 2;
  parallel_for(rows_, [&](int index) {
    const Row r = row(index);
    const double logn = dims_.logn_seq_length == 0 ? 1.0 : std::log(r.position + 1.0) / std::log(dims_.logn_seq_length);
    for (int head = 0; head < dims_.n_heads + 2 * dims_.n_kv_heads; ++head) {
      const size_t at = size_t(index) * width() + size_t(head) * d;
      std::vector<double> x(d), y;
      for (int i = 0; i < d; ++i) x[i] = double(to_float(qkv_[at + i])) + to_float(bias_[head * d + i]);
      y = x;
      for (int i = 0; i < half && head < dims_.n_heads + dims_.n_kv_heads; ++i) {
        const double cosine = std::cos(angle(r, i)) * scale(), sine = std::sin(angle(r, i)) * scale();
        y[i] = x[i] * cosine - x[i + half] * sine;
        y[i + half] = x[i + half] * cosine + x[i] * sine;
      }
      for (int i = 0; i < d; ++i) rotated_[at + i] = to_half(float(head < dims_.n_heads ? y[i] * std::fmax(1.0, logn) : y[i]));
    }
  });
}

std::vector<Half> AttentionCase::cache_after() const {
  std::vector<Half> cache = cache_;
  for (int index = 0; index < rows_; ++index) {
    const Row r = row(index);
    for (int head = 0; head < 2 * dims_.n_kv_heads && !r.padding; ++head) {
      const Half *from = rotated_.data() + size_t(index) * width() + size_t(dims_.n_heads + head) * dims_.head_dim;
      for (int i = 0; i < dims_.head_dim; ++i) {
        cache[cache_at(spans_[r.span].sequence, r.position, head % dims_.n_kv_heads, head >= dims_.n_kv_heads, i)] = from[i];
      }
    }
  }
  return cache;
}

void AttentionCase::compute_out() {
  const std::vector<Half> cache = cache_after();
  expected_.assign(size_t(rows_) * dims_.n_heads * dims_.head_dim, 0.0);
  magnitude_.assign(expected_.size(), 0.0);
  std::vector<std::vector<int>> rows_of(tables_.size());
  for (int index = 0; index < rows_; ++index) {
    if (!row(index).padding) rows_of[spans_[row(index).span].sequence].push_back(index);
  }
  parallel_for(int(tables_.size()) * dims_.n_kv_heads, [&](int task) {
    const int sequence = task / dims_.n_kv_heads, kv_head = task % dims_.n_kv_heads, d = dims_.head_dim;
    int length = 0;
    for (int index : rows_of[sequence]) length = std::max(length, row(index).position + 1);
    std::vector<double> keys(size_t(length) * d), values(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      keys[i] = to_float(cache[cache_at(sequence, int(i / d), kv_head, false, int(i % d))]);
      values[i] = to_float(cache[cache_at(sequence, int(i / d), kv_head, true, int(i % d))]);
    }
    const int group = dims_.n_heads / dims_.n_kv_heads;
    for (int index : rows_of[sequence]) {
      for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) attend(index, head, keys, values);
    }
  });
}

/// softmax(q k^T / sqrt(d)) v of one query over the tokens up to its own, or the window of them.
void AttentionCase::attend(int index, int head, const std::vector<double> &keys, const std::vector<double> &values) {
  const int d = dims_.head_dim, length = row(index).position + 1, seen = first_seen(row(index).position);
  std::vector<double> q(d), scores(length, -INFINITY);
  for (int e = 0; e < d; ++e) q[e] = to_float(rotated_[size_t(index) * width() + size_t(head) * d + e]);
  for (int token = seen; token < length; ++token) {
    double sum = 0.0;
    for (int e = 0; e < d; ++e) sum += q[e] * keys[size_t(token) * d + e];
    scores[token] = sum / std::sqrt(double(d));
  }
  const double most = *std::max_element(scores.begin(), scores.end());
  double total = 0.0;
  for (double &score : scores) total += score = std::exp(score - most);
  double *out = expected_.data() + (size_t(index) * dims_.n_heads + head) * d;
  double *magnitude = magnitude_.data() + (size_t(index) * dims_.n_heads + head) * d;
  for (int token = seen; token < length; ++token) {
    for (int e = 0; e < d; ++e) {
      const double term = scores[token] / total * values[size_t(token) * d + e];
      out[e] += term;
      magnitude[e] += std::fabs(term);
    }
  }
}

void AttentionCase::reset(uint32_t poison) {
  d_qkv_->upload(qkv_);
  d_cache_->upload(cache_);
  out_->fill(poison);
}

std::vector<int32_t> AttentionCase::positions() const {
  std::vector<int32_t> positions;
  for (const SpanSpec &span : spans_) positions.push_back(span.position);
  return positions;
}
int AttentionCase::max_rows() const {
  int most = 0;
  for (const SpanSpec &span : spans_) most = std::max(most, span.n_rows);
  return most;
}

QuernAttention AttentionCase::args(int first_span, int n_spans) const {
  const auto ints = [&](const std::unique_ptr<DeviceBuffer> &buffer) { return static_cast<int32_t *>(buffer->data()); };
  QuernAttention a = {};
  a.cache = {d_cache_->data(), n_blocks_, dims_.n_kv_heads, dims_.head_dim};
  a.spans = {ints(first_row_) + first_span, ints(n_rows_) + first_span, ints(position_) + first_span,
             ints(block_tables_) + size_t(first_span) * table_stride_, n_spans < 0 ? int(spans_.size()) : n_spans,
             table_stride_};
  a.qkv = d_qkv_->data();
  a.bias = dims_.bias ? d_bias_->data() : nullptr;
  a.angles = static_cast<float *>(angles_->data());
  a.query_factors = static_cast<float *>(factors_->data());
  a.out = out_->data();
  a.layer = kLayer;
  a.n_heads = dims_.n_heads;
  a.rope_dim = dims_.rope_dim;
  a.window = dims_.window;
  return a;
}

void AttentionCase::run_angles(const QuernDevice &device) {
  const double *pair_factors = dims_.scaled ? static_cast<double *>(pair_factors_->data()) : nullptr;
  const QuernRopeAngles angles = {args().spans, row_span(), static_cast<double *>(theta_->data()), pair_factors, scale(),
                                  static_cast<float *>(angles_->data()), static_cast<float *>(factors_->data()),
                                  rows_, dims_.rope_dim, dims_.logn_seq_length};
  STATUS_OK(quern_rope_angles(&device, &angles, nullptr));
}

std::string AttentionCase::name() const {
  return "heads " + std::to_string(dims_.n_heads) + "/" + std::to_string(dims_.n_kv_heads) + "x" +
         std::to_string(dims_.head_dim) + " rope " + std::to_string(dims_.rope_dim) + " spans " +
         std::to_string(spans_.size()) + (dims_.window > 0 ? " window " + std::to_string(dims_.window) : "");
}

void AttentionCase::expect_angles(Checks &checks) const {
  const std::vector<float> angles = angles_->download<float>(), factors = factors_->download<float>();
  const int half = dims_.rope_dim / 2;
  double worst = 0.0;
  for (int index = 0; index < rows_; ++index) {
    const Row r = row(index);
    if (r.padding) continue;
    for (int i = 0; i < half; ++i) {
      const size_t at = 2 * (size_t(index) * half + i);
      worst = std::fmax(worst, std::fabs(angles[at] - std::cos(angle(r, i)) * scale()));
      worst = std::fmax(worst, std::fabs(angles[at + 1] - std::sin(angle(r, i)) * scale()));
      if (std::isnan(angles[at]) || std::isnan(angles[at + 1])) worst = INFINITY;
    }
    const double logn = dims_.logn_seq_length == 0 ? 1.0 : std::log(r.position + 1.0) / std::log(dims_.logn_seq_length);
    checks.expect(std::fabs(factors[index] - std::fmax(1.0, logn)) < 1e-6, name() + " query factor");
  }
  checks.expect(worst < 2e-7, name() + " angles", std::to_string(worst));
}

void AttentionCase::expect_cache(Checks &checks) const {
  const std::vector<Half> cache = d_cache_->download<Half>();
  std::vector<bool> written(cache.size(), false);
  const int d = dims_.head_dim;
  bool right = true;
  for (int index = 0; index < rows_; ++index) {
    const Row r = row(index);
    for (int head = 0; head < 2 * dims_.n_kv_heads && !r.padding; ++head) {
      for (int i = 0; i < d; ++i) {
        const bool is_value = head >= dims_.n_kv_heads;
        const size_t at = cache_at(spans_[r.span].sequence, r.position, head % dims_.n_kv_heads, is_value, i);
        const double expected = to_float(rotated_[size_t(index) * width() + size_t(dims_.n_heads + head) * d + i]);
        right &= std::fabs(to_float(cache[at]) - expected) <= 1e-3 * std::fabs(expected) + 1e-6;
        written[at] = true;
      }
    }
  }
  checks.expect(right, name() + " new keys and values");
  bool untouched = true;
  for (size_t i = 0; i < cache.size(); ++i) untouched &= written[i] || cache[i] == cache_[i];
  checks.expect(untouched, name() + " rest of the cache");
}

void AttentionCase::expect_queries(Checks &checks) const {
  const std::vector<Half> qkv = d_qkv_->download<Half>();
  bool right = true, untouched = true;
  for (int index = 0; index < rows_; ++index) {
    const bool padding = row(index).padding;
    for (int i = 0; i < width(); ++i) {
      const size_t at = size_t(index) * width() + i;
      if (padding || i >= dims_.n_heads * dims_.head_dim) {
        untouched &= qkv[at] == qkv_[at];
      } else {
        const double expected = to_float(rotated_[at]);
        right &= std::fabs(to_float(qkv[at]) - expected) <= 1e-3 * std::fabs(expected) + 1e-6;
      }
    }
  }
  checks.expect(right, name() + " rotated queries");
  checks.expect(untouched, name() + " rest of qkv");
}

void AttentionCase::expect_out(Checks &checks) const {
  const std::vector<double> y = to_double(out());
  const int d = dims_.head_dim;
  // Weights are rounded to fp16 before they meet the values, as everywhere.
  constexpr Tolerance kAttentionTolerance = {1e-3, 1.0 / 1024, 1e-3};
  for (int i = 0; i < rows_ * dims_.n_heads; ++i) {
    if (row(i / dims_.n_heads).padding) continue;
    expect_close(checks, name() + " row " + std::to_string(i / dims_.n_heads) + " head " + std::to_string(i % dims_.n_heads),
                 y.data() + size_t(i) * d, expected_.data() + size_t(i) * d, magnitude_.data() + size_t(i) * d, d,
                 kAttentionTolerance);
  }
}

bool AttentionCase::guards_intact() const {
  return d_qkv_->guards_intact() && d_cache_->guards_intact() && out_->guards_intact() && angles_->guards_intact() &&
         factors_->guards_intact();
}

}  // namespace quern::test
