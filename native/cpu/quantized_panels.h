// A quantised weight as the right operand of the matrix product: it makes its panels itself, of numbers value * scale rounded to f32, so that products
// with it have the bits of products with the dequantised weight. Internal linkage only.
#pragma once
#include "gemm_product.h"
#include "quantized_decode.h"

// Of a lambda that is part of an unrolled loop.
#define ANNEAL_INLINE_LAMBDA __attribute__((always_inline))

namespace anneal::cpu {
namespace {

struct QuantizedSource : PanelSource {
  const uint8_t* codes;
  const float* scales;
  const uint8_t* zeros;  // may be null
  const float* map;      // of four bits; null for int8
  QuantizedShape shape;

  float zero(int64_t i) const { return static_cast<float>(zero_point(map ? QuantizedFormat::int4 : QuantizedFormat::int8, zeros[i])); }
};

// Scales (and zero points) of a panel's rows, transposed for some blocks at a time: a vector holds one block's of neighbouring rows.
template <bool with_zeros> struct PanelScales {
  static constexpr int64_t most = 32;
  alignas(64) uint32_t scale[most * panel_columns];
  alignas(64) float zero[with_zeros ? most * panel_columns : 1];

  // Of rows r … and the blocks from `first` on; `length` rows exist. Those of the rows ahead_rows further are wanted next.
  inline __attribute__((always_inline)) void load(const QuantizedSource& w, int64_t r, int64_t length, int64_t first, int64_t ahead_rows) {
    const int64_t blocks = w.shape.columns / w.shape.block, n = smaller(most, blocks - first), rows = smaller(panel_columns, length - r);
    for (int64_t i = 0; i < panel_columns; ++i)
      for (int64_t b = 0; b < n; b += 16) __builtin_prefetch(w.scales + (r + i + ahead_rows) * blocks + first + b, 0, 2);
    pack_along_k<panel_columns, false>(w.scales + r * blocks + first, blocks, n, rows, scale);
    if constexpr (with_zeros)
      for (int64_t i = 0; i < panel_columns; ++i)
        for (int64_t b = 0; b < n; ++b) zero[b * panel_columns + i] = i < rows ? w.zero((r + i) * blocks + first + b) : 0;
  }
};

// --- op(b) = W^T: a panel is panel_columns rows of W ---

// One k of a panel's rows.
using Numbers = vf[panel_vectors];

// step(unit, even, odd) with the numbers of k = k0 + 2 unit and the next; the rows past the last repeat it.
template <Decoding decoding, bool with_zeros, class F>
static inline __attribute__((always_inline)) void walk_rows(const QuantizedSource& w, int64_t r, int64_t length, int64_t k0, int64_t k, F&& step) {
  constexpr int64_t per_byte = decoding == Decoding::bytes ? 1 : 2, ahead = 512;
  constexpr int rows = panel_columns;
  const int64_t row_bytes = w.shape.columns / per_byte;
  const uint8_t* codes[rows];
  for (int i = 0; i < rows; ++i) codes[i] = w.codes + smaller(r + i, length - 1) * row_bytes;
  // Whole cache lines of the rows are copied side by side: rows lie a power of two apart, often, and would drive each other out of the cache. The next
  // lines are copied between the steps of those at hand, so that waiting for memory and decoding overlap.
  alignas(64) uint8_t line[2][rows][line_bytes];
  const int64_t byte_end = (k0 + k) / per_byte;
  auto copy = [&](uint8_t (&to)[rows][line_bytes], int64_t from, int first_row, int count) ANNEAL_INLINE_LAMBDA {
    const int64_t bytes = smaller(line_bytes, byte_end - from);
    if (bytes <= 0) return;
    // Beyond the rows' end the next panels follow.
    const int64_t distant = from + ahead < row_bytes ? from + ahead : from + ahead + (rows - 1) * row_bytes;
    for (int i = first_row; i < first_row + count; ++i) {
      __builtin_prefetch(codes[i] + distant, 0, 2);  // into the second cache: the first could not hold them all
      if (bytes == line_bytes) {
        for (int v = 0; v < line_bytes; v += vector_bytes) {
          const vu part = load_units(codes[i] + from + v);
          memcpy(to[i] + v, &part, vector_bytes);
        }
      } else {
        memcpy(to[i], codes[i] + from, static_cast<size_t>(bytes));
      }
    }
  };
  const CodeTable<decoding == Decoding::narrow> table(w.map ? w.map : nf4_map);  // not used by bytes
  PanelScales<with_zeros> scales;
  int64_t block = k0 / w.shape.block - 1, block_end = k0, loaded = block;  // the block at hand, and the first of those in `scales`
  copy(line[0], k0 / per_byte, 0, rows);
  int at_hand = 0;
  for (int64_t first = k0 / per_byte; first < byte_end; first += line_bytes, at_hand ^= 1) {
    const int64_t bytes = smaller(line_bytes, byte_end - first);
    for (int64_t byte = 0; byte < bytes; byte += bytes_per_step) {
      copy(line[at_hand ^ 1], first + line_bytes, static_cast<int>(byte / bytes_per_step) * (rows / 4), rows / 4);
      const int64_t at = (first + byte) * per_byte;
      if (at >= block_end) {
        block_end = (++block + 1) * w.shape.block;
        if (at == k0 || block - loaded == scales.most) {
          loaded = block;
          scales.load(w, r, length, block, rows);
        }
      }
      decode_bytes<decoding>(line[at_hand][0] + byte, table, [&](int i, Numbers& even, Numbers& odd) ANNEAL_INLINE_LAMBDA {
        ANNEAL_UNROLL
        for (int v = 0; v < panel_vectors; ++v) {
          const int64_t own = (block - loaded) * panel_columns + v * lanes;
          if constexpr (with_zeros) even[v] -= load(scales.zero + own), odd[v] -= load(scales.zero + own);
          const vf scale = (vf)load_units(scales.scale + own);
          even[v] *= scale;
          odd[v] *= scale;
        }
        step((at - k0) / 2 + i, even, odd);
      });
    }
  }
}

// Two neighbouring numbers of k as one unit of bf16 pairs.
ANNEAL_INLINE vu pair_of(vf even, vf odd) {
  return (rounded_high(even) >> 16) | (rounded_high(odd) & 0xffff0000u);
}

template <bool pairs, Decoding decoding, bool with_zeros>
static void pack_rows(const PanelSource& source, int64_t r, int64_t length, int64_t k0, int64_t k, uint32_t* panel, int64_t panels, int64_t panel_units) {
  for (int64_t p = 0; p < panels; ++p, r += panel_columns, panel += panel_units) {
    const QuantizedSource& w = static_cast<const QuantizedSource&>(source);
    walk_rows<decoding, with_zeros>(w, r, length, k0, k, [&](int64_t unit, Numbers& even, Numbers& odd) ANNEAL_INLINE_LAMBDA {
      ANNEAL_UNROLL
      for (int v = 0; v < panel_vectors; ++v) {
        if constexpr (pairs) {
          store_units(panel + unit * panel_columns + v * lanes, pair_of(even[v], odd[v]));
        } else {
          store_units(panel + 2 * unit * panel_columns + v * lanes, (vu)even[v]);
          store_units(panel + (2 * unit + 1) * panel_columns + v * lanes, (vu)odd[v]);
        }
      }
    });
  }
}

// --- op(b) = W: a unit of k is a row of W, or with pairs two ---

// Numbers from .. from + n of one row, n <= 8 panels.
static void widen_row(const QuantizedSource& w, int64_t row, int64_t from, int64_t n, float* out) {
  const int64_t block = w.shape.block, blocks = w.shape.columns / block, first = row * w.shape.columns + from;
  if (w.map) four_bit_values(out, w.codes + first / 2, n, w.map);
  else for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(static_cast<int8_t>(w.codes[first + i]));
  for (int64_t i = 0; i < n;) {
    const int64_t b = (from + i) / block, end = smaller(n, (b + 1) * block - from);
    const float scale = w.scales[row * blocks + b], zero = w.zeros ? w.zero(row * blocks + b) : 0;
    each_vector(end - i, [&](int64_t j, auto span) { store(out + i + j, (load(out + i + j, span) - zero) * scale, span); });
    i = end;
  }
}

template <bool pairs>
static void pack_across(const PanelSource& source, int64_t r, int64_t length, int64_t k0, int64_t k, uint32_t* panel, int64_t panels, int64_t panel_units) {
  constexpr int64_t most_panels = 8;
  const QuantizedSource& w = static_cast<const QuantizedSource&>(source);
  float numbers[2][most_panels * panel_columns];
  for (int64_t p0 = 0; p0 < panels; p0 += most_panels) {
    const int64_t here = smaller(most_panels, panels - p0), from = r + p0 * panel_columns, n = smaller(here * panel_columns, length - from);
    for (int i = 0; i < 2; ++i) memset(numbers[i] + n, 0, static_cast<size_t>(here * panel_columns - n) * sizeof(float));
    for (int64_t unit = 0; unit < units_of<pairs>(k); ++unit) {
      const int64_t row = k0 + (pairs ? 2 * unit : unit);
      widen_row(w, row, from, n, numbers[0]);
      if constexpr (pairs) {
        if (row + 1 < k0 + k) widen_row(w, row + 1, from, n, numbers[1]);
        else memset(numbers[1], 0, sizeof numbers[1]);
      }
      for (int64_t p = 0; p < here; ++p) {
        uint32_t* to = panel + (p0 + p) * panel_units + unit * panel_columns;
        ANNEAL_UNROLL
        for (int v = 0; v < panel_vectors; ++v) {
          const float* at = numbers[0] + p * panel_columns + v * lanes;
          store_units(to + v * lanes, pairs ? pair_of(load(at), load(at + most_panels * panel_columns)) : (vu)load(at));
        }
      }
    }
  }
}

}  // namespace
}  // namespace anneal::cpu
