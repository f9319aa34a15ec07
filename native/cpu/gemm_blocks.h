// The schedule for large products (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008): a
// block of op(b) and a block of rows of op(a) are packed by all threads into shared memory, then the tiles of their
// product are dealt out by tickets.
#pragma once
#include "gemm.h"

namespace anneal::cpu {
namespace {

constexpr int64_t row_block = 2048 / panel_rows * panel_rows;
constexpr int64_t column_block_in_c = 4096, column_block_in_scratch = 1024;

ANNEAL_INLINE int64_t column_block(const Product& p, bool sums_in_scratch) {
  return smaller(sums_in_scratch ? column_block_in_scratch : column_block_in_c,
                 ceil_divide(p.n, panel_columns) * panel_columns);
}
template <bool pairs> static bool needs_sums(const Product& p) {
  return k_block<pairs>(p.k) < p.k && !p.out.sums_in_c();
}

struct BlockMemory {
  int64_t left, right, sums;  // in units of 4 bytes
};
template <bool pairs> static BlockMemory block_memory(const Product& p) {
  const int64_t k = k_block<pairs>(p.k), rows = smaller(row_block, p.m);
  const bool sums = needs_sums<pairs>(p);
  const int64_t columns = column_block(p, sums);
  return {ceil_divide(rows, panel_rows) * left_panel_units<pairs>(k) + lanes,
          columns / panel_columns * right_panel_units<pairs>(k) + lanes, sums ? rows * columns : 0};
}

// Where one block of k stands in the whole sum.
struct KStep {
  int64_t k0, k;
  bool first, last;
};

// One tile: the micro-kernel into c or the running sums, or through a buffer where the tile needs more than that.
template <bool pairs>
static void multiply_tile(const Product& p, const KStep& step, const uint32_t* left, const uint32_t* right, int64_t row,
                          int64_t column, float* sums, int64_t sums_stride) {
  const Output& out = p.out;
  const int64_t rows = smaller(panel_rows, p.m - row), columns = smaller(panel_columns, p.n - column),
                units = units_of<pairs>(step.k);
  const TileKernel kernel = tile_kernel_for<pairs>(rows, columns);
  const bool in_c = out.sums_in_c(), plain = out.plain();
  float* running = in_c ? out.c_at(row, column) : sums;
  const int64_t stride = in_c ? out.stride : sums_stride;
  const bool add = !step.first || (plain && out.accumulate);
  if (plain || !step.last) {
    if (columns == panel_columns || !in_c) return kernel(units, left, right, running, stride, add);
    float tile[panel_rows * panel_columns];
    kernel(units, left, right, tile, panel_columns, false);
    return store_tile(tile, rows, columns, running, stride, add);
  }
  float tile[panel_rows * panel_columns];
  kernel(units, left, right, tile, panel_columns, false);
  finish_tile(tile, rows, columns, row, column, step.first ? nullptr : running, stride, out);
}

template <bool pairs> static void multiply_blocks(const Product& p, const Team& team, int threads) {
  const int64_t block = k_block<pairs>(p.k), columns_at_once = column_block(p, needs_sums<pairs>(p));
  for (int64_t column0 = 0; column0 < p.n; column0 += columns_at_once) {
    const int64_t right_panels = ceil_divide(smaller(columns_at_once, p.n - column0), panel_columns);
    for (int64_t row0 = 0; row0 < p.m; row0 += row_block) {
      const int64_t left_panels = ceil_divide(smaller(row_block, p.m - row0), panel_rows);
      int64_t k0 = 0;
      do {
        const int64_t k = smaller(block, p.k - k0), left_units = left_panel_units<pairs>(k),
                      right_units = right_panel_units<pairs>(k);
        const KStep step = {k0, k, k0 == 0, k0 + k >= p.k};
        // With one block of k the packed op(b) serves all row blocks.
        const int64_t right_wanted = row0 == 0 || block < p.k ? right_panels : 0;
        constexpr int64_t right_chunk = 4, left_chunk = 8;
        const int64_t right_chunks = ceil_divide(right_wanted, right_chunk),
                      left_chunks = ceil_divide(left_panels, left_chunk);
        team.take(right_chunks + left_chunks, [&](int64_t chunk) {
          if (chunk < right_chunks) {
            const int64_t j = chunk * right_chunk;
            pack_panels<panel_columns, pairs>(p.b, column0 + j * panel_columns, p.n, k0, k,
                                              team.right + j * right_units, smaller(right_chunk, right_wanted - j),
                                              right_units);
          } else {
            const int64_t i = (chunk - right_chunks) * left_chunk;
            pack_panels<panel_rows, pairs>(p.a, row0 + i * panel_rows, p.m, k0, k, team.left + i * left_units,
                                           smaller(left_chunk, left_panels - i), left_units);
          }
        });
        team.barrier();
        // Groups of tiles whose left panels stay in the L2 cache, small enough to keep all threads busy.
        int64_t rows_each = 16, columns_each = 512 / panel_columns;
        while (threads > 1 &&
               ceil_divide(left_panels, rows_each) * ceil_divide(right_panels, columns_each) < 6 * threads &&
               (columns_each > 2 || rows_each > 4)) {
          if (columns_each > 2) columns_each /= 2;
          else rows_each /= 2;
        }
        const int64_t row_groups = ceil_divide(left_panels, rows_each),
                      column_groups = ceil_divide(right_panels, columns_each);
        team.take(row_groups * column_groups, [&](int64_t group) {
          const int64_t i0 = group % row_groups * rows_each, j0 = group / row_groups * columns_each;
          for (int64_t j = j0; j < smaller(right_panels, j0 + columns_each); ++j)
            for (int64_t i = i0; i < smaller(left_panels, i0 + rows_each); ++i)
              multiply_tile<pairs>(p, step, team.left + i * left_units, team.right + j * right_units,
                                   row0 + i * panel_rows, column0 + j * panel_columns,
                                   team.sums + i * panel_rows * columns_at_once + j * panel_columns, columns_at_once);
        });
        team.barrier();
        k0 += k;
      } while (k0 < p.k);
    }
  }
}

}  // namespace
}  // namespace anneal::cpu
