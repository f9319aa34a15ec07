// The gradients of attention in f32, with the two kernels of the bf16 path: one over tiles of keys, one over tiles of queries.
#include "attention_backward.h"
#include "attention_float.h"

namespace anneal::cuda {

struct FloatBackward {
  Attention a;
  const Piece* pieces;
  const int* count;
  const float *q, *k, *v, *dout;
  const RowTerms* terms;
  float *dq, *dk, *dv;
};

// Tiles of 16 R queries and 16 R keys: q, dout, k, v and one or two tiles of weights.
template <int D> constexpr int float_backward_rows = D == 256 ? 1 : 2;
template <int D, int R> constexpr size_t float_backward_shared = (4 * 16 * R * float_pitch<D> + 2 * 16 * R * weight_pitch<R>) * sizeof(float);

struct Gradient {
  float weight, score;  // of q·k but for the factor `scale`
};
ANNEAL_DEVICE Gradient weigh_float(const Attention& a, const Span& span, int row, int key, float score, float dweight, const RowTerms& terms) {
  const Range seen = a.keys_of(span, row);
  if (row >= span.q_length || key < seen.begin || key >= min(seen.end, span.k_length)) return {0.f, 0.f};
  float slope = 1.f;
  if (a.soft_cap > 0) {
    const float t = tanhf(score * a.cap_scale);
    score = a.soft_cap * t;
    slope = 1.f - t * t;
  }
  const float weight = exp2f(score * a.exponent_scale - terms.exponent);
  return {weight, weight * (dweight - terms.mean) * slope};
}

template <int D, int R> __global__ void __launch_bounds__(float_threads, 1) attention_backward_queries_float_kernel(FloatBackward p) {
  constexpr int rows = 16 * R, tile = rows * float_pitch<D>;
  ANNEAL_DYNAMIC_SHARED(float, memory);
  if (static_cast<int>(blockIdx.x) >= *p.count) return;
  float *const queries = memory, *const douts = queries + tile, *const keys = douts + tile, *const values = keys + tile, *const gradients = values + tile;
  const Attention& a = p.a;
  const Piece piece = p.pieces[blockIdx.x];
  const Span span = a.span(piece.sequence);
  const int x = threadIdx.x % 16, y = threadIdx.x / 16, head = blockIdx.y, first_row = piece.tile * rows, valid = min(rows, span.q_length - first_row);
  const int64_t q_stride = static_cast<int64_t>(a.heads) * a.head_dim, k_stride = static_cast<int64_t>(a.kv_heads) * a.head_dim;
  const int64_t first_token = static_cast<int64_t>(span.q_begin) + first_row, q_base = a.q_offset(first_token, head);
  const int64_t k_base = a.k_offset(span.k_begin, head / a.group);
  const Range all = a.keys_of(span, first_row, first_row + valid - 1);
  load_float_tile<D, rows>(queries, p.q + q_base, q_stride, valid, a.head_dim);
  load_float_tile<D, rows>(douts, p.dout + q_base, q_stride, valid, a.head_dim);
  RowTerms terms[R];
#pragma unroll
  for (int i = 0; i < R; ++i) terms[i] = y * R + i < valid ? p.terms[head * a.tokens + first_token + y * R + i] : RowTerms{0.f, 0.f};
  FloatSums<D, R> dq;
  dq.clear();
  for (int key = all.begin / rows * rows; key < all.end; key += rows) {
    __syncthreads();
    load_float_tile<D, rows>(keys, p.k + k_base + key * k_stride, k_stride, span.k_length - key, a.head_dim);
    load_float_tile<D, rows>(values, p.v + k_base + key * k_stride, k_stride, span.k_length - key, a.head_dim);
    __syncthreads();
    float s[R][R], dweights[R][R];
    dot_rows<D, R>(s, queries, keys, a.head_dim);
    dot_rows<D, R>(dweights, douts, values, a.head_dim);
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < R; ++j)
        gradients[(y * R + i) * weight_pitch<R> + x + 16 * j] =
            weigh_float(a, span, first_row + y * R + i, key + x + 16 * j, s[i][j], dweights[i][j], terms[i]).score;
    __syncthreads();
    dq.add(gradients, keys);
  }
#pragma unroll
  for (int i = 0; i < R; ++i) dq.store(p.dq + q_base, q_stride, i, valid, a.head_dim, a.scale);
}

template <int D, int R> __global__ void __launch_bounds__(float_threads, 1) attention_backward_keys_float_kernel(FloatBackward p) {
  constexpr int rows = 16 * R, tile = rows * float_pitch<D>;
  ANNEAL_DYNAMIC_SHARED(float, memory);
  if (static_cast<int>(blockIdx.x) >= *p.count) return;
  float *const queries = memory, *const douts = queries + tile, *const keys = douts + tile, *const values = keys + tile;
  float *const weights = values + tile, *const gradients = weights + rows * weight_pitch<R>;
  const Attention& a = p.a;
  const Piece piece = p.pieces[blockIdx.x];
  const Span span = a.span(piece.sequence);
  const int x = threadIdx.x % 16, y = threadIdx.x / 16, kv_head = blockIdx.y, first_key = piece.tile * rows, valid = min(rows, span.k_length - first_key);
  const int64_t q_stride = static_cast<int64_t>(a.heads) * a.head_dim, k_stride = static_cast<int64_t>(a.kv_heads) * a.head_dim;
  const int64_t k_base = a.k_offset(static_cast<int64_t>(span.k_begin) + first_key, kv_head);
  const Range all = a.queries_of(span, first_key, first_key + valid - 1);
  load_float_tile<D, rows>(keys, p.k + k_base, k_stride, valid, a.head_dim);
  load_float_tile<D, rows>(values, p.v + k_base, k_stride, valid, a.head_dim);
  FloatSums<D, R> dk, dv;
  dk.clear();
  dv.clear();
  for (int head = kv_head * a.group; head < (kv_head + 1) * a.group; ++head)
    for (int row = all.begin / rows * rows; row < all.end; row += rows) {
      const int64_t token = static_cast<int64_t>(span.q_begin) + row, base = a.q_offset(token, head);
      __syncthreads();
      load_float_tile<D, rows>(queries, p.q + base, q_stride, span.q_length - row, a.head_dim);
      load_float_tile<D, rows>(douts, p.dout + base, q_stride, span.q_length - row, a.head_dim);
      __syncthreads();
      float s[R][R], dweights[R][R];
      dot_rows<D, R>(s, keys, queries, a.head_dim);
      dot_rows<D, R>(dweights, values, douts, a.head_dim);
#pragma unroll
      for (int j = 0; j < R; ++j) {
        const int column = x + 16 * j;
        const RowTerms terms = row + column < span.q_length ? p.terms[head * a.tokens + token + column] : RowTerms{0.f, 0.f};
#pragma unroll
        for (int i = 0; i < R; ++i) {
          const Gradient g = weigh_float(a, span, row + column, first_key + y * R + i, s[i][j], dweights[i][j], terms);
          weights[(y * R + i) * weight_pitch<R> + column] = g.weight;
          gradients[(y * R + i) * weight_pitch<R> + column] = g.score;
        }
      }
      __syncthreads();
      dv.add(weights, douts);
      dk.add(gradients, queries);
    }
#pragma unroll
  for (int i = 0; i < R; ++i) {
    dk.store(p.dk + k_base, k_stride, i, valid, a.head_dim, a.scale);
    dv.store(p.dv + k_base, k_stride, i, valid, a.head_dim, 1.f);
  }
}

int backward_float_rows(int head_dim) {
  int rows = 0;
  dispatch_float_width(head_dim, [&](auto width) { rows = 16 * float_backward_rows<decltype(width)::number>; });
  return rows;
}

void attention_backward_float(const Attention& a, const BackwardPlans& plans, const RowTerms* terms, Out dq, Out dk, Out dv, In dout, In q, In k, In v) {
  dispatch_float_width(a.head_dim, [&](auto width) {
    constexpr int D = decltype(width)::number, R = float_backward_rows<D>;
    const auto& [queries, keys] = plans;
    FloatBackward arguments{a, keys.pieces, keys.count, q.as<float>(), k.as<float>(), v.as<float>(), dout.as<float>(), terms,
                            dq.as<float>(), dk.as<float>(), dv.as<float>()};
    launch(attention_backward_keys_float_kernel<D, R>,
           {dim3(keys.limit, a.kv_heads), dim3(float_threads), float_backward_shared<D, R>, "attention_backward"}, arguments);
    arguments.pieces = queries.pieces, arguments.count = queries.count;
    launch(attention_backward_queries_float_kernel<D, R>,
           {dim3(queries.limit, a.heads), dim3(float_threads), float_backward_shared<D, R>, "attention_backward"}, arguments);
  });
}

}  // namespace anneal::cuda
