// A low-rank update added to a weight in place: the product of the matrix product, which adds in f32 and rounds once. A quantised weight goes through
// panels of rows in f32, so that the exact sum never exists whole.
#include "isa.h"
#include "quantize.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

enum Slot { scaled_slot = 6, panel_slot = 7 };
constexpr int64_t panel_numbers = int64_t{1} << 20;

Tensor matrix(void* data, int64_t rows, int64_t columns, DType dtype) {
  return {data, rows * columns, {rows, columns}, dtype, 2};
}

// b [out, rank] and a [rank, in] of a weight [out, in].
void check_factors(const char* kernel, const Tensor& b, const Tensor& a, int64_t out, int64_t in) {
  ANNEAL_CHECK(is_float(b.dtype) && is_float(a.dtype), "%s: b and a must be f32 or bf16, but are %s and %s", kernel,
               name_of(b.dtype), name_of(a.dtype));
  ANNEAL_CHECK(b.rank == 2 && b.shape[0] == out, "%s: b must have shape [%lld, rank], but has %s", kernel,
               static_cast<long long>(out), ShapeText(b).text);
  ANNEAL_CHECK(a.rank == 2 && a.shape[1] == in && a.shape[0] == b.shape[1], "%s: a must have shape [%lld, %lld], but has %s",
               kernel, static_cast<long long>(b.shape[1]), static_cast<long long>(in), ShapeText(a).text);
}

// scale * b in f32.
Tensor scaled(const Tensor& b, double scale_by) {
  Tensor product = matrix(pool().scratch(scaled_slot, static_cast<size_t>(b.size + lanes) * 4), b.shape[0], b.shape[1], DType::f32);
  const float factor = static_cast<float>(scale_by);
  auto run = [&](auto* from) {
    each_vector(b.size, [&](int64_t i, auto span) { store(product.as<float>() + i, load(from + i, span) * factor, span); });
  };
  if (b.dtype == DType::f32) run(b.as<const float>());
  else run(b.as<const bf16>());
  return product;
}

// Sums of squares: of what rounding changed, and of the exact numbers.
struct Energy {
  double error, exact;
};

// Rounds one row again; false where it is not finite.
bool requantize_row(const float* row, const QuantizedShape& shape, QuantizedFormat format, uint8_t* codes, float* scales,
                    uint8_t* zeros, Energy& energy) {
  energy = {0, 0};
  bool finite = true;
  for (int64_t from = 0; from < shape.columns; from += shape.block) {
    const int64_t index = from / shape.block;
    uint8_t* own = codes + (is_four_bit(format) ? from / 2 : from);
    if (!quantize_block(row + from, shape.block, format, own, scales + index, zeros ? zeros + index : nullptr)) {
      finite = false;
      continue;
    }
    for (int64_t at = 0; at < shape.block; at += piece) {
      float rounded[piece];
      const int64_t n = smallest(piece, shape.block - at);
      dequantize_block(rounded, n, own + (is_four_bit(format) ? at / 2 : at), scales[index], zeros ? zeros[index] : 0,
                       format, zeros != nullptr);
      vf error = {}, exact = {};
      each_vector(n, [&](int64_t i, auto span) {
        const vf x = load(row + from + at + i, span), difference = load(rounded + i, span) - x;
        error += difference * difference;
        exact += x * x;
      });
      energy.error += static_cast<double>(sum(error));
      energy.exact += static_cast<double>(sum(exact));
    }
  }
  return finite;
}

}  // namespace

void lora_merge(InOut weight, In b, In a, double scale, bool transposed) {
  ANNEAL_CHECK(is_float(weight.dtype), "lora_merge: weight must be f32 or bf16, but is %s", name_of(weight.dtype));
  ANNEAL_CHECK(weight.rank == 2, "lora_merge: weight must have two axes, but has shape %s", ShapeText(weight).text);
  check_factors("lora_merge", b, a, weight.shape[transposed ? 1 : 0], weight.shape[transposed ? 0 : 1]);
  if (b.shape[1] == 0) return;
  const Tensor left = scaled(b, scale);
  if (transposed) gemm(weight, nullptr, a, left, nullptr, true, true, true, 0, false);
  else gemm(weight, nullptr, left, a, nullptr, false, false, true, 0, false);
}

void lora_merge_quantized(InOut codes, InOut scales, MaybeInOut zeros, Out error, In b, In a, double scale, int64_t format) {
  const QuantizedFormat kind = check_format("lora_merge_quantized", format);
  ANNEAL_CHECK(b.rank == 2 && a.rank == 2, "lora_merge_quantized: b and a must have two axes, but have shapes %s and %s",
               ShapeText(b).text, ShapeText(a).text);
  const QuantizedShape shape = check_weight("lora_merge_quantized", codes, scales, zeros, b.shape[0], a.shape[1], kind);
  check_factors("lora_merge_quantized", b, a, shape.rows, shape.columns);
  check_dtype("lora_merge_quantized", "error", error, DType::f64);
  ANNEAL_CHECK(error.size == 2, "lora_merge_quantized: error must have two elements, but has shape %s", ShapeText(error).text);
  const Tensor left = scaled(b, scale);
  const int64_t rows_each = shape.columns > 0 ? smallest(shape.rows, panel_numbers / shape.columns + 1) : shape.rows,
                code_bytes = is_four_bit(kind) ? shape.columns / 2 : shape.columns, blocks = scales.shape[1];
  const size_t panel_bytes = (static_cast<size_t>(rows_each * shape.columns) * 4 + 63) / 64 * 64;
  char* memory = static_cast<char*>(pool().scratch(panel_slot, panel_bytes + static_cast<size_t>(rows_each) * sizeof(Energy) + 64));
  float* panel = reinterpret_cast<float*>(memory);
  Energy *energies = reinterpret_cast<Energy*>(memory + panel_bytes), total = {0, 0};
  bool finite = true;
  for (int64_t first = 0; first < shape.rows; first += rows_each) {
    const int64_t rows = smallest(rows_each, shape.rows - first);
    uint8_t* own_codes = codes.as<uint8_t>() + first * code_bytes;
    float* own_scales = scales.as<float>() + first * blocks;
    uint8_t* own_zeros = zeros ? zeros->as<uint8_t>() + first * blocks : nullptr;
    parallel_for(rows, 8192 / (shape.columns + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * blocks; i < end * blocks; ++i)
        dequantize_block(panel + i * shape.block, shape.block,
                         own_codes + (is_four_bit(kind) ? i * shape.block / 2 : i * shape.block), own_scales[i],
                         own_zeros ? own_zeros[i] : 0, kind, own_zeros != nullptr);
    });
    Tensor sums = matrix(panel, rows, shape.columns, DType::f32);
    if (b.shape[1] > 0)
      gemm(sums, nullptr, matrix(left.as<float>() + first * b.shape[1], rows, b.shape[1], DType::f32), a, nullptr, false, false, true, 0, false);
    parallel_for(rows, 8192 / (shape.columns + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        if (!requantize_row(panel + r * shape.columns, shape, kind, own_codes + r * code_bytes, own_scales + r * blocks,
                            own_zeros ? own_zeros + r * blocks : nullptr, energies[r]))
          __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
    });
    for (int64_t r = 0; r < rows; ++r) total = {total.error + energies[r].error, total.exact + energies[r].exact};
  }
  ANNEAL_CHECK(finite, "lora_merge_quantized: the merged weight has numbers that are not finite; the blocks that hold them are unchanged");
  error.as<double>()[0] = total.error;
  error.as<double>()[1] = total.exact;
}

}  // namespace anneal::cpu::ANNEAL_ISA
