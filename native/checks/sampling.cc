// What random numbers, distributions and draws from them demand.
#include "../checks.h"
#include "shape.h"

namespace anneal::checks {
namespace {

void check_softmax(const char* kernel, const char* name, const Tensor& x, const Tensor& y) {
  ANNEAL_CHECK(is_float(y.dtype), "%s: the output must be f32 or bf16, but is %s", kernel, name_of(y.dtype));
  check_dtype(kernel, name, x, y.dtype);
  check_same_shape(kernel, name, x, y);
}

void check_sample_rows(const char* name, const Tensor& x, int64_t rows, int64_t columns, DType dtype) {
  check_dtype("sample", name, x, dtype);
  ANNEAL_CHECK(x.size == rows * columns && (x.size == 0 || x.dim(0) == rows), "sample: %s must have shape [%lld, %lld], but has %s", name,
               static_cast<long long>(rows), static_cast<long long>(columns), ShapeText(x).text);
}

}  // namespace

void random_uniform(Out y, double low, double high, int64_t, int64_t) {
  ANNEAL_CHECK(is_float(y.dtype), "random_uniform: y must be f32 or bf16, but is %s", name_of(y.dtype));
  ANNEAL_CHECK(low < high, "random_uniform: low must be below high, but they are %g and %g", low, high);
}

void random_normal(Out y, double, double deviation, int64_t, int64_t) {
  ANNEAL_CHECK(is_float(y.dtype), "random_normal: y must be f32 or bf16, but is %s", name_of(y.dtype));
  ANNEAL_CHECK(deviation >= 0, "random_normal: deviation must be at least 0, but is %g", deviation);
}

void dropout(Out y, In x, double p, int64_t, int64_t) {
  ANNEAL_CHECK(is_float(x.dtype), "dropout: x must be f32 or bf16, but is %s", name_of(x.dtype));
  check_dtype("dropout", "y", y, x.dtype);
  check_same_shape("dropout", "x", x, y);
  ANNEAL_CHECK(p >= 0 && p <= 1, "dropout: p must be between 0 and 1, but is %g", p);
}

void softmax(Out y, In x) { check_softmax("softmax", "x", x, y); }

void softmax_backward(Out dx, In dy, In y) {
  check_softmax("softmax_backward", "dy", dy, dx);
  check_softmax("softmax_backward", "y", y, dx);
}

void top_k(Out value, Out index, In x) {
  ANNEAL_CHECK(is_float(x.dtype), "top_k: x must be f32 or bf16, but is %s", name_of(x.dtype));
  check_dtype("top_k", "value", value, x.dtype);
  check_dtype("top_k", "index", index, DType::i32);
  ANNEAL_CHECK(x.rank == 2 && value.rank == 2 && value.dim(0) == x.dim(0) && value.dim(1) <= x.dim(1),
               "top_k: value must have shape [rows, k] and x [rows, n], k at most n, but they have %s and %s", ShapeText(value).text, ShapeText(x).text);
  check_same_shape("top_k", "index", index, value);
}

void sample(Out token, Out logprob, In logits, In options, MaybeIn history, In draw) {
  ANNEAL_CHECK(is_float(logits.dtype), "sample: logits must be f32 or bf16, but is %s", name_of(logits.dtype));
  ANNEAL_CHECK(logits.rank == 2 && (logits.size > 0 || logits.dim(0) == 0), "sample: logits must have shape [rows, vocabulary], but has %s",
               ShapeText(logits).text);
  const int64_t rows = logits.dim(0);
  check_sample_rows("token", token, rows, 1, DType::i32);
  check_sample_rows("logprob", logprob, rows, 1, DType::f32);
  check_sample_rows("options", options, rows, 5, DType::f32);
  check_sample_rows("draw", draw, rows, 2, DType::i32);
  if (!history) return;
  check_dtype("sample", "history", *history, DType::i32);
  ANNEAL_CHECK(history->rank == 2 && history->dim(0) == rows, "sample: history must have shape [%lld, length], but has %s", static_cast<long long>(rows),
               ShapeText(*history).text);
}

}  // namespace anneal::checks
