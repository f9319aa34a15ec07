// Elementwise primitives without broadcasting: fill, iota, add_into, scale, unary and where. f32 and bf16 are computed
// in f32 vectors, f64 in scalars the compiler vectorises; sin and cos go through libm, which reduces any argument.
#include <math.h>

#include "cast.h"
#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

// Elements a thread must at least have; less is done sooner by one thread than by waking another.
constexpr int64_t grain = 32768, costly_grain = 4096;

// y[i] = f(x[i]) for f32 and bf16 by vectors, for f64 one by one.
template <class T, class F> ANNEAL_INLINE void map(T* y, const T* x, int64_t n, F f) {
  if constexpr (sizeof(T) == 8) {
    for (int64_t i = 0; i < n; ++i) y[i] = f(x[i]);
  } else {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) store(y + i, f(load(x + i)));
    if (i < n) store_part(y + i, f(load_part(x + i, n - i)), n - i);
  }
}

template <class T, class F> static void map_parallel(Tensor& y, const Tensor& x, int64_t at_least, F f) {
  T* out = y.as<T>();
  const T* in = x.as<T>();
  parallel_for(x.size, at_least, [&](int64_t begin, int64_t end) { map(out + begin, in + begin, end - begin, f); });
}

template <class Y, class X> static void add_vectors(Y* y, const X* x, int64_t n) {
  if constexpr (sizeof(Y) == 8 || sizeof(X) == 8) {
    for (int64_t i = 0; i < n; ++i) narrow(y + i, static_cast<double>(widen(y[i])) + static_cast<double>(widen(x[i])));
  } else {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) store(y + i, load(y + i) + load(x + i));
    if (i < n) store_part(y + i, load_part(y + i, n - i) + load_part(x + i, n - i), n - i);
  }
}

template <float (*f)(float)> ANNEAL_INLINE vf each_lane(vf x) {
  for (int i = 0; i < lanes; ++i) x[i] = f(x[i]);
  return x;
}

struct Negate {
  vf operator()(vf x) const { return -x; }
  double operator()(double x) const { return -x; }
};
struct Exp {
  vf operator()(vf x) const { return cpu::exp(x); }
  double operator()(double x) const { return ::exp(x); }
};
struct Log {
  vf operator()(vf x) const { return cpu::log(x); }
  double operator()(double x) const { return ::log(x); }
};
struct Sqrt {
  vf operator()(vf x) const { return cpu::sqrt(x); }
  double operator()(double x) const { return ::sqrt(x); }
};
struct Rsqrt {
  vf operator()(vf x) const { return 1.f / cpu::sqrt(x); }
  double operator()(double x) const { return 1 / ::sqrt(x); }
};
struct Tanh {
  vf operator()(vf x) const { return cpu::tanh(x); }
  double operator()(double x) const { return ::tanh(x); }
};
struct Erf {
  vf operator()(vf x) const { return cpu::erf(x); }
  double operator()(double x) const { return ::erf(x); }
};
struct Sin {
  vf operator()(vf x) const { return each_lane<sinf>(x); }
  double operator()(double x) const { return ::sin(x); }
};
struct Cos {
  vf operator()(vf x) const { return each_lane<cosf>(x); }
  double operator()(double x) const { return ::cos(x); }
};
struct Abs {
  vf operator()(vf x) const { return cpu::abs(x); }
  double operator()(double x) const { return ::fabs(x); }
};
struct Sigmoid {
  vf operator()(vf x) const { return cpu::sigmoid(x); }
  double operator()(double x) const { return 1 / (1 + ::exp(-x)); }
};
struct Reciprocal {
  vf operator()(vf x) const { return 1.f / x; }
  double operator()(double x) const { return 1 / x; }
};
struct Square {
  vf operator()(vf x) const { return x * x; }
  double operator()(double x) const { return x * x; }
};

template <class T> static void unary_of(Tensor& y, const Tensor& x, UnaryOperation operation) {
  switch (operation) {
    case UnaryOperation::negate: map_parallel<T>(y, x, grain, Negate{}); break;
    case UnaryOperation::exp: map_parallel<T>(y, x, costly_grain, Exp{}); break;
    case UnaryOperation::log: map_parallel<T>(y, x, costly_grain, Log{}); break;
    case UnaryOperation::sqrt: map_parallel<T>(y, x, costly_grain, Sqrt{}); break;
    case UnaryOperation::rsqrt: map_parallel<T>(y, x, costly_grain, Rsqrt{}); break;
    case UnaryOperation::tanh: map_parallel<T>(y, x, costly_grain, Tanh{}); break;
    case UnaryOperation::erf: map_parallel<T>(y, x, costly_grain, Erf{}); break;
    case UnaryOperation::sin: map_parallel<T>(y, x, costly_grain, Sin{}); break;
    case UnaryOperation::cos: map_parallel<T>(y, x, costly_grain, Cos{}); break;
    case UnaryOperation::abs: map_parallel<T>(y, x, grain, Abs{}); break;
    case UnaryOperation::sigmoid: map_parallel<T>(y, x, costly_grain, Sigmoid{}); break;
    case UnaryOperation::reciprocal: map_parallel<T>(y, x, grain, Reciprocal{}); break;
    case UnaryOperation::square: map_parallel<T>(y, x, grain, Square{}); break;
  }
}

ANNEAL_INLINE bool is_set(uint8_t x) { return x != 0; }
ANNEAL_INLINE bool is_set(float x) { return x != 0; }
ANNEAL_INLINE bool is_set(bf16 x) { return (x.bits & 0x7fff) != 0; }
ANNEAL_INLINE bool is_set(double x) { return x != 0; }

template <class U, class C> static void choose(U* y, const C* condition, const U* a, const U* b, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    U from_a = a[i], from_b = b[i];
    y[i] = is_set(condition[i]) ? from_a : from_b;
  }
}

}  // namespace

void fill(Tensor& y, double value) {
  with_any(y.dtype, [&]<class T>(T*) {
    T* out = y.as<T>(), element;
    narrow(&element, value);
    parallel_for(y.size, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = element;
    });
  });
}

void iota(Tensor& y, double start, double step) {
  auto write = [&]<class T>(T* out) {
    parallel_for(y.size, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) narrow(out + i, start + step * static_cast<double>(i));
    });
  };
  if (y.dtype == DType::f32) write(y.as<float>());
  else if (y.dtype == DType::f64) write(y.as<double>());
  else if (y.dtype == DType::i32) write(y.as<int32_t>());
  else write(y.as<int64_t>());
}

void add_into(Tensor& y, const Tensor& x) {
  with_computable(y.dtype, [&]<class Y>(Y*) {
    with_computable(x.dtype, [&]<class X>(X*) {
      Y* out = y.as<Y>();
      const X* in = x.as<X>();
      parallel_for(y.size, grain,
                   [&](int64_t begin, int64_t end) { add_vectors(out + begin, in + begin, end - begin); });
    });
  });
}

void scale(Tensor& y, const Tensor& x, double scale) {
  with_computable(x.dtype, [&]<class T>(T*) {
    if constexpr (sizeof(T) == 8) map_parallel<T>(y, x, grain, [scale](double v) { return v * scale; });
    else map_parallel<T>(y, x, grain, [factor = static_cast<float>(scale)](vf v) { return v * factor; });
  });
}

void unary(Tensor& y, const Tensor& x, int64_t operation) {
  with_computable(x.dtype, [&]<class T>(T*) { unary_of<T>(y, x, static_cast<UnaryOperation>(operation)); });
}

void where(Tensor& y, const Tensor& condition, const Tensor& a, const Tensor& b) {
  with_size(y.dtype, [&]<class U>(U*) {
    auto run = [&]<class C>(const C* test) {
      parallel_for(y.size, grain, [&](int64_t begin, int64_t end) {
        choose(y.as<U>() + begin, test + begin, a.as<U>() + begin, b.as<U>() + begin, end - begin);
      });
    };
    if (condition.dtype == DType::u8) run(condition.as<uint8_t>());
    else with_computable(condition.dtype, [&]<class C>(C*) { run(condition.as<C>()); });
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
