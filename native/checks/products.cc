// Arguments of matrix products and of the gradient of a bias.
#include "../checks.h"
#include "../operations.h"
#include "shape.h"

namespace anneal::checks {

void gemm(InOut c, MaybeOut pre, In a, In b, MaybeIn bias, bool transpose_a, bool transpose_b, bool, int64_t activation, bool) {
  using number = long long;
  ANNEAL_CHECK(c.rank == 2 || c.rank == 3, "gemm: c must have rank 2 or 3, but has %d", c.rank);
  ANNEAL_CHECK(a.rank == c.rank && b.rank == c.rank, "gemm: a, b and c must have the same rank, but have %d, %d and %d", a.rank, b.rank, c.rank);
  const int64_t m = c.dim(-2), n = c.dim(-1), k = a.dim(transpose_a ? -2 : -1);
  const int64_t a_rows = a.dim(transpose_a ? -1 : -2), b_rows = b.dim(transpose_b ? -1 : -2), b_columns = b.dim(transpose_b ? -2 : -1);
  ANNEAL_CHECK(a_rows == m, "gemm: op(a) must have %lld rows, those of c, but has %lld", number{m}, number{a_rows});
  ANNEAL_CHECK(b_rows == k, "gemm: op(b) must have %lld rows, the columns of op(a), but has %lld", number{k}, number{b_rows});
  ANNEAL_CHECK(b_columns == n, "gemm: op(b) must have %lld columns, those of c, but has %lld", number{n}, number{b_columns});
  auto repeats = [&](const Tensor& x) { return c.rank == 2 || x.dim(0) == c.dim(0) || x.dim(0) == 1; };
  ANNEAL_CHECK(repeats(a) && repeats(b), "gemm: the first axes of a and b must have length 1 or %lld, that of c, but have %lld and %lld", number{c.dim(0)},
               number{a.dim(0)}, number{b.dim(0)});
  const bool is_double = c.dtype == DType::f64 && a.dtype == DType::f64 && b.dtype == DType::f64;
  ANNEAL_CHECK(is_double || (is_float(c.dtype) && is_float(a.dtype) && is_float(b.dtype)), "gemm: a, b and c must be f32 or bf16, or all f64, but are %s, %s and %s",
               name_of(a.dtype), name_of(b.dtype), name_of(c.dtype));
  check_activation("gemm", activation);
  auto check_type = [&](const char* name, const Tensor& x) {
    ANNEAL_CHECK(is_double ? x.dtype == DType::f64 : is_float(x.dtype), "gemm: %s must be %s, but is %s", name, is_double ? "f64" : "f32 or bf16", name_of(x.dtype));
  };
  if (bias) {
    ANNEAL_CHECK(bias->rank == 1 && bias->size == n, "gemm: bias must have shape [%lld], but has rank %d and %lld elements", number{n}, bias->rank, number{bias->size});
    check_type("bias", *bias);
  }
  if (pre) {
    ANNEAL_CHECK(same_shape(*pre, c), "gemm: pre must have the shape of c");
    check_type("pre", *pre);
  }
}

void sum_rows(InOut y, In x, bool) {
  ANNEAL_CHECK(x.rank >= 1, "sum_rows: x must have at least one axis");
  ANNEAL_CHECK(y.rank == 1 && y.size == x.columns() && y.dtype == DType::f32, "sum_rows: y must be f32 [%lld], the last axis of x, but is %s with %lld elements",
               static_cast<long long>(x.columns()), name_of(y.dtype), static_cast<long long>(y.size));
  ANNEAL_CHECK(is_float(x.dtype), "sum_rows: x must be f32 or bf16, but is %s", name_of(x.dtype));
}

}  // namespace anneal::checks
