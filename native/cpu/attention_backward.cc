// The gradients of attention: the weights are computed again from the scores and lse, tile by tile, in five matrix
// products. A task sums the gradients of the keys of one key-value head over its runs of rows, in order. Where there
// are too few heads and sequences to occupy a machine, the runs are dealt to several tasks, whose sums are added in
// order; how many depends on the shapes only, so the bits do too.
#include "attention_check.h"
#include "attention_dropout.h"

namespace anneal::cpu {
namespace {

constexpr int64_t wanted_tasks = 16;
constexpr int64_t most_shared_bytes = int64_t{256} << 20;

// One task's memory; a run has up to `blocks` blocks of query_tile rows. Names ending in _left and _right are packed
// operands.
struct BackwardMemory {
  uint32_t *q_left, *dout_left, *q_right,
      *dout_right;  // per block: rows x head_dim, and head_dim columns summed over the rows
  uint32_t *keys_right, *values_right,
      *keys_across;                 // of a tile: keys x head_dim twice, and head_dim columns summed over the keys
  uint32_t *over_keys, *over_rows;  // weights or their gradients: rows x keys, and keys x rows
  float *gathered, *scores, *gradients, *dq, *delta, *exponent;
  Visible* visible;  // of each row
  float *dk, *dv;    // keys x padded head_dim, of a whole sequence
};
template <bool pairs>
BackwardMemory carve_backward(Carver& carver, const Attention& a, int64_t blocks, int64_t longest_keys) {
  const int64_t d = a.head_dim, padded = a.padded_dim();
  BackwardMemory m;
  m.q_left = carver.units(blocks * left_units<pairs>(query_tile, d));
  m.dout_left = carver.units(blocks * left_units<pairs>(query_tile, d));
  m.q_right = carver.units(blocks * right_units<pairs>(d, query_tile));
  m.dout_right = carver.units(blocks * right_units<pairs>(d, query_tile));
  m.keys_right = carver.units(right_units<pairs>(key_tile, d));
  m.values_right = carver.units(right_units<pairs>(key_tile, d));
  m.keys_across = carver.units(right_units<pairs>(d, key_tile));
  m.over_keys = carver.units(left_units<pairs>(query_tile, key_tile));
  m.over_rows = carver.units(left_units<pairs>(key_tile, query_tile));
  m.gathered = carver.floats(query_tile * d);
  m.scores = carver.floats(query_tile * key_tile + lanes);
  m.gradients = carver.floats(query_tile * key_tile + lanes);
  m.dq = carver.floats(blocks * query_tile * padded);
  m.delta = carver.floats(blocks * query_tile);
  m.exponent = carver.floats(blocks * query_tile);
  m.visible = reinterpret_cast<Visible*>(carver.units(blocks * query_tile * 4));
  m.dk = carver.floats(longest_keys * padded);
  m.dv = carver.floats(longest_keys * padded);
  return m;
}

struct Storage {
  void *dq, *dk, *dv;
  const void *dout, *q, *k, *v, *out;
  const float* lse;
};

// Packs a block of rows both ways: as rows x head_dim, and as head_dim columns to be summed over the rows.
template <bool pairs, class T>
void pack_rows(const Attention& a, const T* from, const Span& span, int64_t kv_head, int64_t begin, int64_t rows,
               T* gathered, uint32_t* left, uint32_t* right) {
  const int64_t d = a.head_dim;
  for (int64_t i = 0; i < rows; ++i)
    memcpy(gathered + i * d, from + a.q_offset(span, kv_head, begin + i), static_cast<size_t>(d) * sizeof(T));
  pack_left<pairs>(gathered, d, rows, d, left);
  pack_transposed<panel_columns, pairs>(gathered, d, d, rows, right);
}

// From q k^T and dout v^T of one row and tile to the weights and to the gradients of q k^T; zeros where the row does
// not see the key.
void weigh_row(const Attention& a, float* scores, float* gradients, int64_t length, Range seen, float exponent,
               float delta) {
  const int64_t begin = seen.begin, end = seen.end;
  if (begin >= end) {
    memset(scores, 0, static_cast<size_t>(length) * 4);
    memset(gradients, 0, static_cast<size_t>(length) * 4);
    return;
  }
  const vf factor = splat(a.exponent_scale()), shift = splat(exponent), mean = splat(delta);
  const int64_t first = begin / lanes * lanes;
  if (a.soft_cap > 0) {
    const float inner = a.scale / a.soft_cap;
    for (int64_t i = first; i < end; i += lanes) {
      const vf t = tanh(load(scores + i) * inner);
      const vf weight = exp2_negative(t * a.soft_cap * factor - shift);
      store(scores + i, weight);
      store(gradients + i, weight * (load(gradients + i) - mean) * (1.f - t * t) * a.scale);
    }
  } else {
    for (int64_t i = first; i < end; i += lanes) {
      const vf weight = exp2_negative(load(scores + i) * factor - shift);
      store(scores + i, weight);
      store(gradients + i, weight * (load(gradients + i) - mean) * a.scale);
    }
  }
  for (int64_t i = 0; i < begin; ++i) scores[i] = gradients[i] = 0;
  for (int64_t i = end; i < length; ++i) scores[i] = gradients[i] = 0;
}

// Rows begin … end of one head, at most `blocks` blocks: dq of these rows, and their part of dk and dv.
template <bool pairs, class T>
void backward_run(const Attention& a, const Storage& storage, const Span& span, int64_t kv_head, int64_t begin,
                  int64_t end, const BackwardMemory& m, float* dk, float* dv) {
  const int64_t d = a.head_dim, padded = a.padded_dim(), blocks = ceil_divide(end - begin, query_tile);
  const int64_t left = left_units<pairs>(query_tile, d), right = right_units<pairs>(d, query_tile);
  T* gathered = reinterpret_cast<T*>(m.gathered);
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t row = begin + b * query_tile, rows = smaller(query_tile, end - row);
    pack_rows<pairs>(a, static_cast<const T*>(storage.q), span, kv_head, row, rows, gathered, m.q_left + b * left,
                     m.q_right + b * right);
    pack_rows<pairs>(a, static_cast<const T*>(storage.dout), span, kv_head, row, rows, gathered, m.dout_left + b * left,
                     m.dout_right + b * right);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = a.q_offset(span, kv_head, row + i);
      vf product = {};
      each_vector(d, [&](int64_t j, auto part) {
        product += load(static_cast<const T*>(storage.out) + at + j, part) *
                   load(static_cast<const T*>(storage.dout) + at + j, part);
      });
      m.delta[b * query_tile + i] = sum(product);
      m.exponent[b * query_tile + i] = storage.lse[at / d] * log2_e;
      m.visible[b * query_tile + i] = a.visible(span, row + i);
    }
  }
  memset(m.dq, 0, static_cast<size_t>((end - begin) * padded) * 4);
  const Visible all = a.visible(span, begin, end);
  for (int64_t key = all.begin / key_tile * key_tile; key < all.end; key += key_tile) {
    const int64_t n = smaller(key_tile, all.end - key), at = a.k_offset(span, kv_head, key);
    const T *keys = static_cast<const T*>(storage.k) + at, *values = static_cast<const T*>(storage.v) + at;
    pack_right<pairs>(keys, a.k_stride(), n, d, m.keys_right);
    pack_right<pairs>(values, a.k_stride(), n, d, m.values_right);
    pack_transposed<panel_columns, pairs>(keys, a.k_stride(), d, n, m.keys_across);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t rows = smaller(query_tile, end - begin - b * query_tile);
      const Visible* visible = m.visible + b * query_tile;
      if (key >= visible[rows - 1].end || key + n <= visible[0].begin) continue;
      const TileView view = {visible, rows, key, smaller(n, visible[rows - 1].end - key)};
      multiply_seen<pairs>(m.q_left + b * left, m.keys_right, d, view, m.scores);
      multiply_seen<pairs>(m.dout_left + b * left, m.values_right, d, view, m.gradients);
      const int64_t length = ceil_divide(view.columns, lanes) * lanes;
      for (int64_t i = 0; i < rows; ++i) {
        float *scores = m.scores + i * key_tile, *gradients = m.gradients + i * key_tile;
        const float exponent = m.exponent[b * query_tile + i], delta = m.delta[b * query_tile + i];
        if (!a.dropout.threshold) {
          weigh_row(a, scores, gradients, length, view.row_keys(i), exponent, delta);
          continue;
        }
        // dout v^T is the gradient of the weight after dropout, and out is made of those weights: delta stays what it is.
        float factors[key_tile];
        dropout_factors(a, span, kv_head, begin + b * query_tile + i, key, length, factors);
        multiply_by(gradients, factors, length);
        weigh_row(a, scores, gradients, length, view.row_keys(i), exponent, delta);
        multiply_by(scores, factors, length);
      }
      // Panels of keys as rows: the products run over the rows of the block that see them.
      auto over_rows = [&](const float* weights, const uint32_t* values, float* sums) {
        pack_transposed<panel_rows, pairs>(weights, key_tile, view.columns, rows, m.over_rows);
        multiply_panels<pairs>(m.over_rows, rows, values, rows, view.columns, d, sums + key * padded, padded, true,
                               [&](int64_t first, int64_t) { return view.key_rows(first); });
      };
      over_rows(m.scores, m.dout_right + b * right, dv);
      over_rows(m.gradients, m.q_right + b * right, dk);
      pack_left<pairs>(m.gradients, key_tile, rows, view.columns, m.over_keys);
      multiply_over_keys<pairs>(m.over_keys, m.keys_across, n, d, view, m.dq + b * query_tile * padded, padded);
    }
  }
  for (int64_t row = begin; row < end; ++row) {
    T* dq = static_cast<T*>(storage.dq) + a.q_offset(span, kv_head, row);
    const float* sums = m.dq + (row - begin) * padded;
    each_vector(d, [&](int64_t i, auto part) { store(dq + i, load(sums + i), part); });
  }
}

// out = the sum of `parts` sums, part_size apart, for the keys begin … end of one head.
template <class T>
void write_keys(const Attention& a, const Span& span, int64_t kv_head, int64_t begin, int64_t end, const float* sums,
                int64_t parts, int64_t part_size, void* out) {
  for (int64_t key = begin; key < end; ++key) {
    T* to = static_cast<T*>(out) + a.k_offset(span, kv_head, key);
    const float* from = sums + key * a.padded_dim();
    each_vector(a.head_dim, [&](int64_t i, auto part) {
      vf total = load(from + i);
      for (int64_t p = 1; p < parts; ++p) total += load(from + p * part_size + i);
      store(to + i, total, part);
    });
  }
}

// How the work is cut: a property of the shapes alone.
struct Plan {
  int64_t blocks, run_rows, longest_keys, most_parts;
  int64_t shared_units;  // of all sums that tasks do not keep to themselves
  int64_t* first_task;   // of each sequence
  int64_t* first_sum;    // its place in the shared sums
  int64_t parts(const Attention& a, const Span& span) const {
    return larger(1, smaller(most_parts, ceil_divide(span.q_length * a.group(), run_rows)));
  }
};
Plan make_plan(const Attention& a) {
  Plan plan;
  plan.blocks = larger(1, smaller(2, 128 / a.head_dim));
  plan.run_rows = plan.blocks * query_tile;
  plan.first_task =
      static_cast<int64_t*>(pool().scratch(first_task_slot, static_cast<size_t>(2 * a.sequences + 1) * 8));
  plan.first_sum = plan.first_task + a.sequences + 1;
  plan.most_parts = larger(1, ceil_divide(wanted_tasks, larger(1, a.sequences * a.kv_heads)));
  for (;; plan.most_parts = 1) {
    int64_t tasks = 0;
    plan.shared_units = 0;
    plan.longest_keys = 1;
    for (int64_t s = 0; s < a.sequences; ++s) {
      const Span span = a.span(s);
      const int64_t parts = plan.parts(a, span);
      plan.first_task[s] = tasks;
      plan.first_sum[s] = plan.shared_units;
      tasks += a.kv_heads * parts;
      plan.longest_keys = larger(plan.longest_keys, span.k_length);
      if (parts > 1) plan.shared_units += a.kv_heads * parts * 2 * span.k_length * a.padded_dim();
    }
    plan.first_task[a.sequences] = tasks;
    if (plan.most_parts == 1 || plan.shared_units * 4 <= most_shared_bytes) return plan;
  }
}

template <bool pairs, class T> void backward(const Attention& a, const Storage& storage, int threads_wanted) {
  const Plan plan = make_plan(a);
  Carver counter{nullptr};
  carve_backward<pairs>(counter, a, plan.blocks, plan.longest_keys);
  const size_t bytes = counter.bytes();
  float* shared =
      plan.shared_units
          ? static_cast<float*>(pool().scratch(attention_sums_slot, static_cast<size_t>(plan.shared_units) * 4))
          : nullptr;
  pool().reserve_thread_scratch(bytes);
  parallel(threads_wanted, [&](int thread, int) {
    Carver carver{static_cast<uint32_t*>(pool().thread_scratch(thread))};
    const BackwardMemory m = carve_backward<pairs>(carver, a, plan.blocks, plan.longest_keys);
    take_tickets(plan.first_task[a.sequences], [&](int64_t task) {
      const int64_t sequence = sequence_of(plan.first_task, a.sequences, task);
      const Span span = a.span(sequence);
      const int64_t index = task - plan.first_task[sequence], parts = plan.parts(a, span), kv_head = index / parts,
                    part = index % parts;
      const int64_t size = span.k_length * a.padded_dim(), rows = span.q_length * a.group();
      float* dk = parts > 1 ? shared + plan.first_sum[sequence] + (kv_head * 2 * parts + part) * size : m.dk;
      float* dv = parts > 1 ? dk + parts * size : m.dv;
      memset(dk, 0, static_cast<size_t>(size) * 4);
      memset(dv, 0, static_cast<size_t>(size) * 4);
      for (int64_t begin = part * plan.run_rows; begin < rows; begin += parts * plan.run_rows)
        backward_run<pairs, T>(a, storage, span, kv_head, begin, smaller(rows, begin + plan.run_rows), m, dk, dv);
      if (parts > 1) return;
      write_keys<T>(a, span, kv_head, 0, span.k_length, dk, 1, 0, storage.dk);
      write_keys<T>(a, span, kv_head, 0, span.k_length, dv, 1, 0, storage.dv);
    });
  });
  for (int64_t s = 0; s < a.sequences; ++s) {
    const Span span = a.span(s);
    const int64_t parts = plan.parts(a, span), size = span.k_length * a.padded_dim();
    if (parts == 1) continue;
    parallel_for(a.kv_heads * span.k_length, 64, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t kv_head = i / span.k_length, key = i % span.k_length;
        const float* sums = shared + plan.first_sum[s] + kv_head * 2 * parts * size;
        write_keys<T>(a, span, kv_head, key, key + 1, sums, parts, size, storage.dk);
        write_keys<T>(a, span, kv_head, key, key + 1, sums + parts * size, parts, size, storage.dv);
      }
    });
  }
}

void backward_any(const Attention& a, const Storage& storage, Out dk, Out dv, bool half) {
  int64_t used = 0;
  double work = 0;
  for (int64_t s = 0; s < a.sequences; ++s) {
    const Span span = a.span(s);
    used += span.k_length;
    work += static_cast<double>(a.heads * a.head_dim) * static_cast<double>(span.k_length) *
            static_cast<double>(span.q_length);
  }
  if (used < dk.dim(0)) {
    memset(dk.data, 0, static_cast<size_t>(dk.bytes()));
    memset(dv.data, 0, static_cast<size_t>(dv.bytes()));
  }
  const int threads = work < 1e5 ? 1 : pool().size();
  const bool is_bf16 = dk.dtype == DType::bf16;
  if constexpr (has_pairs) {
    if (half) return is_bf16 ? backward<true, bf16>(a, storage, threads) : backward<true, float>(a, storage, threads);
  }
  static_cast<void>(half);
  if (is_bf16) backward<false, bf16>(a, storage, threads);
  else backward<false, float>(a, storage, threads);
}

}  // namespace

namespace ANNEAL_ISA {

void attention_backward(Out dq, Out dk, Out dv, In dout, In q, In k, In v, In out, In lse, In spans, MaybeIn,
                        double scale, bool causal, int64_t window, double soft_cap, bool half) {
  check_spans("attention_backward", spans, q.dim(0), k.dim(0), true);
  const Attention a = describe_attention(q, k, spans, scale, causal, window, soft_cap);
  backward_any(a, {dq.data, dk.data, dv.data, dout.data, q.data, k.data, v.data, out.data, lse.as<float>()}, dk, dv, half);
}

void attention_dropout_backward(Out dq, Out dk, Out dv, In dout, In q, In k, In v, In out, In lse, In spans,
                                double scale, bool causal, int64_t window, double soft_cap, bool half, double p,
                                int64_t seed, int64_t stream) {
  check_spans("attention_dropout_backward", spans, q.dim(0), k.dim(0), true);
  Attention a = describe_attention(q, k, spans, scale, causal, window, soft_cap);
  a.dropout = describe_dropout(spans, p, seed, stream);
  backward_any(a, {dq.data, dk.data, dv.data, dout.data, q.data, k.data, v.data, out.data, lse.as<float>()}, dk, dv, half);
}

}  // namespace ANNEAL_ISA
}  // namespace anneal::cpu
