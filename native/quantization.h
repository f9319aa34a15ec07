// The formats of quantised weights: code books, how codes are packed, and the checks of the launchers of every backend. A weight is flattened row by
// row into blocks of `block` numbers, each with a scale of its own; the code of a number stands for value(code) * scale. Codes of four bits lie two in
// a byte, the earlier number in the HIGH nibble, as bitsandbytes packs them. Internal linkage only.
#pragma once
#include "dynamic_maps.h"
#include "operations.h"
#include "shape.h"

namespace anneal {
namespace {

constexpr int quantized_format_count = 6;

// NF4 (Dettmers et al., "QLoRA", 2023) and FP4, whose code is a sign and three bits, in units of the largest of the block.
constexpr float nf4_map[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                               -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                               0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                               0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
constexpr float fp4_map[16] = {0.0f, 0.0625f / 12, 8.0f / 12, 1.0f, 4.0f / 12, 6.0f / 12, 2.0f / 12, 3.0f / 12,
                               -0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};
// int4 stores 8 more than its value, so that the codes are those of GPTQ with its zero point of 8.
constexpr float int4_map[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
// With zero points the value is code - zero; zero points are in the codes' own notation, which is two's complement for int8.
constexpr float int4_code_map[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// bitsandbytes' decision thresholds for |x| in FP4, and the three bits of each interval.
constexpr float fp4_limits[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f, 0.4166667f, 0.583333f, 0.8333333f};
constexpr int fp4_codes[8] = {0, 1, 6, 7, 4, 5, 2, 3};

// The middle between a code and the next one of an ascending code book: numbers above it go up.
constexpr float middle(const float* map, int code) { return (map[code] + map[code + 1]) / 2; }

[[maybe_unused]] static bool is_four_bit(QuantizedFormat format) {
  return format == QuantizedFormat::nf4 || format == QuantizedFormat::fp4 || format == QuantizedFormat::int4;
}
// The values of the sixteen codes of a four-bit format.
[[maybe_unused]] static const float* four_bit_map(QuantizedFormat format, bool with_zeros) {
  if (format == QuantizedFormat::nf4) return nf4_map;
  if (format == QuantizedFormat::fp4) return fp4_map;
  return with_zeros ? int4_code_map : int4_map;
}

// The least and the largest code beside a zero point.
struct CodeRange {
  int least, largest;
};
constexpr CodeRange range_of(QuantizedFormat format) { return format == QuantizedFormat::int8 ? CodeRange{-128, 127} : CodeRange{0, 15}; }
constexpr int zero_point(QuantizedFormat format, uint8_t byte) { return format == QuantizedFormat::int8 ? static_cast<int8_t>(byte) : byte; }

[[maybe_unused]] static QuantizedFormat check_format(const char* kernel, int64_t format) {
  ANNEAL_CHECK(format >= 0 && format < quantized_format_count, "%s: unknown format %lld", kernel,
               static_cast<long long>(format));
  return static_cast<QuantizedFormat>(format);
}

// Codes, scales and zero points of `size` numbers.
[[maybe_unused]] static void check_codes(const char* kernel, In codes, In scales, MaybeIn zeros, int64_t size,
                                         QuantizedFormat format, int64_t block) {
  const bool packed = is_four_bit(format);
  ANNEAL_CHECK(block > 0 && (!packed || block % 2 == 0), "%s: block must be positive%s, but is %lld", kernel,
               packed ? " and even for codes of four bits" : "", static_cast<long long>(block));
  const int64_t bytes = packed ? (size + 1) / 2 : size, blocks = (size + block - 1) / block;
  check_dtype(kernel, "codes", codes, DType::u8);
  ANNEAL_CHECK(codes.size == bytes, "%s: codes must have %lld bytes for %lld numbers, but has shape %s", kernel,
               static_cast<long long>(bytes), static_cast<long long>(size), ShapeText(codes).text);
  check_dtype(kernel, "scales", scales, DType::f32);
  ANNEAL_CHECK(scales.size == blocks, "%s: scales must have %lld numbers, one for each %lld of %lld, but has shape %s", kernel,
               static_cast<long long>(blocks), static_cast<long long>(block), static_cast<long long>(size),
               ShapeText(scales).text);
  if (!zeros) return;
  ANNEAL_CHECK(format == QuantizedFormat::int4 || format == QuantizedFormat::int8, "%s: zeros are for int4 and int8 only", kernel);
  check_dtype(kernel, "zeros", *zeros, DType::u8);
  ANNEAL_CHECK(zeros->size == blocks, "%s: zeros must have %lld numbers, one per scale, but has shape %s", kernel,
               static_cast<long long>(blocks), ShapeText(*zeros).text);
}

// A weight [rows, columns] whose blocks lie within its rows, as the products take it.
struct QuantizedShape {
  int64_t rows, columns, block;
};
[[maybe_unused]] static QuantizedShape check_weight(const char* kernel, In codes, In scales, MaybeIn zeros, int64_t rows,
                                                    int64_t columns, QuantizedFormat format) {
  ANNEAL_CHECK(format <= QuantizedFormat::int4, "%s: format must be nf4, fp4, int8 or int4, a weight's, but is %lld", kernel,
               static_cast<long long>(format));
  ANNEAL_CHECK(!is_four_bit(format) || columns % 2 == 0, "%s: a weight of four bits must have an even number of columns, but has %lld",
               kernel, static_cast<long long>(columns));
  const int64_t width = is_four_bit(format) ? columns / 2 : columns;
  check_dtype(kernel, "codes", codes, DType::u8);
  ANNEAL_CHECK(codes.rank == 2 && codes.shape[0] == rows && codes.shape[1] == width,
               "%s: codes must have shape [%lld, %lld], but has %s", kernel, static_cast<long long>(rows),
               static_cast<long long>(width), ShapeText(codes).text);
  ANNEAL_CHECK(scales.rank == 2 && scales.shape[0] == rows && scales.shape[1] > 0 && columns % scales.shape[1] == 0,
               "%s: scales must have shape [%lld, blocks], the blocks dividing the %lld columns of the weight, but has %s",
               kernel, static_cast<long long>(rows), static_cast<long long>(columns), ShapeText(scales).text);
  const int64_t block = columns / scales.shape[1];
  if (columns > 0) check_codes(kernel, codes, scales, zeros, rows * columns, format, block);
  return {rows, columns, block};
}

}  // namespace
}  // namespace anneal
