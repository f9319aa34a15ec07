// Elementwise operations on two tensors with broadcasting. Axes that both operands walk alike are merged; equal shapes are then one axis. Otherwise a
// thread finds its place by dividing, which is cheap as it takes 16 bytes of neighbours of the innermost axis where their number and alignment allow.
#include <cmath>

#include "../kernels.h"
#include "../operations.h"
#include "elements.h"

namespace anneal::cuda {

struct Add {
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a + b; }
};
struct Subtract {
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a - b; }
};
struct Multiply {
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a * b; }
};
struct Divide {
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a / b; }
};
// A NaN in either operand is the result.
struct Maximum {
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a > b || a != a ? a : b; }
};
struct Minimum {
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a < b || a != a ? a : b; }
};
struct Power {
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return pow(a, b); }
};
struct Greater {
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a > b ? V(1) : V(0); }
};
struct Equal {
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a == b ? V(1) : V(0); }
};
template <class Operation, class T> struct Binary {
  ANNEAL_DEVICE T operator()(T a, T b) const { return from_float<T>(Operation::of(to_float(a), to_float(b))); }
};

template <class Operation, class T, int n>
__global__ void __launch_bounds__(map_threads) broadcast_kernel(T* y, const T* a, const T* b, Strided axes, int64_t items) {
  const int64_t item = int64_t{blockIdx.x} * map_threads + threadIdx.x;
  if (item >= items) return;
  const int inner = axes.count - 1;
  int64_t rest = item, a_at = 0, b_at = 0;
  const int64_t column = take_axis(rest, axes.length[inner] / n) * n;
  locate(axes, inner, rest, a_at, b_at);
  auto operand = [&](const T* from, int64_t at, int64_t step) {
    if (step) return load_elements<n>(from + at + column);
    Elements<T, n> same;
#pragma unroll
    for (int i = 0; i < n; ++i) same.at[i] = from[at];
    return same;
  };
  map_whole<n>(Binary<Operation, T>{}, y + item * n, operand(a, a_at, axes.first[inner]), operand(b, b_at, axes.second[inner]));
}

namespace {

// The axes of y with the strides of a and b along them. No axis has length 0.
Strided walk(const Tensor& y, const Tensor& a, const Tensor& b) {
  Strided axes;
  int64_t a_step = a.size, b_step = b.size;
  for (int i = 0; i < y.rank; ++i) {
    const int a_axis = i - (y.rank - a.rank), b_axis = i - (y.rank - b.rank);
    const int64_t a_length = a_axis < 0 ? 1 : a.shape[a_axis], b_length = b_axis < 0 ? 1 : b.shape[b_axis];
    a_step /= a_length;
    b_step /= b_length;
    axes.add(y.shape[i], a_length == 1 ? 0 : a_step, b_length == 1 ? 0 : b_step);
  }
  axes.close();
  return axes;
}

// Whether every n neighbours along the innermost axis lie together in y, and in the operands or are one number there.
template <class T, int n> bool in_vectors(const Strided& axes, const Tensor& y, const Tensor& a, const Tensor& b) {
  const int inner = axes.count - 1;
  bool fits = axes.length[inner] % n == 0 && is_aligned_to(16, y.data);
  auto check = [&](const Tensor& x, const int64_t* stride) {
    if (stride[inner] == 0) return;
    fits = fits && is_aligned_to(16, x.data);
    for (int i = 0; i < inner; ++i) fits = fits && stride[i] % n == 0;
  };
  check(a, axes.first);
  check(b, axes.second);
  return fits;
}

template <class Operation, class T> void run(Tensor& y, const Tensor& a, const Tensor& b, const Strided& axes) {
  if (axes.count == 1 && axes.first[0] && axes.second[0]) return map("binary", y.as<T>(), y.size, Binary<Operation, T>{}, a.as<const T>(), b.as<const T>());
  auto start = [&](auto kernel, int n) {
    const int64_t items = y.size / n;
    launch(kernel, {blocks_of(items), dim3(map_threads), 0, "binary"}, y.as<T>(), a.as<const T>(), b.as<const T>(), axes, items);
  };
  constexpr int n = elements_per_thread<T>;
  if (in_vectors<T, n>(axes, y, a, b)) start(broadcast_kernel<Operation, T, n>, n);
  else start(broadcast_kernel<Operation, T, 1>, 1);
}

}  // namespace

void binary(Out y, In a, In b, int64_t operation) {
  if (y.size == 0) return;
  const Strided axes = walk(y, a, b);
  dispatch_float_or_double("binary", y.dtype, [&](auto number) {
    using T = decltype(number);
    switch (static_cast<BinaryOperation>(operation)) {
      case BinaryOperation::add: return run<Add, T>(y, a, b, axes);
      case BinaryOperation::subtract: return run<Subtract, T>(y, a, b, axes);
      case BinaryOperation::multiply: return run<Multiply, T>(y, a, b, axes);
      case BinaryOperation::divide: return run<Divide, T>(y, a, b, axes);
      case BinaryOperation::maximum: return run<Maximum, T>(y, a, b, axes);
      case BinaryOperation::minimum: return run<Minimum, T>(y, a, b, axes);
      case BinaryOperation::power: return run<Power, T>(y, a, b, axes);
      case BinaryOperation::greater: return run<Greater, T>(y, a, b, axes);
      case BinaryOperation::equal: return run<Equal, T>(y, a, b, axes);
    }
  });
}

}  // namespace anneal::cuda
