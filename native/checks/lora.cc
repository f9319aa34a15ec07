// What merging a low-rank update into a weight demands of its arguments.
#include "../checks.h"
#include "quantized.h"

namespace anneal::checks {
namespace {

// b [out, rank] and a [rank, in] of a weight [out, in].
void check_factors(const char* kernel, const Tensor& b, const Tensor& a, int64_t out, int64_t in) {
  ANNEAL_CHECK(is_float(b.dtype) && is_float(a.dtype), "%s: b and a must be f32 or bf16, but are %s and %s", kernel,
               name_of(b.dtype), name_of(a.dtype));
  ANNEAL_CHECK(b.rank == 2 && b.shape[0] == out, "%s: b must have shape [%lld, rank], but has %s", kernel,
               static_cast<long long>(out), ShapeText(b).text);
  ANNEAL_CHECK(a.rank == 2 && a.shape[1] == in && a.shape[0] == b.shape[1], "%s: a must have shape [%lld, %lld], but has %s",
               kernel, static_cast<long long>(b.shape[1]), static_cast<long long>(in), ShapeText(a).text);
}

}  // namespace

void lora_merge(InOut weight, In b, In a, double, bool transposed) {
  ANNEAL_CHECK(is_float(weight.dtype), "lora_merge: weight must be f32 or bf16, but is %s", name_of(weight.dtype));
  ANNEAL_CHECK(weight.rank == 2, "lora_merge: weight must have two axes, but has shape %s", ShapeText(weight).text);
  check_factors("lora_merge", b, a, weight.shape[transposed ? 1 : 0], weight.shape[transposed ? 0 : 1]);
}

void lora_merge_quantized(InOut codes, InOut scales, MaybeInOut zeros, Out error, In b, In a, double, int64_t format) {
  const char* name = "lora_merge_quantized";
  const QuantizedFormat kind = check_format(name, format);
  ANNEAL_CHECK(b.rank == 2 && a.rank == 2, "%s: b and a must have two axes, but have shapes %s and %s", name,
               ShapeText(b).text, ShapeText(a).text);
  check_weight(name, codes, scales, zeros, b.shape[0], a.shape[1], kind);
  check_factors(name, b, a, b.shape[0], a.shape[1]);
  check_dtype(name, "error", error, DType::f64);
  ANNEAL_CHECK(error.size == 2, "%s: error must have two elements, but has shape %s", name, ShapeText(error).text);
}

}  // namespace anneal::checks
