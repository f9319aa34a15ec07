// Attention's building blocks in f32: tiles of rows in shared memory and products of two of them. 256 threads, 16 by 16; thread (x, y) has rows y R … of
// the left tile and, of the right one, rows x, x + 16, …; of the output, columns 4 x … 4 x + 3 of each 64.
#pragma once
#include "attention.h"

namespace anneal::cuda {

constexpr int float_threads = 256;
template <int D> constexpr int float_pitch = D + 4;   // rows of a tile start 4 banks apart
template <int R> constexpr int weight_pitch = 16 * R + 4;

template <int D, int rows> ANNEAL_DEVICE void load_float_tile(float* tile, const float* from, int64_t stride, int valid, int head_dim) {
  const bool aligned = reinterpret_cast<uintptr_t>(from) % 16 == 0;
  for (int i = threadIdx.x; i < rows * (D / 4); i += float_threads) {
    const int row = i / (D / 4), column = i % (D / 4) * 4;
    const float* source = from + row * stride + column;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (row < valid && column < head_dim) {
      if (aligned) v = load_global_16(source);
      else v = make_uint4(__float_as_uint(source[0]), __float_as_uint(source[1]), __float_as_uint(source[2]), __float_as_uint(source[3]));
    }
    store_shared_16(to_shared(tile + row * float_pitch<D> + column), v);
  }
}
ANNEAL_DEVICE float4 load_shared_float4(const float* p) {
  const uint4 v = load_shared_16(to_shared(p));
  return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}

// s = left rightᵀ.
template <int D, int R> ANNEAL_DEVICE void dot_rows(float (&s)[R][R], const float* left, const float* right, int head_dim) {
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < R; ++i)
#pragma unroll
    for (int j = 0; j < R; ++j) s[i][j] = 0.f;
  for (int d = 0; d < head_dim; d += 4) {
    float4 l[R], r[R];
#pragma unroll
    for (int i = 0; i < R; ++i) {
      l[i] = load_shared_float4(left + (y * R + i) * float_pitch<D> + d);
      r[i] = load_shared_float4(right + (x + 16 * i) * float_pitch<D> + d);
    }
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < R; ++j) s[i][j] = fmaf(l[i].w, r[j].w, fmaf(l[i].z, r[j].z, fmaf(l[i].y, r[j].y, fmaf(l[i].x, r[j].x, s[i][j]))));
  }
}

template <int D, int R> struct FloatSums {
  float at[R][D / 64][4];
  ANNEAL_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < R; ++i) scale(i, 0.f);
  }
  ANNEAL_DEVICE void scale(int i, float factor) {
#pragma unroll
    for (int c = 0; c < D / 64; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) at[i][c][e] = factor == 0.f ? 0.f : at[i][c][e] * factor;
  }
  // += weights (rows by the rows of the right tile) times the right tile.
  ANNEAL_DEVICE void add(const float* weights, const float* right) {
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    for (int n = 0; n < 16 * R; n += 4) {
      float4 w[R];
#pragma unroll
      for (int i = 0; i < R; ++i) w[i] = load_shared_float4(weights + (y * R + i) * weight_pitch<R> + n);
#pragma unroll
      for (int c = 0; c < D / 64; ++c)
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          const float4 r = load_shared_float4(right + (n + step) * float_pitch<D> + c * 64 + x * 4);
#pragma unroll
          for (int i = 0; i < R; ++i) {
            const float weight = step == 0 ? w[i].x : step == 1 ? w[i].y : step == 2 ? w[i].z : w[i].w;
            at[i][c][0] = fmaf(weight, r.x, at[i][c][0]);
            at[i][c][1] = fmaf(weight, r.y, at[i][c][1]);
            at[i][c][2] = fmaf(weight, r.z, at[i][c][2]);
            at[i][c][3] = fmaf(weight, r.w, at[i][c][3]);
          }
        }
    }
  }
  // Rows from `valid` on are left out.
  ANNEAL_DEVICE void store(float* to, int64_t stride, int i, int valid, int head_dim, float factor) const {
    const int x = threadIdx.x % 16, row = threadIdx.x / 16 * R + i;
    if (row >= valid) return;
    float* out = to + row * stride;
    const bool aligned = reinterpret_cast<uintptr_t>(out) % 16 == 0;
#pragma unroll
    for (int c = 0; c < D / 64; ++c) {
      const int column = c * 64 + x * 4;
      if (column >= head_dim) continue;
      const float v[4] = {at[i][c][0] * factor, at[i][c][1] * factor, at[i][c][2] * factor, at[i][c][3] * factor};
      if (aligned) store_vector(out + column, v);
      else
#pragma unroll
        for (int e = 0; e < 4; ++e) out[column + e] = v[e];
    }
  }
};

// Over the 16 threads that share rows.
template <class Operation> ANNEAL_DEVICE float reduce_row(float x) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) x = Operation::of(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}

template <class F> void dispatch_float_width(int head_dim, F&& body) {
  if (head_dim <= 64) return body(Width<64>{});
  if (head_dim <= 128) return body(Width<128>{});
  body(Width<256>{});
}

}  // namespace anneal::cuda
