// The launcher of attention's backward, and for products in f32 the first of its kernels: out · dout of each row. In bf16 the kernel of the queries does it.
#include "../kernels.h"
#include "attention_backward.h"

namespace anneal::cuda {

constexpr int terms_threads = 256;

// `lanes` lanes, a power of two, share a row, eight numbers each.
template <class T>
__global__ void __launch_bounds__(terms_threads) attention_terms_kernel(RowTerms* terms, const T* out, const T* dout, const float* lse, int64_t tokens,
    int heads, int head_dim, int lanes, bool aligned) {
  const int64_t row = (int64_t{blockIdx.x} * terms_threads + threadIdx.x) / lanes;
  const int column = threadIdx.x % lanes * 8;
  float sum = 0.f;
  if (row < tokens * heads && column < head_dim) sum = add_products<T>(out, dout, row * head_dim + column, aligned, sum);
  for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (row >= tokens * heads || column != 0) return;
  terms[row % heads * tokens + row / heads] = make_row_terms(lse[row], sum);
}

void make_terms(RowTerms* terms, const Attention& a, In out, In dout, const float* lse, bool aligned) {
  int lanes = 1;
  while (lanes * 8 < a.head_dim) lanes *= 2;
  dispatch_float("attention_backward", out.dtype, [&](auto number) {
    using T = decltype(number);
    const int64_t blocks = ceil_div(a.tokens * a.heads * lanes, terms_threads);
    launch(attention_terms_kernel<T>, {dim3(static_cast<unsigned>(blocks)), dim3(terms_threads), 0, "attention_backward"}, terms, out.as<T>(), dout.as<T>(), lse,
           a.tokens, a.heads, a.head_dim, lanes, aligned);
  });
}

void attention_backward(Out dq, Out dk, Out dv, In dout, In q, In k, In v, In out, In lse, In spans, MaybeIn plan, double scale, bool causal,
    int64_t window, double soft_cap, bool half) {
  const Attention a = describe_attention("attention_backward", q, k, spans, scale, causal, window, soft_cap);
  // Of keys that belong to no sequence nothing else writes the gradients.
  if (dk.size) {
    cudaMemsetAsync(dk.data, 0, static_cast<size_t>(dk.bytes()), stream());
    cudaMemsetAsync(dv.data, 0, static_cast<size_t>(dv.bytes()), stream());
  }
  RowTerms* terms = scratch_of<RowTerms>(a.tokens * a.heads);
  const bool aligned = (reinterpret_cast<uintptr_t>(out.data) | reinterpret_cast<uintptr_t>(dout.data)) % 16 == 0;
  if (q.dtype == DType::f32 && !half) {
    make_terms(terms, a, out, dout, lse.as<float>(), aligned);
    return attention_backward_float(a, backward_plans(a, false, plan), terms, dq, dk, dv, dout, q, k, v);
  }
  const Tensor* const tensors[] = {&q, &k, &v, &dout};
  const HalfOperands operands = half_operands(tensors, 4);
  const auto [queries, keys] = backward_plans(a, true, plan);
  const BackwardArguments arguments{a, nullptr, nullptr, operands.at[0], operands.at[1], operands.at[2], operands.at[3], terms, out.data, dout.data,
      lse.as<float>(), out.dtype == DType::f32, aligned, target_of(dq), target_of(dk), target_of(dv), 2};
  attention_backward_queries(arguments, queries);
  attention_backward_keys(arguments, keys);
}

}  // namespace anneal::cuda
