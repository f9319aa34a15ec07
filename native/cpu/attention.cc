// Attention without the matrix of scores (Dao, "FlashAttention-2", 2023): a task takes a run of rows of one key-value
// head through the tiles of keys they see. A thread packs each tile for itself just before it is used, for all its
// rows.
#include "attention_check.h"
#include "attention_dropout.h"
#include "attention_softmax.h"

namespace anneal::cpu {
namespace {

// A task's memory. A task has `blocks` blocks of query_tile rows.
struct ForwardMemory {
  uint32_t *queries, *keys, *values, *weights;
  float *gathered, *scores, *sums, *state;
  Visible* visible;  // of each row
};
template <bool pairs> ForwardMemory carve_forward(Carver& carver, const Attention& a, int64_t blocks, int64_t rows) {
  ForwardMemory m;
  m.queries = carver.units(blocks * left_units<pairs>(rows, a.head_dim));
  m.keys = carver.units(right_units<pairs>(key_tile, a.head_dim));
  m.values = carver.units(right_units<pairs>(a.padded_dim(), key_tile));
  m.weights = carver.units(left_units<pairs>(rows, key_tile));
  m.gathered = carver.floats(rows * a.head_dim);
  m.scores = carver.floats(rows * key_tile + lanes);
  m.sums = carver.floats(blocks * rows * a.padded_dim());
  m.state = carver.floats(blocks * rows * 2);
  m.visible = reinterpret_cast<Visible*>(carver.units(blocks * rows * 4));
  return m;
}

struct Storage {
  const void *q, *k, *v;
  void* out;
  float* lse;
};

// scores = rows of q times n keys, for so few rows that packing the keys would cost more than reading them where they
// lie.
template <bool pairs, class T>
void stream_scores(const uint32_t* queries, int64_t rows, int64_t head_dim, const T* keys, int64_t stride, int64_t n,
                   uint32_t* packed, float* scores) {
  for (int64_t column = 0; column < n; column += panel_columns) {
    if (column + panel_columns <= n) {
      stream_rows<pairs>(rows, head_dim, queries, keys + column * stride, stride, panel_columns * stride, 0,
                         scores + column, key_tile, false);
    } else {
      pack_right<pairs>(keys + column * stride, stride, n - column, head_dim, packed);
      multiply_panels<pairs>(queries, head_dim, packed, head_dim, rows, n - column, scores + column, key_tile, false,
                             [&](int64_t, int64_t) { return Range{0, head_dim}; });
    }
  }
}

template <bool pairs, class T>
void forward_task(const Attention& a, const Storage& storage, const Span& span, int64_t kv_head, int64_t begin,
                  int64_t end, const ForwardMemory& m) {
  const int64_t d = a.head_dim, padded = a.padded_dim(), count = ceil_divide(end - begin, query_tile);
  const int64_t rows_each = smaller(query_tile, end - begin), query_units = left_units<pairs>(rows_each, d);
  const bool few = end - begin <= most_stream_rows;
  RowState* states = reinterpret_cast<RowState*>(m.state);
  T* gathered = reinterpret_cast<T*>(m.gathered);
  for (int64_t b = 0; b < count; ++b) {
    const int64_t row = begin + b * query_tile, rows = smaller(query_tile, end - row);
    for (int64_t i = 0; i < rows; ++i) {
      memcpy(gathered + i * d, static_cast<const T*>(storage.q) + a.q_offset(span, kv_head, row + i),
             static_cast<size_t>(d) * sizeof(T));
      states[b * rows_each + i] = RowState();
      m.visible[b * rows_each + i] = a.visible(span, row + i);
    }
    pack_left<pairs>(gathered, d, rows, d, m.queries + b * query_units);
  }
  memset(m.sums, 0, static_cast<size_t>((end - begin) * padded) * 4);
  const Visible all = a.visible(span, begin, end);
  for (int64_t key = all.begin / key_tile * key_tile; key < all.end; key += key_tile) {
    const int64_t n = smaller(key_tile, all.end - key);
    const T* keys = static_cast<const T*>(storage.k) + a.k_offset(span, kv_head, key);
    if (!few) pack_right<pairs>(keys, a.k_stride(), n, d, m.keys);
    pack_transposed<panel_columns, pairs>(static_cast<const T*>(storage.v) + a.k_offset(span, kv_head, key),
                                          a.k_stride(), d, n, m.values);
    for (int64_t b = 0; b < count; ++b) {
      const int64_t rows = smaller(query_tile, end - begin - b * query_tile);
      const Visible* visible = m.visible + b * rows_each;
      if (key >= visible[rows - 1].end || key + n <= visible[0].begin) continue;
      const TileView view = {visible, rows, key, smaller(n, visible[rows - 1].end - key)};
      if (few) stream_scores<pairs>(m.queries, rows, d, keys, a.k_stride(), view.columns, m.keys, m.scores);
      else multiply_seen<pairs>(m.queries + b * query_units, m.keys, d, view, m.scores);
      float* sums = m.sums + b * query_tile * padded;
      for (int64_t i = 0; i < rows; ++i) {
        const Range seen = view.row_keys(i);
        const int64_t length = ceil_divide(view.columns, lanes) * lanes;
        const float correction =
            softmax_tile(a, m.scores + i * key_tile, length, seen.begin, seen.end, states[b * rows_each + i]);
        if (a.dropout.threshold) {
          float factors[key_tile];
          dropout_factors(a, span, kv_head, begin + b * query_tile + i, key, length, factors);
          multiply_by(m.scores + i * key_tile, factors, length);
        }
        if (correction != 1.f)
          for (int64_t j = 0; j < padded; j += lanes)
            store(sums + i * padded + j, load(sums + i * padded + j) * correction);
      }
      pack_left<pairs>(m.scores, key_tile, rows, view.columns, m.weights);
      multiply_over_keys<pairs>(m.weights, m.values, n, d, view, sums, padded);
    }
  }
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = a.q_offset(span, kv_head, row);
    const RowState state = states[(row - begin) / query_tile * rows_each + (row - begin) % query_tile];
    const bool seen = state.total != 0;
    const float factor = seen ? 1.f / state.total : 0.f;
    const float* sums = m.sums + (row - begin) * padded;
    each_vector(
        d, [&](int64_t i, auto part) { store(static_cast<T*>(storage.out) + at + i, load(sums + i) * factor, part); });
    storage.lse[at / d] = seen ? (state.maximum + log2f(state.total)) * log_2 : -INFINITY;
  }
}

template <bool pairs, class T> void forward(const Attention& a, const Storage& storage) {
  // Longer runs of rows share a packed tile more often, shorter ones balance the threads better; the bits are the same.
  int64_t blocks = larger(1, smaller(4, 256 / a.head_dim));
  int64_t* first_task =
      static_cast<int64_t*>(pool().scratch(first_task_slot, static_cast<size_t>(a.sequences + 1) * 8));
  int64_t longest = 1;
  double work = 0;
  for (;; blocks /= 2) {
    int64_t tasks = 0;
    work = 0;
    for (int64_t s = 0; s < a.sequences; ++s) {
      const Span span = a.span(s);
      const int64_t rows = span.q_length * a.group();
      first_task[s] = tasks;
      tasks += a.kv_heads * ceil_divide(rows, blocks * query_tile);
      longest = larger(longest, rows);
      work += static_cast<double>(a.kv_heads * a.head_dim) * static_cast<double>(span.k_length) *
              static_cast<double>(rows + 16);
    }
    first_task[a.sequences] = tasks;
    if (blocks == 1 || tasks >= 4 * pool().size()) break;
  }
  const int64_t task_rows = smaller(longest, blocks * query_tile), block_rows = smaller(longest, query_tile);
  blocks = ceil_divide(task_rows, block_rows);
  Carver counter{nullptr};
  carve_forward<pairs>(counter, a, blocks, block_rows);
  const size_t bytes = counter.bytes();
  pool().reserve_thread_scratch(bytes);
  parallel(work < 1e5 * lanes ? 1 : pool().size(), [&](int thread, int) {
    Carver carver{static_cast<uint32_t*>(pool().thread_scratch(thread))};
    const ForwardMemory memory = carve_forward<pairs>(carver, a, blocks, block_rows);
    take_tickets(first_task[a.sequences], [&](int64_t task) {
      const int64_t sequence = sequence_of(first_task, a.sequences, task);
      const Span span = a.span(sequence);
      const int64_t rows = span.q_length * a.group(), per_head = ceil_divide(rows, task_rows),
                    index = task - first_task[sequence];
      const int64_t begin =
          (per_head - 1 - index / a.kv_heads) * task_rows;  // the last rows first: they see the most keys
      forward_task<pairs, T>(a, storage, span, index % a.kv_heads, begin, smaller(rows, begin + task_rows), memory);
    });
  });
}

void forward_any(const Attention& a, const Storage& storage, DType dtype, bool half) {
  const bool is_bf16 = dtype == DType::bf16;
  if constexpr (has_pairs) {
    if (half) return is_bf16 ? forward<true, bf16>(a, storage) : forward<true, float>(a, storage);
  }
  static_cast<void>(half);
  if (is_bf16) forward<false, bf16>(a, storage);
  else forward<false, float>(a, storage);
}

}  // namespace

namespace ANNEAL_ISA {

// The kernels here read the spans themselves.
void attention_plan(Out, In, In, In, bool, int64_t, bool, bool) {}

void attention(Out out, Out lse, In q, In k, In v, In spans, MaybeIn, double scale, bool causal, int64_t window,
               double soft_cap, bool half) {
  check_spans("attention", spans, q.dim(0), k.dim(0), false);
  const Attention a = describe_attention(q, k, spans, scale, causal, window, soft_cap);
  forward_any(a, {q.data, k.data, v.data, out.data, lse.as<float>()}, q.dtype, half);
}

void attention_dropout(Out out, Out lse, In q, In k, In v, In spans, double scale, bool causal, int64_t window,
                       double soft_cap, bool half, double p, int64_t seed, int64_t stream) {
  check_spans("attention_dropout", spans, q.dim(0), k.dim(0), false);
  Attention a = describe_attention(q, k, spans, scale, causal, window, soft_cap);
  a.dropout = describe_dropout(spans, p, seed, stream);
  forward_any(a, {q.data, k.data, v.data, out.data, lse.as<float>()}, q.dtype, half);
}

}  // namespace ANNEAL_ISA
}  // namespace anneal::cpu
