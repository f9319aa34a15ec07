// What the kernels of attention's backward share. The weights are computed again from the scores and lse. One kernel takes tiles of keys and sums dk and
// dv over the queries that see them, another takes tiles of queries and sums dq over their keys; both compute the scores, so there are seven matrix
// products instead of five. The alternative without atomics, parts of dq per tile of keys added up later, would write and read 8 bytes per 1280
// operations at 128 keys a tile, as long as the products themselves take, and needs gigabytes for long sequences.
#pragma once
#include "attention_tile.h"

namespace anneal::cuda {

// Of a query and head: lse as an exponent of two, and the mean gradient of its weights, out · dout.
struct RowTerms {
  float exponent, mean;
};

struct BackwardArguments {
  Attention a;
  const Piece* pieces;
  const int* count;
  const bf16 *q, *k, *v, *dout;
  RowTerms* terms;  // [heads][tokens]: written by the kernel of the queries, read by that of the keys
  const void *out, *full_dout;  // as given, f32 or bf16
  const float* lse;
  bool is_float, aligned;  // of out and full_dout: their dtype, and whether they may be read 16 bytes at a time
  Target dq, dk, dv;
  int stages;  // tiles of the inner loop in shared memory: 2, or 1 where there is no room
};

// From q·k and dout·v to the weights and to the gradients of q·k but for the factor `scale`. terms(j, e) are those of the query
// of element (j, e).
template <int columns, class Terms> ANNEAL_DEVICE void weigh(const Attention& a, float (&s)[columns][4], float (&ds)[columns][4], Terms&& terms) {
#pragma unroll
  for (int j = 0; j < columns; ++j) {
    if (a.soft_cap > 0) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float t = tanh_fast(s[j][e] * a.cap_scale);
        const RowTerms term = terms(j, e);
        s[j][e] = exp2_fast(fmaf(a.soft_cap * t, a.exponent_scale, -term.exponent));
        ds[j][e] = s[j][e] * (ds[j][e] - term.mean) * (1.f - t * t);
      }
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const RowTerms term = terms(j, e);
        s[j][e] = exp2_fast(fmaf(s[j][e], a.exponent_scale, -term.exponent));
        ds[j][e] = s[j][e] * (ds[j][e] - term.mean);
      }
    }
  }
}

// `sum` and the products of eight numbers of out and dout.
template <class T> ANNEAL_DEVICE float add_products(const void* out, const void* dout, int64_t at, bool aligned, float sum) {
  const T *x = static_cast<const T*>(out) + at, *y = static_cast<const T*>(dout) + at;
  constexpr int length = vector_length<T>;
#pragma unroll
  for (int i = 0; i < 8; i += length) {
    float left[length], right[length];
    if (aligned) {
      load_vector_once(left, x + i);
      load_vector_once(right, y + i);
    } else {
#pragma unroll
      for (int j = 0; j < length; ++j) left[j] = to_float(x[i + j]), right[j] = to_float(y[i + j]);
    }
#pragma unroll
    for (int j = 0; j < length; ++j) sum = fmaf(left[j], right[j], sum);
  }
  return sum;
}
// The terms of a row whose lse and out · dout are given. A row that sees no key has lse -inf; its weights come out as zeros this way.
ANNEAL_DEVICE RowTerms make_row_terms(float lse, float mean) {
  const float exponent = lse * log2_e;
  return {exponent == -INFINITY ? INFINITY : exponent, mean};
}

void attention_backward_keys(const BackwardArguments& arguments, const Plan& plan);
void attention_backward_queries(const BackwardArguments& arguments, const Plan& plan);
// Queries, or keys, of a tile of the two kernels.

// The same in f32; q, k, v, dout and the gradients are f32.
void attention_backward_float(const Attention& a, const BackwardPlans& plans, const RowTerms* terms, Out dq, Out dk, Out dv, In dout, In q, In k, In v);

}  // namespace anneal::cuda
