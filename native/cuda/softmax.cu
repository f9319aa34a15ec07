// Softmax over the last axis and its backward. A row of up to 8192 is read once and stays in registers: it is a warp's while a thread has few numbers of it, else a
// block's. A longer one is a block's that reads it twice: maximum and sum are found in one pass, in which each thread keeps its own maximum and rescales its sum
// when that rises, and the exponentials are computed again rather than stored.
#include <cmath>

#include "../kernels.h"
#include "logsumexp.h"
#include "rows.h"

namespace anneal::cuda {

constexpr int softmax_threads = 256, softmax_backward_threads = 512;
constexpr int64_t register_width = 8192;
// Numbers of a row that a thread keeps; the gradient keeps those of two rows.
constexpr int softmax_numbers = static_cast<int>(register_width) / softmax_threads, softmax_backward_numbers = static_cast<int>(register_width) / softmax_backward_threads;

// The calling thread's groups of n numbers of a row, every blockDim.x-th: f(group, first column, how many columns there are).
template <int groups, int n, class F> ANNEAL_DEVICE void own_groups(int64_t columns, F&& f) {
#pragma unroll
  for (int p = 0; p < groups; ++p) {
    const int64_t i = int64_t{(threadIdx.x + p * blockDim.x) * n}, left = columns - i;
    f(p, i, left < 0 ? 0 : left < n ? static_cast<int>(left) : n);
  }
}

// The block's rows are threadIdx.y's; where there are several, each is a warp's.
template <class T> __global__ void __launch_bounds__(softmax_threads) softmax_kernel(T* y, const T* x, int64_t rows, int64_t columns, bool aligned) {
  constexpr int n = elements_per_thread<T>, groups = softmax_numbers / n;
  ANNEAL_SHARED(LogSum, room, 32);
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  x += row * columns;
  y += row * columns;
  float v[groups][n];
  own_groups<groups, n>(columns, [&](int p, int64_t i, int count) { load_group(v[p], x + i, count, aligned, -INFINITY); });
  LogSum own = empty_log_sum;
#pragma unroll
  for (int p = 0; p < groups; ++p)
#pragma unroll
    for (int k = 0; k < n; ++k) own.max = v[p][k] > own.max ? v[p][k] : own.max;
  const float base = own.max == -INFINITY ? 0.f : own.max;
#pragma unroll
  for (int p = 0; p < groups; ++p)
#pragma unroll
    for (int k = 0; k < n; ++k) own.sum += v[p][k] = exp_above(v[p][k], base);
  const LogSum all = blockDim.x == 32 ? warp_log_sum(own) : block_log_sum(own, room);
  const float scale = exp_above(own.max, all.max) / all.sum;  // 0, not e^-base, for a thread that has only -infinity
  own_groups<groups, n>(columns, [&](int p, int64_t i, int count) {
#pragma unroll
    for (int k = 0; k < n; ++k) v[p][k] *= scale;
    store_group(y + i, v[p], count, aligned);
  });
}

template <class T> __global__ void __launch_bounds__(softmax_threads) softmax_wide_kernel(T* y, const T* x, int64_t columns, bool aligned) {
  constexpr int n = elements_per_thread<T>;
  ANNEAL_SHARED(LogSum, room, 32);
  x += blockIdx.x * columns;
  y += blockIdx.x * columns;
  LogSum all = empty_log_sum;
  float v[n];
  each_group<n, softmax_threads>(columns, [&](int64_t i, int count) {
    load_group(v, x + i, count, aligned, -INFINITY);
    add_group(all, v);
  });
  all = block_log_sum(all, room);
  const float scale = 1 / all.sum;
  each_group<n, softmax_threads>(columns, [&](int64_t i, int count) {
    load_group(v, x + i, count, aligned, 0);
#pragma unroll
    for (int k = 0; k < n; ++k) v[k] = exp_above(v[k], all.max) * scale;
    store_group(y + i, v, count, aligned);
  });
}

// dx = y * (dy - sum(dy * y)), rows as above.
template <class T>
__global__ void __launch_bounds__(softmax_backward_threads) softmax_backward_kernel(T* dx, const T* dy, const T* y, int64_t rows, int64_t columns, bool aligned) {
  constexpr int n = elements_per_thread<T>, groups = softmax_backward_numbers / n;
  ANNEAL_SHARED(float, room, 32);
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const int64_t start = row * columns;
  float v[groups][n], g[groups][n], total = 0;
  own_groups<groups, n>(columns, [&](int p, int64_t i, int count) {
    load_group(v[p], y + start + i, count, aligned, 0);
    load_group(g[p], dy + start + i, count, aligned, 0);
  });
#pragma unroll
  for (int p = 0; p < groups; ++p)
#pragma unroll
    for (int k = 0; k < n; ++k) total += v[p][k] * g[p][k];
  const float along = blockDim.x == 32 ? warp_reduce<Sum>(total) : block_reduce<Sum>(total, room);
  own_groups<groups, n>(columns, [&](int p, int64_t i, int count) {
#pragma unroll
    for (int k = 0; k < n; ++k) v[p][k] *= g[p][k] - along;
    store_group(dx + start + i, v[p], count, aligned);
  });
}

template <class T>
__global__ void __launch_bounds__(softmax_threads) softmax_wide_backward_kernel(T* dx, const T* dy, const T* y, int64_t columns, bool aligned) {
  constexpr int n = elements_per_thread<T>;
  ANNEAL_SHARED(float, room, 32);
  const int64_t start = blockIdx.x * columns;
  float total[n] = {}, v[n], g[n];
  each_group<n, softmax_threads>(columns, [&](int64_t i, int count) {
    load_group(v, y + start + i, count, aligned, 0);
    load_group(g, dy + start + i, count, aligned, 0);
#pragma unroll
    for (int k = 0; k < n; ++k) total[k] += v[k] * g[k];
  });
#pragma unroll
  for (int k = 1; k < n; ++k) total[0] += total[k];
  const float along = block_reduce<Sum>(total[0], room);
  each_group<n, softmax_threads>(columns, [&](int64_t i, int count) {
    load_group(v, y + start + i, count, aligned, 0);
    load_group(g, dy + start + i, count, aligned, 0);
#pragma unroll
    for (int k = 0; k < n; ++k) v[k] *= g[k] - along;
    store_group(dx + start + i, v, count, aligned);
  });
}

namespace {

// For rows in registers: the threads of a row, and as many rows of a warp as make a block of 128.
Launch rows_of(const char* kernel, int64_t rows, int64_t columns, int numbers) {
  const int64_t across = ceil_div(columns, 32 * numbers) * 32, together = across == 32 ? 4 : 1;
  return {dim3(static_cast<unsigned>(ceil_div(rows, together))), dim3(static_cast<unsigned>(across), static_cast<unsigned>(together)), 0, kernel};
}

}  // namespace

void softmax(Out y, In x) {
  if (y.size == 0) return;
  const bool aligned = rows_aligned(x) && rows_aligned(y);
  dispatch_float("softmax", y.dtype, [&](auto number) {
    using T = decltype(number);
    if (y.columns() > register_width) {
      const Launch size = {dim3(static_cast<unsigned>(y.rows())), dim3(softmax_threads), 0, "softmax"};
      launch(softmax_wide_kernel<T>, size, y.as<T>(), x.as<const T>(), y.columns(), aligned);
    } else {
      launch(softmax_kernel<T>, rows_of("softmax", y.rows(), y.columns(), softmax_numbers), y.as<T>(), x.as<const T>(), y.rows(), y.columns(), aligned);
    }
  });
}

void softmax_backward(Out dx, In dy, In y) {
  if (y.size == 0) return;
  const bool aligned = rows_aligned(dx) && rows_aligned(dy) && rows_aligned(y);
  dispatch_float("softmax_backward", y.dtype, [&](auto number) {
    using T = decltype(number);
    if (y.columns() > register_width) {
      const Launch size = {dim3(static_cast<unsigned>(y.rows())), dim3(softmax_threads), 0, "softmax_backward"};
      launch(softmax_wide_backward_kernel<T>, size, dx.as<T>(), dy.as<const T>(), y.as<const T>(), y.columns(), aligned);
    } else {
      const Launch size = rows_of("softmax_backward", y.rows(), y.columns(), softmax_backward_numbers);
      launch(softmax_backward_kernel<T>, size, dx.as<T>(), dy.as<const T>(), y.as<const T>(), y.rows(), y.columns(), aligned);
    }
  });
}

}  // namespace anneal::cuda
