// Tiles of bf16 rows in shared memory and the fragments of mma.m16n8k16 read from them. A row of D numbers is D / 8 chunks of 16 bytes; chunks of
// neighbouring rows are exchanged (XOR with bits of the row), so that the eight rows that ldmatrix reads at once lie in different banks.
#pragma once
#include "attention.h"

namespace anneal::cuda {

template <int D> constexpr int chunks = D / 8;
// Bits of the row that chunks are exchanged by: rows whose chunks start in the same bank must differ.
template <int D> ANNEAL_DEVICE int twist(int row) {
  if constexpr (chunks<D> % 8 == 0) return row & 7;
  else if constexpr (chunks<D> % 4 == 0) return row >> 1 & 3;
  else return row >> 2 & 1;
}
template <int D> ANNEAL_DEVICE int tile_offset(int row, int chunk) { return row * (D * 2) + ((chunk ^ twist<D>(row)) << 4); }

// Copies rows 0 … rows - 1 of one head to a tile, asynchronously, with zeros from row `valid` and from column `head_dim` on.
template <int D, int threads, int rows> ANNEAL_DEVICE void load_tile(Shared tile, const bf16* from, int stride, int valid, int head_dim) {
  constexpr int per_row = chunks<D>;
  if constexpr (threads % per_row == 0) {
    constexpr int step = threads / per_row;
    const int row = threadIdx.x / per_row, chunk = threadIdx.x % per_row;
    const bf16* source = from + row * stride + chunk * 8;
    const bool inside = chunk * 8 < head_dim;
#pragma unroll
    for (int r = 0; r < rows; r += step) cp_async_16(tile + tile_offset<D>(r + row, chunk), source + r * stride, inside && r + row < valid);
  } else {
#pragma unroll
    for (int i = 0; i < rows * per_row; i += threads) {
      const int index = i + threadIdx.x, row = index / per_row, chunk = index % per_row;
      if (rows * per_row % threads == 0 || index < rows * per_row)
        cp_async_16(tile + tile_offset<D>(row, chunk), from + row * stride + chunk * 8, row < valid && chunk * 8 < head_dim);
    }
  }
}

// Where a lane's row of ldmatrix lies in a tile; at(step) is that row's address `step` (even) chunks further on.
template <int D> struct LaneRow {
  int row, chunk;
  ANNEAL_DEVICE LaneRow(int r, int c) : row(r * (D * 2)), chunk((c ^ twist<D>(r)) << 4) {
    if constexpr ((D & (D - 1)) == 0) row += chunk;
  }
  ANNEAL_DEVICE int at(int step) const {
    if constexpr ((D & (D - 1)) == 0) return row ^ step * 16;
    else return row + (chunk ^ step * 16);
  }
};
// The left operand, 16 rows by 16 columns, from rows of the tile; and the right one with its columns down the tile's columns ("across").
template <int D> ANNEAL_DEVICE LaneRow<D> lane_rows(int first_row) {
  const int lane = threadIdx.x & 31;
  return {first_row + (lane & 15), lane >> 4};
}
// The right operand, two times 8 columns by 16, each column a row of the tile.
template <int D> ANNEAL_DEVICE LaneRow<D> lane_columns(int first_row) {
  const int lane = threadIdx.x & 31;
  return {first_row + (lane & 7) + (lane >> 4 << 3), lane >> 3 & 1};
}
// 16 rows further down.
template <int D> constexpr int block_bytes = 16 * D * 2;

template <int count> ANNEAL_DEVICE void clear(float (&x)[count][4]) {
#pragma unroll
  for (int j = 0; j < count; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) x[j][e] = 0.f;
}
// The accumulators of 16 rows by 16 columns as a left operand.
ANNEAL_DEVICE void pack_operand(uint32_t (&a)[4], const float (&low)[4], const float (&high)[4]) {
  a[0] = pack_bf16(low[0], low[1]);
  a[1] = pack_bf16(low[2], low[3]);
  a[2] = pack_bf16(high[0], high[1]);
  a[3] = pack_bf16(high[2], high[3]);
}

// Writes the accumulators of a warp's 16 rows, times a factor for each half, to rows `row` … row + 15 of a tensor's head: offset is that of the tile's
// row 0, and rows from `valid` on are left out. `tile` is shared memory whose rows row … row + 15 this warp alone uses.
template <int D>
ANNEAL_DEVICE void store_rows(const Target& to, int64_t offset, int stride, int row, int valid, int head_dim, Shared tile, const float (&acc)[D / 8][4],
    float low, float high) {
  const int lane = threadIdx.x & 31, group = lane >> 2, quad = lane & 3;
  if (to.vectors) {
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      store_shared_4(tile + (tile_offset<D>(row + group, j) + quad * 4), pack_bf16(acc[j][0] * low, acc[j][1] * low));
      store_shared_4(tile + (tile_offset<D>(row + group + 8, j) + quad * 4), pack_bf16(acc[j][2] * high, acc[j][3] * high));
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * chunks<D>; i += 32) {
      const int index = i + lane, r = row + index / chunks<D>, chunk = index % chunks<D>;
      if (r < valid && chunk * 8 < head_dim)
        store_global_16(to.vectors + offset + static_cast<int64_t>(r) * stride + chunk * 8, load_shared_16(tile + tile_offset<D>(r, chunk)));
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < D / 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int r = row + group + 8 * (e >> 1), column = j * 8 + quad * 2 + (e & 1);
      if (r >= valid || column >= head_dim) continue;
      const int64_t at = offset + static_cast<int64_t>(r) * stride + column;
      const float value = acc[j][e] * (e < 2 ? low : high);
      if (to.full) to.full[at] = value;
      else to.half[at] = from_float<bf16>(value);
    }
}

// Picks the kernel for a head_dim: body(integral constant) with the smallest of the compiled widths that holds it.
template <class F> void dispatch_width(int head_dim, F&& body) {
  if (head_dim <= 32) return body(Width<32>{});
  if (head_dim <= 64) return body(Width<64>{});
  if (head_dim <= 80) return body(Width<80>{});
  if (head_dim <= 96) return body(Width<96>{});
  if (head_dim <= 128) return body(Width<128>{});
  body(Width<256>{});
}

}  // namespace anneal::cuda
