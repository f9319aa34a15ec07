// Softmax over the last axis and its backward. A row of up to 1024 is a warp's, a longer one a block's. The maximum and the sum are found in one pass:
// each thread keeps its own maximum and rescales its sum when that rises; the exponentials are computed again rather than stored.
#include <cmath>

#include "../kernels.h"
#include "../shape.h"
#include "logsumexp.h"
#include "rows.h"

namespace anneal::cuda {

constexpr int softmax_threads = 256;
constexpr int64_t one_warp = 1024;  // columns of a row that is one warp's

template <class T, bool by_warp>
__global__ void __launch_bounds__(softmax_threads) softmax_kernel(T* y, const T* x, int64_t rows, int64_t columns, bool aligned) {
  constexpr int n = elements_per_thread<T>, group = by_warp ? 32 : softmax_threads;
  ANNEAL_SHARED(LogSum, room, 32);
  const int64_t row = int64_t{blockIdx.x} * (softmax_threads / group) + threadIdx.x / group;
  if (row >= rows) return;
  x += row * columns;
  y += row * columns;
  LogSum all = empty_log_sum;
  float v[n];
  each_group<n, group>(columns, [&](int64_t i, int count) {
    load_group(v, x + i, count, aligned, -INFINITY);
    add_group(all, v);
  });
  all = by_warp ? warp_log_sum(all) : block_log_sum(all, room);
  const float scale = 1 / all.sum;
  each_group<n, group>(columns, [&](int64_t i, int count) {
    load_group(v, x + i, count, aligned, 0);
#pragma unroll
    for (int k = 0; k < n; ++k) v[k] = exp_above(v[k], all.max) * scale;
    store_group(y + i, v, count, aligned);
  });
}

// dx = y * (dy - sum(dy * y))
template <class T, bool by_warp>
__global__ void __launch_bounds__(softmax_threads) softmax_backward_kernel(T* dx, const T* dy, const T* y, int64_t rows, int64_t columns, bool aligned) {
  constexpr int n = elements_per_thread<T>, group = by_warp ? 32 : softmax_threads;
  ANNEAL_SHARED(float, room, 32);
  const int64_t row = int64_t{blockIdx.x} * (softmax_threads / group) + threadIdx.x / group;
  if (row >= rows) return;
  const int64_t start = row * columns;
  float total[n] = {}, v[n], g[n];
  each_group<n, group>(columns, [&](int64_t i, int count) {
    load_group(v, y + start + i, count, aligned, 0);
    load_group(g, dy + start + i, count, aligned, 0);
#pragma unroll
    for (int k = 0; k < n; ++k) total[k] += v[k] * g[k];
  });
#pragma unroll
  for (int k = 1; k < n; ++k) total[0] += total[k];
  const float along = by_warp ? warp_reduce<Sum>(total[0]) : block_reduce<Sum>(total[0], room);
  each_group<n, group>(columns, [&](int64_t i, int count) {
    load_group(v, y + start + i, count, aligned, 0);
    load_group(g, dy + start + i, count, aligned, 0);
#pragma unroll
    for (int k = 0; k < n; ++k) v[k] *= g[k] - along;
    store_group(dx + start + i, v, count, aligned);
  });
}

namespace {

void check(const char* kernel, const char* name, const Tensor& x, const Tensor& y) {
  ANNEAL_CHECK(is_float(y.dtype), "%s: the output must be f32 or bf16, but is %s", kernel, name_of(y.dtype));
  check_dtype(kernel, name, x, y.dtype);
  check_same_shape(kernel, name, x, y);
}

template <class... A> void start(const char* kernel, void (*by_warp)(A...), void (*by_block)(A...), int64_t rows, int64_t columns, A... arguments) {
  const int64_t per_block = columns <= one_warp ? softmax_threads / 32 : 1;
  launch(per_block > 1 ? by_warp : by_block, {dim3(static_cast<unsigned>(ceil_div(rows, per_block))), dim3(softmax_threads), 0, kernel}, arguments...);
}

}  // namespace

void softmax(Out y, In x) {
  check("softmax", "x", x, y);
  const bool aligned = rows_aligned(x) && rows_aligned(y);
  dispatch_float("softmax", y.dtype, [&](auto number) {
    using T = decltype(number);
    start("softmax", softmax_kernel<T, true>, softmax_kernel<T, false>, y.rows(), y.columns(), y.as<T>(), x.as<const T>(), y.rows(), y.columns(), aligned);
  });
}

void softmax_backward(Out dx, In dy, In y) {
  check("softmax_backward", "dy", dy, dx);
  check("softmax_backward", "y", y, dx);
  const bool aligned = rows_aligned(dx) && rows_aligned(dy) && rows_aligned(y);
  dispatch_float("softmax_backward", y.dtype, [&](auto number) {
    using T = decltype(number);
    start("softmax_backward", softmax_backward_kernel<T, true>, softmax_backward_kernel<T, false>, y.rows(), y.columns(), dx.as<T>(), dy.as<const T>(), y.as<const T>(), y.rows(),
          y.columns(), aligned);
  });
}

}  // namespace anneal::cuda
