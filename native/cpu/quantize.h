// One block of numbers to codes and back. Pieces of up to 64 numbers are kept in f32 between the steps. Internal linkage only.
#pragma once
#include "../quantization.h"
#include "simd.h"

namespace anneal::cpu {
namespace {

constexpr int64_t piece = 64;

ANNEAL_INLINE int64_t smallest(int64_t a, int64_t b) { return a < b ? a : b; }

// Rounds to the nearest integer, to even on a tie. By the conversion instruction: adding and subtracting a large number would be fused with the product
// before it, and give other codes than on machines without fused multiply-add.
ANNEAL_INLINE vi round_to_integer(vf v) {
#if defined(__AVX512F__)
  return (vi)_mm512_maskz_cvtps_epi32(0xffff, (__m512)v);
#elif defined(__AVX2__)
  return (vi)_mm256_cvtps_epi32((__m256)v);
#elif defined(__x86_64__)
  return (vi)_mm_cvtps_epi32((__m128)v);
#elif defined(__aarch64__)
  return (vi)vcvtnq_s32_f32((float32x4_t)v);
#else
  vi n;
  for (int i = 0; i < lanes; ++i) n[i] = static_cast<int32_t>(__builtin_rintf(v[i]));
  return n;
#endif
}
ANNEAL_INLINE vi clamp(vi v, int low, int high) {
  v = v < low ? low - (vi){} : v;
  return v > high ? high - (vi){} : v;
}

// The number of middles strictly below v: the code in an ascending code book of sixteen.
ANNEAL_INLINE vi nf4_code(vf v) {
  vi count = {};
  ANNEAL_UNROLL
  for (int i = 0; i < 15; ++i) count -= (vi)(v > splat(middle(nf4_map, i)));
  return count;
}
ANNEAL_INLINE vi fp4_code(vf v) {
  // The codes of the intervals 0 … 7 are 0, 1, 6, 7, 4, 5, 2, 3: each step is added where the limit is passed.
  vi code = {};
  const vf size = abs(v);
  ANNEAL_UNROLL
  for (int i = 0; i < 7; ++i) code += (vi)(size > splat(fp4_limits[i])) & (fp4_codes[i + 1] - fp4_codes[i]);
  return code | ((vi)(v < splat(0)) & 8);
}
// The code of v in an ascending code book of 256, by bisection.
ANNEAL_INLINE int map_code(const float* map, float v) {
  int code = 0;
  for (int step = 128; step > 0; step /= 2) code += v > middle(map, code + step - 1) ? step : 0;
  return code;
}

// How a block is rounded: codes of v = x * factor.
struct Rounding {
  float factor, scale;
  int zero;
};

// bits: those of the largest magnitude, which order as the numbers do.
ANNEAL_INLINE Rounding rounding_of(QuantizedFormat format, bool with_zeros, uint32_t bits, float low, float high) {
  const float largest = bits_to_float(bits);
  if (with_zeros) {
    const CodeRange range = range_of(format);
    const float steps = static_cast<float>(range.largest - range.least), scale = high / steps - low / steps, factor = scale > 0 ? 1 / scale : 0;
    const int zero = range.least + (scale > 0 ? static_cast<int>(__builtin_rintf(-low * factor)) : 0);
    return {factor, scale, zero < range.largest ? zero : range.largest};
  }
  if (bits == 0) return {0, 0, 0};
  if (format == QuantizedFormat::int8) return {127 / largest, largest / 127, 0};
  if (format == QuantizedFormat::int4) return {7 / largest, largest / 7, 0};
  return {1 / largest, largest, 0};
}

// Rounds n numbers; whether all are finite. Codes of four bits are packed, an odd last one with zero bits below.
template <class T>
static bool quantize_block(const T* x, int64_t n, QuantizedFormat format, uint8_t* codes, float* scale, uint8_t* zero) {
  vi top = {};
  vf low = {}, high = {};
  each_vector(n, [&](int64_t i, auto span) {
    const vf v = load(x + i, span);
    const vi size = (vi)v & 0x7fffffff;
    top = top > size ? top : size;
    low = min(low, v);
    high = max(high, v);
  });
  uint32_t bits = 0;
  float lowest = 0, highest = 0;
  for (int i = 0; i < lanes; ++i) {
    bits = static_cast<uint32_t>(top[i]) > bits ? static_cast<uint32_t>(top[i]) : bits;
    lowest = low[i] < lowest ? low[i] : lowest;
    highest = high[i] > highest ? high[i] : highest;
  }
  if (bits >= 0x7f800000u) return false;
  const Rounding rounding = rounding_of(format, zero != nullptr, bits, lowest, highest);
  *scale = rounding.scale;
  if (zero) *zero = static_cast<uint8_t>(rounding.zero);
  for (int64_t from = 0; from < n; from += piece) {
    const int64_t count = smallest(piece, n - from);
    int32_t code[piece] = {};
    auto each = [&](auto code_of) {
      each_vector(count, [&](int64_t i, auto span) {
        const vi codes_here = code_of(load(x + from + i, span) * rounding.factor);
        memcpy(code + i, &codes_here, vector_bytes);
      });
    };
    if (format == QuantizedFormat::nf4) each([](vf v) { return nf4_code(v); });
    else if (format == QuantizedFormat::fp4) each([](vf v) { return fp4_code(v); });
    else if (zero || format == QuantizedFormat::int4) {
      const CodeRange range = range_of(format);
      const int middle = zero ? rounding.zero : 8;
      each([&](vf v) { return clamp(round_to_integer(v) + middle, range.least, range.largest); });
    } else if (format == QuantizedFormat::int8) {
      each([](vf v) { return clamp(round_to_integer(v), -127, 127); });
    } else {
      const float* map = format == QuantizedFormat::dynamic ? dynamic_map : dynamic_unsigned_map;
      for (int64_t i = 0; i < count; ++i)
        code[i] = map_code(map, rounding.scale > 0 ? to_float(x[from + i]) / rounding.scale : 0);
    }
    if (is_four_bit(format)) {
      if (count < piece) for (int64_t i = count; i < smallest(piece, count + lanes); ++i) code[i] = 0;
      for (int64_t i = 0; i < (count + 1) / 2; ++i)
        codes[from / 2 + i] = static_cast<uint8_t>(code[2 * i] << 4 | code[2 * i + 1]);
    } else {
      for (int64_t i = 0; i < count; ++i) codes[from + i] = static_cast<uint8_t>(code[i]);
    }
  }
  return true;
}

// The values of n packed codes, in order.
static void four_bit_values(float* value, const uint8_t* codes, int64_t n, const float* map) {
  int64_t i = 0;
#if defined(__AVX2__)
  // Byte p of each value, looked up for sixteen codes at once.
  __m128i byte[4];
  for (int p = 0; p < 4; ++p) {
    uint8_t part[16];
    for (int j = 0; j < 16; ++j) part[j] = static_cast<uint8_t>(float_to_bits(map[j]) >> (8 * p));
    byte[p] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(part));
  }
  for (; i + 16 <= n; i += 16) {
    const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i / 2));
    const __m128i code = _mm_and_si128(_mm_unpacklo_epi8(_mm_srli_epi16(packed, 4), packed), _mm_set1_epi8(15));
    const __m128i b0 = _mm_shuffle_epi8(byte[0], code), b1 = _mm_shuffle_epi8(byte[1], code);
    const __m128i b2 = _mm_shuffle_epi8(byte[2], code), b3 = _mm_shuffle_epi8(byte[3], code);
    const __m128i low[2] = {_mm_unpacklo_epi8(b0, b1), _mm_unpackhi_epi8(b0, b1)}, high[2] = {_mm_unpacklo_epi8(b2, b3), _mm_unpackhi_epi8(b2, b3)};
    for (int h = 0; h < 2; ++h) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(value + i + 8 * h), _mm_unpacklo_epi16(low[h], high[h]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(value + i + 8 * h + 4), _mm_unpackhi_epi16(low[h], high[h]));
    }
  }
#endif
  for (; i < n; ++i) value[i] = map[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4];
}

// y = value(code) * scale of n numbers.
template <class T>
static void dequantize_block(T* y, int64_t n, const uint8_t* codes, float scale, int zero, QuantizedFormat format,
                             bool with_zeros) {
  float value[piece];
  for (int64_t from = 0; from < n; from += piece) {
    const int64_t count = smallest(piece, n - from);
    if (is_four_bit(format)) {
      four_bit_values(value, codes + from / 2, count, four_bit_map(format, with_zeros));
    } else if (format == QuantizedFormat::int8) {
      for (int64_t i = 0; i < count; ++i) value[i] = static_cast<float>(static_cast<int8_t>(codes[from + i]));
    } else {
      const float* map = format == QuantizedFormat::dynamic ? dynamic_map : dynamic_unsigned_map;
      for (int64_t i = 0; i < count; ++i) value[i] = map[codes[from + i]];
    }
    const float shift = static_cast<float>(zero);
    each_vector(count, [&](int64_t i, auto span) { store(y + from + i, (load(value + i, span) - shift) * scale, span); });
  }
}

}  // namespace
}  // namespace anneal::cpu
