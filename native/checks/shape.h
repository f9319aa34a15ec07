// What most checks need: comparing shapes and dtypes, and printing them. Internal linkage only.
#pragma once
#include <cstdio>

#include "../check.h"
#include "../operations.h"
#include "../tensor.h"

namespace anneal {
namespace {

[[maybe_unused]] static bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; ++i)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

// "[2, 3]"; lives until the end of the full expression that makes it.
struct ShapeText {
  char text[160];
  explicit ShapeText(const Tensor& x) {
    int at = 0;
    text[at++] = '[';
    for (int i = 0; i < x.rank; ++i)
      at += snprintf(text + at, sizeof text - static_cast<size_t>(at), i ? ", %lld" : "%lld",
                     static_cast<long long>(x.shape[i]));
    text[at++] = ']';
    text[at] = 0;
  }
};

[[maybe_unused]] static const char* name_of(DType dtype) { return dtype_names[static_cast<int>(dtype)]; }
[[maybe_unused]] static bool is_computable(DType dtype) { return is_float(dtype) || dtype == DType::f64; }

[[maybe_unused]] static void check_same_shape(const char* kernel, const char* name, const Tensor& x, const Tensor& y) {
  ANNEAL_CHECK(same_shape(x, y), "%s: %s must have the shape of the output, %s, but has %s", kernel, name,
               ShapeText(y).text, ShapeText(x).text);
}
[[maybe_unused]] static void check_dtype(const char* kernel, const char* name, const Tensor& x, DType wanted) {
  ANNEAL_CHECK(x.dtype == wanted, "%s: %s must be %s, but is %s", kernel, name, name_of(wanted), name_of(x.dtype));
}
[[maybe_unused]] static void check_computable(const char* kernel, const char* name, const Tensor& x) {
  ANNEAL_CHECK(is_computable(x.dtype), "%s: %s must be f32, bf16 or f64, but is %s", kernel, name, name_of(x.dtype));
}
[[maybe_unused]] static void check_activation(const char* kernel, int64_t activation) {
  ANNEAL_CHECK(activation >= 0 && activation <= static_cast<int64_t>(Activation::quick_gelu), "%s: unknown activation %lld", kernel,
               static_cast<long long>(activation));
}

}  // namespace
}  // namespace anneal
