// Elementwise operations on two tensors with broadcasting. Axes that both operands traverse alike are merged, which
// leaves one inner loop in which each operand advances or stands still: equal shapes, a scalar, a row and a column are
// all that loop.
#include <math.h>

#include "cast.h"
#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int64_t block = 16384;  // elements of an inner loop that threads share

struct Add {
  vf operator()(vf a, vf b) const { return a + b; }
  double operator()(double a, double b) const { return a + b; }
};
struct Subtract {
  vf operator()(vf a, vf b) const { return a - b; }
  double operator()(double a, double b) const { return a - b; }
};
struct Multiply {
  vf operator()(vf a, vf b) const { return a * b; }
  double operator()(double a, double b) const { return a * b; }
};
struct Divide {
  vf operator()(vf a, vf b) const { return a / b; }
  double operator()(double a, double b) const { return a / b; }
};
// A NaN in either operand is the result.
struct Maximum {
  vf operator()(vf a, vf b) const { return select((vi)(a > b) | (vi)(a != a), a, b); }
  double operator()(double a, double b) const { return a > b || a != a ? a : b; }
};
struct Minimum {
  vf operator()(vf a, vf b) const { return select((vi)(a < b) | (vi)(a != a), a, b); }
  double operator()(double a, double b) const { return a < b || a != a ? a : b; }
};
struct Power {
  vf operator()(vf a, vf b) const {
    for (int i = 0; i < lanes; ++i) a[i] = powf(a[i], b[i]);
    return a;
  }
  double operator()(double a, double b) const { return ::pow(a, b); }
};
struct Greater {
  vf operator()(vf a, vf b) const { return select((vi)(a > b), splat(1), splat(0)); }
  double operator()(double a, double b) const { return a > b ? 1 : 0; }
};
struct Equal {
  vf operator()(vf a, vf b) const { return select((vi)(a == b), splat(1), splat(0)); }
  double operator()(double a, double b) const { return a == b ? 1 : 0; }
};

// The axes of the output after merging, innermost last; a stride of 0 repeats.
struct Plan {
  int rank = 0;
  int64_t length[max_rank], a_stride[max_rank], b_stride[max_rank];
};

static Plan make_plan(const Tensor& y, const Tensor& a, const Tensor& b) {
  Plan plan;
  int64_t a_size = a.size, b_size = b.size;
  // The strides of an operand along axis i of y, from the outermost.
  for (int i = 0; i < y.rank; ++i) {
    int a_axis = i - (y.rank - a.rank), b_axis = i - (y.rank - b.rank);
    int64_t length = y.shape[i];
    int64_t a_length = a_axis < 0 ? 1 : a.shape[a_axis], b_length = b_axis < 0 ? 1 : b.shape[b_axis];
    a_size /= a_length;
    b_size /= b_length;
    if (length == 1) continue;
    int64_t a_stride = a_length == 1 ? 0 : a_size, b_stride = b_length == 1 ? 0 : b_size;
    int last = plan.rank - 1;
    if (last >= 0 && plan.a_stride[last] == a_stride * length && plan.b_stride[last] == b_stride * length) {
      plan.length[last] *= length;
      plan.a_stride[last] = a_stride;
      plan.b_stride[last] = b_stride;
    } else {
      plan.length[plan.rank] = length;
      plan.a_stride[plan.rank] = a_stride;
      plan.b_stride[plan.rank++] = b_stride;
    }
  }
  if (plan.rank == 0) plan = {1, {1}, {0}, {0}};
  return plan;
}

// The inner loop; a and b advance by a_step and b_step, 0 or 1.
template <int a_step, int b_step, class T, class F>
ANNEAL_INLINE void loop(T* y, const T* a, const T* b, int64_t n, F f) {
  if constexpr (sizeof(T) == 8) {
    const double a0 = *a, b0 = *b;
    for (int64_t i = 0; i < n; ++i) y[i] = f(a_step ? a[i] : a0, b_step ? b[i] : b0);
  } else {
    const vf a0 = splat(to_float(*a)), b0 = splat(to_float(*b));
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) store(y + i, f(a_step ? load(a + i) : a0, b_step ? load(b + i) : b0));
    if (i == n) return;
    vf a_part = a_step ? load_part(a + i, n - i) : a0, b_part = b_step ? load_part(b + i, n - i) : b0;
    store_part(y + i, f(a_part, b_part), n - i);
  }
}

template <class T, class F> static void run(const Plan& plan, T* y, const T* a, const T* b, int64_t size, F f) {
  const int inner = plan.rank - 1;
  const int64_t length = plan.length[inner], a_step = plan.a_stride[inner], b_step = plan.b_stride[inner];
  const int64_t blocks = (length + block - 1) / block, runs = size / length;
  // A run is one traversal of the inner axis, cut into blocks.
  int64_t at_least = length >= block ? 2 : 2 * block / length;
  parallel_for(runs * blocks, at_least, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t rest = item / blocks, first = item % blocks * block, n = length - first < block ? length - first : block;
      T* out = y + rest * length + first;
      int64_t a_at = first * a_step, b_at = first * b_step;
      for (int i = inner - 1; i >= 0; --i) {
        int64_t index = rest % plan.length[i];
        rest /= plan.length[i];
        a_at += index * plan.a_stride[i];
        b_at += index * plan.b_stride[i];
      }
      if (a_step && b_step) loop<1, 1>(out, a + a_at, b + b_at, n, f);
      else if (a_step) loop<1, 0>(out, a + a_at, b + b_at, n, f);
      else loop<0, 1>(out, a + a_at, b + b_at, n, f);
    }
  });
}

template <class T>
static void binary_of(const Plan& plan, Tensor& y, const Tensor& a, const Tensor& b, BinaryOperation operation) {
  auto go = [&](auto f) { run(plan, y.as<T>(), a.as<T>(), b.as<T>(), y.size, f); };
  switch (operation) {
    case BinaryOperation::add: go(Add{}); break;
    case BinaryOperation::subtract: go(Subtract{}); break;
    case BinaryOperation::multiply: go(Multiply{}); break;
    case BinaryOperation::divide: go(Divide{}); break;
    case BinaryOperation::maximum: go(Maximum{}); break;
    case BinaryOperation::minimum: go(Minimum{}); break;
    case BinaryOperation::power: go(Power{}); break;
    case BinaryOperation::greater: go(Greater{}); break;
    case BinaryOperation::equal: go(Equal{}); break;
  }
}

}  // namespace

void binary(Tensor& y, const Tensor& a, const Tensor& b, int64_t operation) {
  if (y.size == 0) return;
  Plan plan = make_plan(y, a, b);
  with_computable(y.dtype, [&]<class T>(T*) { binary_of<T>(plan, y, a, b, static_cast<BinaryOperation>(operation)); });
}

}  // namespace anneal::cpu::ANNEAL_ISA
