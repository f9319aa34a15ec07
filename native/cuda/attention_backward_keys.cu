// dk and dv: a block keeps a tile of keys and values and goes through the tiles of queries that see them, of all heads that share the keys, so nothing
// is added up between blocks. Scores are computed transposed, keys by queries: weights and their gradients are then in the registers where the products
// with dout and q need them.
#include "attention_backward.h"

namespace anneal::cuda {

// Which gradients a launch computes: at 256 numbers a head the sums of both do not fit the registers.
enum class Gradients { both, keys, values };

template <int D_, int blocks_, int warps_, int rows_, Gradients gradients_ = Gradients::both> struct KeysShape {
  static constexpr int D = D_, blocks = blocks_, warps = warps_, rows = rows_, threads = warps * 32, columns = blocks * warps * 16;
  static constexpr bool wants_keys = gradients_ != Gradients::values, wants_values = gradients_ != Gradients::keys;
  static constexpr bool keys_in_registers = D == 128;  // narrower rows have no need of it, wider ones no room
  static constexpr int stage_bytes = 2 * rows * D * 2 + rows * static_cast<int>(sizeof(RowTerms));  // q, dout, terms
  static constexpr size_t shared(int stages) { return size_t{2} * columns * D * 2 + static_cast<size_t>(stages) * stage_bytes; }
};

template <class Shape> __global__ void __launch_bounds__(Shape::threads) attention_backward_keys_kernel(BackwardArguments p) {
  constexpr int D = Shape::D, rows = Shape::rows, columns = Shape::columns, warps = Shape::warps, blocks = Shape::blocks, threads = Shape::threads;
  ANNEAL_DYNAMIC_SHARED(unsigned char, memory);
  if (static_cast<int>(blockIdx.x) >= *p.count) return;
  const Attention& a = p.a;
  const Piece piece = p.pieces[blockIdx.x];
  const Span span = a.span(piece.sequence);
  const Shared keys = to_shared(memory), values = keys + columns * D * 2, ring = values + columns * D * 2;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, group = lane >> 2, quad = lane & 3;
  const int kv_head = blockIdx.y, first_key = piece.tile * columns, valid = min(columns, span.k_length - first_key);
  const Range queries = a.queries_of(span, first_key, first_key + valid - 1);
  const int first_tile = queries.begin / rows, tiles = max(0, (queries.end + rows - 1) / rows - first_tile);
  const int q_stride = a.heads * a.head_dim, k_stride = a.kv_heads * a.head_dim;
  const int64_t k_base = a.k_offset(static_cast<int64_t>(span.k_begin) + first_key, kv_head);
  const int total = tiles * a.group;

  int next_tile = 0, next_head = kv_head * a.group;
  auto load = [&](int stage) {
    const Shared to = ring + stage * Shape::stage_bytes;
    const int row = (first_tile + next_tile) * rows;
    const int64_t token = static_cast<int64_t>(span.q_begin) + row, base = a.q_offset(token, next_head);
    load_tile<D, threads, rows>(to, p.q + base, q_stride, span.q_length - row, a.head_dim);
    load_tile<D, threads, rows>(to + rows * D * 2, p.dout + base, q_stride, span.q_length - row, a.head_dim);
    const int own = threadIdx.x;
    if (own < rows) cp_async_8(to + (2 * rows * D * 2 + own * 8), p.terms + next_head * a.tokens + token + own, row + own < span.q_length);
    if (++next_tile == tiles) {
      next_tile = 0;
      ++next_head;
    }
  };
  load_tile<D, threads, columns>(keys, p.k + k_base, k_stride, valid, a.head_dim);
  if constexpr (Shape::wants_keys) load_tile<D, threads, columns>(values, p.v + k_base, k_stride, valid, a.head_dim);
  if (total > 0) load(0);
  cp_async_commit();

  float dk[Shape::wants_keys ? blocks : 1][D / 8][4], dv[Shape::wants_values ? blocks : 1][D / 8][4];
#pragma unroll
  for (int i = 0; i < blocks; ++i) {
    if constexpr (Shape::wants_keys) clear(dk[i]);
    if constexpr (Shape::wants_values) clear(dv[i]);
  }
  const LaneRow<D> left_lane = lane_rows<D>(warp * 16), column_lane = lane_columns<D>(0), across_lane = lane_rows<D>(0);
  uint32_t key[Shape::keys_in_registers ? blocks : 1][Shape::keys_in_registers ? D / 16 : 1][4];

  int tile = 0;
  for (int index = 0; index < total; ++index) {
    const int stage = p.stages == 2 ? index & 1 : 0, first_row = (first_tile + tile) * rows;
    if (++tile == tiles) tile = 0;
    cp_async_wait<0>();
    __syncthreads();
    if (p.stages == 2) {
      if (index + 1 < total) load(stage ^ 1);
      cp_async_commit();
    }
    const Shared q = ring + stage * Shape::stage_bytes, dout = q + rows * D * 2;
    if constexpr (Shape::keys_in_registers)
      if (index == 0) {
#pragma unroll
        for (int i = 0; i < blocks; ++i)
#pragma unroll
          for (int step = 0; step < D / 16; ++step) ldmatrix_x4(key[i][step], keys + (left_lane.at(step * 2) + i * warps * block_bytes<D>));
      }
    float s[blocks][rows / 8][4], ds[blocks][rows / 8][4];
#pragma unroll
    for (int i = 0; i < blocks; ++i) {
      clear(s[i]);
      clear(ds[i]);
    }
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t left[blocks][4];
#pragma unroll
      for (int i = 0; i < blocks; ++i) {
        if constexpr (Shape::keys_in_registers) {
#pragma unroll
          for (int e = 0; e < 4; ++e) left[i][e] = key[i][step][e];
        } else {
          ldmatrix_x4(left[i], keys + (left_lane.at(step * 2) + i * warps * block_bytes<D>));
        }
      }
#pragma unroll
      for (int j = 0; j < rows / 16; ++j) {
        uint32_t right[4];
        ldmatrix_x4(right, q + (column_lane.at(step * 2) + j * block_bytes<D>));
#pragma unroll
        for (int i = 0; i < blocks; ++i) {
          mma_bf16(s[i][2 * j], left[i], right[0], right[1]);
          mma_bf16(s[i][2 * j + 1], left[i], right[2], right[3]);
        }
      }
      if constexpr (Shape::wants_keys) {
#pragma unroll
        for (int i = 0; i < blocks; ++i) ldmatrix_x4(left[i], values + (left_lane.at(step * 2) + i * warps * block_bytes<D>));
#pragma unroll
        for (int j = 0; j < rows / 16; ++j) {
          uint32_t right[4];
          ldmatrix_x4(right, dout + (column_lane.at(step * 2) + j * block_bytes<D>));
#pragma unroll
          for (int i = 0; i < blocks; ++i) {
            mma_bf16(ds[i][2 * j], left[i], right[0], right[1]);
            mma_bf16(ds[i][2 * j + 1], left[i], right[2], right[3]);
          }
        }
      }
    }
    const RowTerms* terms = reinterpret_cast<const RowTerms*>(memory + 2 * columns * D * 2 + stage * Shape::stage_bytes + 2 * rows * D * 2) + quad * 2;
#pragma unroll
    for (int i = 0; i < blocks; ++i) weigh(a, s[i], ds[i], [&](int j, int e) { return terms[j * 8 + (e & 1)]; });
    const int last_row = min(first_row + rows, span.q_length) - 1;
    if (first_key < a.keys_of(span, last_row).begin || first_key + columns > a.keys_of(span, first_row).end) {
      const int own = first_key + warp * 16 + group;
#pragma unroll
      for (int j = 0; j < rows / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const Range seen = a.keys_of(span, first_row + j * 8 + quad * 2 + e);
          const int begin = seen.begin - own, end = min(seen.end, span.k_length) - own;
#pragma unroll
          for (int i = 0; i < blocks; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const int at = i * warps * 16 + half * 8;
              if (at < begin || at >= end) s[i][j][2 * half + e] = ds[i][j][2 * half + e] = 0.f;
            }
        }
    }
#pragma unroll
    for (int step = 0; step < rows / 16; ++step) {
      uint32_t weights[blocks][4], gradients[blocks][4];
#pragma unroll
      for (int i = 0; i < blocks; ++i) {
        pack_operand(weights[i], s[i][2 * step], s[i][2 * step + 1]);
        pack_operand(gradients[i], ds[i][2 * step], ds[i][2 * step + 1]);
      }
#pragma unroll
      for (int j = 0; j < D / 16; ++j) {
        uint32_t right[4];
        if constexpr (Shape::wants_values) {
          ldmatrix_x4_trans(right, dout + (across_lane.at(j * 2) + step * block_bytes<D>));
#pragma unroll
          for (int i = 0; i < blocks; ++i) {
            mma_bf16(dv[i][2 * j], weights[i], right[0], right[1]);
            mma_bf16(dv[i][2 * j + 1], weights[i], right[2], right[3]);
          }
        }
        if constexpr (Shape::wants_keys) {
          ldmatrix_x4_trans(right, q + (across_lane.at(j * 2) + step * block_bytes<D>));
#pragma unroll
          for (int i = 0; i < blocks; ++i) {
            mma_bf16(dk[i][2 * j], gradients[i], right[0], right[1]);
            mma_bf16(dk[i][2 * j + 1], gradients[i], right[2], right[3]);
          }
        }
      }
    }
    if (p.stages == 1) {
      __syncthreads();
      if (index + 1 < total) load(0);
      cp_async_commit();
    }
  }
  cp_async_wait<0>();
  __syncthreads();
#pragma unroll
  for (int i = 0; i < blocks; ++i) {
    const int row = (i * warps + warp) * 16;
    if constexpr (Shape::wants_keys) store_rows<D>(p.dk, k_base, k_stride, row, valid, a.head_dim, keys, dk[i], a.scale, a.scale);
    if constexpr (Shape::wants_values) store_rows<D>(p.dv, k_base, k_stride, row, valid, a.head_dim, values, dv[i], 1.f, 1.f);
  }
}

template <class Shape> void run_keys(BackwardArguments arguments, const Plan& plan) {
  arguments.pieces = plan.pieces, arguments.count = plan.count;
  arguments.stages = Shape::shared(2) <= static_cast<size_t>(traits().shared_per_block) ? 2 : 1;
  launch(attention_backward_keys_kernel<Shape>,
         {dim3(plan.limit, arguments.a.kv_heads), dim3(Shape::threads), Shape::shared(arguments.stages), "attention_backward"}, arguments);
}

template <int D, Gradients gradients = Gradients::both> using KeysShapeOf = KeysShape<D, D <= 64 ? 2 : 1, D <= 64 || D == 256 ? 4 : 8,
    D == 80 || D == 96 ? 64 : 32, gradients>;

int backward_key_rows(int head_dim) {
  int rows = 0;
  dispatch_width(head_dim, [&](auto width) { rows = KeysShapeOf<decltype(width)::number>::columns; });
  return rows;
}

void attention_backward_keys(const BackwardArguments& arguments, const Plan& plan) {
  dispatch_width(arguments.a.head_dim, [&](auto width) {
    constexpr int D = decltype(width)::number;
    if constexpr (D == 256) {
      run_keys<KeysShapeOf<D, Gradients::values>>(arguments, plan);
      run_keys<KeysShapeOf<D, Gradients::keys>>(arguments, plan);
    } else {
      run_keys<KeysShapeOf<D>>(arguments, plan);
    }
  });
}

}  // namespace anneal::cuda
