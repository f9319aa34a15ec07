// Rows out of a table by index, for gather_rows and embedding.
#pragma once
#include "cast.h"
#include "elements.h"
#include "fault.h"

namespace anneal::cuda {

// y[i] = x[row[i]], `width` elements of U a row. A thread takes one of them.
template <class U>
__global__ void __launch_bounds__(map_threads) gather_rows_kernel(U* y, const U* x, const int32_t* row, int64_t items, int64_t width, int64_t rows, Fault* fault, FaultSite site) {
  const int64_t item = int64_t{blockIdx.x} * map_threads + threadIdx.x;
  if (item >= items) return;
  int64_t i = item;
  const int64_t column = take_axis(i, width), from = row[i];
  if (from < 0 || from >= rows) {
    if (column == 0) report(fault, site, i, from, rows);
    return;
  }
  copy_element(y + item, x + from * width + column);
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
    const int64_t width = row_bytes / wide, items = row.size * width;
    launch(gather_rows_kernel<U>, {blocks_of(items), dim3(map_threads), 0, kernel}, y.as<U>(), x.as<const U>(), row.as<const int32_t>(), items, width, rows, fault(), site);
  });
}

}  // namespace anneal::cuda
