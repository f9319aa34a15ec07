// The micro-kernel that gemm and attention are made of: a tile of panel_rows x panel_columns accumulated in registers
// over packed panels. Every output is the sum over k in ascending order, one fused multiply-add (or bf16 pair product)
// at a time, whatever the tile's size: that makes an output's bits independent of the rows computed beside it.
#pragma once
#include "gemm_pack.h"

namespace anneal::cpu {
namespace {

// sum + a * b, the unit a standing for all lanes.
template <bool pairs> ANNEAL_INLINE vf multiply_add(vf sum, uint32_t a, vu b) {
#if defined(__AVX512BF16__)
  if constexpr (pairs)
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(a)), (__m512bh)b);
#endif
  return fused_multiply_add(splat(bits_to_float(a)), (vf)b, sum);
}

constexpr int64_t cache_line = 64;

// Memory that will be read soon, as rows of whole lines of the cache. The micro-kernel asks for it while it computes, a line at a time: asked for all at once,
// it would have to be waited for.
struct Upcoming {
  const char* at = nullptr;
  int64_t lines = 0, next_row = 0;  // of a row; bytes from a row's last line to the next row's first
  int64_t line = 0, left = 0;       // within the row, and of all

  inline __attribute__((always_inline)) void ask() {
    if (left == 0) return;
    __builtin_prefetch(at, 0, 2);
    --left;
    const bool row_ends = ++line == lines;
    at += row_ends ? next_row : cache_line;
    if (row_ends) line = 0;
  }
};
constexpr int64_t units_per_line = 8;  // from one line to the next

// Where a tile's sums go: out[i * stride + j] = [itself, where `add`] + sum [+ bias[j]].
struct TileOut {
  float* out;
  int64_t stride;
  bool add;
  const float* bias = nullptr;
  Upcoming* upcoming = nullptr;
};

// A panel: from one unit to the next it is `step` further, which is its width where it is packed.
struct Panel {
  const uint32_t* at;
  int64_t step;
};

// The sums over the units of left[unit][i] * right[unit][j], for i < rows and j < panel_columns, or lanes where that is enough.
using TileKernel = void (*)(int64_t units, Panel left, Panel right, const TileOut& to);

template <int rows, int vectors, bool pairs>
static void tile_kernel(int64_t units, Panel left, Panel right, const TileOut& to) {
  float* const out = to.out;
  const int64_t stride = to.stride;
  vf sums[rows][vectors];
  ANNEAL_UNROLL
  for (int i = 0; i < rows; ++i) {
    ANNEAL_UNROLL
    for (int j = 0; j < vectors; ++j) sums[i][j] = (vf){};
    __builtin_prefetch(out + i * stride, 1);
    __builtin_prefetch(out + i * stride + vectors * lanes - 1, 1);
  }
  for (int64_t left_over = units; left_over > 0; left_over -= units_per_line) {
    if (to.upcoming) to.upcoming->ask();
    for (int64_t unit = left_over < units_per_line ? left_over : units_per_line; unit > 0; --unit) {
      vu b[vectors];
      ANNEAL_UNROLL
      for (int j = 0; j < vectors; ++j) b[j] = load_units(right.at + j * lanes);
      ANNEAL_UNROLL
      for (int i = 0; i < rows; ++i) {
        ANNEAL_UNROLL
        for (int j = 0; j < vectors; ++j) sums[i][j] = multiply_add<pairs>(sums[i][j], left.at[i], b[j]);
      }
      left.at += left.step;
      right.at += right.step;
    }
  }
  ANNEAL_UNROLL
  for (int i = 0; i < rows; ++i) {
    ANNEAL_UNROLL
    for (int j = 0; j < vectors; ++j) {
      float* at = out + i * stride + j * lanes;
      vf sum = to.add ? load(at) + sums[i][j] : sums[i][j];
      if (to.bias) sum += load(to.bias + j * lanes);
      store(at, sum);
    }
  }
}

template <bool pairs, int... i> constexpr TileKernel tile_kernel_of(int64_t rows, int64_t columns, Lanes<i...>) {
  constexpr TileKernel wide[] = {tile_kernel<i + 1, panel_vectors, pairs>...},
                       narrow[] = {tile_kernel<i + 1, 1, pairs>...};
  return columns > lanes ? wide[rows - 1] : narrow[rows - 1];
}
// The kernel for 1 … panel_rows rows, of which the first `columns` columns are wanted.
template <bool pairs> ANNEAL_INLINE TileKernel tile_kernel_for(int64_t rows, int64_t columns) {
  return tile_kernel_of<pairs>(rows, columns, typename CountLanes<panel_rows>::type());
}

}  // namespace
}  // namespace anneal::cpu
