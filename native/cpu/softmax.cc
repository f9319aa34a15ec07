// Softmax over the last axis. The maximum and the sum are those of logsumexp.h; the exponentials are computed again
// rather than stored.
#include "isa.h"
#include "logsumexp.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

int64_t row_grain(int64_t columns) { return columns >= 4096 ? 1 : 4096 / (columns > 0 ? columns : 1); }

template <class T> void forward_row(T* y, const T* x, int64_t n) {
  LogSum all = row_log_sum(x, n);
  const float scale = 1 / all.sum;
  each_vector(n, [&](int64_t i, auto span) { store(y + i, exp_low(load(x + i, span) - all.max) * scale, span); });
}

// dx = y * (dy - sum(dy * y))
template <class T> void backward_row(T* dx, const T* dy, const T* y, int64_t n) {
  vf total[4] = {};
  each_vector_by_4(n, [&](int64_t i, auto span, int k) { total[k] += load(dy + i, span) * load(y + i, span); });
  const float along = sum((total[0] + total[1]) + (total[2] + total[3]));
  each_vector(n, [&](int64_t i, auto span) { store(dx + i, load(y + i, span) * (load(dy + i, span) - along), span); });
}

template <class F> void parallel_rows(const Tensor& y, F&& f) {
  const int64_t n = y.columns();
  parallel_for(y.rows(), row_grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * n; at < end * n; at += n) f(at, n);
  });
}

}  // namespace

void softmax(Out y, In x) {
  parallel_rows(y, [&](int64_t at, int64_t n) {
    if (y.dtype == DType::f32) forward_row(y.as<float>() + at, x.as<float>() + at, n);
    else forward_row(y.as<bf16>() + at, x.as<bf16>() + at, n);
  });
}

void softmax_backward(Out dx, In dy, In y) {
  parallel_rows(y, [&](int64_t at, int64_t n) {
    if (y.dtype == DType::f32) backward_row(dx.as<float>() + at, dy.as<float>() + at, y.as<float>() + at, n);
    else backward_row(dx.as<bf16>() + at, dy.as<bf16>() + at, y.as<bf16>() + at, n);
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
