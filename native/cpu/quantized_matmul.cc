// Products with a quantised weight: the matrix product, whose right operand is decoded where its panels are packed. A block that the decoder's steps do not divide is decoded into memory first.
#include "isa.h"
#include "quantized_panels.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int weight_slot = 7;

void check_activations(const char* kernel, const char* name, const Tensor& x) {
  ANNEAL_CHECK(is_float(x.dtype), "%s: %s must be f32 or bf16, but is %s", kernel, name, name_of(x.dtype));
  ANNEAL_CHECK(x.rank == 2, "%s: %s must have two axes, but has shape %s", kernel, name, ShapeText(x).text);
}

template <bool pairs> void multiply(const Product& p) {
  if (useful_threads(p) > 1) return multiply_together<pairs>(p);
  multiply_alone<pairs>(p, static_cast<uint32_t*>(pool().scratch(left_slot, alone_bytes<pairs>(p))));
}

template <bool pairs, Decoding decoding> void choose_rows(QuantizedSource& w) {
  w.pack = pack_rows<pairs, decoding, false>;
  if constexpr (decoding != Decoding::wide) {
    if (w.zeros) w.pack = pack_rows<pairs, decoding, true>;
  }
}
template <bool pairs> void choose(QuantizedSource& w, bool along_k, Decoding decoding) {
  if (!along_k) w.pack = pack_across<pairs>;
  else if (decoding == Decoding::bytes) choose_rows<pairs, Decoding::bytes>(w);
  else if (decoding == Decoding::narrow) choose_rows<pairs, Decoding::narrow>(w);
  else choose_rows<pairs, Decoding::wide>(w);
}

struct RoundedMap {
  float value[16];
};
constexpr RoundedMap rounded(const float* map) {
  RoundedMap result = {};
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, map[i]);
    result.value[i] = __builtin_bit_cast(float, ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) << 16);
  }
  return result;
}
constexpr RoundedMap nf4_rounded = rounded(nf4_map), fp4_rounded = rounded(fp4_map);

// half without bf16 products: the code books of NF4 and FP4 are rounded to bf16, as bitsandbytes rounds the weight, and are read faster so.
Decoding decoding_of(QuantizedFormat format, bool rounds, QuantizedSource& w) {
  if (format == QuantizedFormat::int8) return Decoding::bytes;
  w.map = four_bit_map(format, w.zeros != nullptr);
  if (format == QuantizedFormat::int4) return Decoding::narrow;
  if (!rounds) return Decoding::wide;
  w.map = format == QuantizedFormat::nf4 ? nf4_rounded.value : fp4_rounded.value;
  return Decoding::narrow;
}

// y = x op(W), op(W) = W^T where along_k.
void multiply_quantized(const Tensor& y, const Tensor& x, const Tensor& codes, const Tensor& scales, const Tensor* zeros, const Tensor* bias,
                        QuantizedFormat format, const QuantizedShape& shape, bool along_k, bool half) {
  const Output out = {y.data, nullptr, bias ? bias->data : nullptr, y.dtype, DType::f32, bias ? bias->dtype : DType::f32, y.shape[1], Activation::none, false};
  QuantizedSource w;
  w.codes = codes.as<const uint8_t>();
  w.scales = scales.as<const float>();
  w.zeros = zeros ? zeros->as<const uint8_t>() : nullptr;
  w.map = nullptr;
  w.shape = shape;
  const Product p = {y.shape[0], y.shape[1], x.shape[1], {x.data, x.dtype, x.shape[1], true}, {nullptr, DType::f32, shape.columns, along_k, &w}, out};
  if constexpr (has_pairs) {
    if (half) {
      choose<true>(w, along_k, decoding_of(format, false, w));
      return multiply<true>(p);
    }
  }
  choose<false>(w, along_k, decoding_of(format, half, w));
  multiply<false>(p);
}

// The whole weight in f32, for blocks that are no multiple of the decoder's steps.
Tensor widened(const Tensor& codes, const Tensor& scales, const Tensor* zeros, QuantizedFormat format, const QuantizedShape& shape) {
  const int64_t size = shape.rows * shape.columns;
  Tensor weight = {pool().scratch(weight_slot, static_cast<size_t>(size) * 4 + 64), size, {shape.rows, shape.columns}, DType::f32, 2};
  if (size > 0) dequantize(weight, codes, scales, zeros, static_cast<int64_t>(format), shape.block);
  return weight;
}

}  // namespace

void quantized_matmul(Out y, In x, In codes, In scales, MaybeIn zeros, MaybeIn bias, int64_t format, bool half) {
  const QuantizedFormat kind = check_format("quantized_matmul", format);
  check_activations("quantized_matmul", "x", x);
  check_activations("quantized_matmul", "y", y);
  ANNEAL_CHECK(y.shape[0] == x.shape[0], "quantized_matmul: y must have the rows of x, %lld, but has %lld",
               static_cast<long long>(x.shape[0]), static_cast<long long>(y.shape[0]));
  const QuantizedShape shape = check_weight("quantized_matmul", codes, scales, zeros, y.shape[1], x.shape[1], kind);
  if (bias) {
    ANNEAL_CHECK(is_float(bias->dtype), "quantized_matmul: bias must be f32 or bf16, but is %s", name_of(bias->dtype));
    ANNEAL_CHECK(bias->rank == 1 && bias->size == shape.rows, "quantized_matmul: bias must have shape [%lld], but has %s",
                 static_cast<long long>(shape.rows), ShapeText(*bias).text);
  }
  if (y.size == 0) return;
  const int64_t step = bytes_per_step * (is_four_bit(kind) ? 2 : 1);
  if (shape.columns == 0 || shape.block % step != 0)
    return gemm(y, nullptr, x, widened(codes, scales, zeros, kind, shape), bias, false, true, false, 0, half);
  multiply_quantized(y, x, codes, scales, zeros, bias, kind, shape, true, half);
}

void quantized_matmul_backward(Out dx, In dy, In codes, In scales, MaybeIn zeros, int64_t format, bool half) {
  const QuantizedFormat kind = check_format("quantized_matmul_backward", format);
  check_activations("quantized_matmul_backward", "dy", dy);
  check_activations("quantized_matmul_backward", "dx", dx);
  ANNEAL_CHECK(dx.shape[0] == dy.shape[0], "quantized_matmul_backward: dx must have the rows of dy, %lld, but has %lld",
               static_cast<long long>(dy.shape[0]), static_cast<long long>(dx.shape[0]));
  const QuantizedShape shape = check_weight("quantized_matmul_backward", codes, scales, zeros, dy.shape[1], dx.shape[1], kind);
  if (dx.size == 0) return;
  multiply_quantized(dx, dy, codes, scales, zeros, nullptr, kind, shape, false, half);
}

}  // namespace anneal::cpu::ANNEAL_ISA
