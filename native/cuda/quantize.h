// A block of numbers to codes by one warp. Internal to quantize.cu and lora_merge.cu.
#pragma once
#include "../quantization.h"
#include "fault.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int quantize_threads = 256;

// What a code book needs: of four bits the limits between codes (nf4: fifteen of x; fp4: seven of |x|), of eight bits all values.
struct QuantizeBook {
  float limit[16];
  float value[256];
};

// How a block is rounded: codes of x * factor.
struct BlockRounding {
  float factor, scale;
  int zero;
  bool finite;
};

struct Least {
  template <class T> ANNEAL_DEVICE static T of(T a, T b) { return a < b ? a : b; }
};

// All lanes of the warp take part; x is n numbers, read by each lane 32 apart.
template <QuantizedFormat format, class T> ANNEAL_DEVICE BlockRounding rounding_of(const T* x, int64_t n, bool with_zeros, int lane) {
  uint32_t top = 0;
  float low = 0, high = 0;
  for (int64_t i = lane; i < n; i += 32) {
    const float v = to_float(x[i]);
    const uint32_t size = __float_as_uint(v) & 0x7fffffffu;
    top = top > size ? top : size;
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, top, distance);
    top = top > other ? top : other;
  }
  if (top >= 0x7f800000u) return {0, 0, 0, false};
  const float largest = __uint_as_float(top);
  if constexpr (format == QuantizedFormat::int4 || format == QuantizedFormat::int8) {
    if (with_zeros) {
      constexpr CodeRange range = range_of(format);
      constexpr float steps = static_cast<float>(range.largest - range.least);
      low = warp_reduce<Least>(low);
      high = warp_reduce<Max>(high);
      const float scale = high / steps - low / steps, factor = scale > 0 ? 1 / scale : 0;
      const int zero = range.least + (scale > 0 ? __float2int_rn(-low * factor) : 0);
      return {factor, scale, zero < range.largest ? zero : range.largest, true};
    }
  }
  if (top == 0) return {0, 0, 0, true};
  if constexpr (format == QuantizedFormat::int8) return {127 / largest, largest / 127, 0, true};
  if constexpr (format == QuantizedFormat::int4) return {7 / largest, largest / 7, 0, true};
  return {1 / largest, largest, 0, true};
}

// map: the 256 values of the dynamic formats in shared memory.
template <QuantizedFormat format> ANNEAL_DEVICE int code_of(float x, const BlockRounding& rounding, bool with_zeros, const QuantizeBook& book, const float* map) {
  const float v = x * rounding.factor;
  if constexpr (format == QuantizedFormat::nf4) {
    int code = 0;
#pragma unroll
    for (int i = 0; i < 15; ++i) code += v > book.limit[i];
    return code;
  } else if constexpr (format == QuantizedFormat::fp4) {
    int interval = 0;
#pragma unroll
    for (int i = 0; i < 7; ++i) interval += fabsf(v) > book.limit[i];
    return (0x32547610 >> (4 * interval) & 7) | (v < 0 ? 8 : 0);
  } else if constexpr (format == QuantizedFormat::int8) {
    return (with_zeros ? min(max(__float2int_rn(v) + rounding.zero, -128), 127) : min(max(__float2int_rn(v), -127), 127)) & 255;
  } else if constexpr (format == QuantizedFormat::int4) {
    return min(max(__float2int_rn(v) + (with_zeros ? rounding.zero : 8), 0), 15);
  } else {
    const float share = rounding.scale > 0 ? x / rounding.scale : 0;
    int code = 0;
#pragma unroll
    for (int step = 128; step > 0; step /= 2) code += share > (map[code + step - 1] + map[code + step]) / 2 ? step : 0;
    return code;
  }
}

constexpr bool is_packed(QuantizedFormat format) { return format == QuantizedFormat::nf4 || format == QuantizedFormat::fp4 || format == QuantizedFormat::int4; }

// each(i, code): called with every number of the block and its code, by some lane.
template <QuantizedFormat format, class T, class F>
ANNEAL_DEVICE void write_codes(uint8_t* codes, const T* x, int64_t n, const BlockRounding& rounding, bool with_zeros, const QuantizeBook& book, const float* map, int lane, F&& each) {
  if constexpr (is_packed(format)) {
    for (int64_t i = 2 * lane; i < n; i += 64) {
      const int first = code_of<format>(to_float(x[i]), rounding, with_zeros, book, map);
      each(i, first);
      int second = 0;
      if (i + 1 < n) {
        second = code_of<format>(to_float(x[i + 1]), rounding, with_zeros, book, map);
        each(i + 1, second);
      }
      codes[i / 2] = static_cast<uint8_t>(first << 4 | second);
    }
  } else {
    for (int64_t i = lane; i < n; i += 32) {
      const int code = code_of<format>(to_float(x[i]), rounding, with_zeros, book, map);
      each(i, code);
      codes[i] = static_cast<uint8_t>(code);
    }
  }
}

inline QuantizeBook quantize_book(QuantizedFormat format, bool with_zeros) {
  QuantizeBook book{};
  if (format == QuantizedFormat::nf4)
    for (int i = 0; i < 15; ++i) book.limit[i] = middle(nf4_map, i);
  if (format == QuantizedFormat::fp4)
    for (int i = 0; i < 7; ++i) book.limit[i] = fp4_limits[i];
  for (int i = 0; i < 256; ++i) {
    if (is_four_bit(format)) book.value[i] = four_bit_map(format, with_zeros)[i % 16];
    else if (format == QuantizedFormat::int8) book.value[i] = static_cast<float>(static_cast<int8_t>(i));
    else book.value[i] = (format == QuantizedFormat::dynamic ? dynamic_map : dynamic_unsigned_map)[i];
  }
  return book;
}

// Calls body with the format as a type: std::integral_constant's like, usable as a template argument.
template <QuantizedFormat format> struct FormatOf { static constexpr QuantizedFormat value = format; };
template <class F> void dispatch_format(QuantizedFormat format, F&& body) {
  switch (format) {
    case QuantizedFormat::nf4: return body(FormatOf<QuantizedFormat::nf4>());
    case QuantizedFormat::fp4: return body(FormatOf<QuantizedFormat::fp4>());
    case QuantizedFormat::int8: return body(FormatOf<QuantizedFormat::int8>());
    case QuantizedFormat::int4: return body(FormatOf<QuantizedFormat::int4>());
    case QuantizedFormat::dynamic:
    case QuantizedFormat::dynamic_unsigned: return body(FormatOf<QuantizedFormat::dynamic>());
  }
}

}  // namespace anneal::cuda
