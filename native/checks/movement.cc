// Arguments of the primitives that move elements.
#include "../checks.h"
#include "shape.h"

namespace anneal::checks {
namespace {

// A box inside a larger tensor.
void check_box(const char* kernel, const Tensor& part, const Tensor& whole, const Axes& start) {
  ANNEAL_CHECK(part.dtype == whole.dtype, "%s: both tensors must have one dtype, but they are %s and %s", kernel, name_of(part.dtype), name_of(whole.dtype));
  ANNEAL_CHECK(part.rank == whole.rank && start.count == whole.rank, "%s: %s, %s and %d starts must have the same rank", kernel, ShapeText(part).text,
               ShapeText(whole).text, start.count);
  for (int i = 0; i < whole.rank; ++i)
    ANNEAL_CHECK(start.at[i] >= 0 && start.at[i] <= whole.shape[i] - part.shape[i], "%s: %lld elements from %lld on axis %d lie outside %s", kernel,
                 static_cast<long long>(part.shape[i]), static_cast<long long>(start.at[i]), i, ShapeText(whole).text);
}
// An index along the last axis for each element of `many`, or where shared for those of a row; whether it fits, the kernels see.
void check_index(const char* kernel, const Tensor& many, const Tensor& indexed, const Tensor& index, bool shared = false) {
  check_dtype(kernel, "index", index, DType::i32);
  ANNEAL_CHECK(shared ? index.size == many.columns() : same_shape(many, index), "%s: index has shape %s, but %s was expected", kernel, ShapeText(index).text,
               ShapeText(many).text);
  bool fits = many.rank == indexed.rank && many.rank > 0;
  for (int i = 0; fits && i + 1 < many.rank; ++i) fits = many.shape[i] == indexed.shape[i];
  ANNEAL_CHECK(fits, "%s: %s and %s must differ on the last axis only", kernel, ShapeText(many).text, ShapeText(indexed).text);
}

}  // namespace

void permute(Out y, In x, Axes order) {
  ANNEAL_CHECK(y.dtype == x.dtype, "permute: y must be %s like x, but is %s", name_of(x.dtype), name_of(y.dtype));
  ANNEAL_CHECK(y.rank == x.rank && order.count == x.rank, "permute: %d axes and the output %s must have the rank of x, %s", order.count, ShapeText(y).text,
               ShapeText(x).text);
  bool seen[max_rank] = {};
  for (int i = 0; i < x.rank; ++i) {
    const int64_t axis = order.at[i];
    ANNEAL_CHECK(axis >= 0 && axis < x.rank && !seen[axis], "permute: axis %lld at place %d is out of range or named twice", static_cast<long long>(axis), i);
    seen[axis] = true;
    ANNEAL_CHECK(y.shape[i] == x.shape[axis], "permute: the output %s does not have x's length %lld of axis %lld at place %d", ShapeText(y).text,
                 static_cast<long long>(x.shape[axis]), static_cast<long long>(axis), i);
  }
}

void slice(Out y, In x, Axes start) { check_box("slice", y, x, start); }

void slice_into(InOut y, In x, Axes start, bool accumulate) {
  check_box("slice_into", x, y, start);
  if (accumulate) check_computable("slice_into", "x", x);
}

void gather_last(Out y, In x, In index) {
  check_dtype("gather_last", "y", y, x.dtype);
  check_index("gather_last", y, x, index, index.rank == 1 && y.rank > 1);
}

void scatter_add_last(InOut y, In x, In index) {
  check_computable("scatter_add_last", "x", x);
  check_dtype("scatter_add_last", "y", y, x.dtype);
  check_index("scatter_add_last", x, y, index);
}

}  // namespace anneal::checks
