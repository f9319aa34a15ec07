// The product in f64, for tests and gradient checks: correct, not fast.
#include "gemm.h"
#include "launch.h"
#include "simt.h"

namespace anneal::cuda {

constexpr int double_tile = 16;

ANNEAL_DEVICE double activate_double(double x, Activation activation) {
  constexpr double root_half = 0.70710678118654752440, root_two_by_pi = 0.79788456080286535588;
  switch (activation) {
    case Activation::none: return x;
    case Activation::gelu: return 0.5 * x * (1 + erf(x * root_half));
    case Activation::gelu_tanh: return 0.5 * x * (1 + tanh(root_two_by_pi * (x + 0.044715 * x * x * x)));
    case Activation::silu: return x / (1 + exp(-x));
    case Activation::relu: return x > 0 || x != x ? x : 0;
    case Activation::tanh: return tanh(x);
    case Activation::quick_gelu: return x / (1 + exp(-1.702 * x));
  }
  return x;
}

ANNEAL_DEVICE double load_double(const Operand& x, int64_t batch, int64_t r, int64_t k, int64_t end, int64_t end_k) {
  if (r >= end || k >= end_k) return 0;
  return static_cast<const double*>(x.data)[batch * x.step + (x.along_k ? r * x.stride + k : k * x.stride + r)];
}

// A thread computes one output, from 16 × 16 tiles of both operands.
__global__ void __launch_bounds__(double_tile * double_tile) gemm_double_kernel(Operand a, Operand b, Output out, int64_t m, int64_t n, int64_t k, int64_t tile_columns, int64_t first_batch) {
  ANNEAL_SHARED(double, left, double_tile * (double_tile + 1));
  ANNEAL_SHARED(double, right, double_tile * (double_tile + 1));
  const int i = threadIdx.x / double_tile, j = threadIdx.x % double_tile;
  const int64_t first_row = blockIdx.x / tile_columns * double_tile, first_column = blockIdx.x % tile_columns * double_tile;
  const int64_t batch = first_batch + blockIdx.z, row = first_row + i, column = first_column + j;
  double sum = 0;
  for (int64_t k0 = 0; k0 < k; k0 += double_tile) {
    left[i * (double_tile + 1) + j] = load_double(a, batch, row, k0 + j, m, k);
    right[i * (double_tile + 1) + j] = load_double(b, batch, first_column + i, k0 + j, n, k);
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < double_tile; ++kk) sum = fma(left[i * (double_tile + 1) + kk], right[j * (double_tile + 1) + kk], sum);
    __syncthreads();
  }
  if (row >= m || column >= n) return;
  const int64_t at = (batch * m + row) * out.stride + column;
  const double value = sum + (out.bias ? static_cast<const double*>(out.bias)[column] : 0);
  if (out.pre) static_cast<double*>(out.pre)[at] = value;
  const double active = activate_double(value, out.activation);
  double* c = static_cast<double*>(out.c) + at;
  *c = out.accumulate ? *c + active : active;
}

void multiply_double(const Product& p) {
  const int64_t columns = ceil_div(p.n, double_tile), tiles = ceil_div(p.m, double_tile) * columns;
  constexpr int64_t most_at_once = 65535;
  for (int64_t first = 0; first < p.batch; first += most_at_once) {
    const int64_t count = p.batch - first < most_at_once ? p.batch - first : most_at_once;
    launch(gemm_double_kernel, {dim3(static_cast<unsigned>(tiles), 1, static_cast<unsigned>(count)), dim3(double_tile * double_tile), 0, "gemm"}, p.a, p.b, p.out, p.m, p.n,
           p.k, columns, first);
  }
}

}  // namespace anneal::cuda
