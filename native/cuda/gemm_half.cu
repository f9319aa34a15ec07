// bf16 matrix products on tensor cores (mma.sync) with f32 sums. Tiles of both operands come through a ring of shared-memory stages (cp.async) and are read
// with ldmatrix, transposed where k is not the operand's contiguous axis. Each output is summed in steps of 16 along k from the first to the last, in every
// tile shape: that chain is short enough to stay below the time it takes to read op(b), so the few rows of decoding need no sums over parts of k.
#include "gemm_epilogue.h"
#include "gemm_reader.h"
#include "launch.h"

namespace anneal::cuda {

// A block computes rows × columns outputs, `depth` of k at a time; a warp warp_rows × warp_columns of them.
template <int rows_, int columns_, int depth_, int stages_, int warp_rows_, int warp_columns_, int blocks_> struct HalfTile {
  static constexpr int rows = rows_, columns = columns_, depth = depth_, stages = stages_, warp_rows = warp_rows_, warp_columns = warp_columns_;
  static constexpr int warps_across = columns / warp_columns, threads = rows / warp_rows * warps_across * 32, blocks = blocks_;
  static constexpr int left_bytes = rows * depth * 2, stage_bytes = left_bytes + columns * depth * 2;
  static constexpr size_t ring_bytes = static_cast<size_t>(stages) * stage_bytes;
  static constexpr size_t shared_bytes = ring_bytes > tile_bytes(rows, columns) ? ring_bytes : tile_bytes(rows, columns);
};
using LargeTile = HalfTile<128, 128, 32, 4, 64, 64, 2>;
using MediumTile = HalfTile<64, 64, 64, 3, 32, 32, 3>;
using FewRowsTile = HalfTile<16, 64, 128, 4, 16, 16, 2>;
using FewRowsNarrowTile = HalfTile<16, 32, 128, 7, 16, 16, 2>;

// The four fragments of op(a) for rows row … row + 15 and 16 of k from piece k / 8 on, of a tile in shared memory.
template <int length, int depth, bool along_k> ANNEAL_DEVICE void load_left(uint32_t (&r)[4], Shared tile, int row, int k, int lane) {
  if constexpr (along_k) {
    const int line = row + (lane & 15);
    ldmatrix_x4(r, tile + (line * (depth / 8) + swizzled<depth / 8>(line, k / 8 + (lane >> 4))) * 16);
  } else {
    const int line = k + (lane & 7) + (lane >> 4) * 8;
    ldmatrix_x4_trans(r, tile + (line * (length / 8) + swizzled<length / 8>(line, row / 8 + (lane >> 3 & 1))) * 16);
  }
}
// The fragments of op(b) for columns column … column + 15: r[0], r[1] of the first eight, r[2], r[3] of the others.
template <int length, int depth, bool along_k> ANNEAL_DEVICE void load_right(uint32_t (&r)[4], Shared tile, int column, int k, int lane) {
  if constexpr (along_k) {
    const int line = column + (lane & 7) + (lane >> 4) * 8;
    ldmatrix_x4(r, tile + (line * (depth / 8) + swizzled<depth / 8>(line, k / 8 + (lane >> 3 & 1))) * 16);
  } else {
    const int line = k + (lane & 15);
    ldmatrix_x4_trans(r, tile + (line * (length / 8) + swizzled<length / 8>(line, column / 8 + (lane >> 4))) * 16);
  }
}

template <class Tile, bool a_along_k, bool b_along_k>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks) gemm_half_kernel(Operand a, Operand b, Output out, int m, int n, int k, int tile_rows, int tile_columns, int first_batch) {
  constexpr int row_tiles = Tile::warp_rows / 16, column_pairs = Tile::warp_columns / 16, stages = Tile::stages;
  ANNEAL_DYNAMIC_SHARED(unsigned char, memory);
  const Shared ring = to_shared(memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const TilePlace place = tile_of(blockIdx.x, tile_rows, tile_columns);
  const int row = place.row * Tile::rows, column = place.column * Tile::columns;
  const int warp_row = warp / Tile::warps_across * Tile::warp_rows, warp_column = warp % Tile::warps_across * Tile::warp_columns;
  const int64_t batch = first_batch + static_cast<int64_t>(blockIdx.z);
  const TileReader<Tile::rows, Tile::depth, a_along_k, Tile::threads> left(a, batch, row, m, k);
  const TileReader<Tile::columns, Tile::depth, b_along_k, Tile::threads> right(b, batch, column, n, k);
  const int steps = (k + Tile::depth - 1) / Tile::depth;
  auto copy = [&](int step, int stage) {
    if (step < steps) {
      left.copy(ring + stage * Tile::stage_bytes, step * Tile::depth);
      right.copy(ring + (stage * Tile::stage_bytes + Tile::left_bytes), step * Tile::depth);
    }
    cp_async_commit();
  };
#pragma unroll
  for (int i = 0; i < stages - 1; ++i) copy(i, i);

  float sums[row_tiles][column_pairs * 2][4];
#pragma unroll
  for (int i = 0; i < row_tiles; ++i)
#pragma unroll
    for (int j = 0; j < column_pairs * 2; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = 0;

  int stage = 0, free_stage = stages - 1;
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<stages - 2>();
    __syncthreads();
    copy(step + stages - 1, free_stage);
    const Shared tile = ring + stage * Tile::stage_bytes;
#pragma unroll
    for (int kk = 0; kk < Tile::depth; kk += 16) {
      uint32_t x[row_tiles][4], y[column_pairs][4];
#pragma unroll
      for (int i = 0; i < row_tiles; ++i) load_left<Tile::rows, Tile::depth, a_along_k>(x[i], tile, warp_row + i * 16, kk, lane);
#pragma unroll
      for (int j = 0; j < column_pairs; ++j) load_right<Tile::columns, Tile::depth, b_along_k>(y[j], tile + Tile::left_bytes, warp_column + j * 16, kk, lane);
#pragma unroll
      for (int i = 0; i < row_tiles; ++i)
#pragma unroll
        for (int j = 0; j < column_pairs; ++j) {
          mma_bf16(sums[i][2 * j], x[i], y[j][0], y[j][1]);
          mma_bf16(sums[i][2 * j + 1], x[i], y[j][2], y[j][3]);
        }
    }
    free_stage = stage;
    stage = stage + 1 == stages ? 0 : stage + 1;
  }
  cp_async_wait<0>();
  __syncthreads();
  float* tile = reinterpret_cast<float*>(memory);
#pragma unroll
  for (int i = 0; i < row_tiles; ++i)
#pragma unroll
    for (int j = 0; j < column_pairs * 2; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        *reinterpret_cast<float2*>(tile + (warp_row + i * 16 + h * 8 + lane / 4) * tile_stride(Tile::columns) + warp_column + j * 8 + lane % 4 * 2) =
            make_float2(sums[i][j][2 * h], sums[i][j][2 * h + 1]);
  finish_tile<Tile::rows, Tile::columns, Tile::threads>(tile, out, row, column, m, n, batch);
}

namespace {

template <class Tile> void run(const Product& p) {
  const int rows = static_cast<int>(ceil_div(p.m, Tile::rows)), columns = static_cast<int>(ceil_div(p.n, Tile::columns));
  const auto kernel = p.a.along_k ? (p.b.along_k ? gemm_half_kernel<Tile, true, true> : gemm_half_kernel<Tile, true, false>)
                                  : (p.b.along_k ? gemm_half_kernel<Tile, false, true> : gemm_half_kernel<Tile, false, false>);
  constexpr int64_t most_at_once = 65535;
  for (int64_t first = 0; first < p.batch; first += most_at_once) {
    const int64_t count = p.batch - first < most_at_once ? p.batch - first : most_at_once;
    launch(kernel, {dim3(static_cast<unsigned>(rows) * columns, 1, static_cast<unsigned>(count)), dim3(Tile::threads), Tile::shared_bytes, "gemm"}, p.a, p.b, p.out,
           static_cast<int>(p.m), static_cast<int>(p.n), static_cast<int>(p.k), rows, columns, static_cast<int>(first));
  }
}

}  // namespace

void multiply_half(const Product& p) {
  const int64_t processors = traits().multiprocessors;
  if (p.m <= 16) {
    // All blocks should run at once: then each streams its own part of op(b) until the end.
    if (ceil_div(p.n, FewRowsTile::columns) * p.batch < processors) return run<FewRowsNarrowTile>(p);
    return run<FewRowsTile>(p);
  }
  const bool fills = ceil_div(p.m, LargeTile::rows) * ceil_div(p.n, LargeTile::columns) * p.batch >= processors;
  if (fills && p.m > 64 && p.n > 64) return run<LargeTile>(p);
  run<MediumTile>(p);
}

}  // namespace anneal::cuda
