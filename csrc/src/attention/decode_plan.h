// How decode attention cuts sequences into items of work. Host code, pure; the kernel reads what it makes.
//
// A plan is int32, eight for the header {n_items, 0...} and eight an item: see PlanItem. Items are sorted by size, the
// largest first, so that blocks that take them in turns end together. How a sequence is cut depends on its own length
// and on how many sequences share the device: the fewer they are, the smaller the pieces with which they fill it.
#pragma once

#include <stdint.h>

#include "kv_layout.h"

namespace quern {

constexpr int kPlanInts = 8;          // of the header, and of an item
constexpr int kMaxQueries = 8;        // query heads a KV head
constexpr int kMaxItemTokens = 1024;  // a warp holds an item's block table, one block a lane

/// How long the pieces are that sequences are cut into, for one model on one device.
struct SplitPolicy {
  int blocks_at_once;  // that the device runs
  int n_kv_heads;
  int n_spans;  // of the launch

  /// Tokens that a split should have at most: so many that one sequence fills the device once, but not so few that
  /// starting a block costs more than its work. Models with few KV heads have the less to read and the more to cut.
  constexpr int target(int length) const {
    const int many_heads = n_spans <= 2 ? 128 : n_spans <= 8 ? 288 : n_spans <= 16 ? 320 : 640;
    const int least = n_kv_heads >= 24 ? many_heads : n_kv_heads >= 12 ? 192 : 96;
    const int splits = blocks_at_once > n_kv_heads ? blocks_at_once / n_kv_heads : 1;
    const int even = ceil_div(length, splits);
    return even < least ? least : even > kMaxItemTokens ? kMaxItemTokens : even;
  }
  /// The most splits that a sequence of up to max_tokens has.
  constexpr int max_splits(int max_tokens) const {
    // Up to splits * kMaxItemTokens tokens no sequence has more than `splits`; beyond, one for kMaxItemTokens each.
    const int splits = blocks_at_once > n_kv_heads ? blocks_at_once / n_kv_heads : 1;
    const int whole = ceil_div(max_tokens, kMaxItemTokens);
    return splits > whole ? splits : whole;
  }
};

struct Split {
  int tokens;  // of every split but the last; whole blocks
  int count;
};
constexpr Split split_evenly(int length, int target) {
  const int tokens = ceil_div(ceil_div(length, ceil_div(length, target)), kKvBlock) * kKvBlock;
  return {tokens, ceil_div(length, tokens)};
}

struct PlanItem {
  int32_t span, first, end;  // tokens [first, end) of the span's sequence
  int32_t split, n_splits;   // place in the sequence
  int32_t slot;              // of the partial result; those of a sequence follow one another
  int32_t unseen;            // of its tokens, in front: before the window, fewer than a block
  int32_t reserved;
  int blocks() const { return ceil_div(end - first, kKvBlock); }
};
static_assert(sizeof(PlanItem) == kPlanInts * sizeof(int32_t), "an item is eight ints");

/// What a plan is made for.
struct DecodeSpans {
  const int32_t *positions;  // of the newest tokens; < 0: no sequence
  int n_spans, max_tokens;
  int window;  // tokens that attention looks back on, the newest one included; 0: all
};

/// f(item) for all items, sequence by sequence; blocks before the window are in none. False if a sequence is longer than
/// max_tokens.
template <typename Target, typename F>
bool for_each_item(const DecodeSpans &spans, Target target, F f) {
  int slot = 0;
  for (int span = 0; span < spans.n_spans; ++span) {
    if (spans.positions[span] < 0) continue;
    if (spans.positions[span] >= spans.max_tokens) return false;
    const int length = spans.positions[span] + 1;
    const int hidden = spans.window > 0 && length > spans.window ? length - spans.window : 0;
    const int start = hidden / kKvBlock * kKvBlock;
    const Split cut = split_evenly(length - start, target(length - start));
    for (int i = 0; i < cut.count; ++i) {
      const int first = start + i * cut.tokens, end = first + cut.tokens < length ? first + cut.tokens : length;
      f(PlanItem{span, first, end, i, cut.count, slot++, i == 0 ? hidden - start : 0, 0});
    }
  }
  return true;
}

/// Fills `plan` for `spans`. target(length): tokens a split, of so many that are attended to.
/// Returns the number of items, or -1 if a sequence is longer than max_tokens.
template <typename Target>
int make_decode_plan(const DecodeSpans &spans, int32_t *plan, Target target) {
  constexpr int kMaxBlocks = kMaxItemTokens / kKvBlock;
  int place[kMaxBlocks + 2] = {};  // counts of items by size, then where the next of a size goes
  const auto count = [&](const PlanItem &item) { ++place[item.blocks()]; };
  if (!for_each_item(spans, target, count)) return -1;
  for (int blocks = kMaxBlocks; blocks >= 0; --blocks) place[blocks] += place[blocks + 1];
  const int n_items = place[0];
  PlanItem *items = reinterpret_cast<PlanItem *>(plan) + 1;
  // place[b + 1] items are larger than b blocks.
  for_each_item(spans, target, [&](const PlanItem &item) { items[place[item.blocks() + 1]++] = item; });
  plan[0] = n_items;
  for (int i = 1; i < kPlanInts; ++i) plan[i] = 0;
  return n_items;
}

}  // namespace quern
