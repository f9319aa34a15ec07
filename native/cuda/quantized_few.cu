// x W^T with a quantised W for the few rows of decoding, which should take no longer than reading W. A block has some rows of W; each of its warps takes one
// slice of k, so that enough of W is on its way at any time, from global memory straight into registers, several steps ahead.
#include "gemm_epilogue.h"
#include "launch.h"
#include "quantized_weight.h"

namespace anneal::cuda {

constexpr int few_warps = quantized_slices;

template <int bits, bool with_zeros, int row_tiles, int token_tiles>
__global__ void __launch_bounds__(few_warps * 32, 2) quantized_few_kernel(QuantizedWeight w, CodeBook book, const bf16* x, int64_t x_stride, int m, Output out) {
  constexpr int ahead = bits == 4 ? 4 : 2, rows = 16 * row_tiles, tokens = 8 * token_tiles, step_bytes = quantized_step * bits / 8;
  ANNEAL_DYNAMIC_SHARED(uint32_t, memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int first_row = blockIdx.x * rows, steps = w.columns / quantized_step;
  const int begin = static_cast<int>(static_cast<int64_t>(steps) * warp / quantized_slices), end = static_cast<int>(static_cast<int64_t>(steps) * (warp + 1) / quantized_slices);
  const uint32_t row_bytes = static_cast<uint32_t>(w.columns) * bits / 8;

  // Rows beyond the last repeat it; their sums are not used.
  int first_block[row_tiles][2];
  uint32_t from[row_tiles][2];
#pragma unroll
  for (int i = 0; i < row_tiles; ++i)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = min(first_row + i * 16 + h * 8 + g, w.rows - 1);
      first_block[i][h] = row * w.blocks;
      from[i][h] = static_cast<uint32_t>(row) * row_bytes + t * (step_bytes / 4);
    }
  Codes<bits> codes[ahead][row_tiles][2];
  StepScales<bits, with_zeros> scales[row_tiles], next_scales[row_tiles];
  uint32_t numbers[2][token_tiles][8];
  auto load_codes = [&](int u, int step) {
    if (step >= end) return;
#pragma unroll
    for (int i = 0; i < row_tiles; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) codes[u][i][h].load(w.codes + (from[i][h] + static_cast<uint32_t>(step) * step_bytes));
  };
  auto load_scales = [&](int step) {
    if (step >= end) return;
#pragma unroll
    for (int i = 0; i < row_tiles; ++i) next_scales[i].load(w, first_block[i], step, end, t % ahead);
  };
  const bf16* token[token_tiles];
#pragma unroll
  for (int j = 0; j < token_tiles; ++j) token[j] = x + (j * 8 + g) * x_stride + 16 * t;
  auto load_numbers = [&](uint32_t (&to)[token_tiles][8], int step) {
#pragma unroll
    for (int j = 0; j < token_tiles; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint4 raw = make_uint4(0, 0, 0, 0);
        if (step < end && j * 8 + g < m) raw = load_global_16(token[j] + (step * quantized_step + 8 * half));
        to[j][4 * half] = raw.x;
        to[j][4 * half + 1] = raw.y;
        to[j][4 * half + 2] = raw.z;
        to[j][4 * half + 3] = raw.w;
      }
  };
#pragma unroll
  for (int u = 0; u < ahead; ++u) load_codes(u, begin + u);
  load_scales(begin);
  load_numbers(numbers[0], begin);
  if constexpr (bits == 4) {
    ANNEAL_SHARED(float, value, 16);
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < 16; ++i) value[i] = book.value[i];
    }
    __syncthreads();
    fill_table<few_warps * 32>(memory, value);
  }
  __syncthreads();

  const Shared table = to_shared(memory) + lane * 4;
  TokenSums<token_tiles> sums[row_tiles];
#pragma unroll
  for (int i = 0; i < row_tiles; ++i) sums[i].clear();
  for (int step = begin; step < end; step += ahead) {
#pragma unroll
    for (int i = 0; i < row_tiles; ++i) scales[i] = next_scales[i];
    load_scales(step + ahead);
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      if (step + u >= end) break;
      load_numbers(numbers[(u + 1) % 2], step + u + 1);
#pragma unroll
      for (int i = 0; i < row_tiles; ++i) {
        uint32_t a[4][4];
        decode_step<bits>(a, codes[u][i], table);
        multiply_step(sums[i], a, numbers[u % 2], RowScales<with_zeros>(scales[i], u, lane));
      }
      load_codes(u, step + u + ahead);
    }
  }

  // The slices' sums, then their sum in order as a tile of tokens × rows of W.
  __syncthreads();
  float* parts = reinterpret_cast<float*>(memory);
  float* tile = parts + few_warps * tokens * rows;
#pragma unroll
  for (int i = 0; i < row_tiles; ++i)
#pragma unroll
    for (int j = 0; j < token_tiles; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) parts[(warp * tokens + j * 8 + 2 * t + e % 2) * rows + i * 16 + e / 2 * 8 + g] = sums[i].of[j][e];
  __syncthreads();
  for (int i = threadIdx.x; i < tokens * rows; i += few_warps * 32) {
    float total = 0;
#pragma unroll
    for (int part = 0; part < few_warps; ++part) total += parts[part * tokens * rows + i];
    tile[i / rows * tile_stride(rows) + i % rows] = total;
  }
  finish_tile<tokens, rows, few_warps * 32>(tile, out, 0, first_row, m, w.rows, 0);
}

namespace {

template <int bits, bool with_zeros, int row_tiles, int token_tiles> void run(const QuantizedWeight& w, const CodeBook& book, const bf16* x, int64_t x_stride, int m, const Output& out) {
  constexpr int rows = 16 * row_tiles, tokens = 8 * token_tiles;
  constexpr size_t sums = sizeof(float) * few_warps * tokens * rows + tile_bytes(tokens, rows), table = bits == 4 ? sizeof(uint32_t) * table_words : 0;
  launch(quantized_few_kernel<bits, with_zeros, row_tiles, token_tiles>,
         {dim3(static_cast<unsigned>(ceil_div(w.rows, rows))), dim3(few_warps * 32), sums > table ? sums : table, "quantized_matmul"}, w, book, x, x_stride, m, out);
}
template <int bits, bool with_zeros> void choose(const QuantizedWeight& w, const CodeBook& book, const bf16* x, int64_t x_stride, int m, const Output& out) {
  // With fewer rows of W in a block more of the GPU takes part.
  const bool small = w.rows < 32 * traits().multiprocessors;
  if (m <= 8) return small ? run<bits, with_zeros, 1, 1>(w, book, x, x_stride, m, out) : run<bits, with_zeros, 2, 1>(w, book, x, x_stride, m, out);
  if constexpr (!with_zeros) {
    if (!small) return run<bits, with_zeros, 2, 2>(w, book, x, x_stride, m, out);
  }
  run<bits, with_zeros, 1, 2>(w, book, x, x_stride, m, out);
}

}  // namespace

void quantized_few(const QuantizedWeight& w, const CodeBook& book, int bits, const bf16* x, int64_t x_stride, int m, const Output& out) {
  if (bits == 8) w.zeros ? choose<8, true>(w, book, x, x_stride, m, out) : choose<8, false>(w, book, x, x_stride, m, out);
  else w.zeros ? choose<4, true>(w, book, x, x_stride, m, out) : choose<4, false>(w, book, x, x_stride, m, out);
}

}  // namespace anneal::cuda
