// A micro-kernel for few rows that reads the right operand where it lies, for weights and keys that are used once.
#pragma once
#include "gemm_micro.h"

namespace anneal::cpu {
namespace {

// The micro-kernel for up to most_stream_rows rows and a whole panel of columns whose k axis is contiguous in memory:
// blocks of op(b) are transposed in registers and multiplied there, in the same order as if they had been packed.
// `ahead` is the distance, in elements, of what to prefetch; beyond the k of a column it goes on `wrap` elements further,
// where the next panel is.
#if defined(__AVX512F__)
constexpr int most_stream_rows = 8;
#else
constexpr int most_stream_rows = 4;
#endif
// `vectors` of columns: a panel's, or one at a time where the sums and a transposed block would not fit into the registers.
template <int rows, int vectors, bool pairs, class T>
static void stream_tile(int64_t k, const uint32_t* left, const T* right, int64_t stride, int64_t ahead, int64_t wrap,
                        float* out, int64_t out_stride, bool add) {
  using Block = AlongK<pairs, T>;
  vf sums[rows][vectors] = {};
  const int64_t units = units_of<pairs>(k);
  int64_t k0 = 0;
  for (int64_t unit = 0; unit < units; unit += Block::units_per_block, k0 += Block::k_per_block) {
    const int64_t units_left = units - unit;
    const int64_t distance = k0 + ahead < k ? ahead : ahead + wrap;
    ANNEAL_UNROLL
    for (int j = 0; j < vectors; ++j) {
      const T* from = right + j * lanes * stride + k0;
      ANNEAL_UNROLL
      for (int i = 0; i < lanes; ++i) __builtin_prefetch(from + i * stride + distance);
      Block block;
      if (k - k0 >= Block::k_per_block) {
        block.load_whole(from, stride);
        ANNEAL_UNROLL
        for (int i = 0; i < Block::units_per_block; ++i) {
          ANNEAL_UNROLL
          for (int r = 0; r < rows; ++r)
            sums[r][j] = multiply_add<pairs>(sums[r][j], left[(unit + i) * panel_rows + r], block.unit(i));
        }
      } else {
        block.load_some(from, stride, lanes, k - k0);
        for (int i = 0; i < units_left; ++i) {
          ANNEAL_UNROLL
          for (int r = 0; r < rows; ++r)
            sums[r][j] = multiply_add<pairs>(sums[r][j], left[(unit + i) * panel_rows + r], block.unit(i));
        }
      }
    }
  }
  ANNEAL_UNROLL
  for (int r = 0; r < rows; ++r) {
    ANNEAL_UNROLL
    for (int j = 0; j < vectors; ++j) {
      float* to = out + r * out_stride + j * lanes;
      store(to, add ? load(to) + sums[r][j] : sums[r][j]);
    }
  }
}
template <int rows, bool pairs, class T>
static void stream_some(int64_t k, const uint32_t* left, const T* right, int64_t stride, int64_t ahead, int64_t wrap,
                        float* out, int64_t out_stride, bool add) {
  constexpr int vectors = rows <= 4 ? panel_vectors : 1;
  for (int j = 0; j < panel_vectors; j += vectors)
    stream_tile<rows, vectors, pairs>(k, left, right + j * lanes * stride, stride, ahead, wrap, out + j * lanes, out_stride, add);
}
template <bool pairs, class T> using StreamRows = decltype(&stream_some<1, pairs, T>);
template <bool pairs, class T, int... i> constexpr StreamRows<pairs, T> stream_rows_of(int64_t rows, Lanes<i...>) {
  constexpr StreamRows<pairs, T> of[] = {stream_some<i + 1, pairs, T>...};
  return of[rows - 1];
}
template <bool pairs, class T>
static void stream_rows(int64_t rows, int64_t k, const uint32_t* left, const T* right, int64_t stride, int64_t ahead,
                        int64_t wrap, float* out, int64_t out_stride, bool add) {
  static_assert(most_stream_rows <= panel_rows);
  stream_rows_of<pairs, T>(rows, typename CountLanes<most_stream_rows>::type())(k, left, right, stride, ahead, wrap, out, out_stride, add);
}

}  // namespace
}  // namespace anneal::cpu
