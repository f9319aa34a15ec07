// Products with a quantised weight.
#include "isa.h"
#include "quantize.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

void check_activations(const char* kernel, const char* name, const Tensor& x) {
  ANNEAL_CHECK(is_float(x.dtype), "%s: %s must be f32 or bf16, but is %s", kernel, name, name_of(x.dtype));
  ANNEAL_CHECK(x.rank == 2, "%s: %s must have two axes, but has shape %s", kernel, name, ShapeText(x).text);
}

}  // namespace

void quantized_matmul(Out y, In x, In codes, In scales, MaybeIn zeros, MaybeIn bias, int64_t format, bool half) {
  const QuantizedFormat kind = check_format("quantized_matmul", format);
  check_activations("quantized_matmul", "x", x);
  check_activations("quantized_matmul", "y", y);
  ANNEAL_CHECK(y.shape[0] == x.shape[0], "quantized_matmul: y must have the rows of x, %lld, but has %lld",
               static_cast<long long>(x.shape[0]), static_cast<long long>(y.shape[0]));
  const QuantizedShape shape = check_weight("quantized_matmul", codes, scales, zeros, y.shape[1], x.shape[1], kind);
  Tensor weight = {pool().scratch(7, static_cast<size_t>(shape.rows * shape.columns) * 4), shape.rows * shape.columns,
                   {shape.rows, shape.columns}, DType::f32, 2};
  dequantize(weight, codes, scales, zeros, format, shape.block);
  gemm(y, nullptr, x, weight, bias, false, true, false, 0, half);
}

void quantized_matmul_backward(Out dx, In dy, In codes, In scales, MaybeIn zeros, int64_t format, bool half) {
  const QuantizedFormat kind = check_format("quantized_matmul_backward", format);
  check_activations("quantized_matmul_backward", "dy", dy);
  check_activations("quantized_matmul_backward", "dx", dx);
  const QuantizedShape shape = check_weight("quantized_matmul_backward", codes, scales, zeros, dy.shape[1], dx.shape[1], kind);
  Tensor weight = {pool().scratch(7, static_cast<size_t>(shape.rows * shape.columns) * 4), shape.rows * shape.columns,
                   {shape.rows, shape.columns}, DType::f32, 2};
  dequantize(weight, codes, scales, zeros, format, shape.block);
  gemm(dx, nullptr, dy, weight, nullptr, false, false, false, 0, half);
}

}  // namespace anneal::cpu::ANNEAL_ISA
