// The schedule for few rows (decoding): op(a) is packed first, and each thread packs a panel of op(b) into memory of its
// own just before it uses it, so that op(b), the weights, is read once and never written. The micro-kernel and the
// order of the sums are those of gemm_blocks.h.
#pragma once
#include "gemm.h"
#include "gemm_stream.h"

namespace anneal::cpu {
namespace {

constexpr int64_t most_rows_by_columns = 64;

template <bool pairs> ANNEAL_INLINE int64_t column_left_units(const Product& p) {
  const int64_t block = k_block<pairs>(p.k);
  return ceil_divide(p.m, panel_rows) * larger(1, ceil_divide(p.k, larger(1, block))) * left_panel_units<pairs>(block) +
         lanes;
}
// Panels of op(b) that are packed together: several where memory holds a row of each k, to read more of it at a time.
ANNEAL_INLINE int64_t column_panels(const Product& p) { return p.b.along_k ? 1 : smaller(8, ceil_divide(p.n, panel_columns)); }
// Units of one thread's memory: the packed panels and their tiles.
template <bool pairs> ANNEAL_INLINE int64_t column_thread_units(const Product& p) {
  return column_panels(p) * (right_panel_units<pairs>(k_block<pairs>(p.k)) + (p.m + panel_rows) * panel_columns) +
         lanes;
}

template <bool pairs>
static void stream(int64_t rows, int64_t k, const uint32_t* left, const Operand& b, int64_t column, int64_t k0,
                   int64_t whole_k, float* out, bool add) {
  constexpr int64_t ahead_bytes = 1024;  // along the column, then from the start of the next panel
  const int64_t offset = column * b.stride + k0, wrap = k0 + k < whole_k ? 0 : panel_columns * b.stride - whole_k;
  if (b.dtype == DType::f32)
    stream_rows<pairs>(rows, k, left, static_cast<const float*>(b.data) + offset, b.stride, ahead_bytes / 4, wrap,
                       out, panel_columns, add);
  else
    stream_rows<pairs>(rows, k, left, static_cast<const bf16*>(b.data) + offset, b.stride, ahead_bytes / 2, wrap,
                       out, panel_columns, add);
}

// Whether each thread packs op(a) for itself: where that takes no longer than to wait for a share of it.
static bool packs_left_alone(const Product& p, int threads) { return p.m * p.k <= 4096 || packs_alone(p.n, threads); }

// `left` is shared unless packs_left_alone, `own` the thread's.
template <bool pairs> static void multiply_columns(const Product& p, const Team& team, bool left_alone, uint32_t* left, uint32_t* own) {
  const Output& out = p.out;
  const int64_t block = k_block<pairs>(p.k), blocks = larger(1, ceil_divide(p.k, larger(1, block)));
  const int64_t left_panels = ceil_divide(p.m, panel_rows), left_units = left_panel_units<pairs>(block);
  // Rows are dealt evenly: two panels of 4 take less time than one of 6 and one of 2, whose sums wait for each other.
  const int64_t rows_each = ceil_divide(p.m, left_panels);
  const int64_t right_panels = ceil_divide(p.n, panel_columns), right_units = right_panel_units<pairs>(block),
                together = column_panels(p);
  auto pack_left = [&](int64_t i) {
    const int64_t k0 = i / left_panels * block;
    const int64_t row = i % left_panels * rows_each;
    pack_panels<panel_rows, pairs>(p.a, row, smaller(p.m, row + rows_each), k0, smaller(block, p.k - k0),
                                   left + i * left_units, 1, 0);
  };
  bool packed = !left_alone;
  if (!left_alone) {
    team.take(left_panels * blocks, pack_left);
    team.barrier();
  }
  const int64_t tile_size = left_panels * panel_rows * panel_columns;
  float* tiles = reinterpret_cast<float*>(own + together * right_units);
  const bool start_from_c = out.plain() && out.accumulate;
  // A thread takes several panels in a row, so that what it prefetches beyond one is its own next.
  const int64_t groups = ceil_divide(right_panels, together), in_a_row = smaller(8, ceil_divide(groups, 8 * pool().size()));
  auto multiply_group = [&](int64_t group) {
    const int64_t first = group * together, panels = smaller(together, right_panels - first);
    auto column_of = [&](int64_t panel) { return (first + panel) * panel_columns; };
    auto columns_of = [&](int64_t panel) { return smaller(panel_columns, p.n - column_of(panel)); };
    if (start_from_c)
      for (int64_t j = 0; j < panels; ++j)
        for (int64_t i = 0; i < p.m; ++i)
          memcpy(tiles + j * tile_size + i * panel_columns, out.c_at(i, column_of(j)),
                 static_cast<size_t>(columns_of(j)) * 4);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t k0 = b * block, k = smaller(block, p.k - k0);
      if (p.b.along_k && !p.b.source && p.m <= most_stream_rows && columns_of(0) == panel_columns) {
        stream<pairs>(p.m, k, left + b * left_units, p.b, column_of(0), k0, p.k, tiles, b > 0 || start_from_c);
        continue;
      }
      pack_panels<panel_columns, pairs>(p.b, column_of(0), p.n, k0, k, own, panels, right_units);
      for (int64_t j = 0; j < panels; ++j)
        for (int64_t i = 0; i < left_panels; ++i)
          tile_kernel_for<pairs>(smaller(rows_each, p.m - i * rows_each), columns_of(j))(
              units_of<pairs>(k), {left + (b * left_panels + i) * left_units, panel_rows}, {own + j * right_units, panel_columns},
              {tiles + j * tile_size + i * rows_each * panel_columns, panel_columns, b > 0 || start_from_c});
    }
    for (int64_t j = 0; j < panels; ++j) {
      float* tile = tiles + j * tile_size;
      if (out.plain()) store_tile(tile, p.m, columns_of(j), out.c_at(0, column_of(j)), out.stride, false);
      else finish_tile(tile, p.m, columns_of(j), 0, column_of(j), nullptr, 0, out);
    }
  };
  team.take(ceil_divide(groups, in_a_row), [&](int64_t ticket) {
    for (int64_t i = 0; !packed && i < left_panels * blocks; ++i) pack_left(i);
    packed = true;
    for (int64_t group = ticket * in_a_row; group < smaller(groups, (ticket + 1) * in_a_row); ++group) multiply_group(group);
  });
}

}  // namespace
}  // namespace anneal::cpu
