// What attention, its plan, and the copies of rows into and out of a cache demand of their arguments.
#include "../checks.h"
#include "shape.h"

namespace anneal::checks {
namespace {

void check_like(const char* kernel, const char* name, const Tensor& x, const Tensor& model, const char* model_name) {
  ANNEAL_CHECK(same_shape(x, model) && x.dtype == model.dtype, "%s: %s must have the shape and dtype of %s", kernel,
               name, model_name);
}

// What a plan depends on, too.
void check_sequences(const char* kernel, const Tensor& q, const Tensor& k, const Tensor& spans, int64_t window) {
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
  ANNEAL_CHECK(window >= 0, "%s: window must not be negative, but is %lld", kernel, static_cast<long long>(window));
  ANNEAL_CHECK(spans.dtype == DType::i32 && spans.rank == 2 && spans.dim(1) == 4,
               "%s: spans must be i32 [sequences, 4]", kernel);
}

// How long a plan must be depends on the tiles of a backend, which checks it.
void check_attention(const char* kernel, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                     const Tensor& lse, const Tensor& spans, const Tensor* plan, double scale, int64_t window,
                     double soft_cap) {
  check_sequences(kernel, q, k, spans, window);
  check_like(kernel, "v", v, k, "k");
  check_like(kernel, "out", out, q, "q");
  ANNEAL_CHECK(lse.dtype == DType::f32 && lse.rank == 2 && lse.dim(0) == q.dim(0) && lse.dim(1) == q.dim(1),
               "%s: lse must be f32 [tokens, heads] = [%lld, %lld]", kernel, static_cast<long long>(q.dim(0)),
               static_cast<long long>(q.dim(1)));
  ANNEAL_CHECK(scale > 0, "%s: scale must be positive, but is %g", kernel, scale);
  ANNEAL_CHECK(soft_cap >= 0, "%s: soft_cap must not be negative, but is %g", kernel, soft_cap);
  if (plan) check_dtype(kernel, "plan", *plan, DType::i32);
}

void check_gradients(const char* kernel, const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                     const Tensor& q, const Tensor& k) {
  check_like(kernel, "dout", dout, q, "q");
  check_like(kernel, "dq", dq, q, "q");
  check_like(kernel, "dk", dk, k, "k");
  check_like(kernel, "dv", dv, k, "k");
}

void check_probability(const char* kernel, double p) {
  ANNEAL_CHECK(p >= 0 && p < 1, "%s: p must be at least 0 and below 1, but is %g", kernel, p);
}

// `picked` has a row of `rows` for each index.
void check_rows(const char* kernel, const Tensor& rows, const char* rows_name, const Tensor& picked,
                const char* picked_name, const Tensor& index, const char* index_name) {
  ANNEAL_CHECK(rows.rank >= 1 && picked.rank == rows.rank,
               "%s: %s and %s must have the same rank, at least 1, but have %d and %d", kernel, picked_name, rows_name,
               picked.rank, rows.rank);
  ANNEAL_CHECK(rows.dtype == picked.dtype, "%s: %s must be %s like %s, but is %s", kernel, picked_name,
               name_of(rows.dtype), rows_name, name_of(picked.dtype));
  for (int i = 1; i < rows.rank; ++i)
    ANNEAL_CHECK(rows.shape[i] == picked.shape[i], "%s: axis %d of %s must have length %lld like %s, but has %lld",
                 kernel, i, picked_name, static_cast<long long>(rows.shape[i]), rows_name,
                 static_cast<long long>(picked.shape[i]));
  ANNEAL_CHECK(index.dtype == DType::i32 && index.rank == 1 && index.size == picked.dim(0),
               "%s: %s must be i32 [%lld], one per row of %s", kernel, index_name,
               static_cast<long long>(picked.dim(0)), picked_name);
}

}  // namespace

void attention(Out out, Out lse, In q, In k, In v, In spans, MaybeIn plan, double scale, bool, int64_t window,
               double soft_cap, bool) {
  check_attention("attention", q, k, v, out, lse, spans, plan, scale, window, soft_cap);
}
void attention_dropout(Out out, Out lse, In q, In k, In v, In spans, double scale, bool, int64_t window,
                       double soft_cap, bool, double p, int64_t, int64_t) {
  check_attention("attention_dropout", q, k, v, out, lse, spans, nullptr, scale, window, soft_cap);
  check_probability("attention_dropout", p);
}
void attention_backward(Out dq, Out dk, Out dv, In dout, In q, In k, In v, In out, In lse, In spans, MaybeIn plan,
                        double scale, bool, int64_t window, double soft_cap, bool) {
  const char* name = "attention_backward";
  check_attention(name, q, k, v, out, lse, spans, plan, scale, window, soft_cap);
  check_gradients(name, dq, dk, dv, dout, q, k);
}
void attention_dropout_backward(Out dq, Out dk, Out dv, In dout, In q, In k, In v, In out, In lse, In spans,
                                double scale, bool, int64_t window, double soft_cap, bool, double p, int64_t, int64_t) {
  const char* name = "attention_dropout_backward";
  check_attention(name, q, k, v, out, lse, spans, nullptr, scale, window, soft_cap);
  check_gradients(name, dq, dk, dv, dout, q, k);
  check_probability(name, p);
}
void attention_plan(Out plan, In q, In k, In spans, bool, int64_t window, bool, bool) {
  check_sequences("attention_plan", q, k, spans, window);
  check_dtype("attention_plan", "plan", plan, DType::i32);
}

void scatter_rows(InOut y, In x, In slot) { check_rows("scatter_rows", y, "y", x, "x", slot, "slot"); }
void gather_rows(Out y, In x, In row) { check_rows("gather_rows", x, "x", y, "y", row, "row"); }

}  // namespace anneal::checks
