// Rows of x as integers, for products with quantised weights: pieces of up to 64 numbers, each with a scale of its own, in the order in which a weight's
// codes leave the decoder. Internal linkage only.
#pragma once
#include "quantize.h"

namespace anneal::cpu {
namespace {

constexpr int64_t decode_piece = 64;

// How codes become integers of 16 bits: by a table of sixteen, as they are less a zero point, as signed bytes, or as signed bytes less a zero point.
enum class Codes { table, nibbles, bytes, bytes_with_zeros };
constexpr bool have_zeros(Codes codes) { return codes == Codes::nibbles || codes == Codes::bytes_with_zeros; }

// Where number i of a piece lies, in four vectors of 16 words. table: interleaving the low and the high bytes of 32 values takes bytes 0 … 7 and 16 … 23
// first; nibbles: by the place in a word's four nibbles; bytes: by the place in a word's two bytes.
constexpr int place_in_piece(Codes codes, int i) {
  if (codes == Codes::table) return i % 2 * 32 + i / 16 % 2 * 16 + i / 32 * 8 + i / 2 % 8;
  if (codes == Codes::nibbles) return i % 4 * 16 + i / 4;
  return i / 32 * 32 + i % 2 * 16 + i / 2 % 16;
}
struct Activations {
  int64_t pieces;          // of a row
  const int16_t* numbers;  // decode_piece for each piece, the missing ones 0
  const float* scales;     // one for each piece
  const int32_t* sums;     // eight for each piece, one a 32-bit lane: of the numbers whose products it adds up; where there are zero points
};

struct Rounded {
  bool in_order;  // or in the order of place_in_piece
  int most;       // the largest |integer|
  float unit;     // of the weight's integers
};

// One piece: x = number * scale * unit, nearly. What is not finite makes the scale NaN, and so every product; below 1e-30 all are zero.
template <Codes codes, class T> static void round_piece(const T* x, int64_t n, const Rounded& how, int16_t* numbers, float* scale, int32_t* sums) {
  float value[decode_piece] = {};
  vf largest = {}, poison = {};
  each_vector(n, [&](int64_t i, auto span) {
    const vf v = load(x + i, span);
    largest = max(abs(v), largest);
    poison += v - v;
    store(value + i, v);
  });
  const float top = max(largest), most = static_cast<float>(how.most), factor = top < 1e-30f ? 0 : most / top;
  const bool finite = sum(poison) == 0;
  *scale = finite ? top / (most * how.unit) : __builtin_nanf("");
  int16_t integer[decode_piece];
  for (int64_t i = 0; i < decode_piece; i += lanes) {
    const vi rounded = finite ? round_to_integer(load(value + i) * splat(factor)) : (vi){};
    const auto narrow = __builtin_convertvector(rounded, vh);
    memcpy(integer + i, &narrow, sizeof narrow);
  }
  if (how.in_order) {
    memcpy(numbers, integer, sizeof integer);
    return;
  }
#pragma GCC unroll 64
  for (int i = 0; i < decode_piece; ++i) numbers[place_in_piece(codes, i)] = integer[i];
  if (!sums) return;
  // A lane adds up two words of each vector.
  memset(sums, 0, 8 * sizeof(int32_t));
#pragma GCC unroll 64
  for (int i = 0; i < decode_piece; ++i) sums[place_in_piece(codes, i) % 16 / 2] += integer[i];
}

}  // namespace
}  // namespace anneal::cpu
