// Attention without the matrix of scores (Dao, "FlashAttention-2", 2023), on tensor cores in bf16 with f32 sums. A block takes a tile of one head's
// queries through the tiles of keys they see, from the last to the first, and keeps a running maximum, total and output of each row. Tiles start at
// multiples of their width from the sequence's first key, so a row's bits do not depend on the rows beside it.
#include "../kernels.h"
#include "attention_tile.h"

namespace anneal::cuda {

struct ForwardArguments {
  Attention a;
  const Piece* pieces;
  const int* count;
  const bf16 *q, *k, *v;
  Target out;
  float* lse;
};

// A block: `rows` queries of `warps` warps against tiles of `columns` keys; a warp has blocks of 16 rows.
template <int D_, int rows_, int columns_, int warps_> struct ForwardShape {
  static constexpr int D = D_, rows = rows_, columns = columns_, warps = warps_, threads = warps * 32, blocks = rows / (16 * warps);
  static constexpr bool query_in_registers = blocks == 1 && D <= 128;
  static constexpr size_t shared = size_t{rows + 2 * columns} * D * 2;
};

// The scores of a tile, capped where the call says so and with -inf where a row does not see a key.
template <class Shape>
ANNEAL_DEVICE void cap_and_mask(const Attention& a, const Span& span, int first_row, int first_key, float (&s)[Shape::blocks][Shape::columns / 8][4]) {
  if (a.soft_cap > 0) {
#pragma unroll
    for (int i = 0; i < Shape::blocks; ++i)
#pragma unroll
      for (int j = 0; j < Shape::columns / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[i][j][e] = a.soft_cap * tanh_fast(s[i][j][e] * a.cap_scale);
  }
  const int last_row = min(first_row + Shape::rows, span.q_length) - 1;
  if (first_key >= a.keys_of(span, last_row).begin && first_key + Shape::columns <= a.keys_of(span, first_row).end) return;  // all rows see all keys
  const int lane = threadIdx.x & 31, row = first_row + (threadIdx.x >> 5) * 16 + (lane >> 2), key = first_key + (lane & 3) * 2;
#pragma unroll
  for (int i = 0; i < Shape::blocks; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Range seen = a.keys_of(span, row + i * Shape::warps * 16 + half * 8);
      const int begin = seen.begin - key, end = min(seen.end, span.k_length) - key;
#pragma unroll
      for (int j = 0; j < Shape::columns / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (j * 8 + e < begin || j * 8 + e >= end) s[i][j][2 * half + e] = -INFINITY;
    }
}

// A lane has columns of 2 or 4 rows, which the three lanes beside it have too. Of the four, lane 2 block + half keeps the row's total. This lane's row:
template <int blocks> ANNEAL_DEVICE float own_row(const float (&x)[blocks][2]) {
  const int quad = threadIdx.x & 3;
  const float low = quad & 1 ? x[0][1] : x[0][0];
  if constexpr (blocks == 1) return low;
  else return quad & 2 ? quad & 1 ? x[1][1] : x[1][0] : low;
}
// The sum of that row over the four lanes.
template <int blocks> ANNEAL_DEVICE float sum_of_own_row(const float (&x)[blocks][2]) {
  const int quad = threadIdx.x & 3;
  float part[blocks];
#pragma unroll
  for (int i = 0; i < blocks; ++i) part[i] = (quad & 1 ? x[i][1] : x[i][0]) + __shfl_xor_sync(0xffffffffu, quad & 1 ? x[i][0] : x[i][1], 1);
  if constexpr (blocks == 1) return part[0] + __shfl_xor_sync(0xffffffffu, part[0], 2);
  else return (quad & 2 ? part[1] : part[0]) + __shfl_xor_sync(0xffffffffu, quad & 2 ? part[0] : part[1], 2);
}

template <class Shape> __global__ void __launch_bounds__(Shape::threads) attention_forward_kernel(ForwardArguments p) {
  constexpr int D = Shape::D, rows = Shape::rows, columns = Shape::columns, warps = Shape::warps, blocks = Shape::blocks, threads = Shape::threads;
  ANNEAL_DYNAMIC_SHARED(unsigned char, memory);
  // What is needed once per tile waits here: in registers over the loop it would leave too few for the products.
  ANNEAL_SHARED(float, totals, threads);
  ANNEAL_SHARED(uint4, kept, 2);  // the span; the first row and the key-value head
  if (static_cast<int>(blockIdx.x) >= *p.count) return;
  const Attention& a = p.a;
  const Shared queries = to_shared(memory), keys = queries + rows * D * 2, values = keys + columns * D * 2;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  int tile, first_tile;
  {
    const Piece piece = p.pieces[blockIdx.x];
    const Span span = a.span(piece.sequence);
    const int first_row = piece.tile * rows;
    if (threadIdx.x == 0) {
      kept[0] = make_uint4(span.q_begin, span.q_length, span.k_begin, span.k_length);
      kept[1] = make_uint4(first_row, blockIdx.y / a.group, 0, 0);
    }
    const int valid = min(rows, span.q_length - first_row);
    const Range seen = a.keys_of(span, first_row, first_row + valid - 1);
    first_tile = seen.begin / columns, tile = (seen.end + columns - 1) / columns - 1;
    load_tile<D, threads, rows>(queries, p.q + a.q_offset(static_cast<int64_t>(span.q_begin) + first_row, blockIdx.y), a.heads * a.head_dim, valid, a.head_dim);
  }
  __syncthreads();
  auto read_span = [&] {
    const uint4 v = load_shared_16(to_shared(kept));
    return Span{static_cast<int>(v.x), static_cast<int>(v.y), static_cast<int>(v.z), static_cast<int>(v.w)};
  };
  struct Place {
    int row, kv_head;
  };
  auto read_place = [&] {
    const uint4 v = load_shared_16(to_shared(kept + 1));
    return Place{static_cast<int>(v.x), static_cast<int>(v.y)};
  };
  auto load = [&](Shared to, const bf16* from, int which) {
    const Span span = read_span();
    const int64_t slot = static_cast<int64_t>(span.k_begin) + which * columns;
    load_tile<D, threads, columns>(to, from + a.k_offset(slot, read_place().kv_head), a.kv_heads * a.head_dim, span.k_length - which * columns, a.head_dim);
  };
  if (tile >= first_tile) load(keys, p.k, tile);
  cp_async_commit();

  float acc[blocks][D / 8][4], most[blocks][2];
  totals[threadIdx.x] = 0.f;
#pragma unroll
  for (int i = 0; i < blocks; ++i) {
    clear(acc[i]);
    most[i][0] = most[i][1] = -INFINITY;
  }
  const LaneRow<D> query_lane = lane_rows<D>(warp * 16), key_lane = lane_columns<D>(0), value_lane = lane_rows<D>(0);
  uint32_t query[Shape::query_in_registers ? D / 16 : 1][4];
  bool first = true;

  for (; tile >= first_tile; --tile) {
    cp_async_wait<0>();
    __syncthreads();  // the keys (and queries) are there, and nobody reads the values of the tile before
    load(values, p.v, tile);
    cp_async_commit();
    if (Shape::query_in_registers && first) {
#pragma unroll
      for (int step = 0; step < D / 16; ++step) ldmatrix_x4(query[Shape::query_in_registers ? step : 0], queries + query_lane.at(step * 2));
      first = false;
    }
    float s[blocks][columns / 8][4];
#pragma unroll
    for (int i = 0; i < blocks; ++i) clear(s[i]);
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t left[blocks][4];
#pragma unroll
      for (int i = 0; i < blocks; ++i) {
        if constexpr (Shape::query_in_registers) {
#pragma unroll
          for (int e = 0; e < 4; ++e) left[i][e] = query[step][e];
        } else {
          ldmatrix_x4(left[i], queries + (query_lane.at(step * 2) + i * warps * block_bytes<D>));
        }
      }
#pragma unroll
      for (int j = 0; j < columns / 16; ++j) {
        uint32_t right[4];
        ldmatrix_x4(right, keys + (key_lane.at(step * 2) + j * block_bytes<D>));
#pragma unroll
        for (int i = 0; i < blocks; ++i) {
          mma_bf16(s[i][2 * j], left[i], right[0], right[1]);
          mma_bf16(s[i][2 * j + 1], left[i], right[2], right[3]);
        }
      }
    }
    cap_and_mask<Shape>(a, read_span(), read_place().row, tile * columns, s);
    cp_async_wait<0>();
    __syncthreads();  // the values are there, and nobody reads the keys any more
    if (tile > first_tile) load(keys, p.k, tile - 1);
    cp_async_commit();

    float correction[blocks][2], sum[blocks][2];
#pragma unroll
    for (int i = 0; i < blocks; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float highest = most[i][half];
#pragma unroll
        for (int j = 0; j < columns / 8; ++j) highest = fmaxf(highest, fmaxf(s[i][j][2 * half], s[i][j][2 * half + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
        const float shift = (highest == -INFINITY ? 0.f : highest) * a.exponent_scale;
        correction[i][half] = exp2_fast(most[i][half] * a.exponent_scale - shift);
        most[i][half] = highest;
        sum[i][half] = 0.f;
#pragma unroll
        for (int j = 0; j < columns / 8; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = s[i][j][2 * half + e];
            weight = exp2_fast(fmaf(weight, a.exponent_scale, -shift));
            sum[i][half] += weight;
          }
#pragma unroll
        for (int j = 0; j < D / 8; ++j) {
          acc[i][j][2 * half] *= correction[i][half];
          acc[i][j][2 * half + 1] *= correction[i][half];
        }
      }
    totals[threadIdx.x] = totals[threadIdx.x] * own_row(correction) + sum_of_own_row(sum);
#pragma unroll
    for (int step = 0; step < columns / 16; ++step) {
      uint32_t left[blocks][4];
#pragma unroll
      for (int i = 0; i < blocks; ++i) pack_operand(left[i], s[i][2 * step], s[i][2 * step + 1]);
#pragma unroll
      for (int j = 0; j < D / 16; ++j) {
        uint32_t right[4];
        ldmatrix_x4_trans(right, values + (value_lane.at(j * 2) + step * block_bytes<D>));
#pragma unroll
        for (int i = 0; i < blocks; ++i) {
          mma_bf16(acc[i][2 * j], left[i], right[0], right[1]);
          mma_bf16(acc[i][2 * j + 1], left[i], right[2], right[3]);
        }
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();  // without a tile nothing has waited yet for the copies of other warps to the rows used now
  const Span span = read_span();
  const int first_row = read_place().row, valid = min(rows, span.q_length - first_row);
  const int64_t token = static_cast<int64_t>(span.q_begin) + first_row;

#pragma unroll
  for (int i = 0; i < blocks; ++i) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = __shfl_sync(0xffffffffu, totals[threadIdx.x], (lane & ~3) | i * 2 | half);
      factor[half] = sum != 0.f ? 1.f / sum : 0.f;
      const int row = (i * warps + warp) * 16 + (lane >> 2) + half * 8;
      if ((lane & 3) == 0 && row < valid)
        p.lse[(token + row) * a.heads + blockIdx.y] = sum != 0.f ? (most[i][half] * a.exponent_scale + log2f(sum)) * log_2 : -INFINITY;
    }
    store_rows<D>(p.out, a.q_offset(token, blockIdx.y), a.heads * a.head_dim, (i * warps + warp) * 16, valid, a.head_dim, queries, acc[i], factor[0],
        factor[1]);
  }
}

template <class Shape> void run_forward(const Attention& a, const Plan& plan, const HalfOperands& operands, const Target& out, float* lse) {
  launch(attention_forward_kernel<Shape>, {dim3(plan.limit, a.heads), dim3(Shape::threads), Shape::shared, "attention"},
         ForwardArguments{a, plan.pieces, plan.count, operands.at[0], operands.at[1], operands.at[2], out, lse});
}

template <int D> using ForwardShapeOf = ForwardShape<D, D == 256 ? 64 : 128, 64, 4>;

int forward_rows(int head_dim) {
  int rows = 0;
  dispatch_width(head_dim, [&](auto width) { rows = ForwardShapeOf<decltype(width)::number>::rows; });
  return rows;
}

void attention_forward_half(const Attention& a, const Plan& plan, const HalfOperands& operands, const Target& out, float* lse) {
  dispatch_width(a.head_dim, [&](auto width) { run_forward<ForwardShapeOf<decltype(width)::number>>(a, plan, operands, out, lse); });
}

void attention(Out out, Out lse, In q, In k, In v, In spans, MaybeIn plan, double scale, bool causal, int64_t window, double soft_cap, bool half) {
  const Attention a = describe_attention("attention", q, k, spans, scale, causal, window, soft_cap);
  if (q.dtype == DType::f32 && !half) return attention_forward_float(a, forward_plan(a, false, plan), q, k, v, out, lse.as<float>());
  const Tensor* const tensors[] = {&q, &k, &v};
  const HalfOperands operands = half_operands(tensors, 3);
  const Plan pieces = forward_plan(a, true, plan);
  if (is_decoding(a)) attention_decode(a, pieces, operands, target_of(out), lse.as<float>());
  else attention_forward_half(a, pieces, operands, target_of(out), lse.as<float>());
}

}  // namespace anneal::cuda
