// Products with a quantised weight: the matrix product, whose right operand is decoded where its panels are packed. A block that the decoder's steps do not divide is decoded into memory first.
#include "isa.h"
#include "quantized_panels.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int weight_slot = 7;

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
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const QuantizedShape shape = weight_shape(y.shape[1], x.shape[1], scales);
  if (y.size == 0) return;
  const int64_t step = bytes_per_step * (is_four_bit(kind) ? 2 : 1);
  if (shape.columns == 0 || shape.block % step != 0)
    return gemm(y, nullptr, x, widened(codes, scales, zeros, kind, shape), bias, false, true, false, 0, half);
  multiply_quantized(y, x, codes, scales, zeros, bias, kind, shape, true, half);
}

void quantized_matmul_backward(Out dx, In dy, In codes, In scales, MaybeIn zeros, int64_t format, bool half) {
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const QuantizedShape shape = weight_shape(dy.shape[1], dx.shape[1], scales);
  if (dx.size == 0) return;
  multiply_quantized(dx, dy, codes, scales, zeros, nullptr, kind, shape, false, half);
}

}  // namespace anneal::cpu::ANNEAL_ISA
