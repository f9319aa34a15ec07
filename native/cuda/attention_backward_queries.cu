// dq: a block keeps a tile of one head's queries and of their dout and goes through the tiles of keys they see, as the forward does. While the first copies
// are under way it computes the terms of its rows, which the kernel of the keys reads too.
#include "attention_backward.h"

namespace anneal::cuda {

template <int D_, int blocks_, int warps_, int columns_> struct QueriesShape {
  static constexpr int D = D_, blocks = blocks_, warps = warps_, columns = columns_, threads = warps * 32, rows = blocks * warps * 16;
  // The queries and dout are read into registers once; their shared memory is then free for keys and values.
  static constexpr bool in_registers = D <= 128;
  static constexpr int stage_bytes = 2 * columns * D * 2;  // keys, values
  static constexpr size_t shared(int stages) {
    const size_t own = size_t{2} * rows * D * 2, ring = static_cast<size_t>(stages) * stage_bytes;
    return in_registers ? own > ring ? own : ring : own + ring;
  }
};

template <class Shape> __global__ void __launch_bounds__(Shape::threads) attention_backward_queries_kernel(BackwardArguments p) {
  constexpr int D = Shape::D, rows = Shape::rows, columns = Shape::columns, warps = Shape::warps, blocks = Shape::blocks, threads = Shape::threads;
  constexpr bool in_registers = Shape::in_registers;
  ANNEAL_DYNAMIC_SHARED(unsigned char, memory);
  if (static_cast<int>(blockIdx.x) >= *p.count) return;
  const Attention& a = p.a;
  const Piece piece = p.pieces[blockIdx.x];
  const Span span = a.span(piece.sequence);
  const Shared queries = to_shared(memory), douts = queries + rows * D * 2, ring = in_registers ? queries : douts + rows * D * 2;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, group = lane >> 2, quad = lane & 3;
  const int head = blockIdx.y, first_row = piece.tile * rows, valid = min(rows, span.q_length - first_row);
  const Range seen = a.keys_of(span, first_row, first_row + valid - 1);
  const int past_tile = (seen.end + columns - 1) / columns;
  const int plain = (a.keys_of(span, first_row + valid - 1).begin + columns - 1) / columns, plain_end = a.keys_of(span, first_row).end / columns;
  const int q_stride = a.heads * a.head_dim, k_stride = a.kv_heads * a.head_dim;
  const int64_t first_token = static_cast<int64_t>(span.q_begin) + first_row, q_base = a.q_offset(first_token, head);
  const int64_t k_base = a.k_offset(span.k_begin, head / a.group);

  int tile = seen.begin / columns;
  auto load = [&](int stage, int next) {
    const Shared to = ring + stage * Shape::stage_bytes;
    const int64_t base = k_base + static_cast<int64_t>(next) * columns * k_stride;
    load_tile<D, threads, columns>(to, p.k + base, k_stride, span.k_length - next * columns, a.head_dim);
    load_tile<D, threads, columns>(to + columns * D * 2, p.v + base, k_stride, span.k_length - next * columns, a.head_dim);
  };
  load_tile<D, threads, rows>(queries, p.q + q_base, q_stride, valid, a.head_dim);
  load_tile<D, threads, rows>(douts, p.dout + q_base, q_stride, valid, a.head_dim);
  if (!in_registers && tile < past_tile) load(0, tile);
  cp_async_commit();

  float dq[blocks][D / 8][4];
  RowTerms terms[blocks][2];
#pragma unroll
  for (int i = 0; i < blocks; ++i) {
    clear(dq[i]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (i * warps + warp) * 16 + group + half * 8;
      float mean = 0.f;
      if (row < valid) {
#pragma unroll 2
        for (int column = quad * 8; column < a.head_dim; column += 32) {
          const int64_t at = q_base + static_cast<int64_t>(row) * q_stride + column;
          mean = p.is_float ? add_products<float>(p.out, p.full_dout, at, p.aligned, mean) : add_products<bf16>(p.out, p.full_dout, at, p.aligned, mean);
        }
      }
      mean += __shfl_xor_sync(0xffffffffu, mean, 1);
      mean += __shfl_xor_sync(0xffffffffu, mean, 2);
      terms[i][half] = row < valid ? make_row_terms(p.lse[(first_token + row) * a.heads + head], mean) : RowTerms{0.f, 0.f};
      if (row < valid && quad == 0) p.terms[head * a.tokens + first_token + row] = terms[i][half];
    }
  }
  const LaneRow<D> left_lane = lane_rows<D>(warp * 16), column_lane = lane_columns<D>(0), across_lane = lane_rows<D>(0);
  uint32_t query[in_registers ? blocks : 1][in_registers ? D / 16 : 1][4], dout[in_registers ? blocks : 1][in_registers ? D / 16 : 1][4];
  if constexpr (in_registers) {
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < blocks; ++i)
#pragma unroll
      for (int step = 0; step < D / 16; ++step) {
        const int at = left_lane.at(step * 2) + i * warps * block_bytes<D>;
        ldmatrix_x4(query[i][step], queries + at);
        ldmatrix_x4(dout[i][step], douts + at);
      }
    __syncthreads();
    if (tile < past_tile) load(0, tile);
    cp_async_commit();
  }

  int stage = 0;
  for (; tile < past_tile; ++tile) {
    cp_async_wait<0>();
    __syncthreads();
    if (p.stages == 2) {
      if (tile + 1 < past_tile) load(stage ^ 1, tile + 1);
      cp_async_commit();
    }
    const Shared keys = ring + stage * Shape::stage_bytes, values = keys + columns * D * 2;
    float s[blocks][columns / 8][4], ds[blocks][columns / 8][4];
#pragma unroll
    for (int i = 0; i < blocks; ++i) {
      clear(s[i]);
      clear(ds[i]);
    }
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t left[blocks][4], left_dout[blocks][4];
#pragma unroll
      for (int i = 0; i < blocks; ++i) {
        if constexpr (in_registers) {
#pragma unroll
          for (int e = 0; e < 4; ++e) left[i][e] = query[i][step][e], left_dout[i][e] = dout[i][step][e];
        } else {
          const int at = left_lane.at(step * 2) + i * warps * block_bytes<D>;
          ldmatrix_x4(left[i], queries + at);
          ldmatrix_x4(left_dout[i], douts + at);
        }
      }
#pragma unroll
      for (int j = 0; j < columns / 16; ++j) {
        uint32_t right[4];
        ldmatrix_x4(right, keys + (column_lane.at(step * 2) + j * block_bytes<D>));
#pragma unroll
        for (int i = 0; i < blocks; ++i) {
          mma_bf16(s[i][2 * j], left[i], right[0], right[1]);
          mma_bf16(s[i][2 * j + 1], left[i], right[2], right[3]);
        }
        ldmatrix_x4(right, values + (column_lane.at(step * 2) + j * block_bytes<D>));
#pragma unroll
        for (int i = 0; i < blocks; ++i) {
          mma_bf16(ds[i][2 * j], left_dout[i], right[0], right[1]);
          mma_bf16(ds[i][2 * j + 1], left_dout[i], right[2], right[3]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < blocks; ++i) weigh(a, s[i], ds[i], [&](int, int e) { return terms[i][e >> 1]; });
    if (tile < plain || tile >= plain_end) {
      const int key = tile * columns + quad * 2;
#pragma unroll
      for (int i = 0; i < blocks; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Range row = a.keys_of(span, first_row + (i * warps + warp) * 16 + group + half * 8);
          const int begin = row.begin - key, end = min(row.end, span.k_length) - key;
#pragma unroll
          for (int j = 0; j < columns / 8; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e)
              if (j * 8 + e < begin || j * 8 + e >= end) ds[i][j][2 * half + e] = 0.f;
        }
    }
#pragma unroll
    for (int step = 0; step < columns / 16; ++step) {
      uint32_t left[blocks][4];
#pragma unroll
      for (int i = 0; i < blocks; ++i) pack_operand(left[i], ds[i][2 * step], ds[i][2 * step + 1]);
#pragma unroll
      for (int j = 0; j < D / 16; ++j) {
        uint32_t right[4];
        ldmatrix_x4_trans(right, keys + (across_lane.at(j * 2) + step * block_bytes<D>));
#pragma unroll
        for (int i = 0; i < blocks; ++i) {
          mma_bf16(dq[i][2 * j], left[i], right[0], right[1]);
          mma_bf16(dq[i][2 * j + 1], left[i], right[2], right[3]);
        }
      }
    }
    if (p.stages == 2) {
      stage ^= 1;
    } else {
      __syncthreads();
      if (tile + 1 < past_tile) load(0, tile + 1);
      cp_async_commit();
    }
  }
  cp_async_wait<0>();
  __syncthreads();  // the rows of the tile, written next, may lie where other warps read keys
#pragma unroll
  for (int i = 0; i < blocks; ++i) store_rows<D>(p.dq, q_base, q_stride, (i * warps + warp) * 16, valid, a.head_dim, queries, dq[i], a.scale, a.scale);
}

template <int D> using QueriesShapeOf = QueriesShape<D, D <= 64 ? 2 : 1, 4, D <= 64 || D == 256 ? 32 : 64>;

int backward_query_rows(int head_dim) {
  int rows = 0;
  dispatch_width(head_dim, [&](auto width) { rows = QueriesShapeOf<decltype(width)::number>::rows; });
  return rows;
}

void attention_backward_queries(const BackwardArguments& given, const Plan& plan) {
  dispatch_width(given.a.head_dim, [&](auto width) {
    using Shape = QueriesShapeOf<decltype(width)::number>;
    BackwardArguments arguments = given;
    arguments.pieces = plan.pieces, arguments.count = plan.count;
    arguments.stages = Shape::shared(2) <= static_cast<size_t>(traits().shared_per_block) ? 2 : 1;
    launch(attention_backward_queries_kernel<Shape>,
           {dim3(plan.limit, arguments.a.heads), dim3(Shape::threads), Shape::shared(arguments.stages), "attention_backward"}, arguments);
  });
}

}  // namespace anneal::cuda
