// What a block does with the f32 sums of its tile, which it has put into shared memory: bias, the value before the activation, activation, accumulation,
// one rounding. Neighbouring threads hold neighbouring columns, so that rows are written in 16-byte pieces where they are aligned.
#pragma once
#include "activation.h"
#include "gemm.h"
#include "numeric.h"

namespace anneal::cuda {

// Floats between the rows of a tile in shared memory: the accumulators' pairs of two columns fall into different banks.
constexpr int tile_stride(int columns) { return columns + 8; }
// Shared memory for a tile and its columns' bias.
constexpr size_t tile_bytes(int rows, int columns) { return sizeof(float) * (static_cast<size_t>(rows) * tile_stride(columns) + columns); }

ANNEAL_DEVICE float load_number(const void* p, DType type, int64_t i) {
  return type == DType::f32 ? static_cast<const float*>(p)[i] : to_float(static_cast<const bf16*>(p)[i]);
}
ANNEAL_DEVICE void store_number(void* p, DType type, int64_t i, float value) {
  if (type == DType::f32) static_cast<float*>(p)[i] = value;
  else static_cast<bf16*>(p)[i] = from_float<bf16>(value);
}

// `width` (4 or 8) numbers of a row from element i on, of which `count` are inside; aligned: in vectors where all are.
template <int width> ANNEAL_DEVICE void load_numbers(float (&v)[width], const void* p, DType type, int64_t i, int count, bool aligned) {
  if (aligned && count >= width && (width == 8 || type == DType::f32)) {
    if (type == DType::f32) {
#pragma unroll
      for (int part = 0; part < width; part += 4) {
        float four[4];
        load_vector(four, static_cast<const float*>(p) + i + part);
#pragma unroll
        for (int j = 0; j < 4; ++j) v[part + j] = four[j];
      }
    } else if constexpr (width == 8) {
      load_vector(v, static_cast<const bf16*>(p) + i);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < width; ++j) v[j] = j < count ? load_number(p, type, i + j) : 0.f;
}
template <int width> ANNEAL_DEVICE void store_numbers(const float (&v)[width], void* p, DType type, int64_t i, int count, bool aligned) {
  if (aligned && count >= width && (width == 8 || type == DType::f32)) {
    if (type == DType::f32) {
#pragma unroll
      for (int part = 0; part < width; part += 4)
        store_vector(static_cast<float*>(p) + i + part, {v[part], v[part + 1], v[part + 2], v[part + 3]});
    } else if constexpr (width == 8) {
      store_vector(static_cast<bf16*>(p) + i, v);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < width; ++j)
    if (j < count) store_number(p, type, i + j, v[j]);
}

// What follows product + bias, for the `count` numbers from element `at` of the outputs on.
template <int width> ANNEAL_DEVICE void finish_numbers(float (&v)[width], const Output& out, int64_t at, int count, bool aligned) {
  if (out.pre) store_numbers(v, out.pre, out.pre_type, at, count, aligned);
  activate_all(v, out.activation);
  if (out.accumulate) {
    float old[width];
    load_numbers(old, out.c, out.c_type, at, count, aligned);
#pragma unroll
    for (int e = 0; e < width; ++e) v[e] += old[e];
  }
  store_numbers(v, out.c, out.c_type, at, count, aligned);
}

template <int rows, int columns, int threads, int width>
ANNEAL_DEVICE void finish_rows(const float* tile, const float* bias, const Output& out, int row, int column, int m, int n, int64_t batch) {
  constexpr int pieces = columns / width;
  auto is_aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool aligned = out.stride % 8 == 0 && is_aligned(out.c) && is_aligned(out.pre);
#pragma unroll 1
  for (int i = threadIdx.x; i < rows * pieces; i += threads) {
    const int r = i / pieces, j = i % pieces * width, count = n - column - j;
    if (row + r >= m || count <= 0) continue;
    const int64_t at = (batch * m + row + r) * out.stride + column + j;
    float v[width];
#pragma unroll
    for (int part = 0; part < width; part += 4) {
      float sums[4], add[4];
      unpack(sums, load_shared_16(to_shared(tile + r * tile_stride(columns) + j + part)), float{});
      unpack(add, load_shared_16(to_shared(bias + j + part)), float{});
#pragma unroll
      for (int e = 0; e < 4; ++e) v[part + e] = sums[e] + add[e];
    }
    finish_numbers(v, out, at, count, aligned);
  }
}

// Finishes the tile at (row, column) of product `batch`. All threads of the block take part, after each has written its sums into `tile` (tile_bytes()).
template <int rows, int columns, int threads> ANNEAL_DEVICE void finish_tile(float* tile, const Output& out, int row, int column, int m, int n, int64_t batch) {
  float* bias = tile + rows * tile_stride(columns);
  for (int j = threadIdx.x; j < columns; j += threads)
    bias[j] = out.bias && column + j < n ? load_number(out.bias, out.bias_type, column + j) : 0.f;
  __syncthreads();
  if (out.c_type == DType::f32) finish_rows<rows, columns, threads, 4>(tile, bias, out, row, column, m, n, batch);
  else finish_rows<rows, columns, threads, 8>(tile, bias, out, row, column, m, n, batch);
}

// Which tile a block computes: groups of 8 rows of tiles are walked column by column, so that blocks running together share their operands in the cache.
struct TilePlace {
  int row, column;
};
ANNEAL_DEVICE TilePlace tile_of(int block, int tile_rows, int tile_columns) {
  constexpr int group = 8;
  const int in_group = group * tile_columns, first = block / in_group * group, rows = min(group, tile_rows - first), inside = block % in_group;
  return {first + inside % rows, inside / rows};
}

}  // namespace anneal::cuda
