// How gemm and attention lay their operands out for the micro-kernel of gemm_micro.h: in panels of panel_rows rows of
// the left operand and of panel_columns columns of the right one, the k axis outermost, as 32-bit units. A unit is one
// f32, or with `pairs` two bf16 at k and k + 1.
#pragma once
#include "simd.h"

namespace anneal::cpu {
namespace {

// The tile the micro-kernel holds in registers: panel_rows x panel_vectors accumulators, panel_vectors of the right
// operand and a broadcast.
#if defined(__AVX512F__)
constexpr int panel_rows = 14, panel_vectors = 2;
#elif defined(__aarch64__)
constexpr int panel_rows = 8, panel_vectors = 2;
#else
constexpr int panel_rows = 6, panel_vectors = 2;
#endif
constexpr int panel_columns = panel_vectors * lanes;
// Packing writes whole vectors: units that a panel of panel_rows rows may write past its end.
constexpr int panel_slack = (lanes - panel_rows % lanes) % lanes;

#if defined(__AVX512BF16__)
constexpr bool has_pairs = true;
#else
constexpr bool has_pairs = false;  // `half` then computes in f32: nothing is rounded to bf16
#endif

template <bool pairs> ANNEAL_INLINE int64_t units_of(int64_t k) { return pairs ? (k + 1) / 2 : k; }
// Units that a panel takes for k steps.
template <bool pairs> ANNEAL_INLINE int64_t left_panel_units(int64_t k) {
  return panel_rows * units_of<pairs>(k) + panel_slack;
}
template <bool pairs> ANNEAL_INLINE int64_t right_panel_units(int64_t k) { return panel_columns * units_of<pairs>(k); }
ANNEAL_INLINE int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
ANNEAL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
ANNEAL_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// --- Shuffles, written as index patterns: lane i of the result is element at(i) of a followed by b ---

template <int... i> struct Lanes {};
template <int n, int... i> struct CountLanes : CountLanes<n - 1, n - 1, i...> {};
template <int... i> struct CountLanes<0, i...> {
  using type = Lanes<i...>;
};
using AllLanes = typename CountLanes<lanes>::type;

// Within each group of four lanes: a0 b0 a1 b1, a2 b2 a3 b3, a0 a1 b0 b1 and a2 a3 b2 b3.
struct SinglesLow {
  static constexpr int at(int i) { return i / 4 * 4 + i % 4 / 2 + i % 2 * lanes; }
};
struct SinglesHigh {
  static constexpr int at(int i) { return SinglesLow::at(i) + 2; }
};
struct DoublesLow {
  static constexpr int at(int i) { return i / 4 * 4 + i % 2 + i % 4 / 2 * lanes; }
};
struct DoublesHigh {
  static constexpr int at(int i) { return DoublesLow::at(i) + 2; }
};
// Groups of four lanes, numbered through a and then b.
template <int... group> struct Groups {
  static constexpr int at(int i) {
    constexpr int order[] = {group...};
    return order[i / 4] * 4 + i % 4;
  }
};

template <class Pattern, int... i> ANNEAL_INLINE vu shuffle_lanes(vu a, vu b, Lanes<i...>) {
  return __builtin_shufflevector(a, b, Pattern::at(i)...);
}
template <class Pattern> ANNEAL_INLINE vu shuffle(vu a, vu b) { return shuffle_lanes<Pattern>(a, b, AllLanes()); }

// Transposes 4 x 4 blocks within the groups of four lanes.
ANNEAL_INLINE void transpose_groups(vu* row) {
  ANNEAL_UNROLL
  for (int i = 0; i < lanes; i += 4) {
    vu low = shuffle<SinglesLow>(row[i], row[i + 1]), high = shuffle<SinglesHigh>(row[i], row[i + 1]);
    vu low2 = shuffle<SinglesLow>(row[i + 2], row[i + 3]), high2 = shuffle<SinglesHigh>(row[i + 2], row[i + 3]);
    row[i] = shuffle<DoublesLow>(low, low2);
    row[i + 1] = shuffle<DoublesHigh>(low, low2);
    row[i + 2] = shuffle<DoublesLow>(high, high2);
    row[i + 3] = shuffle<DoublesHigh>(high, high2);
  }
}
// Transposes a lanes x lanes block: first within the groups of four lanes, then the groups.
ANNEAL_INLINE void transpose(vu* row) {
  transpose_groups(row);
#if defined(__AVX512F__)
  ANNEAL_UNROLL
  for (int i = 0; i < 4; ++i) {
    vu a = shuffle<Groups<0, 1, 4, 5>>(row[i], row[i + 4]), b = shuffle<Groups<2, 3, 6, 7>>(row[i], row[i + 4]);
    vu c = shuffle<Groups<0, 1, 4, 5>>(row[i + 8], row[i + 12]),
       d = shuffle<Groups<2, 3, 6, 7>>(row[i + 8], row[i + 12]);
    row[i] = shuffle<Groups<0, 2, 4, 6>>(a, c);
    row[i + 4] = shuffle<Groups<1, 3, 5, 7>>(a, c);
    row[i + 8] = shuffle<Groups<0, 2, 4, 6>>(b, d);
    row[i + 12] = shuffle<Groups<1, 3, 5, 7>>(b, d);
  }
#elif defined(__AVX2__)
  ANNEAL_UNROLL
  for (int i = 0; i < 4; ++i) {
    vu a = row[i], b = row[i + 4];
    row[i] = shuffle<Groups<0, 2>>(a, b);
    row[i + 4] = shuffle<Groups<1, 3>>(a, b);
  }
#endif
}

// --- Loading `lanes` units ---

ANNEAL_INLINE vu load_units(const void* p) { return *static_cast<const vu_unaligned*>(p); }
#if defined(__AVX2__) && !defined(__AVX512F__)
ANNEAL_INLINE vu load_halves(const void* low, const void* high) {
  return (vu)_mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(low))),
                                     _mm_loadu_si128(static_cast<const __m128i*>(high)), 1);
}
#endif
ANNEAL_INLINE void store_units(uint32_t* p, vu v) { *reinterpret_cast<vu_unaligned*>(p) = v; }
// The bf16 of each lane, rounded to nearest even, in the lane's high half; the low half is rubbish. A NaN stays a NaN.
ANNEAL_INLINE vu rounded_high(vf x) {
  vu u = (vu)x;
  return (vu)select((vi)(x == x), (vf)(u + 0x7fff + ((u >> 16) & 1)), (vf)(u | 0x400000));
}

// `lanes` 32-bit words along a contiguous k axis: f32, or two bf16 each. From bf16 the words are pairs even where the
// units are f32.
template <bool pairs> ANNEAL_INLINE vu load_along_k(const float* p) {
#if defined(__AVX512BF16__)
  if constexpr (pairs) return (vu)_mm512_cvtne2ps_pbh((__m512)load(p + lanes), (__m512)load(p));
#endif
  return load_units(p);
}
template <bool pairs> ANNEAL_INLINE vu load_along_k(const bf16* p) { return load_units(p); }
// Units of consecutive rows or columns at one k, and with pairs at the next k too (null: past the end, so zero).
template <bool pairs> ANNEAL_INLINE vu load_across_k(const float* p, const float* next) {
  if constexpr (!pairs) return load_units(p);
  vu low = rounded_high(load(p)) >> 16;
  return next ? low | (rounded_high(load(next)) & 0xffff0000u) : low;
}
template <bool pairs> ANNEAL_INLINE vu load_across_k(const bf16* p, const bf16* next) {
  if constexpr (!pairs) return (vu)load(p);
  vu low = (vu)load(p) >> 16;
  return next ? low | (vu)load(next) : low;
}

// A block of `lanes` rows (of the left operand) or columns (of the right one) along a contiguous k axis, transposed:
// units_per_block units.
template <bool pairs, class T> struct AlongK {
  static constexpr bool splits = !pairs && sizeof(T) == 2;  // words of two bf16 become two f32 units
  static constexpr int k_per_block = pairs || splits ? 2 * lanes : lanes, units_per_block = splits ? 2 * lanes : lanes;
  vu words[lanes];

  // All of the block exists.
  inline __attribute__((always_inline)) void load_whole(const T* from, int64_t stride) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    // Halves of rows are put where a transposition would move them: loading them there costs less.
    constexpr int half = 16 / sizeof(T);
    ANNEAL_UNROLL
    for (int i = 0; i < 4; ++i) {
      words[i] = load_halves(from + i * stride, from + (i + 4) * stride);
      words[i + 4] = load_halves(from + i * stride + half, from + (i + 4) * stride + half);
    }
    transpose_groups(words);
#else
    ANNEAL_UNROLL
    for (int i = 0; i < lanes; ++i) words[i] = load_along_k<pairs>(from + i * stride);
    transpose(words);
#endif
  }
  // Only `count` rows and k steps exist; the rest is zero.
  inline __attribute__((always_inline)) void load_some(const T* from, int64_t stride, int64_t count, int64_t k) {
    const bool whole_k = k >= k_per_block;
    ANNEAL_UNROLL
    for (int i = 0; i < lanes; ++i) {
      words[i] = (vu){};
      if (i >= count) continue;
      if (whole_k) {
        words[i] = load_along_k<pairs>(from + i * stride);
      } else {
        T part[k_per_block];
        memset(part, 0, sizeof part);
        memcpy(part, from + i * stride, static_cast<size_t>(k) * sizeof(T));
        words[i] = load_along_k<pairs>(part);
      }
    }
    transpose(words);
  }
  inline __attribute__((always_inline)) vu unit(int i) const {
    if constexpr (!splits) return words[i];
    return i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16;
  }
};

// --- Packing panels of `width` rows (left operand) or columns (right operand), of which `count` exist; the others
// become zero ---

// Element (r, k) is source[r * stride + k].
template <int width, bool pairs, class T>
static void pack_along_k(const T* source, int64_t stride, int64_t k, int64_t count, uint32_t* panel) {
  using Block = AlongK<pairs, T>;
  const int64_t units = units_of<pairs>(k);
  int64_t k0 = 0;
  for (int64_t unit = 0; unit < units; unit += Block::units_per_block, k0 += Block::k_per_block) {
    const int64_t units_left = units - unit;
    // Downwards: a block's lanes past the panel's width are overwritten by the next unit, or lie in the slack.
    for (int first = (width - 1) / lanes * lanes; first >= 0; first -= lanes) {
      const T* from = source + first * stride + k0;
      uint32_t* to = panel + unit * width + first;
      Block block;
      if (k - k0 >= Block::k_per_block && count >= first + lanes) block.load_whole(from, stride);
      else block.load_some(from, stride, smaller(count, width) - first, k - k0);
      if (units_left >= Block::units_per_block) {
        ANNEAL_UNROLL
        for (int i = 0; i < Block::units_per_block; ++i) store_units(to + i * width, block.unit(i));
      } else {
        for (int i = 0; i < units_left; ++i) store_units(to + i * width, block.unit(i));
      }
    }
  }
}

// Element (r, k) is source[k * stride + r]. Packs `panels` neighbouring panels, panel_units apart, side by side: rows
// of memory are read in one go.
template <int width, bool pairs, class T>
static void pack_across_k(const T* source, int64_t stride, int64_t k, int64_t count, uint32_t* panel, int64_t panels,
                          int64_t panel_units) {
  constexpr int64_t rows_ahead = 12;
  const int64_t units = units_of<pairs>(k);
  for (int64_t unit = 0; unit < units; ++unit) {
    const T* from = source + (pairs ? 2 * unit : unit) * stride;
    const T* next = pairs && 2 * unit + 1 < k ? from + stride : nullptr;
    for (int64_t p = 0; p < panels; ++p) {
      __builtin_prefetch(from + p * width + rows_ahead * stride);
      ANNEAL_UNROLL
      for (int first = 0; first < width; first += lanes) {
        const int64_t at = p * width + first, left = count - at;
        uint32_t* to = panel + p * panel_units + unit * width + first;
        if (left >= lanes) {
          store_units(to, load_across_k<pairs>(from + at, next ? next + at : nullptr));
        } else {
          T part[2][lanes];
          memset(part, 0, sizeof part);
          if (left > 0) {
            memcpy(part[0], from + at, static_cast<size_t>(left) * sizeof(T));
            if (next) memcpy(part[1], next + at, static_cast<size_t>(left) * sizeof(T));
          }
          store_units(to, load_across_k<pairs>(part[0], part[1]));
        }
      }
    }
  }
}

}  // namespace
}  // namespace anneal::cpu
