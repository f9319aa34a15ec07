// f32 matrix products: each thread sums a small square of outputs in registers, multiplying and adding in f32, from tiles of both operands in shared memory.
// The next tiles are read from global memory, converted to f32, while the present ones are multiplied. Each output is one sum in the order of k.
#include "gemm_epilogue.h"
#include "launch.h"

namespace anneal::cuda {

// A block computes rows × columns outputs, `depth` of k at a time; a thread own_rows × own_columns of them, in groups of 4.
template <int rows_, int columns_, int depth_, int own_rows_, int own_columns_> struct FloatTile {
  static constexpr int rows = rows_, columns = columns_, depth = depth_, own_rows = own_rows_, own_columns = own_columns_;
  static constexpr int across = columns / own_columns, threads = rows / own_rows * across, blocks = 512 / threads;
  // Of a line of one k: lines 4 apart are 16 banks apart, which spreads the stores of operands along k.
  static constexpr int left_stride = rows + 4, right_stride = columns + 4;
  static constexpr int stage = depth * (left_stride + right_stride);
  static constexpr size_t ring_bytes = 2 * sizeof(float) * stage;
  static constexpr size_t shared_bytes = ring_bytes > tile_bytes(rows, columns) ? ring_bytes : tile_bytes(rows, columns);
};
using LargeFloatTile = FloatTile<128, 128, 8, 8, 8>;
using SmallFloatTile = FloatTile<32, 32, 16, 4, 4>;

// Four numbers of which `count` are inside.
ANNEAL_DEVICE void load_four(float (&v)[4], const void* data, DType type, int64_t at, int count, bool aligned) {
  if (aligned && count >= 4) {
    if (type == DType::f32) {
      load_vector(v, static_cast<const float*>(data) + at);
    } else {
      const uint2 raw = *reinterpret_cast<const uint2*>(static_cast<const bf16*>(data) + at);
      v[0] = __uint_as_float(raw.x << 16);
      v[1] = __uint_as_float(raw.x & 0xffff0000u);
      v[2] = __uint_as_float(raw.y << 16);
      v[3] = __uint_as_float(raw.y & 0xffff0000u);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = j < count ? load_number(data, type, at + j) : 0.f;
}

// Brings tiles of an operand to shared memory, where a line holds the numbers of all rows (columns) for one k.
template <int length, int depth, int line_stride, int threads> struct FloatReader {
  static constexpr int groups = length * depth / 4 / threads;
  static_assert(length * depth / 4 % threads == 0);
  float held[groups][4];

  ANNEAL_DEVICE void load(const Operand& x, int64_t batch, int first, int end, int k0, int k, bool aligned) {
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const int i = g * threads + threadIdx.x;
      if (x.along_k) {
        const int r = first + i / (depth / 4), kk = k0 + i % (depth / 4) * 4;
        load_four(held[g], x.data, x.dtype, batch * x.step + r * x.stride + kk, r < end ? k - kk : 0, aligned);
      } else {
        const int r = first + i % (length / 4) * 4, kk = k0 + i / (length / 4);
        load_four(held[g], x.data, x.dtype, batch * x.step + kk * x.stride + r, kk < k ? end - r : 0, aligned);
      }
    }
  }
  ANNEAL_DEVICE void store(const Operand& x, float* tile) const {
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const int i = g * threads + threadIdx.x;
      if (x.along_k) {
        float* to = tile + i % (depth / 4) * 4 * line_stride + i / (depth / 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) to[j * line_stride] = held[g][j];
      } else {
        store_shared_16(to_shared(tile + i / (length / 4) * line_stride + i % (length / 4) * 4),
                        make_uint4(__float_as_uint(held[g][0]), __float_as_uint(held[g][1]), __float_as_uint(held[g][2]), __float_as_uint(held[g][3])));
      }
    }
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks) gemm_float_kernel(Operand a, Operand b, Output out, int m, int n, int k, int tile_rows, int tile_columns, int first_batch, bool a_aligned, bool b_aligned) {
  constexpr int row_groups = Tile::own_rows / 4, column_groups = Tile::own_columns / 4;
  ANNEAL_DYNAMIC_SHARED(float, memory);
  const TilePlace place = tile_of(blockIdx.x, tile_rows, tile_columns);
  const int row = place.row * Tile::rows, column = place.column * Tile::columns;
  const int own_row = threadIdx.x / Tile::across * 4, own_column = threadIdx.x % Tile::across * 4;
  const int64_t batch = first_batch + static_cast<int64_t>(blockIdx.z);
  FloatReader<Tile::rows, Tile::depth, Tile::left_stride, Tile::threads> left;
  FloatReader<Tile::columns, Tile::depth, Tile::right_stride, Tile::threads> right;
  float sums[Tile::own_rows][Tile::own_columns];
#pragma unroll
  for (int i = 0; i < Tile::own_rows; ++i)
#pragma unroll
    for (int j = 0; j < Tile::own_columns; ++j) sums[i][j] = 0;

  if (k > 0) {
    left.load(a, batch, row, m, 0, k, a_aligned);
    right.load(b, batch, column, n, 0, k, b_aligned);
    left.store(a, memory);
    right.store(b, memory + Tile::depth * Tile::left_stride);
    __syncthreads();
  }
  float* present = memory;
  float* next = memory + Tile::stage;
  for (int k0 = 0; k0 < k; k0 += Tile::depth) {
    const bool more = k0 + Tile::depth < k;
    if (more) {
      left.load(a, batch, row, m, k0 + Tile::depth, k, a_aligned);
      right.load(b, batch, column, n, k0 + Tile::depth, k, b_aligned);
    }
    const Shared x_tile = to_shared(present + own_row), y_tile = to_shared(present + Tile::depth * Tile::left_stride + own_column);
#pragma unroll
    for (int kk = 0; kk < Tile::depth; ++kk) {
      float x[row_groups][4], y[column_groups][4];
#pragma unroll
      for (int i = 0; i < row_groups; ++i) unpack(x[i], load_shared_16(x_tile + (kk * Tile::left_stride + i * (Tile::rows / row_groups)) * 4), float{});
#pragma unroll
      for (int j = 0; j < column_groups; ++j) unpack(y[j], load_shared_16(y_tile + (kk * Tile::right_stride + j * (Tile::columns / column_groups)) * 4), float{});
#pragma unroll
      for (int i = 0; i < Tile::own_rows; ++i)
#pragma unroll
        for (int j = 0; j < Tile::own_columns; ++j) sums[i][j] = fmaf(x[i / 4][i % 4], y[j / 4][j % 4], sums[i][j]);
    }
    if (more) {
      left.store(a, next);
      right.store(b, next + Tile::depth * Tile::left_stride);
    }
    __syncthreads();
    float* swap = present;
    present = next;
    next = swap;
  }
#pragma unroll
  for (int i = 0; i < Tile::own_rows; ++i)
#pragma unroll
    for (int j = 0; j < column_groups; ++j) {
      const int r = own_row + i / 4 * (Tile::rows / row_groups) + i % 4, c = own_column + j * (Tile::columns / column_groups);
      store_shared_16(to_shared(memory + r * tile_stride(Tile::columns) + c), make_uint4(__float_as_uint(sums[i][4 * j]), __float_as_uint(sums[i][4 * j + 1]),
                                                                                         __float_as_uint(sums[i][4 * j + 2]), __float_as_uint(sums[i][4 * j + 3])));
    }
  finish_tile<Tile::rows, Tile::columns, Tile::threads>(memory, out, row, column, m, n, batch);
}

namespace {

// Whether four numbers in a row, the first at a multiple of four, may be read at once.
bool aligned_fours(const Operand& x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 4 == 0 && x.step % 4 == 0;
}

template <class Tile> void run(const Product& p) {
  const int rows = static_cast<int>(ceil_div(p.m, Tile::rows)), columns = static_cast<int>(ceil_div(p.n, Tile::columns));
  constexpr int64_t most_at_once = 65535;
  for (int64_t first = 0; first < p.batch; first += most_at_once) {
    const int64_t count = p.batch - first < most_at_once ? p.batch - first : most_at_once;
    launch(gemm_float_kernel<Tile>, {dim3(static_cast<unsigned>(rows) * columns, 1, static_cast<unsigned>(count)), dim3(Tile::threads), Tile::shared_bytes, "gemm"}, p.a, p.b,
           p.out, static_cast<int>(p.m), static_cast<int>(p.n), static_cast<int>(p.k), rows, columns, static_cast<int>(first), aligned_fours(p.a), aligned_fours(p.b));
  }
}

}  // namespace

void multiply_float(const Product& p) {
  const bool fills = ceil_div(p.m, LargeFloatTile::rows) * ceil_div(p.n, LargeFloatTile::columns) * p.batch >= traits().multiprocessors;
  if (fills && p.m > 32 && p.n > 32) run<LargeFloatTile>(p);
  else run<SmallFloatTile>(p);
}

}  // namespace anneal::cuda
