// Kernels over elements: a thread takes as many as its widest type has in 16 bytes, with one access to each tensor. And walks over axes with strides.
#pragma once
#include <cstring>

#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int map_threads = 256;

// The kernel of that name, for launchers whose output starts from a constant.
void fill(Out y, double value);

// Neighbouring elements, in registers.
template <class T, int n> struct Elements { T at[n]; };

constexpr int largest_of(int a) { return a; }
template <class... B> constexpr int largest_of(int a, int b, B... rest) { return largest_of(a > b ? a : b, rest...); }
template <class... T> constexpr int elements_per_thread = 16 / largest_of(static_cast<int>(sizeof(T))...);

// n * sizeof(T) is a power of two up to 16, to which p is aligned.
template <int n, class T> ANNEAL_DEVICE Elements<T, n> load_elements(const T* p) {
  constexpr int bytes = n * static_cast<int>(sizeof(T));
  Elements<T, n> v;
  auto from = [&](auto raw) { memcpy(&v, &raw, sizeof v); };
  if constexpr (bytes == 16) from(load_global_16(p));
  else if constexpr (bytes == 8) from(*reinterpret_cast<const uint2*>(p));
  else if constexpr (bytes == 4) from(*reinterpret_cast<const uint32_t*>(p));
  else if constexpr (bytes == 2) from(*reinterpret_cast<const uint16_t*>(p));
  else v.at[0] = *p;
  return v;
}
// One store of a whole word: a memcpy to global memory becomes stores of single bytes.
template <int n, class T> ANNEAL_DEVICE void store_elements(T* p, const Elements<T, n>& v) {
  constexpr int bytes = n * static_cast<int>(sizeof(T));
  auto store = [&](auto raw) {
    memcpy(&raw, &v, sizeof v);
    if constexpr (bytes == 16) store_global_16(p, raw);
    else *reinterpret_cast<decltype(raw)*>(p) = raw;
  };
  if constexpr (bytes == 16) store(uint4{});
  else if constexpr (bytes == 8) store(uint2{});
  else if constexpr (bytes == 4) store(uint32_t{});
  else if constexpr (bytes == 2) store(uint16_t{});
  else *p = v.at[0];
}

ANNEAL_DEVICE void copy_element(uint4* to, const uint4* from) { store_global_16(to, load_global_16(from)); }
template <class U> ANNEAL_DEVICE void copy_element(U* to, const U* from) { *to = *from; }

inline bool is_aligned_to(int64_t bytes, const void* p) { return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0; }
// Blocks that give `items` items a thread each.
inline dim3 blocks_of(int64_t items, int threads = map_threads) { return dim3(static_cast<unsigned>(ceil_div(items, threads))); }

template <int n, class Function, class Y, class... X> ANNEAL_DEVICE void map_whole(const Function& f, Y* y, const Elements<X, n>&... x) {
  Elements<Y, n> result;
#pragma unroll
  for (int i = 0; i < n; ++i) result.at[i] = f(x.at[i]...);
  store_elements(y, result);
}
template <class Function, class Y, class... X> __global__ void __launch_bounds__(map_threads) map_kernel(Y* y, int64_t size, bool aligned, Function f, const X*... x) {
  constexpr int n = elements_per_thread<Y, X...>;
  const int64_t first = (int64_t{blockIdx.x} * map_threads + threadIdx.x) * n;
  if (aligned && first + n <= size) map_whole<n>(f, y + first, load_elements<n>(x + first)...);
  else
    for (int64_t i = first; i < first + n && i < size; ++i) y[i] = f(x[i]...);
}
// y[i] = f(x[i]...); y may be any of x.
template <class Y, class Function, class... X> void map(const char* from, Y* y, int64_t size, Function f, const X*... x) {
  constexpr int n = elements_per_thread<Y, X...>;
  const bool aligned = is_aligned_to(n * sizeof(Y), y) && (is_aligned_to(n * sizeof(X), x) && ... && true);
  launch(map_kernel<Function, Y, X...>, {blocks_of(ceil_div(size, n)), dim3(map_threads), 0, from}, y, size, aligned, f, x...);
}

// Takes the innermost axis off a flat index: returns the index along it. 64-bit division is slow, and seldom needed.
ANNEAL_DEVICE int64_t take_axis(int64_t& rest, int64_t length) {
  if (static_cast<uint64_t>(rest | length) >> 32 == 0) {
    const uint32_t whole = static_cast<uint32_t>(rest), part = static_cast<uint32_t>(length), quotient = whole / part;
    rest = quotient;
    return whole - quotient * part;
  }
  const int64_t whole = rest;
  rest = whole / length;
  return whole - rest * length;
}

// Axes that two tensors are walked along together, outermost first; a stride of 0 repeats.
struct Strided {
  int count = 0;
  int64_t length[max_rank], first[max_rank], second[max_rank];

  // Adds the next inner axis; it joins the one before where both tensors walk the two as one.
  void add(int64_t n, int64_t first_stride, int64_t second_stride) {
    if (n == 1) return;
    if (count > 0 && first[count - 1] == first_stride * n && second[count - 1] == second_stride * n) {
      length[count - 1] *= n;
      first[count - 1] = first_stride;
      second[count - 1] = second_stride;
      return;
    }
    length[count] = n;
    first[count] = first_stride;
    second[count++] = second_stride;
  }
  // There is an innermost axis, if only of one element.
  void close() {
    if (count > 0) return;
    count = 1;
    length[0] = 1;
    first[0] = second[0] = 0;
  }
};
// Where the flat index over the axes before `last` lies in both tensors.
ANNEAL_DEVICE void locate(const Strided& axes, int last, int64_t index, int64_t& first, int64_t& second) {
  for (int i = last - 1; i >= 0; --i) {
    const int64_t at = take_axis(index, axes.length[i]);
    first += at * axes.first[i];
    second += at * axes.second[i];
  }
}

}  // namespace anneal::cuda
