// Products with a quantised weight: checks, and the choice between multiplying by the codes themselves and decoding the weight first. Decoding pays from some
// hundreds of rows on, where the library's product of two bf16 matrices makes up for writing and reading the weight.
#include <cstdint>

#include "../kernels.h"
#include "../quantization.h"
#include "launch.h"
#include "quantized_weight.h"

namespace anneal::cuda {

void dequantize(Out y, In codes, In scales, MaybeIn zeros, int64_t format, int64_t block);

namespace {

constexpr int64_t few_rows = 16, most_rows = 512;

void check_activations(const char* kernel, const char* name, const Tensor& x) {
  ANNEAL_CHECK(is_float(x.dtype), "%s: %s must be f32 or bf16, but is %s", kernel, name, name_of(x.dtype));
  ANNEAL_CHECK(x.rank == 2, "%s: %s must have two axes, but has shape %s", kernel, name, ShapeText(x).text);
}

// FP4's values are twelfths that bf16 cannot hold, so its codes count twelfths.
float whole(QuantizedFormat format) { return format == QuantizedFormat::fp4 ? 12 : 1; }

CodeBook book_of(QuantizedFormat format, bool with_zeros) {
  CodeBook book{};
  if (!is_four_bit(format)) return book;
  for (int i = 0; i < 16; ++i) book.value[i] = four_bit_map(format, with_zeros)[i] * whole(format);
  return book;
}

// The weight as numbers: bf16 where the product is in bf16, else f32.
Tensor decoded(const QuantizedShape& shape, In codes, In scales, MaybeIn zeros, int64_t format, bool half) {
  const DType dtype = half ? DType::bf16 : DType::f32;
  const int64_t size = shape.rows * shape.columns;
  Tensor weight = {scratch(static_cast<size_t>(size * bytes_of(dtype))), size, {shape.rows, shape.columns}, dtype, 2};
  dequantize(weight, codes, scales, zeros, format, shape.block);
  return weight;
}

Operand operand_of(const Tensor& x, bool along_k) { return {x.data, x.dtype, x.shape[1], 0, along_k}; }

}  // namespace

void quantized_matmul(Out y, In x, In codes, In scales, MaybeIn zeros, MaybeIn bias, int64_t format, bool half) {
  const QuantizedFormat kind = check_format("quantized_matmul", format);
  check_activations("quantized_matmul", "x", x);
  check_activations("quantized_matmul", "y", y);
  ANNEAL_CHECK(y.shape[0] == x.shape[0], "quantized_matmul: y must have the rows of x, %lld, but has %lld", static_cast<long long>(x.shape[0]), static_cast<long long>(y.shape[0]));
  const QuantizedShape shape = check_weight("quantized_matmul", codes, scales, zeros, y.shape[1], x.shape[1], kind);
  if (bias) {
    ANNEAL_CHECK(bias->rank == 1 && bias->size == shape.rows && is_float(bias->dtype), "quantized_matmul: bias must be f32 or bf16 [%lld], but is %s %s",
                 static_cast<long long>(shape.rows), name_of(bias->dtype), ShapeText(*bias).text);
  }
  const int64_t m = x.shape[0];
  const Output out = {y.data, nullptr, bias ? bias->data : nullptr, y.dtype, y.dtype, bias ? bias->dtype : y.dtype, shape.rows, Activation::none, false};
  if (y.size == 0) return;
  const bool whole_steps = shape.columns > 0 && shape.block % quantized_step == 0 && reinterpret_cast<uintptr_t>(codes.data) % 16 == 0 && shape.rows * shape.columns < int64_t{1} << 32;
  if (!half || !whole_steps || m > most_rows) {
    const Tensor weight = decoded(shape, codes, scales, zeros, format, half);
    return multiply({m, shape.rows, shape.columns, 1, operand_of(x, true), operand_of(weight, true), out}, half);
  }
  Operand left = operand_of(x, true);
  if (!aligned_half(left)) left = copy_operand(left, DType::bf16, m, shape.columns, 1);
  const QuantizedWeight weight = {codes.as<const uint8_t>(), scales.as<const float>(), zeros ? zeros->as<const uint8_t>() : nullptr, static_cast<int>(shape.rows),
                                  static_cast<int>(shape.columns), static_cast<int>(shape.columns / shape.block),
                                  static_cast<uint32_t>(ceil_div(int64_t{1} << 31, shape.block / quantized_step)), 1 / whole(kind)};
  const CodeBook book = book_of(kind, zeros != nullptr);
  const int bits = is_four_bit(kind) ? 4 : 8;
  if (m <= few_rows) quantized_few(weight, book, bits, static_cast<const bf16*>(left.data), left.stride, static_cast<int>(m), out);
  else quantized_many(weight, book, bits, left, static_cast<int>(m), out);
}

void quantized_matmul_backward(Out dx, In dy, In codes, In scales, MaybeIn zeros, int64_t format, bool half) {
  const QuantizedFormat kind = check_format("quantized_matmul_backward", format);
  check_activations("quantized_matmul_backward", "dy", dy);
  check_activations("quantized_matmul_backward", "dx", dx);
  ANNEAL_CHECK(dx.shape[0] == dy.shape[0], "quantized_matmul_backward: dx must have the rows of dy, %lld, but has %lld", static_cast<long long>(dy.shape[0]),
               static_cast<long long>(dx.shape[0]));
  const QuantizedShape shape = check_weight("quantized_matmul_backward", codes, scales, zeros, dy.shape[1], dx.shape[1], kind);
  if (dx.size == 0) return;
  const Tensor weight = decoded(shape, codes, scales, zeros, format, half);
  const Output out = {dx.data, nullptr, nullptr, dx.dtype, dx.dtype, dx.dtype, shape.columns, Activation::none, false};
  multiply({dy.shape[0], shape.columns, shape.rows, 1, operand_of(dy, true), operand_of(weight, false), out}, half);
}

}  // namespace anneal::cuda
