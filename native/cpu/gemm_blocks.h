// The schedule for large products (after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008). Each thread keeps the packed panels
// of the shorter side, its own copy of them, and takes strips of the longer side, which it packs into its second cache and multiplies. So no thread reads
// what another has packed, which costs more than packing twice where their caches are far apart; with many threads for a short side it is packed once for all.
#pragma once
#include "gemm.h"

namespace anneal::cpu {
namespace {

constexpr int64_t kept_bytes = 2 << 20, strip_bytes = 128 << 10, sums_in_scratch = 2 << 20;

// How a product is cut: in panels of the side that is kept and of the one that comes in strips, and in blocks of k.
struct Cut {
  bool keeps_left;
  bool shared;             // the kept panels are packed once, by all threads
  int64_t kept, streamed;  // panels at once; streamed is all but where sums stand in scratch memory
  int64_t strip;           // panels of a strip
  int64_t k_together;      // blocks of k that a strip is multiplied by before the next strip
};

template <bool pairs> static int64_t k_blocks(const Product& p) { return larger(1, ceil_divide(p.k, larger(1, k_block<pairs>(p.k)))); }
template <bool pairs> static bool needs_sums(const Product& p) { return k_blocks<pairs>(p) > 1 && !p.out.sums_in_c(); }
template <bool pairs> static int64_t panel_units(bool left, int64_t k) { return left ? left_panel_units<pairs>(k) : right_panel_units<pairs>(k); }

template <bool pairs> static Cut cut_of(const Product& p, int threads) {
  const int64_t k = k_block<pairs>(p.k), blocks = k_blocks<pairs>(p), left = ceil_divide(p.m, panel_rows), right = ceil_divide(p.n, panel_columns);
  Cut cut;
  // The left side is much the shorter. Panels that are made of something else cost more to make than to read, so they are made once.
  cut.keeps_left = p.b.source || 2 * p.m <= p.n;
  cut.shared = !packs_alone(cut.keeps_left ? p.n : p.m, threads);
  const int64_t all_kept = cut.keeps_left ? left : right, all_streamed = cut.keeps_left ? right : left,
                kept_units = larger(1, panel_units<pairs>(cut.keeps_left, k)), strip_units = larger(1, panel_units<pairs>(!cut.keeps_left, k));
  cut.kept = ceil_divide(all_kept, ceil_divide(all_kept * kept_units, kept_bytes / 4));
  cut.k_together = smaller(blocks, larger(1, kept_bytes / 4 / (cut.kept * kept_units)));
  // Where memory holds one k after the other, a strip is whole lines of the cache.
  const int64_t least = cut.keeps_left ? (p.b.along_k ? 1 : 2) : p.a.along_k ? 1 : ceil_divide(48, panel_rows);
  const int64_t most = larger(least, strip_bytes / 4 / strip_units);
  cut.strip = smaller(all_streamed, threads == 1 ? most : smaller(most, larger(least, ceil_divide(all_streamed, 8 * threads))));
  cut.streamed = all_streamed;
  if (needs_sums<pairs>(p) && cut.k_together < blocks)
    cut.streamed = smaller(all_streamed, larger(1, sums_in_scratch / (cut.kept * panel_rows * panel_columns) / cut.strip) * cut.strip);
  return cut;
}

// In units of 4 bytes: what a thread has of its own, and what all share.
struct BlockMemory {
  int64_t kept, strip, own_sums, sums;
  int64_t own(const Cut& cut) const { return (cut.shared ? 0 : kept) + strip + own_sums; }

};
template <bool pairs> static BlockMemory block_memory(const Product& p, const Cut& cut) {
  const int64_t k = k_block<pairs>(p.k), tile = panel_rows * panel_columns;
  const bool sums = needs_sums<pairs>(p), together = cut.k_together == k_blocks<pairs>(p);
  return {cut.k_together * cut.kept * panel_units<pairs>(cut.keeps_left, k) + lanes, cut.strip * panel_units<pairs>(!cut.keeps_left, k) + lanes,
          sums && together ? cut.kept * cut.strip * tile : 0, sums && !together ? cut.kept * cut.streamed * tile : 0};
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

// Packs panels of one side, numbered through the whole side.
template <bool pairs>
static void pack_side(const Product& p, bool left, int64_t panel, int64_t panels, const KStep& step, uint32_t* to) {
  if (left) pack_panels<panel_rows, pairs>(p.a, panel * panel_rows, p.m, step.k0, step.k, to, panels, left_panel_units<pairs>(step.k));
  else pack_panels<panel_columns, pairs>(p.b, panel * panel_columns, p.n, step.k0, step.k, to, panels, right_panel_units<pairs>(step.k));
}

// Asks for a share, `part` of `parts`, of what pack_side will read.
ANNEAL_INLINE void prefetch_side(const Product& p, bool left, int64_t panel, int64_t panels, const KStep& step, int64_t part, int64_t parts) {
  const Operand& x = left ? p.a : p.b;
  if (x.source) return;
  const int64_t width = left ? panel_rows : panel_columns, first = panel * width, count = smaller(panels * width, (left ? p.m : p.n) - first),
                size = x.dtype == DType::f32 ? 4 : 2;
  // Lines of memory that hold it: as many as there are rows (columns), or steps of k.
  const int64_t rows = x.along_k ? count : step.k, bytes = (x.along_k ? step.k : count) * size;
  const char* from = static_cast<const char*>(x.data) + (x.along_k ? first * x.stride + step.k0 : step.k0 * x.stride + first) * size;
  for (int64_t i = rows * part / parts; i < rows * (part + 1) / parts; ++i)
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + i * x.stride * size + at, 0, 2);
}

// `own` is the thread's memory, `shared` and `sums` are for all; see BlockMemory.
template <bool pairs> static void multiply_blocks(const Product& p, const Cut& cut, const Team& team, uint32_t* own, uint32_t* shared, float* shared_sums) {
  const BlockMemory size = block_memory<pairs>(p, cut);
  uint32_t* const kept = cut.shared ? shared : own;
  uint32_t* const strip = own + (cut.shared ? 0 : size.kept);
  float* const own_sums = reinterpret_cast<float*>(strip + size.strip);
  const int64_t block = k_block<pairs>(p.k), blocks = k_blocks<pairs>(p), left_panels = ceil_divide(p.m, panel_rows),
                right_panels = ceil_divide(p.n, panel_columns), all_kept = cut.keeps_left ? left_panels : right_panels,
                all_streamed = cut.keeps_left ? right_panels : left_panels, kept_block_units = cut.kept * panel_units<pairs>(cut.keeps_left, block);
  auto step_of = [&](int64_t b) { return KStep{b * block, smaller(block, p.k - b * block), b == 0, b + 1 == blocks}; };
  bool first_phase = true;
  for (int64_t kept0 = 0; kept0 < all_kept; kept0 += cut.kept) {
    const int64_t kept_panels = smaller(cut.kept, all_kept - kept0);
    for (int64_t streamed0 = 0; streamed0 < all_streamed; streamed0 += cut.streamed) {
      const int64_t streamed_panels = smaller(cut.streamed, all_streamed - streamed0);
      for (int64_t b0 = 0; b0 < blocks; b0 += cut.k_together) {
        const int64_t b1 = smaller(blocks, b0 + cut.k_together);
        // Panels first … first + panels of the kept block, for each block of k.
        auto pack_kept = [&](int64_t first, int64_t panels) {
          for (int64_t b = b0; b < b1; ++b) {
            const KStep step = step_of(b);
            pack_side<pairs>(p, cut.keeps_left, kept0 + first, panels, step,
                             kept + (b - b0) * kept_block_units + first * panel_units<pairs>(cut.keeps_left, step.k));
          }
        };
        if (!first_phase) team.barrier();
        first_phase = false;
        bool packed = cut.shared;
        if (cut.shared) {
          constexpr int64_t together = 4;
          team.take(ceil_divide(kept_panels, together),
                    [&](int64_t ticket) { pack_kept(ticket * together, smaller(together, kept_panels - ticket * together)); });
          team.barrier();
        }
        team.take(ceil_divide(streamed_panels, cut.strip), [&](int64_t ticket) {
          if (!packed) pack_kept(0, kept_panels);
          packed = true;
          const int64_t strip0 = ticket * cut.strip, strip_panels = smaller(cut.strip, streamed_panels - strip0);
          float* const sums = size.own_sums ? own_sums : shared_sums;
          const int64_t strip_at = size.own_sums ? 0 : strip0;  // where the strip's sums begin
          const int64_t sums_stride = (cut.keeps_left ? size.own_sums ? cut.strip : cut.streamed : cut.kept) * panel_columns;
          for (int64_t b = b0; b < b1; ++b) {
            const KStep step = step_of(b);
            const int64_t kept_units = panel_units<pairs>(cut.keeps_left, step.k), strip_units = panel_units<pairs>(!cut.keeps_left, step.k);
            pack_side<pairs>(p, !cut.keeps_left, streamed0 + strip0, strip_panels, step, strip);
            const bool last_block = b + 1 == b1;
            const int64_t next_strip0 = last_block ? strip0 + cut.strip : strip0, next_panels = smaller(cut.strip, streamed_panels - next_strip0);
            const KStep next_step = step_of(last_block ? b0 : b + 1);
            for (int64_t x = 0; x < kept_panels; ++x) {
              if (next_panels > 0) prefetch_side(p, !cut.keeps_left, streamed0 + next_strip0, next_panels, next_step, x, kept_panels);
              const uint32_t* from_kept = kept + (b - b0) * kept_block_units + x * kept_units;
              for (int64_t y = 0; y < strip_panels; ++y) {
                const uint32_t* from_strip = strip + y * strip_units;
                const int64_t i = cut.keeps_left ? x : y, j = cut.keeps_left ? y : x, i0 = cut.keeps_left ? kept0 : streamed0 + strip0,
                              j0 = cut.keeps_left ? streamed0 + strip0 : kept0;
                const int64_t row_in_sums = (cut.keeps_left ? i : strip_at + i) * panel_rows, column_in_sums = (cut.keeps_left ? strip_at + j : j) * panel_columns;
                multiply_tile<pairs>(p, step, cut.keeps_left ? from_kept : from_strip, cut.keeps_left ? from_strip : from_kept, (i0 + i) * panel_rows,
                                     (j0 + j) * panel_columns, sums + row_in_sums * sums_stride + column_in_sums, sums_stride);
              }
            }
          }
        });
      }
    }
  }
}

}  // namespace
}  // namespace anneal::cpu
