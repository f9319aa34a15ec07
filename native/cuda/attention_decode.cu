// Attention of a few queries per sequence, as in decoding: bound by reading keys and values once. The heads that share a key-value head are the rows of
// one tile of 16; the keys are cut into runs that different blocks take, and within a block each warp streams its own tiles of 16 keys through shared
// memory without waiting for the others. The parts are summed in order, by the block and then by a second kernel. The cut depends only on the sequence,
// so its bits do not depend on the batch.
#include "attention_tile.h"

namespace anneal::cuda {

constexpr int key_block = 16;

struct DecodeArguments {
  Attention a;
  const Piece* pieces;
  const int* count;
  const bf16 *q, *k, *v;
  Target out;
  float* lse;
  float* parts;   // [token][head][run][D], relative to 2^maximum
  float2* states; // [token][head][run]: maximum and total
  int most_runs, stored_runs;
};

template <int D_, int warps_, int stages_> struct DecodeShape {
  static constexpr int D = D_, warps = warps_, stages = stages_, threads = warps * 32;
  static constexpr int stage_bytes = 2 * key_block * D * 2;  // keys, then values
  static constexpr int pitch = D + 8;                        // of the warps' sums, in floats: rows 8 banks apart
  static constexpr size_t shared = size_t{run_rows} * D * 2 + size_t{warps} * stages * stage_bytes;
  static_assert(run_rows * pitch * 4 <= stages * stage_bytes);
};

ANNEAL_DEVICE void store_eight(const Target& to, int64_t at, const float (&v)[8]) {
  if (to.vectors) return store_vector(to.vectors + at, v);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (to.full) to.full[at + i] = v[i];
    else to.half[at + i] = from_float<bf16>(v[i]);
}
ANNEAL_DEVICE float log_sum(float most, float total) { return total != 0.f ? (most + log2f(total)) * log_2 : -INFINITY; }
// The factor for a part whose exponents are relative to `own`, where the whole's are to `most`.
ANNEAL_DEVICE float part_factor(float own, float most) { return own == -INFINITY ? 0.f : exp2_fast(own - most); }

template <class Shape> __global__ void __launch_bounds__(Shape::threads) attention_decode_kernel(DecodeArguments p) {
  constexpr int D = Shape::D, threads = Shape::threads, warps = Shape::warps, stages = Shape::stages;
  ANNEAL_DYNAMIC_SHARED(unsigned char, memory);
  ANNEAL_SHARED(float2, warp_states, warps * run_rows);
  const Attention& a = p.a;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, kv_head = blockIdx.y, k_stride = a.kv_heads * a.head_dim, count = *p.count;
  unsigned char* const own = memory + run_rows * D * 2 + warp * stages * Shape::stage_bytes;
  const Shared queries = to_shared(memory), ring = to_shared(own);
  const LaneRow<D> query_lane = lane_rows<D>(0), key_lane = lane_columns<D>(0), value_lane = lane_rows<D>(0);

  for (int index = blockIdx.x; index < count; index += gridDim.x) {
    const Piece piece = p.pieces[index];
    const Span span = a.span(piece.sequence);
    const KeyRuns runs = KeyRuns::of(a, span, p.most_runs);
    const int run = piece.tile % runs.count, first_row = piece.tile / runs.count * run_rows, rows = min(run_rows, span.q_length * a.group - first_row);
    const Range all = a.keys_of(span, first_row / a.group, (first_row + rows - 1) / a.group);
    const int run_begin = runs.first + run * runs.length;
    const int begin = max(run_begin, all.begin / key_block * key_block), end = min(run_begin + runs.length, all.end);
    const int tiles = max(0, end - begin + key_block - 1) / key_block;
    const int64_t k_base = a.k_offset(static_cast<int64_t>(span.k_begin) + begin, kv_head);
    // Offset in q and out of a row of the tile.
    auto row_offset = [&](int row) {
      return a.q_offset(static_cast<int64_t>(span.q_begin) + (first_row + row) / a.group, kv_head * a.group + (first_row + row) % a.group);
    };

    for (int i = threadIdx.x; i < run_rows * chunks<D>; i += threads) {
      const int row = i / chunks<D>, chunk = i % chunks<D>;
      const bool valid = row < rows && chunk * 8 < a.head_dim;
      cp_async_16(queries + tile_offset<D>(row, chunk), p.q + (valid ? row_offset(row) + chunk * 8 : 0), valid);
    }
    cp_async_commit();
    auto load = [&](int tile) {
      if (tile < tiles) {
        const Shared stage = ring + tile / warps % stages * Shape::stage_bytes;
        const bf16 *k = p.k + k_base + static_cast<int64_t>(tile) * key_block * k_stride, *v = p.v + (k - p.k);
#pragma unroll
        for (int i = 0; i < key_block * chunks<D>; i += 32) {
          const int row = (i + lane) / chunks<D>, chunk = (i + lane) % chunks<D>, to = tile_offset<D>(row, chunk), from = row * k_stride + chunk * 8;
          const bool valid = tile * key_block + row < end - begin && chunk * 8 < a.head_dim;
          cp_async_16(stage + to, k + from, valid);
          cp_async_16(stage + (key_block * D * 2 + to), v + from, valid);
        }
      }
      cp_async_commit();
    };
#pragma unroll
    for (int i = 0; i < stages - 1; ++i) load(warp + i * warps);
    cp_async_wait<stages - 1>();
    __syncthreads();
    uint32_t query[D / 16][4];
#pragma unroll
    for (int step = 0; step < D / 16; ++step) ldmatrix_x4(query[step], queries + query_lane.at(step * 2));
    Range seen[2];
    float acc[D / 8][4], most[2] = {-INFINITY, -INFINITY}, total[2] = {};
    clear(acc);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (lane >> 2) + half * 8;
      seen[half] = row < rows ? a.keys_of(span, (first_row + row) / a.group) : Range{0, 0};
    }

    for (int tile = warp; tile < tiles; tile += warps) {
      cp_async_wait<stages - 2>();
      __syncwarp();
      const Shared keys = ring + tile / warps % stages * Shape::stage_bytes, values = keys + key_block * D * 2;
      float s[2][4];
      clear(s);
#pragma unroll
      for (int step = 0; step < D / 16; ++step) {
        uint32_t right[4];
        ldmatrix_x4(right, keys + key_lane.at(step * 2));
        mma_bf16(s[0], query[step], right[0], right[1]);
        mma_bf16(s[1], query[step], right[2], right[3]);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float highest = most[half];
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& score = s[j][2 * half + e];
            const int key = begin + tile * key_block + j * 8 + (lane & 3) * 2 + e;
            if (a.soft_cap > 0) score = a.soft_cap * tanh_fast(score * a.cap_scale);
            score = key >= seen[half].begin && key < seen[half].end && key < end ? score * a.exponent_scale : -INFINITY;
            highest = fmaxf(highest, score);
          }
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
        const float shift = highest == -INFINITY ? 0.f : highest, correction = exp2_fast(most[half] - shift);
        most[half] = highest;
        float sum = 0.f;
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = s[j][2 * half + e];
            weight = exp2_fast(weight - shift);
            sum += weight;
          }
        total[half] = total[half] * correction + sum;
#pragma unroll
        for (int j = 0; j < D / 8; ++j) {
          acc[j][2 * half] *= correction;
          acc[j][2 * half + 1] *= correction;
        }
      }
      uint32_t left[4];
      pack_operand(left, s[0], s[1]);
#pragma unroll
      for (int j = 0; j < D / 16; ++j) {
        uint32_t right[4];
        ldmatrix_x4_trans(right, values + value_lane.at(j * 2));
        mma_bf16(acc[2 * j], left, right[0], right[1]);
        mma_bf16(acc[2 * j + 1], left, right[2], right[3]);
      }
      __syncwarp();
      load(tile + (stages - 1) * warps);
    }
    cp_async_wait<0>();
    __syncwarp();

    // Each warp leaves its sums where its tiles were; then all threads add them up, in the order of the warps.
    float* const sums = reinterpret_cast<float*>(own);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = total[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int row = (lane >> 2) + half * 8;
      if ((lane & 3) == 0) warp_states[warp * run_rows + row] = make_float2(most[half], sum);
#pragma unroll
      for (int j = 0; j < D / 8; ++j)
        *reinterpret_cast<float2*>(sums + row * Shape::pitch + j * 8 + (lane & 3) * 2) = make_float2(acc[j][2 * half], acc[j][2 * half + 1]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * chunks<D>; i += threads) {
      const int row = i / chunks<D>, chunk = i % chunks<D>;
      float highest = -INFINITY, sum = 0.f, v[8] = {};
#pragma unroll
      for (int w = 0; w < warps; ++w) highest = fmaxf(highest, warp_states[w * run_rows + row].x);
#pragma unroll
      for (int w = 0; w < warps; ++w) {
        const float2 state = warp_states[w * run_rows + row];
        const float factor = part_factor(state.x, highest);
        sum = fmaf(state.y, factor, sum);
        const float* from = reinterpret_cast<const float*>(memory + run_rows * D * 2 + w * stages * Shape::stage_bytes) + row * Shape::pitch + chunk * 8;
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] = fmaf(from[e], factor, v[e]);
      }
      const int64_t at = row_offset(row), head_row = at / a.head_dim;
      if (runs.count == 1) {
        const float inverse = sum != 0.f ? 1.f / sum : 0.f;
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] *= inverse;
        if (chunk * 8 < a.head_dim) store_eight(p.out, at + chunk * 8, v);
        if (chunk == 0) p.lse[head_row] = log_sum(highest, sum);
      } else {
        float* part = p.parts + (head_row * p.stored_runs + run) * D + chunk * 8;
        store_vector(part, {v[0], v[1], v[2], v[3]});
        store_vector(part + 4, {v[4], v[5], v[6], v[7]});
        if (chunk == 0) p.states[head_row * p.stored_runs + run] = make_float2(highest, sum);
      }
    }
    __syncthreads();  // the next piece reuses the memory
  }
}

constexpr int combine_threads = 128;
// Adds up the parts of the sequences that have several runs.
template <int D> __global__ void __launch_bounds__(combine_threads) attention_combine_kernel(DecodeArguments p) {
  const Attention& a = p.a;
  const Span span = a.span(blockIdx.x);
  if (span.q_length <= 0 || !is_valid(a, span)) return;
  const KeyRuns runs = KeyRuns::of(a, span, p.most_runs);
  if (runs.count == 1) return;
  for (int i = threadIdx.x; i < span.q_length * a.group * chunks<D>; i += combine_threads) {
    const int row = i / chunks<D>, chunk = i % chunks<D>;
    const int64_t head_row = (static_cast<int64_t>(span.q_begin) + row / a.group) * a.heads + blockIdx.y * a.group + row % a.group;
    const float2* states = p.states + head_row * p.stored_runs;
    const float* parts = p.parts + head_row * p.stored_runs * D + chunk * 8;
    float highest = -INFINITY, sum = 0.f, v[8] = {};
    for (int r = 0; r < runs.count; ++r) highest = fmaxf(highest, states[r].x);
    for (int r = 0; r < runs.count; ++r) {
      const float factor = part_factor(states[r].x, highest);
      sum = fmaf(states[r].y, factor, sum);
      float low[4], high[4];
      load_vector(low, parts + r * D);
      load_vector(high, parts + r * D + 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        v[e] = fmaf(low[e], factor, v[e]);
        v[e + 4] = fmaf(high[e], factor, v[e + 4]);
      }
    }
    const float inverse = sum != 0.f ? 1.f / sum : 0.f;
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] *= inverse;
    if (chunk * 8 < a.head_dim) store_eight(p.out, head_row * a.head_dim + chunk * 8, v);
    if (chunk == 0) p.lse[head_row] = log_sum(highest, sum);
  }
}

template <class Shape> void run_decode(const Attention& a, const Plan& plan, const HalfOperands& operands, const Target& out, float* lse) {
  constexpr int D = Shape::D;
  const int64_t stored = stored_runs(a);
  const bool cut = a.slots > shortest_run;
  const int64_t parts = cut ? a.tokens * a.heads * stored : 0;
  const DecodeArguments arguments{a, plan.pieces, plan.count, operands.at[0], operands.at[1], operands.at[2], out, lse, scratch_of<float>(parts * D),
      scratch_of<float2>(parts), most_key_runs(a), static_cast<int>(stored)};
  // Blocks take several pieces where there may be very many: most of them would find nothing to do.
  const int64_t enough = ceil_div(16 * traits().multiprocessors, a.kv_heads);
  const unsigned blocks = static_cast<unsigned>(plan.limit < enough ? plan.limit : enough);
  launch(attention_decode_kernel<Shape>, {dim3(blocks, a.kv_heads), dim3(Shape::threads), Shape::shared, "attention"}, arguments);
  if (cut) launch(attention_combine_kernel<D>, {dim3(a.sequences, a.kv_heads), dim3(combine_threads), 0, "attention"}, arguments);
}

void attention_decode(const Attention& a, const Plan& plan, const HalfOperands& operands, const Target& out, float* lse) {
  dispatch_width(a.head_dim, [&](auto width) {
    constexpr int D = decltype(width)::number;
    run_decode<DecodeShape<D, D == 256 ? 2 : 4, D >= 128 ? 2 : 3>>(a, plan, operands, out, lse);
  });
}

}  // namespace anneal::cuda
