// A step's spans over a paged cache with shuffled blocks, everything unused poisoned with NaN, and what rotation and
// attention must give in float64. Used by the tests of rope_store, prefill and decode.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "half.h"
#include "kv_layout.h"
#include "tests.h"

namespace quern::test {

struct AttentionDims {
  int n_heads, n_kv_heads, head_dim, rope_dim;
  bool bias = false;
  int logn_seq_length = 0;
  bool scaled = false;  // frequencies and angles, as for stretched positions
  int window = 0;       // tokens that a query sees; 0: all up to its own
  int run = kKvBlock;   // tokens that a kernel reads together: whole runs before all windows stay NaN
};
/// Spans of one sequence share its block table; rows of a sequence's spans follow one another.
struct SpanSpec {
  int sequence;
  int position;  // < 0: padding
  int n_rows;
};

class AttentionCase {
 public:
  AttentionCase(const AttentionDims &dims, const std::vector<SpanSpec> &spans, Rng &rng);

  /// Device arguments: fresh qkv and cache as before the step, `out` poisoned.
  void reset(uint32_t poison);
  /// Poisons `out` alone: decode gives the same again from what it left.
  void poison_out(uint32_t poison) { out_->fill(poison); }
  /// rope_angles for all rows.
  void run_angles(const QuernDevice &device);
  QuernAttention args(int first_span = 0, int n_spans = -1) const;
  const int32_t *row_span() const { return static_cast<int32_t *>(row_span_->data()); }
  std::vector<int32_t> positions() const;  // of the spans
  int rows() const { return rows_; }
  int max_rows() const;
  std::string name() const;

  void expect_angles(Checks &checks) const;
  /// The cache holds the new keys and values in their places and is otherwise untouched.
  void expect_cache(Checks &checks) const;
  /// q in qkv is rotated, k and v are as they were.
  void expect_queries(Checks &checks) const;
  void expect_out(Checks &checks) const;
  std::vector<Half> out() const { return out_->download<Half>(); }
  bool guards_intact() const;

 private:
  struct Row {
    int span, position;
    bool padding;
  };
  int width() const { return (dims_.n_heads + 2 * dims_.n_kv_heads) * dims_.head_dim; }
  const Row &row(int index) const { return row_[index]; }
  void place_blocks(Rng &rng);
  void fill_past(Rng &rng);
  void compute_rotated();
  std::vector<Half> cache_after() const;
  void compute_out();
  void attend(int index, int head, const std::vector<double> &keys, const std::vector<double> &values);
  /// Host offset of an element of K or V.
  size_t cache_at(int sequence, int position, int kv_head, bool is_value, int element) const;
  double theta(int sequence) const { return sequence % 2 == 0 ? 1e4 : 1e4 * 3.1; }
  /// With `scaled`, slower for every pair than for the one before it.
  double pair_factor(int i) const { return dims_.scaled ? 1.0 / (1.0 + 0.37 * i) : 1.0; }
  double scale() const { return dims_.scaled ? 1.1386 : 1.0; }  // YaRN's for a factor of 4
  double angle(const Row &row, int i) const;
  /// The first token that the one at `position` sees.
  int first_seen(int position) const { return dims_.window == 0 ? 0 : std::max(0, position + 1 - dims_.window); }

  AttentionDims dims_;
  std::vector<SpanSpec> spans_;
  std::vector<Row> row_;
  int rows_ = 0, n_blocks_ = 0, table_stride_ = 0;
  std::vector<std::vector<int32_t>> tables_;  // by sequence
  std::vector<Half> qkv_, bias_, cache_;      // before the step
  std::vector<Half> rotated_;                 // [rows, width]: q, k, v after bias and rotation
  std::vector<double> expected_;              // [rows, n_heads * head_dim]
  std::vector<double> magnitude_;             // likewise
  std::unique_ptr<DeviceBuffer> d_qkv_, d_bias_, d_cache_, out_, angles_, factors_;
  std::unique_ptr<DeviceBuffer> first_row_, n_rows_, position_, block_tables_, row_span_, theta_, pair_factors_;
};

}  // namespace quern::test
