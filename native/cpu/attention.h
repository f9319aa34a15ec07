// What attention forward and backward share. The rows of one key-value head are its queries times the heads that share
// it, token by token: row = token * group + head. They meet the keys in tiles that start at the sequence's first key,
// so a query's sums run in the same order whether it is computed in a long prompt or alone while decoding: the bits
// agree.
#pragma once
#include <math.h>

#include "gemm_micro.h"
#include "gemm_stream.h"
#include "isa.h"

namespace anneal::cpu {
namespace {

constexpr int64_t key_tile = 128;
constexpr int64_t query_tile = 112 / panel_rows * panel_rows;
constexpr float log2_e = 1.44269504088896341f, log_2 = 0.69314718055994531f;
enum AttentionSlot { first_task_slot, mark_slot, attention_sums_slot };

struct Span {
  int64_t q_begin, q_length, k_begin, k_length;
};
struct Visible {
  int64_t begin, end;  // keys of the sequence
};

// Which weights are dropped, and what the others are multiplied by.
struct Dropout {
  uint32_t threshold = 0;  // a weight is dropped where its word is below
  float kept = 1;
  int64_t seed = 0, stream = 0;
  int64_t row = 0;  // elements of the words that belong to one query of one head
};

struct Attention {
  int64_t tokens, heads, kv_heads, head_dim, sequences;
  const int32_t* spans;
  float scale, soft_cap;
  bool causal;
  int64_t window;
  Dropout dropout;

  int64_t group() const { return heads / kv_heads; }
  int64_t q_stride() const { return heads * head_dim; }
  int64_t k_stride() const { return kv_heads * head_dim; }
  // Length of a row of the sums over head_dim: whole panels.
  int64_t padded_dim() const { return ceil_divide(head_dim, panel_columns) * panel_columns; }
  Span span(int64_t sequence) const {
    const int32_t* s = spans + 4 * sequence;
    return {s[0], s[1], s[2], s[3]};
  }
  Visible visible(const Span& span, int64_t row) const {
    int64_t end = causal ? row / group() + 1 + span.k_length - span.q_length : span.k_length;
    if (end < 0) end = 0;
    return {window > 0 ? larger(0, end - window) : 0, end};
  }
  // The keys that any of the rows first … last - 1 sees.
  Visible visible(const Span& span, int64_t first, int64_t last) const {
    return {visible(span, first).begin, visible(span, last - 1).end};
  }
  // Offset of a row's first entry in q and out; lse has it at the same place, divided by head_dim.
  int64_t q_offset(const Span& span, int64_t kv_head, int64_t row) const {
    return ((span.q_begin + row / group()) * heads + kv_head * group() + row % group()) * head_dim;
  }
  int64_t k_offset(const Span& span, int64_t kv_head, int64_t key) const {
    return ((span.k_begin + key) * kv_heads + kv_head) * head_dim;
  }
  // The factor that takes q k^T to the exponent of a power of two, after the soft cap where there is one.
  float exponent_scale() const { return soft_cap > 0 ? log2_e : scale * log2_e; }
};

// 2^x for x <= 0 with a relative error of about 2e-7; 2^-126 below; NaN for NaN.
ANNEAL_INLINE vf exp2_negative(vf x) {
  const vf magic = splat(12582912.f);
  x = max(splat(-126.f), x);
  vf t = x + magic;
  vf f = x - (t - magic);
  vf p = splat(1.535336188319500e-4f);
  p = p * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.f;
  return (vf)((vu)p + ((vu)t << 23));  // unsigned: scores of 1e9 and more may round above 0 and wrap around
}

struct Range {
  int64_t begin, end;
};
// out (+)= left right^T over panels packed for left_k and right_k steps. range(row, column) tells which k steps the
// tile that starts there needs; a tile that needs none is left as it is.
template <bool pairs, class F>
static void multiply_panels(const uint32_t* left, int64_t left_k, const uint32_t* right, int64_t right_k, int64_t rows,
                            int64_t columns, float* out, int64_t stride, bool add, F&& range) {
  const int64_t left_panel = left_panel_units<pairs>(left_k), right_panel = right_panel_units<pairs>(right_k);
  for (int64_t column = 0; column < columns; column += panel_columns, right += right_panel) {
    const uint32_t* panel = left;
    for (int64_t row = 0; row < rows; row += panel_rows, panel += left_panel) {
      const Range k = range(row, column);
      if (k.begin >= k.end) continue;
      const int64_t first = pairs ? k.begin / 2 : k.begin, units = units_of<pairs>(k.end) - first;
      tile_kernel_for<pairs>(smaller(panel_rows, rows - row), columns - column)(
          units, {panel + first * panel_rows, panel_rows}, {right + first * panel_columns, panel_columns}, {out + row * stride + column, stride, add});
    }
  }
}
// The keys of a tile that the rows of a block see; the ranges of the products over them follow.
struct TileView {
  const Visible* rows;  // what each row sees
  int64_t row_count, key, columns;

  Range row_keys(int64_t row) const { return clip(rows[row].begin, rows[row].end); }
  // Of the panel of rows that starts at `row`.
  Range panel_keys(int64_t row) const {
    return clip(rows[row].begin, rows[smaller(row_count, row + panel_rows) - 1].end);
  }
  // Of the rows that see any of the keys first … first + panel_rows - 1.
  Range key_rows(int64_t first) const {
    int64_t begin = 0, end = row_count;
    while (begin < end && rows[begin].end <= key + first) ++begin;
    while (end > begin && rows[end - 1].begin >= key + first + panel_rows) --end;
    return {begin, end};
  }

 private:
  Range clip(int64_t begin, int64_t end) const { return {larger(0, begin - key), smaller(columns, end - key)}; }
};
// The scores q k^T, or dout v^T, of the tiles that are seen.
template <bool pairs>
static void multiply_seen(const uint32_t* left, const uint32_t* right, int64_t head_dim, const TileView& view,
                          float* out) {
  multiply_panels<pairs>(left, head_dim, right, head_dim, view.row_count, view.columns, out, key_tile, false,
                         [&](int64_t row, int64_t column) {
                           const Range keys = view.panel_keys(row);
                           return Range{0, keys.begin < column + panel_columns && keys.end > column ? head_dim : 0};
                         });
}
// sums += weights times values, over the keys; both are packed, the values for n keys.
template <bool pairs>
static void multiply_over_keys(const uint32_t* weights, const uint32_t* values, int64_t n, int64_t head_dim,
                               const TileView& view, float* sums, int64_t stride) {
  multiply_panels<pairs>(weights, view.columns, values, n, view.row_count, head_dim, sums, stride, true,
                         [&](int64_t row, int64_t) { return view.panel_keys(row); });
}

// Packs rows x k of a left operand, element (r, i) at source[r * stride + i].
template <bool pairs, class T>
static void pack_left(const T* source, int64_t stride, int64_t rows, int64_t k, uint32_t* panels) {
  for (int64_t row = 0; row < rows; row += panel_rows, panels += left_panel_units<pairs>(k))
    pack_along_k<panel_rows, pairs>(source + row * stride, stride, k, smaller(panel_rows, rows - row), panels);
}
// Packs columns x k of a right operand, element (c, i) at source[c * stride + i].
template <bool pairs, class T>
static void pack_right(const T* source, int64_t stride, int64_t columns, int64_t k, uint32_t* panels) {
  for (int64_t column = 0; column < columns; column += panel_columns, panels += right_panel_units<pairs>(k))
    pack_along_k<panel_columns, pairs>(source + column * stride, stride, k, smaller(panel_columns, columns - column),
                                       panels);
}
// The same, element (c, i) at source[i * stride + c].
template <int width, bool pairs, class T>
static void pack_transposed(const T* source, int64_t stride, int64_t count, int64_t k, uint32_t* panels) {
  const int64_t panel_units = width == panel_columns ? right_panel_units<pairs>(k) : left_panel_units<pairs>(k);
  pack_across_k<width, pairs>(source, stride, k, count, panels, ceil_divide(count, width), panel_units);
}
template <bool pairs> ANNEAL_INLINE int64_t left_units(int64_t rows, int64_t k) {
  return ceil_divide(rows, panel_rows) * left_panel_units<pairs>(k) + lanes;
}
template <bool pairs> ANNEAL_INLINE int64_t right_units(int64_t columns, int64_t k) {
  return ceil_divide(columns, panel_columns) * right_panel_units<pairs>(k);
}

// Hands out pieces of one block of memory, in 4-byte units, each starting at a cache line. Without memory it only
// counts.
struct Carver {
  uint32_t* memory;
  int64_t used = 0;
  uint32_t* units(int64_t count) {
    uint32_t* piece = memory ? memory + used : nullptr;
    used += ceil_divide(count, 16) * 16;
    return piece;
  }
  float* floats(int64_t count) { return reinterpret_cast<float*>(units(count)); }
  size_t bytes() const { return static_cast<size_t>(used) * 4; }
};

// Finds which sequence a task belongs to, sequence s having the tasks first[s] … first[s + 1] - 1.
ANNEAL_INLINE int64_t sequence_of(const int64_t* first, int64_t sequences, int64_t task) {
  int64_t low = 0, high = sequences;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (first[middle] <= task) low = middle;
    else high = middle;
  }
  return low;
}

}  // namespace
}  // namespace anneal::cpu
