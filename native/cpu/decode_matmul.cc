// Products of new tokens' rows with weights that are not f32: x in the order of the kernels, and the choice of kernel. (With f32 weights decoding
// multiplies as training does, by gemm.)
#include "decode_bf16.h"
#include "decode_quantized.h"
#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int activation_slot = 0;

Output output_of(const Tensor& y, const Tensor* bias, Activation activation) {
  return {y.data, nullptr, bias ? bias->data : nullptr, y.dtype, DType::f32, bias ? bias->dtype : DType::f32, y.shape[1], activation, false};
}

// f with x as the storage type it has.
template <class F> void with_rows(const Tensor& x, F&& f) {
  if (x.dtype == DType::f32) f(x.as<const float>());
  else f(x.as<const bf16>());
}

// Where a row of x has pieces: those of each block of the weight, the last one possibly shorter.
struct Pieces {
  int64_t rows, k, block;
  int64_t per_block() const { return ceil_divide(block, decode_piece); }
  int64_t of_row() const { return k / block * per_block(); }
};

template <Codes codes, class T> void round_rows(const T* x, const Pieces& p, const Rounded& how, int16_t* numbers, float* scales, int32_t* sums) {
  const int64_t blocks = p.k / p.block;
  parallel_for(p.rows * blocks, ceil_divide(16384, p.block), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t i = 0; i < p.per_block(); ++i) {
        const int64_t piece = b * p.per_block() + i, at = i * decode_piece;
        round_piece<codes>(x + b * p.block + at, smaller(decode_piece, p.block - at), how, numbers + piece * decode_piece, scales + piece,
                    sums ? sums + piece * 8 : nullptr);
      }
  });
}

template <Codes codes> Activations round_all(const Tensor& x, const Pieces& p, int unit, bool in_order) {
  const size_t pieces = static_cast<size_t>(p.rows * p.of_row());
  const bool wants_sums = have_zeros(codes) && !in_order;
  char* memory = static_cast<char*>(pool().scratch(activation_slot, pieces * (decode_piece * 2 + 4 + (wants_sums ? 32 : 0)) + 64));
  int16_t* numbers = reinterpret_cast<int16_t*>(memory);
  int32_t* sums = reinterpret_cast<int32_t*>(memory + pieces * decode_piece * 2);
  float* scales = reinterpret_cast<float*>(sums + (wants_sums ? pieces * 8 : 0));
  const Rounded how = {in_order, most_integer(unit), static_cast<float>(unit)};
  with_rows(x, [&](auto* data) { round_rows<codes>(data, p, how, numbers, scales, wants_sums ? sums : nullptr); });
  return {p.of_row(), numbers, scales, sums};
}

template <Codes codes>
void multiply(const Tensor& x, const QuantizedWeight& w, const IntegerMap* map, const Output& out) {
  const Pieces pieces = {x.shape[0], w.shape.columns, w.shape.block};
#if defined(__AVX2__)
  if (w.shape.block % decode_piece == 0) {
    const Activations rounded = round_all<codes>(x, pieces, map ? map->unit : 1, false);
    return decode_product(PieceKernel<codes>{w.shape.columns, w, rounded, PieceDecoder<codes>(map)}, x.shape[0], w.shape.rows, out);
  }
#endif
  const Activations rounded = round_all<codes>(x, pieces, map ? map->unit : 1, true);
  decode_product(PlainPieceKernel{w.shape.columns, w, rounded, map, codes}, x.shape[0], w.shape.rows, out);
}

}  // namespace

void decode_matmul(Out y, In x, In weight, MaybeIn bias, int64_t activation) {
  if (y.size == 0) return;
  const int64_t rows = x.shape[0], k = x.shape[1], stride = split_stride(k);
  float* split = static_cast<float*>(pool().scratch(activation_slot, static_cast<size_t>(rows * stride) * sizeof(float) + 64));
  with_rows(x, [&](auto* data) {
    parallel_for(rows, ceil_divide(16384, larger(1, k)), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) split_numbers(data + r * k, k, split + r * stride);
    });
  });
  decode_product(Bf16Kernel{k, weight.as<const bf16>(), split, stride}, rows, y.shape[1], output_of(y, bias, static_cast<Activation>(activation)));
}

void decode_quantized_matmul(Out y, In x, In codes, In scales, MaybeIn zeros, MaybeIn bias, int64_t format) {
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const QuantizedShape shape = weight_shape(y.shape[1], x.shape[1], scales);
  if (y.size == 0) return;
  const Output out = output_of(y, bias, Activation::none);
  const QuantizedWeight w = {codes.as<const uint8_t>(), scales.as<const float>(), zeros ? zeros->as<const uint8_t>() : nullptr,
                             shape.columns ? shape : QuantizedShape{shape.rows, 0, 1}};
  if (kind == QuantizedFormat::nf4) multiply<Codes::table>(x, w, &nf4_integers, out);
  else if (kind == QuantizedFormat::fp4) multiply<Codes::table>(x, w, &fp4_integers, out);
  else if (kind == QuantizedFormat::int4) multiply<Codes::nibbles>(x, w, &int4_integers, out);
  else if (zeros) multiply<Codes::bytes_with_zeros>(x, w, nullptr, out);
  else multiply<Codes::bytes>(x, w, nullptr, out);
}

}  // namespace anneal::cpu::ANNEAL_ISA
