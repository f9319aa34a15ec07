// Arguments of the elementwise primitives and of reductions.
#include "../checks.h"
#include "../operations.h"
#include "shape.h"

namespace anneal::checks {
namespace {

void check_operation(const char* kernel, int64_t operation, int64_t last) {
  ANNEAL_CHECK(operation >= 0 && operation <= last, "%s: there is no operation %lld", kernel, static_cast<long long>(operation));
}
// y = f(x), in float or f64.
void check_map(const char* kernel, const Tensor& y, const Tensor& x) {
  check_computable(kernel, "x", x);
  check_dtype(kernel, "y", y, x.dtype);
  check_same_shape(kernel, "x", x, y);
}
void check_broadcast(const char* name, const Tensor& x, const Tensor& y) {
  bool fits = x.rank <= y.rank;
  for (int i = 1; fits && i <= x.rank; ++i) fits = x.dim(-i) == y.dim(-i) || x.dim(-i) == 1;
  ANNEAL_CHECK(fits, "binary: %s of shape %s does not broadcast to %s", name, ShapeText(x).text, ShapeText(y).text);
}

}  // namespace

void fill(Out, double) {}

void iota(Out y, double, double) {
  ANNEAL_CHECK(y.dtype == DType::f32 || y.dtype == DType::f64 || y.dtype == DType::i32 || y.dtype == DType::i64,
               "iota: y must be f32, f64, i32 or i64, but is %s", name_of(y.dtype));
}

void convert(Out y, In x) { check_same_shape("convert", "x", x, y); }

void binary(Out y, In a, In b, int64_t operation) {
  check_computable("binary", "y", y);
  check_dtype("binary", "a", a, y.dtype);
  check_dtype("binary", "b", b, y.dtype);
  check_operation("binary", operation, static_cast<int64_t>(BinaryOperation::equal));
  check_broadcast("a", a, y);
  check_broadcast("b", b, y);
  for (int i = 1; i <= y.rank; ++i) {
    const int64_t a_length = i <= a.rank ? a.dim(-i) : 1, b_length = i <= b.rank ? b.dim(-i) : 1;
    ANNEAL_CHECK(y.dim(-i) == a_length || y.dim(-i) == b_length, "binary: the output %s is larger than %s and %s broadcast to", ShapeText(y).text,
                 ShapeText(a).text, ShapeText(b).text);
  }
}

void add_into(InOut y, In x) {
  check_computable("add_into", "y", y);
  check_computable("add_into", "x", x);
  check_same_shape("add_into", "x", x, y);
}

void scale(Out y, In x, double) { check_map("scale", y, x); }

void unary(Out y, In x, int64_t operation) {
  check_map("unary", y, x);
  check_operation("unary", operation, static_cast<int64_t>(UnaryOperation::square));
}

void where(Out y, In condition, In a, In b) {
  ANNEAL_CHECK(is_computable(condition.dtype) || condition.dtype == DType::u8, "where: condition must be u8, f32, bf16 or f64, but is %s",
               name_of(condition.dtype));
  check_dtype("where", "a", a, y.dtype);
  check_dtype("where", "b", b, y.dtype);
  check_same_shape("where", "condition", condition, y);
  check_same_shape("where", "a", a, y);
  check_same_shape("where", "b", b, y);
}

void reduce(Out y, In x, int64_t operation) {
  check_computable("reduce", "x", x);
  check_dtype("reduce", "y", y, x.dtype);
  check_operation("reduce", operation, static_cast<int64_t>(ReduceOperation::max));
  bool fits = y.rank == x.rank;
  for (int i = 0; fits && i < x.rank; ++i) fits = y.shape[i] == x.shape[i] || y.shape[i] == 1;
  ANNEAL_CHECK(fits, "reduce: the output %s must have length 1 or x's length on each axis of %s", ShapeText(y).text, ShapeText(x).text);
  ANNEAL_CHECK(y.size == 0 || x.size > 0 || static_cast<ReduceOperation>(operation) == ReduceOperation::sum,
               "reduce: the maximum of no elements is undefined; x has shape %s", ShapeText(x).text);
}

}  // namespace anneal::checks
