// What kernels demand of quantised numbers: their format, codes, scales and zero points. Internal linkage only.
#pragma once
#include "../quantization.h"
#include "shape.h"

namespace anneal::checks {
namespace {

constexpr int quantized_format_count = 6;

[[maybe_unused]] QuantizedFormat check_format(const char* kernel, int64_t format) {
  ANNEAL_CHECK(format >= 0 && format < quantized_format_count, "%s: unknown format %lld", kernel,
               static_cast<long long>(format));
  return static_cast<QuantizedFormat>(format);
}

// Codes, scales and zero points of `size` numbers.
[[maybe_unused]] void check_codes(const char* kernel, In codes, In scales, MaybeIn zeros, int64_t size,
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
[[maybe_unused]] void check_weight(const char* kernel, In codes, In scales, MaybeIn zeros, int64_t rows, int64_t columns,
                                   QuantizedFormat format) {
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
  if (columns > 0) check_codes(kernel, codes, scales, zeros, rows * columns, format, columns / scales.shape[1]);
}

}  // namespace
}  // namespace anneal::checks
