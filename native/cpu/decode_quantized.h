// Dot products of rows of x as integers with a quantised weight's codes as integers: exact in 32 bits within a piece of 64 numbers, then one
// multiply-add in f32 with the scales. Internal linkage only.
#pragma once
#include "decode_activations.h"
#include "decode_rows.h"

namespace anneal::cpu {
namespace {

// The sixteen values of a format as integers: value = integer / unit. FP4's are exact, NF4's within 1.6e-5: of the units below 2^14 the one that fits best.
struct IntegerMap {
  int16_t value[16];
  int unit;
};
constexpr IntegerMap integers_of(const float* map, int unit) {
  IntegerMap result = {{}, unit};
  for (int i = 0; i < 16; ++i) {
    const float scaled = map[i] * static_cast<float>(unit);
    result.value[i] = static_cast<int16_t>(scaled < 0 ? scaled - 0.5f : scaled + 0.5f);
  }
  return result;
}
constexpr IntegerMap nf4_integers = integers_of(nf4_map, 15684), fp4_integers = integers_of(fp4_map, 192), int4_integers = integers_of(int4_code_map, 1);

// The largest |integer| of x beside integers of a weight up to 128 or unit: eight products of a piece meet in a lane of 32 bits.
constexpr int most_integer(int unit) {
  const int64_t most = INT32_MAX / 8 / (unit > 128 ? unit : 128);
  return most < INT16_MAX ? static_cast<int>(most) : INT16_MAX;
}

struct QuantizedWeight {
  const uint8_t* codes;
  const float* scales;
  const uint8_t* zeros;  // may be null; of int4: 8
  QuantizedShape shape;

  int zero(Codes codes, int64_t block) const {
    if (codes == Codes::nibbles) return zeros ? zeros[block] : 8;
    return codes == Codes::bytes_with_zeros ? static_cast<int8_t>(zeros[block]) : 0;
  }
};

#if defined(__AVX2__)
// Sixteen-bit values of the 64 codes of a piece, in the order of place_in_piece.
template <Codes codes> struct PieceDecoder;
template <> struct PieceDecoder<Codes::table> {
  static constexpr int64_t bytes = 32;
  __m256i low, high;
  explicit PieceDecoder(const IntegerMap* map) {
    uint8_t part[2][32];
    for (int i = 0; i < 32; ++i) {
      const uint16_t value = static_cast<uint16_t>(map->value[i % 16]);
      part[0][i] = static_cast<uint8_t>(value), part[1][i] = static_cast<uint8_t>(value >> 8);
    }
    low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part[0]));
    high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part[1]));
  }
  inline __attribute__((always_inline)) void decode(const uint8_t* at, __m256i (&w)[4]) const {
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), nibble = _mm256_set1_epi8(15);
    const __m256i half[2] = {_mm256_and_si256(_mm256_srli_epi16(packed, 4), nibble), _mm256_and_si256(packed, nibble)};
    ANNEAL_UNROLL
    for (int i = 0; i < 2; ++i) {
      const __m256i a = _mm256_shuffle_epi8(low, half[i]), b = _mm256_shuffle_epi8(high, half[i]);
      w[2 * i] = _mm256_unpacklo_epi8(a, b);
      w[2 * i + 1] = _mm256_unpackhi_epi8(a, b);
    }
  }
};
template <> struct PieceDecoder<Codes::nibbles> {
  static constexpr int64_t bytes = 32;
  explicit PieceDecoder(const IntegerMap*) {}
  inline __attribute__((always_inline)) void decode(const uint8_t* at, __m256i (&w)[4]) const {
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), nibble = _mm256_set1_epi16(15);
    w[0] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), nibble);
    w[1] = _mm256_and_si256(packed, nibble);
    w[2] = _mm256_srli_epi16(packed, 12);
    w[3] = _mm256_and_si256(_mm256_srli_epi16(packed, 8), nibble);
  }
};
template <> struct PieceDecoder<Codes::bytes> {
  static constexpr int64_t bytes = 64;
  explicit PieceDecoder(const IntegerMap*) {}
  inline __attribute__((always_inline)) void decode(const uint8_t* at, __m256i (&w)[4]) const {
    ANNEAL_UNROLL
    for (int i = 0; i < 2; ++i) {
      const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 32 * i));
      w[2 * i] = _mm256_srai_epi16(_mm256_slli_epi16(packed, 8), 8);
      w[2 * i + 1] = _mm256_srai_epi16(packed, 8);
    }
  }
};
template <> struct PieceDecoder<Codes::bytes_with_zeros> : PieceDecoder<Codes::bytes> {
  using PieceDecoder<Codes::bytes>::PieceDecoder;
};

// Blocks are multiples of a piece.
template <Codes codes> struct PieceKernel {
  using Decoder = PieceDecoder<codes>;
  // The registers that a table takes leave room for two.
  static constexpr int streams = lanes < 16 || codes == Codes::table ? 2 : 4, most_rows = 4, sum_lanes = 8;
  static constexpr int64_t step = decode_piece, step_bytes = Decoder::bytes, ahead = 2048;
  int64_t k;
  QuantizedWeight weight;
  Activations x;
  Decoder decoder;

  int64_t row_bytes() const { return k / decode_piece * Decoder::bytes; }
  const char* address(int64_t output, int64_t at) const {
    return reinterpret_cast<const char*>(weight.codes + output * row_bytes() + at / decode_piece * Decoder::bytes);
  }

  template <int streams, int rows> void tile(const DecodeTile& t) const {
    __m256 sums[streams][rows];
    auto each_sum = [&](auto&& f) __attribute__((always_inline)) {
      ANNEAL_UNROLL
      for (int s = 0; s < streams; ++s) {
        ANNEAL_UNROLL
        for (int r = 0; r < rows; ++r) f(sums[s][r], t.sums + s * t.sums_of_output + r * t.sums_of_row);
      }
    };
    each_sum([&](__m256& sum, const float* from) __attribute__((always_inline)) { sum = t.k0 ? _mm256_loadu_ps(from) : _mm256_setzero_ps(); });
    const int64_t pieces = x.pieces, per_block = weight.shape.block / decode_piece, end = t.k1 / decode_piece;
    const int64_t first = t.output * (pieces / per_block), blocks_apart = t.spacing * (pieces / per_block), bytes_apart = t.spacing * row_bytes();
    const uint8_t* bytes = weight.codes + t.output * row_bytes();
    const float* scales = weight.scales + first;
    const int16_t* numbers = x.numbers + t.row * pieces * decode_piece;
    const float* x_scales = x.scales + t.row * pieces;
    const int32_t* x_sums = x.sums + t.row * pieces * 8;
    const char* ahead = t.ahead;
    const Decoder own_decoder = decoder;
    __m256 scale[streams];
    __m256i zero[streams];
    auto add = [&](int64_t piece) __attribute__((always_inline)) {
      ANNEAL_UNROLL
      for (int s = 0; s < streams; ++s) {
        __builtin_prefetch(ahead + s * bytes_apart);
        __m256i w[4];
        own_decoder.decode(bytes + s * bytes_apart + piece * Decoder::bytes, w);
        ANNEAL_UNROLL
        for (int r = 0; r < rows; ++r) {
          const __m256i* own = reinterpret_cast<const __m256i*>(numbers + (r * pieces + piece) * decode_piece);
          auto product = [&](int i) __attribute__((always_inline)) { return _mm256_madd_epi16(w[i], _mm256_loadu_si256(own + i)); };
          __m256i total = _mm256_add_epi32(_mm256_add_epi32(product(0), product(1)), _mm256_add_epi32(product(2), product(3)));
          if constexpr (have_zeros(codes)) {
            const __m256i lane = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x_sums + (r * pieces + piece) * 8));
            total = _mm256_sub_epi32(total, _mm256_mullo_epi32(lane, zero[s]));
          }
          const __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(total), _mm256_broadcast_ss(x_scales + r * pieces + piece));
          sums[s][r] = _mm256_fmadd_ps(part, scale[s], sums[s][r]);
        }
      }
      ahead += t.ahead_step;
    };
    auto enter = [&](int64_t block) __attribute__((always_inline)) {
      ANNEAL_UNROLL
      for (int s = 0; s < streams; ++s) {
        scale[s] = _mm256_broadcast_ss(scales + s * blocks_apart + block);
        zero[s] = _mm256_set1_epi32(weight.zero(codes, first + s * blocks_apart + block));
      }
    };
    int64_t piece = t.k0 / decode_piece;
    if (per_block == 1) {
      for (; piece < end; ++piece) {
        enter(piece);
        add(piece);
      }
    } else {
      for (int64_t block = piece / per_block; piece < end; ++block) {
        enter(block);
        for (const int64_t block_end = smaller((block + 1) * per_block, end); piece < block_end; ++piece) add(piece);
      }
    }
    each_sum([&](const __m256& sum, float* to) __attribute__((always_inline)) { _mm256_storeu_ps(to, sum); });
  }
};
#endif

// Any block, and instruction sets without byte shuffles: each piece's codes become integers in memory.
struct PlainPieceKernel {
  static constexpr int streams = 1, most_rows = 1, sum_lanes = 1;
  static constexpr int64_t step = decode_piece, step_bytes = 0, ahead = 2048;
  int64_t k;
  QuantizedWeight weight;
  Activations x;
  const IntegerMap* map;  // null: signed bytes
  Codes codes;

  const char* address(int64_t, int64_t) const { return reinterpret_cast<const char*>(weight.codes); }

  template <int streams, int rows> void tile(const DecodeTile& t) const {
    static_assert(rows == 1);
    const int64_t block = weight.shape.block, blocks = k / block, per_block = ceil_divide(block, decode_piece);
    float sum = t.k0 ? *t.sums : 0;
    for (int64_t b = t.k0 / block; b < blocks && b * block < t.k1; ++b) {
      const int64_t own = t.output * blocks + b;
      const int zero = weight.zero(codes, own);
      for (int64_t p = 0; p < per_block; ++p) {
        const int64_t at = b * block + p * decode_piece, n = smaller(decode_piece, block - p * decode_piece), first = t.output * k + at;
        if (at < t.k0 || at >= t.k1) continue;
        int16_t value[decode_piece];
        if (map) {
          for (int64_t i = 0; i < n; ++i) value[i] = static_cast<int16_t>(map->value[(weight.codes[(first + i) / 2] >> (i % 2 ? 0 : 4)) & 15] - zero);
        } else {
          for (int64_t i = 0; i < n; ++i) value[i] = static_cast<int16_t>(static_cast<int8_t>(weight.codes[first + i]) - zero);
        }
        const int64_t piece = t.row * x.pieces + b * per_block + p;
        const int16_t* numbers = x.numbers + piece * decode_piece;
        int64_t total = 0;
        for (int64_t i = 0; i < n; ++i) total += int32_t{value[i]} * numbers[i];
        sum += static_cast<float>(total) * x.scales[piece] * weight.scales[own];
      }
    }
    *t.sums = sum;
  }
};

}  // namespace
}  // namespace anneal::cpu
