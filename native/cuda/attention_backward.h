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
  const RowTerms* terms;  // [heads][tokens]
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

void attention_backward_keys(const BackwardArguments& arguments, const Plan& plan);
void attention_backward_queries(const BackwardArguments& arguments, const Plan& plan);
// Queries, or keys, of a tile of the two kernels.
int backward_query_rows(int head_dim);
int backward_key_rows(int head_dim);

// The same in f32; q, k, v, dout and the gradients are f32.
void attention_backward_float(const Attention& a, const RowTerms* terms, Out dq, Out dk, Out dv, In dout, In q, In k, In v);

}  // namespace anneal::cuda
