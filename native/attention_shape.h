// What attention and its backward demand of shapes and dtypes; for the launchers of every backend. Internal linkage only.
#pragma once
#include "shape.h"

namespace anneal {
namespace {

[[maybe_unused]] static void check_like(const char* kernel, const char* name, const Tensor& x, const Tensor& model,
                                        const char* model_name) {
  ANNEAL_CHECK(same_shape(x, model) && x.dtype == model.dtype, "%s: %s must have the shape and dtype of %s", kernel,
               name, model_name);
}

[[maybe_unused]] static void check_attention_shapes(const char* kernel, const Tensor& q, const Tensor& k,
                                                    const Tensor& v, const Tensor& out, const Tensor& lse,
                                                    const Tensor& spans, double scale, int64_t window,
                                                    double soft_cap) {
  ANNEAL_CHECK(q.rank == 3 && k.rank == 3,
               "%s: q must have shape [tokens, heads, head_dim] and k [slots, kv_heads, head_dim]", kernel);
  ANNEAL_CHECK(is_float(q.dtype), "%s: q must be f32 or bf16, but is %s", kernel, name_of(q.dtype));
  ANNEAL_CHECK(k.dtype == q.dtype, "%s: k must be %s like q, but is %s", kernel, name_of(q.dtype), name_of(k.dtype));
  const int64_t head_dim = q.dim(2);
  ANNEAL_CHECK(head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0,
               "%s: head_dim must be a multiple of 8 up to 256, but is %lld", kernel, static_cast<long long>(head_dim));
  ANNEAL_CHECK(k.dim(2) == head_dim, "%s: k must have head_dim %lld like q, but has %lld", kernel,
               static_cast<long long>(head_dim), static_cast<long long>(k.dim(2)));
  ANNEAL_CHECK(k.dim(1) > 0 && q.dim(1) > 0 && q.dim(1) % k.dim(1) == 0,
               "%s: heads must be a multiple of kv_heads, but are %lld and %lld", kernel,
               static_cast<long long>(q.dim(1)), static_cast<long long>(k.dim(1)));
  check_like(kernel, "v", v, k, "k");
  check_like(kernel, "out", out, q, "q");
  ANNEAL_CHECK(lse.dtype == DType::f32 && lse.rank == 2 && lse.dim(0) == q.dim(0) && lse.dim(1) == q.dim(1),
               "%s: lse must be f32 [tokens, heads] = [%lld, %lld]", kernel, static_cast<long long>(q.dim(0)),
               static_cast<long long>(q.dim(1)));
  ANNEAL_CHECK(scale > 0, "%s: scale must be positive, but is %g", kernel, scale);
  ANNEAL_CHECK(window >= 0 && soft_cap >= 0, "%s: window and soft_cap must not be negative", kernel);
  ANNEAL_CHECK(spans.dtype == DType::i32 && spans.rank == 2 && spans.dim(1) == 4,
               "%s: spans must be i32 [sequences, 4]", kernel);
}

}  // namespace
}  // namespace anneal
