// The schedule of a new token's products. Every output is a dot product along k over a row of the weight, which is read once, as it lies. A kernel keeps a
// vector of sums for each output and row of x, and adds to it in an order that depends on k alone: an answer's bits do not depend on those beside it.
// Internal linkage only.
#pragma once
#include "gemm_epilogue.h"
#include "threads.h"

namespace anneal::cpu {
namespace {

// k that several groups of rows share in the first cache.
constexpr int64_t decode_k_block = 1024;

// A part of the weight: outputs by k0 … k1, of which `ahead` follows soon; each step over k prefetches `ahead_step` bytes of each output's row of it.
struct DecodeTile {
  int64_t output, row, k0, k1;
  float* sums;         // of the first output and row; outputs are sums_stride apart, rows a vector
  int64_t sums_stride;
  const char* ahead;
  int64_t ahead_step;
};

template <class Kernel, int outputs, int rows = Kernel::most_rows>
ANNEAL_INLINE void decode_tile(const Kernel& kernel, int64_t count, const DecodeTile& tile) {
  if constexpr (rows > 1) {
    if (count < rows) return decode_tile<Kernel, outputs, rows - 1>(kernel, count, tile);
  }
  kernel.template tile<outputs, rows>(tile);
}

// tile[row][j] = the products of `columns` outputs, at most panel_columns, from `column` on.
template <class Kernel>
static void decode_group(const Kernel& kernel, int64_t rows, int64_t column, int64_t columns, float* sums, float* tile) {
  constexpr int wide = Kernel::most_outputs, most = Kernel::most_rows, width = Kernel::sum_lanes;
  const int64_t groups = ceil_divide(rows, most), block = groups == 1 ? larger(kernel.k, 1) : decode_k_block;
  for (int64_t k0 = 0; k0 < kernel.k; k0 += block) {
    const int64_t k1 = smaller(kernel.k, k0 + block);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t row = rows * g / groups, count = rows * (g + 1) / groups - row;
      for (int64_t j = 0; j < columns;) {
        const int64_t here = columns - j < wide ? 1 : wide, next = column + j + (k1 < kernel.k ? 0 : groups == 1 ? here : panel_columns);
        const DecodeTile part = {column + j, row, k0, k1, sums + (j * rows + row) * width, rows * width,
                                 kernel.address(next, k1 < kernel.k ? k1 : 0) + kernel.step_bytes * (k1 - k0) / kernel.step * g / groups,
                                 kernel.step_bytes / groups};
        if (here == wide) decode_tile<Kernel, wide>(kernel, count, part);
        else decode_tile<Kernel, 1>(kernel, count, part);
        j += here;
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      float part[width];
      memcpy(part, sums + (j * rows + i) * width, sizeof part);
      for (int half = width / 2; half >= 1; half /= 2)
        for (int l = 0; l < half; ++l) part[l] += part[l + half];
      tile[i * panel_columns + j] = part[0];
    }
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
    for (int64_t first; (first = pool().ticket() * in_a_row) < groups;)
      for (int64_t group = first; group < smaller(groups, first + in_a_row); ++group) {
        const int64_t column = group * panel_columns, columns = smaller(panel_columns, outputs - column);
        if (kernel.k > 0) decode_group(kernel, rows, column, columns, sums, tile);
        else memset(tile, 0, static_cast<size_t>(rows * panel_columns) * sizeof(float));
        finish_tile(tile, rows, columns, 0, column, nullptr, 0, out);
      }
  });
}

}  // namespace
}  // namespace anneal::cpu
