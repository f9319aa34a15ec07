// Sums over the rows of one or two matrices, in an order that depends on their shape only.
#pragma once
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

// y[i][column] = (accumulate ? y : 0) + the sum of x[i]'s rows, which are `stride` apart; i is blockIdx.y.
template <class T> struct ColumnSums {
  float* y[2];
  const T* x[2];
  int64_t rows, stride;
  int columns;
  bool accumulate;
};

constexpr int column_sums_across = 32, column_sums_threads = 1024;

// 32 threads of a block share a column: each sums every 32nd row, then the first adds their sums in order.
template <class T> __global__ void __launch_bounds__(column_sums_threads) column_sums_kernel(ColumnSums<T> a) {
  constexpr int lines = column_sums_threads / column_sums_across;
  ANNEAL_SHARED(float, room, column_sums_threads);
  const int within = threadIdx.x % column_sums_across, line = threadIdx.x / column_sums_across, column = blockIdx.x * column_sums_across + within;
  const T* x = blockIdx.y == 0 ? a.x[0] : a.x[1];
  float* y = blockIdx.y == 0 ? a.y[0] : a.y[1];
  float total = 0;
  if (column < a.columns) {
#pragma unroll 8
    for (int64_t row = line; row < a.rows; row += lines) total += to_float(x[row * a.stride + column]);
  }
  room[threadIdx.x] = total;
  __syncthreads();
  if (line > 0 || column >= a.columns) return;
  total = a.accumulate ? y[column] : 0.f;
#pragma unroll
  for (int i = 0; i < lines; ++i) total += room[i * column_sums_across + within];
  y[column] = total;
}

// `matrices` is 0, 1 or 2.
template <class T> void sum_columns(const char* kernel, const ColumnSums<T>& sums, unsigned matrices) {
  const dim3 blocks(static_cast<unsigned>(ceil_div(sums.columns, column_sums_across)), matrices);
  launch(column_sums_kernel<T>, {blocks, dim3(column_sums_threads), 0, kernel}, sums);
}

}  // namespace anneal::cuda
