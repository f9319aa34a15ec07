// The schedule for large products (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008): a block of op(b) is packed by all
// threads into shared memory; then each thread takes a few rows of op(a) at a time, packs them into memory of its own, which its second cache holds, and
// multiplies them. So what one thread packs and another reads is op(b) alone.
#pragma once
#include "gemm.h"

namespace anneal::cpu {
namespace {

constexpr int64_t column_block_in_c = 4096, column_block_in_scratch = 1024,
                  rows_in_scratch = 2048 / panel_rows * panel_rows;

ANNEAL_INLINE int64_t column_block(const Product& p, bool sums_in_scratch) {
  return smaller(sums_in_scratch ? column_block_in_scratch : column_block_in_c,
                 ceil_divide(p.n, panel_columns) * panel_columns);
}
template <bool pairs> static bool needs_sums(const Product& p) {
  return k_block<pairs>(p.k) < p.k && !p.out.sums_in_c();
}
// Panels of op(a) that a thread packs at once, at most 192 KiB: some 16 pieces for each thread. They may be larger where there are columns to deal out as
// well, a thousand or more to a piece, which then are worth packing the same rows twice; and are where op(b) is too large to be read from a near cache once
// for a few rows. Where memory holds a column of op(a) after the other, a piece has rows enough to be whole lines of the cache.
template <bool pairs> static int64_t chunk_panels(const Product& p, int threads) {
  const int64_t panels = ceil_divide(p.m, panel_rows), k = k_block<pairs>(p.k), columns = column_block(p, needs_sums<pairs>(p)),
                most = (192 << 10) / 4 / larger(1, left_panel_units<pairs>(k)), wanted = ceil_divide(panels * larger(1, columns / 1024), 16 * threads),
                least = columns * k > (2 << 20) / 4 ? 72 : p.a.along_k ? 12 : 48;
  return smaller(panels, threads == 1 ? larger(1, most) : larger(smaller(wanted, most), ceil_divide(least, panel_rows)));
}

struct BlockMemory {
  int64_t left, right, sums;  // in units of 4 bytes; left for each thread
};
template <bool pairs> static BlockMemory block_memory(const Product& p, int threads) {
  const int64_t k = k_block<pairs>(p.k);
  const bool sums = needs_sums<pairs>(p);
  const int64_t columns = column_block(p, sums);
  return {chunk_panels<pairs>(p, threads) * left_panel_units<pairs>(k) + lanes,
          columns / panel_columns * right_panel_units<pairs>(k) + lanes, sums ? smaller(rows_in_scratch, p.m) * columns : 0};
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
  const bool sums = needs_sums<pairs>(p);
  const int64_t block = k_block<pairs>(p.k), columns_at_once = column_block(p, sums), rows_at_once = sums ? rows_in_scratch : p.m,
                chunk = chunk_panels<pairs>(p, threads);
  for (int64_t column0 = 0; column0 < p.n; column0 += columns_at_once) {
    const int64_t right_panels = ceil_divide(smaller(columns_at_once, p.n - column0), panel_columns);
    for (int64_t row0 = 0; row0 < p.m; row0 += rows_at_once) {
      const int64_t row_end = smaller(p.m, row0 + rows_at_once), left_panels = ceil_divide(row_end - row0, panel_rows),
                    chunks = ceil_divide(left_panels, chunk);
      const int64_t groups = threads == 1 ? 1 : smaller(ceil_divide(right_panels, 2), ceil_divide(8 * threads, chunks)),
                    group_panels = ceil_divide(right_panels, groups);
      int64_t k0 = 0;
      do {
        const int64_t k = smaller(block, p.k - k0), left_units = left_panel_units<pairs>(k),
                      right_units = right_panel_units<pairs>(k);
        const KStep step = {k0, k, k0 == 0, k0 + k >= p.k};
        constexpr int64_t packed_together = 4;
        team.take(ceil_divide(right_panels, packed_together), [&](int64_t ticket) {
          const int64_t j = ticket * packed_together;
          pack_panels<panel_columns, pairs>(p.b, column0 + j * panel_columns, p.n, k0, k, team.right + j * right_units,
                                            smaller(packed_together, right_panels - j), right_units);
        });
        team.barrier();
        int64_t packed = -1;
        team.take(chunks * groups, [&](int64_t ticket) {
          const int64_t i0 = ticket / groups * chunk, i1 = smaller(left_panels, i0 + chunk), j0 = ticket % groups * group_panels,
                        j1 = smaller(right_panels, j0 + group_panels);
          if (packed != i0) pack_panels<panel_rows, pairs>(p.a, row0 + i0 * panel_rows, row_end, k0, k, team.left, i1 - i0, left_units);
          packed = i0;
          for (int64_t j = j0; j < j1; ++j)
            for (int64_t i = i0; i < i1; ++i)
              multiply_tile<pairs>(p, step, team.left + (i - i0) * left_units, team.right + j * right_units,
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
