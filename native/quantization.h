// The formats of quantised weights: code books, and how codes are packed. A weight is flattened row by
// row into blocks of `block` numbers, each with a scale of its own; the code of a number stands for value(code) * scale. Codes of four bits lie two in
// a byte, the earlier number in the HIGH nibble, as bitsandbytes packs them. Internal linkage only.
#pragma once
#include "dynamic_maps.h"
#include "operations.h"
#include "tensor.h"

namespace anneal {
namespace {

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

// A weight [rows, columns] whose blocks lie within its rows, as the products take it.
struct QuantizedShape {
  int64_t rows, columns, block;
};
[[maybe_unused]] static QuantizedShape weight_shape(int64_t rows, int64_t columns, In scales) { return {rows, columns, columns / scales.shape[1]}; }

}  // namespace
}  // namespace anneal
