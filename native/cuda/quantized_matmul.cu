// Products with a quantised weight: the choice between multiplying by the codes themselves and decoding the weight first. Decoding pays from some
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
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const QuantizedShape shape = weight_shape(y.shape[1], x.shape[1], scales);
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
  const QuantizedShape shape = weight_shape(dy.shape[1], dx.shape[1], scales);
  if (dx.size == 0) return;
  const Tensor weight = decoded(shape, codes, scales, zeros, format, half);
  const Output out = {dx.data, nullptr, nullptr, dx.dtype, dx.dtype, dx.dtype, shape.columns, Activation::none, false};
  multiply({dy.shape[0], shape.columns, shape.rows, 1, operand_of(dy, true), operand_of(weight, false), out}, half);
}

}  // namespace anneal::cuda
