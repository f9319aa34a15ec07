// Attention in f32 to f32's accuracy, with the same tiling and running softmax as attention.cu, on the ordinary arithmetic units.
#include "attention_float.h"

namespace anneal::cuda {

struct FloatArguments {
  Attention a;
  const Piece* pieces;
  const int* count;
  const float *q, *k, *v;
  float *out, *lse;
};

template <int D, int R> constexpr size_t float_forward_shared = (2 * 16 * R * float_pitch<D> + 16 * R * weight_pitch<R>) * sizeof(float);

template <int D, int R> __global__ void __launch_bounds__(float_threads, 1) attention_forward_float_kernel(FloatArguments p) {
  constexpr int rows = 16 * R;
  ANNEAL_DYNAMIC_SHARED(float, memory);
  if (static_cast<int>(blockIdx.x) >= *p.count) return;
  float *const queries = memory, *const other = queries + rows * float_pitch<D>, *const weights = other + rows * float_pitch<D>;
  const Attention& a = p.a;
  const Piece piece = p.pieces[blockIdx.x];
  const Span span = a.span(piece.sequence);
  const int x = threadIdx.x % 16, y = threadIdx.x / 16, head = blockIdx.y, first_row = piece.tile * rows, valid = min(rows, span.q_length - first_row);
  const int64_t q_stride = static_cast<int64_t>(a.heads) * a.head_dim, k_stride = static_cast<int64_t>(a.kv_heads) * a.head_dim;
  const int64_t q_base = a.q_offset(static_cast<int64_t>(span.q_begin) + first_row, head), k_base = a.k_offset(span.k_begin, head / a.group);
  const Range all = a.keys_of(span, first_row, first_row + valid - 1);
  load_float_tile<D, rows>(queries, p.q + q_base, q_stride, valid, a.head_dim);

  FloatSums<D, R> sums;
  sums.clear();
  float most[R], total[R];
#pragma unroll
  for (int i = 0; i < R; ++i) most[i] = -INFINITY, total[i] = 0.f;
  for (int key = all.begin / rows * rows; key < all.end; key += rows) {
    const int64_t at = k_base + key * k_stride;
    __syncthreads();
    load_float_tile<D, rows>(other, p.k + at, k_stride, span.k_length - key, a.head_dim);
    __syncthreads();
    float s[R][R];
    dot_rows<D, R>(s, queries, other, a.head_dim);
#pragma unroll
    for (int i = 0; i < R; ++i) {
      const Range seen = a.keys_of(span, first_row + y * R + i);
      float highest = most[i], sum = 0.f;
#pragma unroll
      for (int j = 0; j < R; ++j) {
        const int column = key + x + 16 * j;
        if (a.soft_cap > 0) s[i][j] = a.soft_cap * tanhf(s[i][j] * a.cap_scale);
        s[i][j] = column >= seen.begin && column < seen.end && column < span.k_length ? s[i][j] * a.exponent_scale : -INFINITY;
        highest = fmaxf(highest, s[i][j]);
      }
      highest = reduce_row<Max>(highest);
      const float shift = highest == -INFINITY ? 0.f : highest, correction = exp2f(most[i] - shift);
#pragma unroll
      for (int j = 0; j < R; ++j) {
        const float weight = exp2f(s[i][j] - shift);
        weights[(y * R + i) * weight_pitch<R> + x + 16 * j] = weight;
        sum += weight;
      }
      most[i] = highest;
      total[i] = total[i] * correction + sum;
      sums.scale(i, correction);
    }
    __syncthreads();
    load_float_tile<D, rows>(other, p.v + at, k_stride, span.k_length - key, a.head_dim);
    __syncthreads();
    sums.add(weights, other);
  }
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const float sum = reduce_row<Sum>(total[i]);
    sums.store(p.out + q_base, q_stride, i, valid, a.head_dim, sum != 0.f ? 1.f / sum : 0.f);
    const int row = y * R + i;
    if (x == 0 && row < valid)
      p.lse[(static_cast<int64_t>(span.q_begin) + first_row + row) * a.heads + head] = sum != 0.f ? (most[i] + log2f(sum)) * log_2 : -INFINITY;
  }
}

template <int D> constexpr int float_forward_rows = D == 256 ? 2 : 4;

int forward_float_rows(int head_dim) {
  int rows = 0;
  dispatch_float_width(head_dim, [&](auto width) { rows = 16 * float_forward_rows<decltype(width)::number>; });
  return rows;
}

void attention_forward_float(const Attention& a, const Plan& plan, In q, In k, In v, Out out, float* lse) {
  dispatch_float_width(a.head_dim, [&](auto width) {
    constexpr int D = decltype(width)::number, R = float_forward_rows<D>;
    launch(attention_forward_float_kernel<D, R>, {dim3(plan.limit, a.heads), dim3(float_threads), float_forward_shared<D, R>, "attention"},
           FloatArguments{a, plan.pieces, plan.count, q.as<float>(), k.as<float>(), v.as<float>(), out.as<float>(), lse});
  });
}

}  // namespace anneal::cuda
