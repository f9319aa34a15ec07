// The schedule for large products (after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008). Each thread keeps the packed panels
// of one side (all of them, or its part of the longer side), its own copy, and takes strips of the other, which it packs into its second cache and multiplies.
// So no thread reads what another has packed, which costs more than packing twice where their caches are far apart; with many threads for a short side the
// kept one is packed once for all. A small side that memory holds as panels do is not packed, but read where it lies.
#pragma once
#include "gemm.h"

namespace anneal::cpu {
namespace {

// Bytes of the panels kept at once and of a strip, and sums in scratch memory.
constexpr int64_t kept_bytes = 2 << 20, strip_bytes = 128 << 10, sums_in_scratch = 2 << 20;

// How a product is cut: in panels of the side that is kept and of the one that comes in strips, and in blocks of k.
struct Cut {
  bool keeps_left;
  bool in_place[2];        // whether the right and the left side are multiplied where they lie
  bool shared;             // the kept panels are packed once, by all threads
  int64_t parts;           // of the kept panels, each multiplied by all strips
  int64_t kept, streamed;  // panels at once; streamed is all but where sums stand in scratch memory
  int64_t strip;           // panels of a strip
  int64_t k_together;      // blocks of k that a strip is multiplied by before the next strip
};

template <bool pairs> static int64_t k_blocks(const Product& p) { return larger(1, ceil_divide(p.k, larger(1, k_block<pairs>(p.k)))); }
template <bool pairs> static bool needs_sums(const Product& p) { return k_blocks<pairs>(p) > 1 && !p.out.sums_in_c(); }
template <bool pairs> static int64_t panel_units(bool left, int64_t k) { return left ? left_panel_units<pairs>(k) : right_panel_units<pairs>(k); }

// Whether panels need no packing: memory holds the rows (columns) of each k one after the other, and those of the next k within 2 KB. What lies farther apart
// would be read from a page of its own for every few k, and is packed.
template <bool pairs> static bool lies_as_panels(const Operand& x, int64_t length, int64_t width) {
  return !pairs && !x.source && !x.along_k && x.dtype == DType::f32 && x.stride <= 512 && length % width == 0;
}

template <bool pairs> static Cut cut_of(const Product& p, int threads) {
  const int64_t k = k_block<pairs>(p.k), blocks = k_blocks<pairs>(p), left = ceil_divide(p.m, panel_rows), right = ceil_divide(p.n, panel_columns);
  Cut cut;
  // By measurement the right side is the better one to keep, unless the left one is less than half as long. Where right panels are made of something else,
  // strips of them are made once for each part of the left side, by one of the threads; kept ones once, by each thread.
  const int64_t left_parts = ceil_divide(left * left_panel_units<pairs>(k), kept_bytes / 4);
  cut.keeps_left = p.b.source ? left_parts <= threads : 2 * p.m <= p.n;
  cut.in_place[true] = lies_as_panels<pairs>(p.a, p.m, 1);  // rows past the last are not read
  cut.in_place[false] = lies_as_panels<pairs>(p.b, p.n, panel_columns);
  cut.shared = !cut.in_place[cut.keeps_left] && !packs_alone(cut.keeps_left ? p.n : p.m, threads);
  // A part of the longer side and all of the shorter one is less to pack than the other way round. Of equal sides a part had better stay in the second cache.
  const bool in_parts = p.n > p.m || (p.n == p.m && right * right_panel_units<pairs>(k) > kept_bytes / 16);
  cut.parts = in_parts && !cut.shared && !p.b.source && !cut.keeps_left ? smaller(threads, right) : 1;
  const int64_t all_kept = cut.keeps_left ? left : right, all_streamed = cut.keeps_left ? right : left,
                kept_units = larger(1, panel_units<pairs>(cut.keeps_left, k)), strip_units = larger(1, panel_units<pairs>(!cut.keeps_left, k));
  // Where c cannot hold the sums, a strip had better go through all of k at once, unless too little of the other side were kept for that.
  const int64_t at_once = needs_sums<pairs>(p) && blocks <= 4 ? blocks : 1;
  cut.kept = ceil_divide(all_kept, ceil_divide(all_kept * kept_units * at_once, kept_bytes / 4));
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
static void multiply_tile(const Product& p, const KStep& step, Panel left, Panel right, int64_t row,
                          int64_t column, float* sums, int64_t sums_stride, Upcoming* upcoming) {
  const Output& out = p.out;
  const int64_t rows = smaller(panel_rows, p.m - row), columns = smaller(panel_columns, p.n - column),
                units = units_of<pairs>(step.k);
  const TileKernel kernel = tile_kernel_for<pairs>(rows, columns);
  const bool in_c = out.sums_in_c();
  float* running = in_c ? out.c_at(row, column) : sums;
  const int64_t stride = in_c ? out.stride : sums_stride;
  const bool add = !step.first || (out.plain() && out.accumulate), whole = columns == panel_columns || !in_c;
  if (!step.last && whole) return kernel(units, left, right, {running, stride, add, nullptr, upcoming});
  if (step.last && whole && out.direct())
    return kernel(units, left, right, {running, stride, add, out.bias ? static_cast<const float*>(out.bias) + column : nullptr, upcoming});
  float tile[panel_rows * panel_columns];
  if (step.last) out.expect_tile(rows, columns, row, column);
  kernel(units, left, right, {tile, panel_columns, false, nullptr, upcoming});
  if (step.last && !out.plain()) finish_tile(tile, rows, columns, row, column, step.first ? nullptr : running, stride, out);
  else store_tile(tile, rows, columns, running, stride, add);
}

// Packs panels of one side, numbered through the whole side.
template <bool pairs>
static void pack_side(const Product& p, bool left, int64_t panel, int64_t panels, const KStep& step, uint32_t* to) {
  if (left) pack_panels<panel_rows, pairs>(p.a, panel * panel_rows, p.m, step.k0, step.k, to, panels, left_panel_units<pairs>(step.k));
  else pack_panels<panel_columns, pairs>(p.b, panel * panel_columns, p.n, step.k0, step.k, to, panels, right_panel_units<pairs>(step.k));
}

// Panels of one side, `first` being their number in the whole side, and how far it is from one to the next.
struct Panels {
  int64_t first, count;
  Panel front;
  int64_t next;
  Panel at(int64_t i) const { return {front.at + i * next, front.step}; }
};
template <bool pairs>
static Panels panels_of(const Product& p, bool left, bool in_place, int64_t first, int64_t count, const KStep& step, const uint32_t* packed) {
  const Operand& x = left ? p.a : p.b;
  const int64_t width = left ? panel_rows : panel_columns;
  if (in_place) return {first, count, {static_cast<const uint32_t*>(x.data) + step.k0 * x.stride + first * width, x.stride}, width};
  return {first, count, {packed, width}, panel_units<pairs>(left, step.k)};
}

// What pack_side will read.
template <bool pairs> static Upcoming upcoming_side(const Product& p, bool left, int64_t panel, int64_t panels, const KStep& step) {
  const Operand& x = left ? p.a : p.b;
  const int64_t width = left ? panel_rows : panel_columns, first = panel * width, count = smaller(panels * width, (left ? p.m : p.n) - first),
                size = x.dtype == DType::f32 ? 4 : 2;
  if (x.source || count <= 0) return {};
  // Rows of memory: as many as there are rows (columns), or steps of k.
  const int64_t rows = x.along_k ? count : step.k, bytes = (x.along_k ? step.k : count) * size;
  const char* from = static_cast<const char*>(x.data) + (x.along_k ? first * x.stride + step.k0 : step.k0 * x.stride + first) * size;
  const int64_t before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(from) % cache_line), lines = ceil_divide(before + bytes, cache_line);
  return {from - before, lines, x.stride * size - (lines - 1) * cache_line, 0, rows * lines};
}

// What a thread packs next of each side.
struct Next {
  Upcoming strip, kept;
  Upcoming* upcoming() { return strip.left > 0 ? &strip : &kept; }
};
// The kept panels times a strip, for one block of k. `sums` are those of the first tile.
template <bool pairs>
static void multiply_strip(const Product& p, const KStep& step, bool keeps_left, const Panels& kept, const Panels& strip, float* sums, int64_t sums_stride,
                           Next& next) {
  const Panels &left = keeps_left ? kept : strip, &right = keeps_left ? strip : kept;
  auto tile = [&](int64_t i, int64_t j) {
    multiply_tile<pairs>(p, step, left.at(i), right.at(j), (left.first + i) * panel_rows,
                         (right.first + j) * panel_columns, sums + i * panel_rows * sums_stride + j * panel_columns, sums_stride, next.upcoming());
  };
  for (int64_t x = 0; x < kept.count; ++x)
    for (int64_t y = 0; y < strip.count; ++y) tile(keeps_left ? x : y, keeps_left ? y : x);
}

// `own` is the thread's memory, `shared` and `shared_sums` are for all; see BlockMemory.
template <bool pairs> static void multiply_blocks(const Product& p, const Cut& cut, const Team& team, uint32_t* own, uint32_t* shared, float* shared_sums) {
  const BlockMemory size = block_memory<pairs>(p, cut);
  uint32_t* const kept_memory = cut.shared ? shared : own;
  uint32_t* const strip_memory = own + (cut.shared ? 0 : size.kept);
  float* const own_sums = size.own_sums ? reinterpret_cast<float*>(strip_memory + size.strip) : nullptr;
  const int64_t sums_stride = panel_columns * (!cut.keeps_left ? cut.kept : own_sums ? cut.strip : cut.streamed),
                strip_step = cut.keeps_left ? panel_columns : panel_rows * sums_stride;  // from the sums of one of a strip's panels to the next
  const int64_t block = k_block<pairs>(p.k), blocks = k_blocks<pairs>(p), left_panels = ceil_divide(p.m, panel_rows),
                right_panels = ceil_divide(p.n, panel_columns), all_kept = cut.keeps_left ? left_panels : right_panels,
                all_streamed = cut.keeps_left ? right_panels : left_panels, kept_block_units = cut.kept * panel_units<pairs>(cut.keeps_left, block);
  auto step_of = [&](int64_t b) { return KStep{b * block, smaller(block, p.k - b * block), b == 0, b + 1 == blocks}; };

  // What one phase multiplies: panels of both sides, and blocks of k.
  auto phase = [&](int64_t kept0, int64_t kept_panels, int64_t streamed0, int64_t streamed_panels, int64_t b0, int64_t b1) {
    auto kept_at = [&](int64_t b) { return kept_memory + (b - b0) * kept_block_units; };
    auto pack_kept = [&](int64_t first, int64_t panels) {
      if (cut.in_place[cut.keeps_left]) return;
      for (int64_t b = b0; b < b1; ++b) {
        const KStep step = step_of(b);
        pack_side<pairs>(p, cut.keeps_left, kept0 + first, panels, step, kept_at(b) + first * panel_units<pairs>(cut.keeps_left, step.k));
      }
    };
    if (cut.shared) {
      constexpr int64_t together = 4;
      team.take(ceil_divide(kept_panels, together),
                [&](int64_t ticket) { pack_kept(ticket * together, smaller(together, kept_panels - ticket * together)); });
      team.barrier();
    }
    // As many strips as each thread can have the same number of; those of a part follow one another.
    const int64_t most = ceil_divide(streamed_panels, cut.strip), strips = smaller(streamed_panels, ceil_divide(most, team.threads) * team.threads);
    int64_t packed = cut.shared ? 0 : -1;  // the part
    Next next;
    team.take(strips * cut.parts, [&](int64_t ticket) {
      const int64_t part = ticket / strips, part0 = kept_panels * part / cut.parts, part_panels = kept_panels * (part + 1) / cut.parts - part0;
      if (packed != part) {
        pack_kept(part0, part_panels);
        if (b1 < blocks) next.kept = upcoming_side<pairs>(p, cut.keeps_left, kept0 + part0, part_panels, step_of(b1));
      }
      packed = part;
      const int64_t at = ticket % strips, strip0 = streamed_panels * at / strips, panels = streamed_panels * (at + 1) / strips - strip0;
      float* const sums = own_sums ? own_sums : shared_sums + strip0 * strip_step + part0 * panel_columns;
      for (int64_t b = b0; b < b1; ++b) {
        const KStep step = step_of(b);
        if (!cut.in_place[!cut.keeps_left]) pack_side<pairs>(p, !cut.keeps_left, streamed0 + strip0, panels, step, strip_memory);
        // The same strip's next block of k, or most likely the strip after it.
        const bool last = b + 1 == b1;
        const int64_t next0 = last ? strip0 + panels : strip0, next_panels = smaller(panels, streamed_panels - next0);
        next.strip = upcoming_side<pairs>(p, !cut.keeps_left, streamed0 + next0, next_panels, step_of(last ? b0 : b + 1));
        const uint32_t* packed_part = kept_at(b) + part0 * panel_units<pairs>(cut.keeps_left, step.k);
        const Panels kept = panels_of<pairs>(p, cut.keeps_left, cut.in_place[cut.keeps_left], kept0 + part0, part_panels, step, packed_part);
        const Panels strip = panels_of<pairs>(p, !cut.keeps_left, cut.in_place[!cut.keeps_left], streamed0 + strip0, panels, step, strip_memory);
        multiply_strip<pairs>(p, step, cut.keeps_left, kept, strip, sums, sums_stride, next);
      }
    });
  };
  bool first = true;
  for (int64_t kept0 = 0; kept0 < all_kept; kept0 += cut.kept)
    for (int64_t streamed0 = 0; streamed0 < all_streamed; streamed0 += cut.streamed)
      for (int64_t b0 = 0; b0 < blocks; b0 += cut.k_together) {
        if (!first) team.barrier();
        first = false;
        phase(kept0, smaller(cut.kept, all_kept - kept0), streamed0, smaller(cut.streamed, all_streamed - streamed0), b0,
              smaller(blocks, b0 + cut.k_together));
      }
}

}  // namespace
}  // namespace anneal::cpu
