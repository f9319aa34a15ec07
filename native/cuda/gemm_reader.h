// Bringing tiles of bf16 operands from global to shared memory, arranged so that reading them meets no bank conflicts.
#pragma once
#include "gemm.h"
#include "simt.h"

namespace anneal::cuda {

// Where 16-byte piece `piece` of a row lies in a tile with `pieces` per row: eight pieces that ldmatrix reads together, of rows one after the other, are in
// different banks.
template <int pieces> ANNEAL_DEVICE int swizzled(int row, int piece) {
  if constexpr (pieces >= 8) return piece ^ (row & 7);
  else if constexpr (pieces == 4) return piece ^ (row >> 1 & 3);
  else return piece ^ (row >> 2 & 1);
}

// Copies tiles of `length` rows (columns) × `depth` of k of an operand. In shared memory, as in global, a row of the tile runs along k where along_k.
template <int length, int depth, bool along_k, int threads> struct TileReader {
  static constexpr int pieces = (along_k ? depth : length) / 8, lines = along_k ? length : depth, lines_at_once = threads / pieces;
  static_assert(threads % pieces == 0 && lines % lines_at_once == 0);
  const bf16 *data, *from;  // from: this thread's first piece of the tile at k = 0
  int64_t stride;
  int line, piece, left, k;  // left: how many rows (columns) remain from this thread's first

  ANNEAL_DEVICE TileReader(const Operand& x, int64_t batch, int first, int end, int k) : stride(x.stride), k(k) {
    data = static_cast<const bf16*>(x.data) + batch * x.step;
    line = threadIdx.x / pieces;
    piece = threadIdx.x % pieces;
    left = end - first - (along_k ? line : piece * 8);
    from = along_k ? data + (first + line) * stride + piece * 8 : data + line * stride + first + piece * 8;
  }
  ANNEAL_DEVICE void copy(Shared to, int k0) const {
#pragma unroll
    for (int i = 0; i < lines; i += lines_at_once) {
      const bool inside = along_k ? i < left && k0 + piece * 8 < k : left > 0 && k0 + line + i < k;
      const bf16* source = along_k ? from + i * stride + k0 : from + (k0 + i) * stride;
      cp_async_16(to + ((line + i) * pieces + swizzled<pieces>(line + i, piece)) * 16, inside ? source : data, inside);
    }
  }
};

}  // namespace anneal::cuda
