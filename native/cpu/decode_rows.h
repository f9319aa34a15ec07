// The schedule of a new token's products. Every output is a dot product along k over a row of the weight, which is read once, as it lies. A kernel keeps a
// vector of sums for each output and row of x, and adds to it in an order that depends on k alone: an answer's bits do not depend on those beside it.
// Kernel::ahead is how many bytes before they are read it asks for them: few enough that they are still in the first cache, enough that they have come.
// Internal linkage only.
#pragma once
#include "gemm_epilogue.h"
#include "threads.h"

#include <type_traits>

namespace anneal::cpu {
namespace {

// k that several groups of rows share in the first cache.
constexpr int64_t decode_k_block = 1024;
// Most outputs that are computed after one another, and finished together.
constexpr int64_t decode_columns = panel_columns < 16 ? panel_columns : 16;

// The part k0 … k1 of several outputs, `spacing` apart, for some rows of x. Each step over k prefetches at `ahead`, for each output, and moves it on by ahead_step.
struct DecodeTile {
  int64_t output, spacing, row, k0, k1;
  float* sums;  // Kernel::sum_lanes for each row and output
  int64_t sums_of_row, sums_of_output;  // from one's to the next's
  const char* ahead;
  int64_t ahead_step;
};

template <int streams, class Kernel, int rows = Kernel::most_rows> ANNEAL_INLINE void decode_tile(const Kernel& kernel, int64_t count, const DecodeTile& tile) {
  if constexpr (rows > 1) {
    if (count < rows) return decode_tile<streams, Kernel, rows - 1>(kernel, count, tile);
  }
  kernel.template tile<streams, rows>(tile);
}

// Sums of both halves of each block of lanes: first those of a, then those of b.
template <int block> struct FirstHalves {
  static constexpr int at(int i) { return i % (lanes / 2) / (block / 2) * block + i % (block / 2) + i / (lanes / 2) * lanes; }
};
template <int block> struct SecondHalves {
  static constexpr int at(int i) { return FirstHalves<block>::at(i) + block / 2; }
};
// The totals of `outputs` outputs' sums, `width` each, as far as adding halves goes with so few: lanes / outputs lanes for each.
template <int width, int outputs = lanes> ANNEAL_INLINE vf totals(const float* sums) {
  if constexpr (outputs * width == lanes) return load(sums);
  else if constexpr (outputs == 1) return load(sums) + load(sums + lanes);
  else {
    constexpr int block = 2 * lanes / outputs;
    const vu a = (vu)totals<width, outputs / 2>(sums), b = (vu)totals<width, outputs / 2>(sums + outputs / 2 * width);
    return (vf)shuffle<FirstHalves<block>>(a, b) + (vf)shuffle<SecondHalves<block>>(a, b);
  }
}

// Outputs that are computed side by side: `columns` of each stream, `spacing` from one stream to the next.
struct DecodeOutputs {
  int64_t column, columns, spacing;
};

// tiles[stream][row][j] = the products of `streams` streams.
template <int streams, class Kernel>
static void decode_outputs(const Kernel& kernel, int64_t rows, const DecodeOutputs& of, float* sums, float* tiles) {
  constexpr int most = Kernel::most_rows, width = Kernel::sum_lanes;
  static_assert(width <= 2 * lanes);
  constexpr int64_t of_row = decode_columns * width;
  const int64_t groups = ceil_divide(rows, most), block = groups == 1 ? kernel.k : decode_k_block;
  for (int64_t k0 = 0; k0 < kernel.k; k0 += block) {
    const int64_t k1 = smaller(kernel.k, k0 + block);
    const bool ends = k1 == kernel.k;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t row = rows * g / groups, count = rows * (g + 1) / groups - row;
      for (int64_t j = 0; j < of.columns; ++j) {
        const int64_t output = of.column + j;
        // One group of rows reads the weight from end to end; of several, each asks for its share of the block that comes next.
        const char* ahead = groups == 1 ? kernel.address(output, k0) + Kernel::ahead
                                        : kernel.address(output + (ends ? of.columns : 0), ends ? 0 : k1) + (k1 - k0) / kernel.step * kernel.step_bytes * g / groups;
        decode_tile<streams>(kernel, count, DecodeTile{output, of.spacing, row, k0, k1, sums + row * of_row + j * width, of_row, rows * of_row, ahead, kernel.step_bytes / groups});
      }
    }
  }
  for (int64_t i = 0; i < streams * rows; ++i)
    for (int64_t j = 0; j < of.columns; j += lanes) store(tiles + i * panel_columns + j, totals<width>(sums + i * of_row + j * width));
}

// out = all rows by all outputs. A thread reads its part of the weight at Kernel::streams places at once, from end to end each: memory gives most that way.
template <class Kernel> static void decode_product(const Kernel& kernel, int64_t rows, int64_t outputs, const Output& out) {
  constexpr int streams = Kernel::streams;
  // Few enough outputs of a long k that threads end together.
  const int64_t together = larger(4, smaller(decode_columns, 32768 / larger(1, kernel.k) / 4 * 4));
  const int64_t groups = ceil_divide(outputs, together), tile_floats = rows * panel_columns, sum_floats = rows * decode_columns * Kernel::sum_lanes;
  const double read = static_cast<double>(outputs) * static_cast<double>(kernel.k) * static_cast<double>(rows);
  const int threads = read < 1.3e5 ? 1 : pool().size();
  // A ticket is a group of each stream of a part; a thread's own tickets are one part.
  const int64_t side_by_side = groups < streams * threads ? 1 : streams, each = ceil_divide(groups, side_by_side * threads);
  pool().reserve_thread_scratch(static_cast<size_t>(streams * (tile_floats + sum_floats) + 64) * sizeof(float));
  parallel(threads, [&](int thread, int) {
    float* sums = static_cast<float*>(pool().thread_scratch(thread));
    float* tiles = sums + streams * sum_floats;
    auto multiply = [&](auto count, int64_t group) {
      constexpr int own = decltype(count)::value;
      const int64_t column = group * together, columns = smaller(together, outputs - column), spacing = each * together;
      if (kernel.k > 0) decode_outputs<own>(kernel, rows, DecodeOutputs{column, columns, spacing}, sums, tiles);
      else memset(tiles, 0, static_cast<size_t>(own * tile_floats) * sizeof(float));
      for (int s = 0; s < own; ++s) finish_tile(tiles + s * tile_floats, rows, columns, 0, column + s * spacing, nullptr, 0, out);
    };
    take_tickets(each * threads, [&](int64_t ticket) {
      const int64_t first = ticket / each * side_by_side * each + ticket % each, last = first + (side_by_side - 1) * each;
      if (side_by_side == streams && (last + 1) * together <= outputs) return multiply(std::integral_constant<int, streams>(), first);
      for (int64_t group = first; group <= last && group < groups; group += each) multiply(std::integral_constant<int, 1>(), group);
    });
  });
}

}  // namespace
}  // namespace anneal::cpu
