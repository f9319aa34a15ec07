// x W^T with a quantised W for more rows of x than decoding has. A block multiplies 64 rows of W, 16 a warp, by 32 or 64 tokens; W is decoded in registers
// once for all of them, x comes through a ring of shared-memory stages. Sums over k are split into the same slices as in quantized_few.cu, one after the
// other, so that an output does not depend on the number of rows of x.
#include "gemm_epilogue.h"
#include "gemm_reader.h"
#include "launch.h"
#include "quantized_weight.h"

namespace anneal::cuda {

constexpr int many_threads = 128, many_rows = 64, many_stages = 4;

template <int bits, bool with_zeros, int token_tiles>
__global__ void __launch_bounds__(many_threads, with_zeros || token_tiles > 4 ? 2 : 3) quantized_many_kernel(QuantizedWeight w, CodeBook book, Operand x, int m, int token_blocks, Output out) {
  constexpr int ahead = 2, tokens = 8 * token_tiles, step_bytes = quantized_step * bits / 8, stage_bytes = tokens * quantized_step * 2, pieces = quantized_step / 8, groups = token_tiles / 4;
  ANNEAL_DYNAMIC_SHARED(uint32_t, memory);
  const Shared ring = to_shared(memory);
  uint32_t* table = memory + many_stages * stage_bytes / 4;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  // The blocks of tokens that share rows of W run one after the other, so that W comes from memory once.
  const int first_row = blockIdx.x / token_blocks * many_rows, first_token = blockIdx.x % token_blocks * tokens, steps = w.columns / quantized_step;
  const uint32_t row_bytes = static_cast<uint32_t>(w.columns) * bits / 8;
  const TileReader<tokens, quantized_step, true, many_threads> reader(x, 0, first_token, m, w.columns);
  auto copy = [&](int step) {
    if (step < steps) reader.copy(ring + step % many_stages * stage_bytes, step * quantized_step);
    cp_async_commit();
  };
#pragma unroll
  for (int i = 0; i < many_stages - 1; ++i) copy(i);

  int first_block[2];
  uint32_t from[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = min(first_row + warp * 16 + h * 8 + g, w.rows - 1);
    first_block[h] = row * w.blocks;
    from[h] = static_cast<uint32_t>(row) * row_bytes + t * (step_bytes / 4);
  }
  Codes<bits> codes[ahead][2];
  StepScales<bits, with_zeros> scales, next_scales;
  auto load_codes = [&](int u, int step) {
    if (step >= steps) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) codes[u][h].load(w.codes + (from[h] + static_cast<uint32_t>(step) * step_bytes));
  };
#pragma unroll
  for (int u = 0; u < ahead; ++u) load_codes(u, u);
  next_scales.load(w, first_block, 0, steps, t % ahead);
  if constexpr (bits == 4) {
    ANNEAL_SHARED(float, value, 16);
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < 16; ++i) value[i] = book.value[i];
    }
    __syncthreads();
    fill_table<many_threads>(table, value);
  }

  const Shared lane_table = to_shared(table) + lane * 4;
  // Four tiles of eight tokens at a time: enough products under way, and few registers.
  TokenSums<4> slice[groups], total[groups];
#pragma unroll
  for (int group = 0; group < groups; ++group) {
    slice[group].clear();
    total[group].clear();
  }
  int slices = 0, slice_end = 0;
  auto next_slice = [&](int step) {
    while (slices < quantized_slices && slice_end <= step) slice_end = static_cast<int>(static_cast<int64_t>(steps) * ++slices / quantized_slices);
  };
  next_slice(0);
  for (int first = 0; first < steps; first += ahead) {
    scales = next_scales;
    if (first + ahead < steps) next_scales.load(w, first_block, first + ahead, steps, t % ahead);
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int step = first + u;
      if (step >= steps) break;
      cp_async_wait<many_stages - 2>();
      __syncthreads();
      copy(step + many_stages - 1);
      const Shared stage = ring + step % many_stages * stage_bytes;
      uint32_t a[4][4];
      decode_step<bits>(a, codes[u], lane_table);
      const RowScales<with_zeros> row_scales(scales, u, lane);
#pragma unroll
      for (int group = 0; group < groups; ++group) {
        uint32_t numbers[4][8];
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int token = (group * 4 + j) * 8 + g;
            const uint4 raw = load_shared_16(stage + (token * pieces + swizzled<pieces>(token, 2 * t + half)) * 16);
            numbers[j][4 * half] = raw.x;
            numbers[j][4 * half + 1] = raw.y;
            numbers[j][4 * half + 2] = raw.z;
            numbers[j][4 * half + 3] = raw.w;
          }
        multiply_step(slice[group], a, numbers, row_scales);
      }
      load_codes(u, step + ahead);
      if (step + 1 == slice_end) {
#pragma unroll
        for (int group = 0; group < groups; ++group) {
          total[group].add(slice[group]);
          slice[group].clear();
        }
        next_slice(step + 1);
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();
  float* tile = reinterpret_cast<float*>(memory);
#pragma unroll
  for (int j = 0; j < token_tiles; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) tile[(j * 8 + 2 * t + e % 2) * tile_stride(many_rows) + warp * 16 + e / 2 * 8 + g] = total[j / 4].of[j % 4][e];
  finish_tile<tokens, many_rows, many_threads>(tile, out, first_token, first_row, m, w.rows, 0);
}

namespace {

template <int bits, bool with_zeros, int token_tiles> void run(const QuantizedWeight& w, const CodeBook& book, const Operand& x, int m, const Output& out) {
  constexpr int tokens = 8 * token_tiles;
  constexpr size_t used = many_stages * tokens * quantized_step * 2 + (bits == 4 ? sizeof(uint32_t) * table_words : 0), tile = tile_bytes(tokens, many_rows);
  const int token_blocks = static_cast<int>(ceil_div(m, tokens));
  launch(quantized_many_kernel<bits, with_zeros, token_tiles>,
         {dim3(static_cast<unsigned>(ceil_div(w.rows, many_rows) * token_blocks)), dim3(many_threads), used > tile ? used : tile, "quantized_matmul"}, w, book, x, m, token_blocks, out);
}
template <int bits, bool with_zeros> void choose(const QuantizedWeight& w, const CodeBook& book, const Operand& x, int m, const Output& out) {
  if (m <= 32) run<bits, with_zeros, 4>(w, book, x, m, out);
  else run<bits, with_zeros, 8>(w, book, x, m, out);
}

}  // namespace

void quantized_many(const QuantizedWeight& w, const CodeBook& book, int bits, const Operand& x, int m, const Output& out) {
  if (bits == 8) w.zeros ? choose<8, true>(w, book, x, m, out) : choose<8, false>(w, book, x, m, out);
  else w.zeros ? choose<4, true>(w, book, x, m, out) : choose<4, false>(w, book, x, m, out);
}

}  // namespace anneal::cuda
