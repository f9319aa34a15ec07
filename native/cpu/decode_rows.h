// The schedule of a new token's products. Every output is a dot product along k over a row of the weight, which is read once, as it lies. A kernel keeps a
// vector of sums for each output and row of x, and adds to it in an order that depends on k alone: an answer's bits do not depend on those beside it.
// Kernel::ahead is how many bytes before they are read it asks for them: few enough that they are still in the first cache, enough that they have come.
// Internal linkage only.
#pragma once
#include "gemm_epilogue.h"
#include "threads.h"

namespace anneal::cpu {
namespace {

// k that several groups of rows share in the first cache.
constexpr int64_t decode_k_block = 1024;
// The part k0 … k1 of an output, for some rows of x. Each step over k prefetches at `ahead` and moves it on by ahead_step.
struct DecodeTile {
  int64_t output, row, k0, k1;
  float* sums;  // Kernel::sum_lanes for each row
  const char* ahead;
  int64_t ahead_step;
};

// Eight numbers by halves.
ANNEAL_INLINE float total_of_8(const float* p) {
#if defined(__AVX__)
  const __m256 v = _mm256_loadu_ps(p);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)), two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
#endif
}

template <class Kernel, int rows = Kernel::most_rows> ANNEAL_INLINE void decode_tile(const Kernel& kernel, int64_t count, const DecodeTile& tile) {
  if constexpr (rows > 1) {
    if (count < rows) return decode_tile<Kernel, rows - 1>(kernel, count, tile);
  }
  kernel.template tile<rows>(tile);
}

// tile[row][j] = the products of `columns` outputs, at most panel_columns, from `column` on.
template <class Kernel>
static void decode_group(const Kernel& kernel, int64_t rows, int64_t column, int64_t columns, float* sums, float* tile) {
  constexpr int most = Kernel::most_rows, width = Kernel::sum_lanes;
  const int64_t groups = ceil_divide(rows, most), block = groups == 1 ? kernel.k : decode_k_block;
  for (int64_t k0 = 0; k0 < kernel.k; k0 += block) {
    const int64_t k1 = smaller(kernel.k, k0 + block);
    const bool ends = k1 == kernel.k;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t row = rows * g / groups, count = rows * (g + 1) / groups - row;
      for (int64_t j = 0; j < columns; ++j) {
        // One group of rows reads the weight from end to end; of several, each asks for its share of the block that comes next.
        const char* ahead = groups == 1 ? kernel.address(column + j, k0) + Kernel::ahead
                                        : kernel.address(column + j + (ends ? panel_columns : 0), ends ? 0 : k1) + (k1 - k0) / kernel.step * kernel.step_bytes * g / groups;
        decode_tile(kernel, count, DecodeTile{column + j, row, k0, k1, sums + (j * rows + row) * width, ahead, kernel.step_bytes / groups});
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) tile[i * panel_columns + j] = kernel.total(sums + (j * rows + i) * width);
}

// out = all rows by all outputs.
template <class Kernel> static void decode_product(const Kernel& kernel, int64_t rows, int64_t outputs, const Output& out) {
  const int64_t groups = ceil_divide(outputs, panel_columns), floats = rows * panel_columns * (Kernel::sum_lanes + 1) + 64;
  const double read = static_cast<double>(outputs) * static_cast<double>(kernel.k) * static_cast<double>(rows);
  const int threads = read < 1.3e5 ? 1 : pool().size();
  // A thread takes several groups in a row, so that what it reads ahead is its own next.
  const int64_t in_a_row = larger(1, smaller(16, groups / (8 * threads)));
  pool().reserve_thread_scratch(static_cast<size_t>(floats) * sizeof(float));
  parallel(threads, [&](int thread, int) {
    float* sums = static_cast<float*>(pool().thread_scratch(thread));
    float* tile = sums + rows * panel_columns * Kernel::sum_lanes;
    take_tickets(ceil_divide(groups, in_a_row), [&](int64_t ticket) {
      for (int64_t group = ticket * in_a_row; group < smaller(groups, (ticket + 1) * in_a_row); ++group) {
        const int64_t column = group * panel_columns, columns = smaller(panel_columns, outputs - column);
        if (kernel.k > 0) decode_group(kernel, rows, column, columns, sums, tile);
        else memset(tile, 0, static_cast<size_t>(rows * panel_columns) * sizeof(float));
        finish_tile(tile, rows, columns, 0, column, nullptr, 0, out);
      }
    });
  });
}

}  // namespace
}  // namespace anneal::cpu
