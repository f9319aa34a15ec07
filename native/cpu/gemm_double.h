// The product in f64, for tests and gradient checks: correct, not fast.
#pragma once
#include <math.h>

#include "../operations.h"
#include "gemm_pack.h"
#include "threads.h"

namespace anneal::cpu {
namespace {

static double activate_double(double x, Activation activation) {
  constexpr double root_half = 0.70710678118654752440, root_two_by_pi = 0.79788456080286535588;
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::gelu:
      return 0.5 * x * (1 + ::erf(x * root_half));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + ::tanh(root_two_by_pi * (x + 0.044715 * x * x * x)));
    case Activation::silu:
      return x / (1 + ::exp(-x));
    case Activation::relu:
      return x > 0 || x != x ? x : 0;
    case Activation::tanh:
      return ::tanh(x);
    case Activation::quick_gelu:
      return x / (1 + ::exp(-1.702 * x));
  }
  return x;
}

static void multiply_double(Out c, MaybeOut pre, In a, In b, MaybeIn bias, bool transpose_a, bool transpose_b,
                            bool accumulate, Activation activation) {
  const int64_t m = c.dim(-2), n = c.dim(-1), k = a.dim(transpose_a ? -2 : -1);
  const int64_t a_step = c.rank == 3 && a.dim(0) > 1 ? m * k : 0, b_step = c.rank == 3 && b.dim(0) > 1 ? n * k : 0;
  const int64_t a_row = transpose_a ? 1 : k, a_k = transpose_a ? m : 1, b_k = transpose_b ? 1 : n,
                b_column = transpose_b ? k : 1;
  const int64_t grain = larger(1, 200000 / larger(1, n * k));
  parallel_for(c.size / n, grain, [&](int64_t begin, int64_t end) {
    constexpr int64_t width = 64;
    for (int64_t column = 0; column < n; column += width) {
      const int64_t columns = smaller(width, n - column);
      for (int64_t row = begin; row < end; ++row) {
        const double* a_from = a.as<double>() + row / m * a_step + row % m * a_row;
        const double* b_from = b.as<double>() + row / m * b_step + column * b_column;
        double sums[width] = {};
        for (int64_t i = 0; i < k; ++i)
          for (int64_t j = 0; j < columns; ++j) sums[j] += a_from[i * a_k] * b_from[i * b_k + j * b_column];
        for (int64_t j = 0; j < columns; ++j) {
          const int64_t index = row * n + column + j;
          const double value = sums[j] + (bias ? bias->as<double>()[column + j] : 0);
          if (pre) pre->as<double>()[index] = value;
          const double active = activate_double(value, activation);
          c.as<double>()[index] = accumulate ? c.as<double>()[index] + active : active;
        }
      }
    }
  });
}

}  // namespace
}  // namespace anneal::cpu
