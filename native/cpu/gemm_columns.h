// The schedule for few rows (decoding): op(a) is packed once, and each thread packs a panel of op(b) into memory of its own just before it
// uses it, so that op(b), the weights, is read once and never written. The micro-kernel and the order of the sums are those of gemm_blocks.h.
#pragma once
#include "gemm.h"

namespace anneal::cpu {
namespace {

constexpr int64_t most_rows_by_columns = 64;

template <bool pairs> ANNEAL_INLINE int64_t column_left_units(const Product& p) {
  const int64_t block = k_block<pairs>(p.k);
  return ceil_divide(p.m, panel_rows) * larger(1, ceil_divide(p.k, larger(1, block))) * left_panel_units<pairs>(block) + lanes;
}
// Units of one thread's memory: a packed panel and the tiles of one panel of columns.
template <bool pairs> ANNEAL_INLINE int64_t column_thread_units(const Product& p) {
  return right_panel_units<pairs>(k_block<pairs>(p.k)) + (p.m + panel_rows) * panel_columns + lanes;
}

template <bool pairs> static void multiply_columns(const Product& p, const Team& team) {
  const Output& out = p.out;
  const int64_t block = k_block<pairs>(p.k), blocks = larger(1, ceil_divide(p.k, larger(1, block)));
  const int64_t left_panels = ceil_divide(p.m, panel_rows), left_units = left_panel_units<pairs>(block);
  team.take(left_panels * blocks, [&](int64_t i) {
    const int64_t k0 = i / left_panels * block;
    pack_panel<panel_rows, pairs>(p.a, i % left_panels * panel_rows, p.m, k0, smaller(block, p.k - k0), team.left + i * left_units);
  });
  team.barrier();
  uint32_t* packed = team.right;
  float* tiles = reinterpret_cast<float*>(packed + right_panel_units<pairs>(block));
  const bool start_from_c = out.plain() && out.accumulate;
  team.take(ceil_divide(p.n, panel_columns), [&](int64_t panel) {
    const int64_t column = panel * panel_columns, columns = smaller(panel_columns, p.n - column);
    if (start_from_c)
      for (int64_t i = 0; i < p.m; ++i) memcpy(tiles + i * panel_columns, out.c_at(i, column), static_cast<size_t>(columns) * 4);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t k0 = b * block, k = smaller(block, p.k - k0);
      pack_panel<panel_columns, pairs>(p.b, column, p.n, k0, k, packed);
      for (int64_t i = 0; i < left_panels; ++i)
        tile_kernel_for<pairs>(smaller(panel_rows, p.m - i * panel_rows))(
            units_of<pairs>(k), team.left + (b * left_panels + i) * left_units, packed, tiles + i * panel_rows * panel_columns, panel_columns,
            b > 0 || start_from_c);
    }
    if (out.plain()) store_tile(tiles, p.m, columns, out.c_at(0, column), out.stride, false);
    else finish_tile(tiles, p.m, columns, 0, column, nullptr, 0, out);
  });
}

}  // namespace
}  // namespace anneal::cpu
