// Codes of a quantised weight to f32 in registers, for a panel of panel_columns rows of W at a time: sixteen bytes of each row are transposed as bytes and
// looked up afterwards, so that a vector holds one k of neighbouring rows, as the micro-kernel wants it. Internal linkage only.
#pragma once
#include "gemm_pack.h"
#include "quantize.h"

namespace anneal::cpu {
namespace {

constexpr int bytes_per_step = 16;  // of each row
constexpr int64_t line_bytes = 64;    // of each row lie side by side, line_bytes apart

// Four bits by a table of f32 or of values that are exact in bf16, which is faster; or signed bytes.
enum class Decoding { wide, narrow, bytes };

// The values of the sixteen codes, as the instruction set looks them up. narrow: they are exact in bf16.
template <bool narrow> struct CodeTable {
#if defined(__AVX512F__)
  __m512 value;
  explicit CodeTable(const float* map) : value(_mm512_loadu_ps(map)) {}
  inline __attribute__((always_inline)) vf at(__m512i codes) const { return (vf)_mm512_maskz_permutexvar_ps(0xffff, codes, value); }
#elif defined(__AVX2__)
  // Byte p of each value: a byte shuffle looks up 32 codes at once, and interleaving puts the numbers together.
  __m256i byte[4];
  explicit CodeTable(const float* map) {
    for (int p = 0; p < 4; ++p) {
      uint8_t part[32];
      for (int i = 0; i < 32; ++i) part[i] = static_cast<uint8_t>(float_to_bits(map[i % 16]) >> (8 * p));
      byte[p] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part));
    }
  }
#else
  float value[16];
  explicit CodeTable(const float* map) { memcpy(value, map, sizeof value); }
#endif
};

#if defined(__AVX2__)
// Sixteen bytes of two rows.
ANNEAL_INLINE __m256i two_rows(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low))),
                                 _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
}
#endif

#if defined(__AVX512F__)
// Sixteen bytes of 32 rows become column[j]: byte j of all rows, in order.
ANNEAL_INLINE void transpose_bytes(const uint8_t* line, __m256i (&column)[16]) {
  __m256i a[16], b[16];
  ANNEAL_UNROLL
  for (int i = 0; i < 16; ++i) a[i] = two_rows(line + i * line_bytes, line + (i + 16) * line_bytes);
  // Each pass interleaves rows i and i + 8, so that after four the sixteen rows of a byte lie together.
  auto pass = [](const __m256i* from, __m256i* to) __attribute__((always_inline)) {
    ANNEAL_UNROLL
    for (int i = 0; i < 8; ++i) {
      to[2 * i] = _mm256_unpacklo_epi8(from[i], from[i + 8]);
      to[2 * i + 1] = _mm256_unpackhi_epi8(from[i], from[i + 8]);
    }
  };
  pass(a, b);
  pass(b, a);
  pass(a, b);
  pass(b, column);
}
#elif defined(__AVX2__)
// Sixteen bytes of sixteen rows, eight of `low` and eight of `high`: column[j] holds byte 2j of the eight rows, then byte 2j + 1, in each half.
ANNEAL_INLINE void transpose_bytes(const uint8_t* line, const int (&low)[8], const int (&high)[8], __m256i (&column)[8]) {
  __m256i a[8], b[8];
  ANNEAL_UNROLL
  for (int i = 0; i < 8; ++i) a[i] = two_rows(line + low[i] * line_bytes, line + high[i] * line_bytes);
  auto pass = [](const __m256i* from, __m256i* to) __attribute__((always_inline)) {
    ANNEAL_UNROLL
    for (int i = 0; i < 4; ++i) {
      to[2 * i] = _mm256_unpacklo_epi8(from[i], from[i + 4]);
      to[2 * i + 1] = _mm256_unpackhi_epi8(from[i], from[i + 4]);
    }
  };
  pass(a, b);
  pass(b, a);
  pass(a, column);
}
// 32 codes of one nibble: of byte 2j in first, of byte 2j + 1 in second.
template <bool narrow> ANNEAL_INLINE void look_up(const CodeTable<narrow>& table, __m256i codes, vf (&first)[2], vf (&second)[2]) {
  __m256i low1 = _mm256_setzero_si256(), low2 = low1;
  if constexpr (!narrow) {
    const __m256i b0 = _mm256_shuffle_epi8(table.byte[0], codes), b1 = _mm256_shuffle_epi8(table.byte[1], codes);
    low1 = _mm256_unpacklo_epi8(b0, b1);
    low2 = _mm256_unpackhi_epi8(b0, b1);
  }
  const __m256i b2 = _mm256_shuffle_epi8(table.byte[2], codes), b3 = _mm256_shuffle_epi8(table.byte[3], codes);
  const __m256i high1 = _mm256_unpacklo_epi8(b2, b3), high2 = _mm256_unpackhi_epi8(b2, b3);
  first[0] = (vf)_mm256_unpacklo_epi16(low1, high1);
  first[1] = (vf)_mm256_unpackhi_epi16(low1, high1);
  second[0] = (vf)_mm256_unpacklo_epi16(low2, high2);
  second[1] = (vf)_mm256_unpackhi_epi16(low2, high2);
}
#endif

// step(i, even, odd) for i = 0 …: the unscaled values of numbers 2i and 2i + 1 of sixteen bytes of each row.
template <Decoding decoding, class F>
ANNEAL_INLINE void decode_bytes(const uint8_t* line, const CodeTable<decoding == Decoding::narrow>& table, F&& step) {
  constexpr bool four_bit = decoding != Decoding::bytes;
  [[maybe_unused]] constexpr int steps = four_bit ? 16 : 8;
  vf even[panel_vectors] = {}, odd[panel_vectors] = {};
#if defined(__AVX512F__)
  __m256i column[16];
  transpose_bytes(line, column);
  ANNEAL_UNROLL
  for (int i = 0; i < steps; ++i) {
    auto half = [&](int j, int v) __attribute__((always_inline)) {
      return v ? _mm256_extracti128_si256(column[j], 1) : _mm256_castsi256_si128(column[j]);
    };
    ANNEAL_UNROLL
    for (int v = 0; v < 2; ++v) {
      if constexpr (four_bit) {
        // The lookup takes the last four bits.
        const __m512i codes = _mm512_maskz_cvtepu8_epi32(0xffff, half(i, v));
        even[v] = table.at(_mm512_maskz_srli_epi32(0xffff, codes, 4));
        odd[v] = table.at(codes);
      } else {
        even[v] = (vf)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, half(2 * i, v)));
        odd[v] = (vf)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, half(2 * i + 1, v)));
      }
    }
    step(i, even, odd);
  }
#elif defined(__AVX2__)
  // Of four bits in an order that the last interleaving of look_up makes rows 0 … 7 and 8 … 15.
  constexpr int low[8] = {0, 1, 2, 3, four_bit ? 8 : 4, four_bit ? 9 : 5, four_bit ? 10 : 6, four_bit ? 11 : 7};
  constexpr int high[8] = {four_bit ? 4 : 8, four_bit ? 5 : 9, four_bit ? 6 : 10, four_bit ? 7 : 11, 12, 13, 14, 15};
  __m256i column[8];
  transpose_bytes(line, low, high, column);
  ANNEAL_UNROLL
  for (int j = 0; j < 8; ++j) {
    if constexpr (four_bit) {
      const __m256i nibble = _mm256_set1_epi8(15);
      vf next_even[2], next_odd[2];
      look_up(table, _mm256_and_si256(_mm256_srli_epi16(column[j], 4), nibble), even, next_even);
      look_up(table, _mm256_and_si256(column[j], nibble), odd, next_odd);
      step(2 * j, even, odd);
      step(2 * j + 1, next_even, next_odd);
    } else {
      ANNEAL_UNROLL
      for (int v = 0; v < panel_vectors; ++v) {
        const __m128i bytes = v ? _mm256_extracti128_si256(column[j], 1) : _mm256_castsi256_si128(column[j]);
        even[v] = (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
        odd[v] = (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)));
      }
      step(j, even, odd);
    }
  }
#else
  for (int j = 0; j < steps; ++j) {
    float numbers[2][panel_columns];
    for (int r = 0; r < panel_columns; ++r) {
      const uint8_t* bytes = line + r * line_bytes;
      if constexpr (four_bit) {
        numbers[0][r] = table.value[bytes[j] >> 4];
        numbers[1][r] = table.value[bytes[j] & 15];
      } else {
        numbers[0][r] = static_cast<float>(static_cast<int8_t>(bytes[2 * j]));
        numbers[1][r] = static_cast<float>(static_cast<int8_t>(bytes[2 * j + 1]));
      }
    }
    for (int v = 0; v < panel_vectors; ++v) even[v] = load(numbers[0] + v * lanes), odd[v] = load(numbers[1] + v * lanes);
    step(j, even, odd);
  }
#endif
}

}  // namespace
}  // namespace anneal::cpu
