// What quantisation, and the products with quantised weights and of new tokens' rows, demand of their arguments.
#include "quantized.h"

#include "../checks.h"
#include "../operations.h"

namespace anneal::checks {
namespace {

void check_storage(const char* kernel, const char* name, const Tensor& x) {
  ANNEAL_CHECK(is_float(x.dtype) || x.dtype == DType::f16, "%s: %s must be f32, bf16 or f16, but is %s", kernel, name,
               name_of(x.dtype));
}

void check_matrix(const char* kernel, const char* name, const Tensor& x) {
  ANNEAL_CHECK(is_float(x.dtype), "%s: %s must be f32 or bf16, but is %s", kernel, name, name_of(x.dtype));
  ANNEAL_CHECK(x.rank == 2, "%s: %s must have two axes, but has shape %s", kernel, name, ShapeText(x).text);
}
// What comes in and goes out of a product with a weight, row by row.
void check_rows(const char* kernel, const char* from_name, const Tensor& from, const char* to_name, const Tensor& to) {
  check_matrix(kernel, from_name, from);
  check_matrix(kernel, to_name, to);
  ANNEAL_CHECK(to.shape[0] == from.shape[0], "%s: %s must have the rows of %s, %lld, but has %lld", kernel, to_name,
               from_name, static_cast<long long>(from.shape[0]), static_cast<long long>(to.shape[0]));
}
void check_bias(const char* kernel, const Tensor* bias, const Tensor& y) {
  if (!bias) return;
  ANNEAL_CHECK(is_float(bias->dtype), "%s: bias must be f32 or bf16, but is %s", kernel, name_of(bias->dtype));
  ANNEAL_CHECK(bias->rank == 1 && bias->size == y.shape[1], "%s: bias must have shape [%lld], but has %s", kernel,
               static_cast<long long>(y.shape[1]), ShapeText(*bias).text);
}
void check_product(const char* kernel, const Tensor& y, const Tensor& x, const Tensor& codes, const Tensor& scales,
                   const Tensor* zeros, const Tensor* bias, int64_t format) {
  const QuantizedFormat kind = check_format(kernel, format);
  check_rows(kernel, "x", x, "y", y);
  check_weight(kernel, codes, scales, zeros, y.shape[1], x.shape[1], kind);
  check_bias(kernel, bias, y);
}

}  // namespace

void quantize(Out codes, Out scales, MaybeOut zeros, In x, int64_t format, int64_t block) {
  check_codes("quantize", codes, scales, zeros, x.size, check_format("quantize", format), block);
  check_storage("quantize", "x", x);
}
void dequantize(Out y, In codes, In scales, MaybeIn zeros, int64_t format, int64_t block) {
  check_codes("dequantize", codes, scales, zeros, y.size, check_format("dequantize", format), block);
  check_storage("dequantize", "y", y);
}

void quantized_matmul(Out y, In x, In codes, In scales, MaybeIn zeros, MaybeIn bias, int64_t format, bool) {
  check_product("quantized_matmul", y, x, codes, scales, zeros, bias, format);
}
void decode_quantized_matmul(Out y, In x, In codes, In scales, MaybeIn zeros, MaybeIn bias, int64_t format) {
  check_product("decode_quantized_matmul", y, x, codes, scales, zeros, bias, format);
}
void quantized_matmul_backward(Out dx, In dy, In codes, In scales, MaybeIn zeros, int64_t format, bool) {
  const char* name = "quantized_matmul_backward";
  const QuantizedFormat kind = check_format(name, format);
  check_rows(name, "dy", dy, "dx", dx);
  check_weight(name, codes, scales, zeros, dy.shape[1], dx.shape[1], kind);
}

void decode_matmul(Out y, In x, In weight, MaybeIn bias, int64_t activation) {
  const char* name = "decode_matmul";
  check_rows(name, "x", x, "y", y);
  check_bias(name, bias, y);
  check_dtype(name, "weight", weight, DType::bf16);
  ANNEAL_CHECK(weight.rank == 2 && weight.shape[0] == y.shape[1] && weight.shape[1] == x.shape[1],
               "%s: weight must have shape [%lld, %lld], but has %s", name, static_cast<long long>(y.shape[1]),
               static_cast<long long>(x.shape[1]), ShapeText(weight).text);
  ANNEAL_CHECK(activation >= 0 && activation <= static_cast<int64_t>(Activation::quick_gelu),
               "%s: unknown activation %lld", name, static_cast<long long>(activation));
}

}  // namespace anneal::checks
