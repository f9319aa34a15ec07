// Elementwise primitives without broadcasting: fill, iota, add_into, scale, unary and where. All are bound by memory; f32 and bf16 are computed in f32,
// f64 in f64, with CUDA's own functions, whose errors are an ulp or two.
#include <cmath>

#include "../kernels.h"
#include "../operations.h"
#include "cast.h"
#include "elements.h"

namespace anneal::cuda {

template <class T> struct Constant {
  double value;
  ANNEAL_DEVICE T operator()() const { return narrow<T>(value); }
};
template <class Y, class X> struct AddInto {
  ANNEAL_DEVICE Y operator()(Y y, X x) const {
    if constexpr (sizeof(Y) == 8 || sizeof(X) == 8) return narrow<Y>(static_cast<double>(widen(y)) + static_cast<double>(widen(x)));
    else return from_float<Y>(to_float(y) + to_float(x));
  }
};
template <class T> struct Scale {
  Compute<T> factor;
  ANNEAL_DEVICE T operator()(T x) const { return from_float<T>(to_float(x) * factor); }
};

// The functions of UnaryOperation, for float and double.
struct Negate {
  template <class V> ANNEAL_DEVICE static V of(V x) { return -x; }
};
struct Exp {
  template <class V> ANNEAL_DEVICE static V of(V x) { return exp(x); }
};
struct Log {
  template <class V> ANNEAL_DEVICE static V of(V x) { return log(x); }
};
struct Sqrt {
  template <class V> ANNEAL_DEVICE static V of(V x) { return sqrt(x); }
};
struct Rsqrt {
  template <class V> ANNEAL_DEVICE static V of(V x) { return 1 / sqrt(x); }
};
struct Tanh {
  template <class V> ANNEAL_DEVICE static V of(V x) { return tanh(x); }
};
struct Erf {
  template <class V> ANNEAL_DEVICE static V of(V x) { return erf(x); }
};
struct Sin {
  template <class V> ANNEAL_DEVICE static V of(V x) { return sin(x); }
};
struct Cos {
  template <class V> ANNEAL_DEVICE static V of(V x) { return cos(x); }
};
struct Abs {
  template <class V> ANNEAL_DEVICE static V of(V x) { return fabs(x); }
};
struct Sigmoid {
  template <class V> ANNEAL_DEVICE static V of(V x) { return 1 / (1 + exp(-x)); }
};
struct Reciprocal {
  template <class V> ANNEAL_DEVICE static V of(V x) { return 1 / x; }
};
struct Square {
  template <class V> ANNEAL_DEVICE static V of(V x) { return x * x; }
};
template <class Operation, class T> struct Unary {
  ANNEAL_DEVICE T operator()(T x) const { return from_float<T>(Operation::of(to_float(x))); }
};

ANNEAL_DEVICE bool is_set(uint8_t x) { return x != 0; }
ANNEAL_DEVICE bool is_set(float x) { return x != 0; }
ANNEAL_DEVICE bool is_set(double x) { return x != 0; }
ANNEAL_DEVICE bool is_set(bf16 x) { return (x.bits & 0x7fff) != 0; }
// Elements of a and b only move, so U is their size.
template <class U, class C> struct Where {
  ANNEAL_DEVICE U operator()(C condition, U a, U b) const { return is_set(condition) ? a : b; }
};

template <class T> __global__ void __launch_bounds__(map_threads) iota_kernel(T* y, int64_t size, double start, double step) {
  const int64_t i = int64_t{blockIdx.x} * map_threads + threadIdx.x;
  if (i < size) y[i] = narrow<T>(start + step * static_cast<double>(i));
}

void fill(Out y, double value) {
  dispatch_any(y.dtype, [&](auto number) {
    using T = decltype(number);
    map("fill", y.as<T>(), y.size, Constant<T>{value});
  });
}

void iota(Out y, double start, double step) {
  auto run = [&](auto number) {
    using T = decltype(number);
    launch(iota_kernel<T>, {blocks_of(y.size), dim3(map_threads), 0, "iota"}, y.as<T>(), y.size, start, step);
  };
  switch (y.dtype) {
    case DType::f32: return run(float{});
    case DType::f64: return run(double{});
    case DType::i32: return run(int32_t{});
    default: return run(int64_t{});
  }
}

void add_into(InOut y, In x) {
  dispatch_float_or_double("add_into", y.dtype, [&](auto y_number) {
    dispatch_float_or_double("add_into", x.dtype, [&](auto x_number) {
      using Y = decltype(y_number);
      using X = decltype(x_number);
      map("add_into", y.as<Y>(), y.size, AddInto<Y, X>{}, static_cast<const Y*>(y.as<Y>()), x.as<const X>());
    });
  });
}

void scale(Out y, In x, double scale) {
  dispatch_float_or_double("scale", x.dtype, [&](auto number) {
    using T = decltype(number);
    map("scale", y.as<T>(), y.size, Scale<T>{static_cast<Compute<T>>(scale)}, x.as<const T>());
  });
}

void unary(Out y, In x, int64_t operation) {
  dispatch_float_or_double("unary", x.dtype, [&](auto number) {
    using T = decltype(number);
    auto run = [&](auto function) { map("unary", y.as<T>(), y.size, Unary<decltype(function), T>{}, x.as<const T>()); };
    switch (static_cast<UnaryOperation>(operation)) {
      case UnaryOperation::negate: return run(Negate{});
      case UnaryOperation::exp: return run(Exp{});
      case UnaryOperation::log: return run(Log{});
      case UnaryOperation::sqrt: return run(Sqrt{});
      case UnaryOperation::rsqrt: return run(Rsqrt{});
      case UnaryOperation::tanh: return run(Tanh{});
      case UnaryOperation::erf: return run(Erf{});
      case UnaryOperation::sin: return run(Sin{});
      case UnaryOperation::cos: return run(Cos{});
      case UnaryOperation::abs: return run(Abs{});
      case UnaryOperation::sigmoid: return run(Sigmoid{});
      case UnaryOperation::reciprocal: return run(Reciprocal{});
      case UnaryOperation::square: return run(Square{});
    }
  });
}

void where(Out y, In condition, In a, In b) {
  auto run = [&](auto test) {
    using C = decltype(test);
    dispatch_size(bytes_of(y.dtype), [&](auto element) {
      using U = decltype(element);
      if constexpr (sizeof(U) <= 8) map("where", y.as<U>(), y.size, Where<U, C>{}, condition.as<const C>(), a.as<const U>(), b.as<const U>());
    });
  };
  if (condition.dtype == DType::u8) run(uint8_t{});
  else dispatch_float_or_double("where", condition.dtype, run);
}

}  // namespace anneal::cuda
