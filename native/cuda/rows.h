// Rows of floats: walking one with a warp or a block, 16 bytes at a time where it is aligned.
#pragma once
#include "elements.h"

namespace anneal::cuda {

// f(i, count) for the groups of n columns that are the calling thread's; count < n at the end of the row.
template <int n, int threads, class F> ANNEAL_DEVICE void each_group(int64_t columns, F&& f) {
  for (int64_t i = threadIdx.x % threads * n; i < columns; i += threads * n) f(i, columns - i < n ? static_cast<int>(columns - i) : n);
}
template <int n, class T> ANNEAL_DEVICE void load_group(float (&v)[n], const T* p, int count, bool aligned, float otherwise) {
  if (aligned && count == n) {
    const Elements<T, n> raw = load_elements<n>(p);
#pragma unroll
    for (int k = 0; k < n; ++k) v[k] = to_float(raw.at[k]);
    return;
  }
#pragma unroll
  for (int k = 0; k < n; ++k) v[k] = k < count ? to_float(p[k]) : otherwise;
}
template <int n, class T> ANNEAL_DEVICE void store_group(T* p, const float (&v)[n], int count, bool aligned) {
  if (aligned && count == n) {
    Elements<T, n> raw;
#pragma unroll
    for (int k = 0; k < n; ++k) raw.at[k] = from_float<T>(v[k]);
    store_elements(p, raw);
    return;
  }
#pragma unroll
  for (int k = 0; k < n; ++k)
    if (k < count) p[k] = from_float<T>(v[k]);
}

// Whether every row starts at 16 bytes.
inline bool rows_aligned(const Tensor& x) { return is_aligned_to(16, x.data) && x.columns() * bytes_of(x.dtype) % 16 == 0; }

}  // namespace anneal::cuda
