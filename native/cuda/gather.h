// Rows out of a table by index, for gather_rows and embedding.
#pragma once
#include "cast.h"
#include "elements.h"
#include "fault.h"

namespace anneal::cuda {

constexpr int gather_ahead = 4;

// y[i] = x[row[i]], `width` elements of U a row. A row is that of blockDim.x threads, which take every blockDim.x-th element, some of them at a time.
template <class U>
__global__ void __launch_bounds__(map_threads) gather_rows_kernel(U* y, const U* x, const int32_t* row, int64_t count, int64_t width, int64_t rows, Fault* fault, FaultSite site) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (i >= count) return;
  const int64_t from = row[i];
  if (from < 0 || from >= rows) {
    if (threadIdx.x == 0) report(fault, site, i, from, rows);
    return;
  }
  x += from * width;
  y += i * width;
  for (int64_t first = threadIdx.x; first < width; first += gather_ahead * blockDim.x) {
    Elements<U, 1> element[gather_ahead];
#pragma unroll
    for (int k = 0; k < gather_ahead; ++k)
      if (first + k * blockDim.x < width) element[k] = load_elements<1>(x + first + k * blockDim.x);
#pragma unroll
    for (int k = 0; k < gather_ahead; ++k)
      if (first + k * blockDim.x < width) store_elements(y + first + k * blockDim.x, element[k]);
  }
}

// The most bytes up to 16 that divide a row and both addresses.
inline int64_t widest_of_rows(int64_t row_bytes, const void* a, const void* b) {
  int64_t wide = 16;
  while (row_bytes % wide != 0 || !is_aligned_to(wide, a) || !is_aligned_to(wide, b)) wide /= 2;
  return wide;
}

inline void gather(const char* kernel, FaultSite site, Tensor& y, const Tensor& x, const Tensor& row, int64_t rows, int64_t row_bytes) {
  if (y.size == 0) return;
  const int64_t wide = widest_of_rows(row_bytes, y.data, x.data);
  dispatch_size(wide, [&](auto element) {
    using U = decltype(element);
    const int64_t width = row_bytes / wide;
    unsigned across = 1;
    while (across < map_threads && across * gather_ahead < width) across *= 2;
    const unsigned together = map_threads / across;
    launch(gather_rows_kernel<U>, {dim3(static_cast<unsigned>(ceil_div(row.size, together))), dim3(across, together), 0, kernel}, y.as<U>(), x.as<const U>(),
           row.as<const int32_t>(), row.size, width, rows, fault(), site);
  });
}

}  // namespace anneal::cuda
