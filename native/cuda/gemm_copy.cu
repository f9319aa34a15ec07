// Operands of matrix products in another dtype, or moved to where 16-byte pieces are aligned.
#include "gemm.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int copy_threads = 256;

// Eight columns a thread, `padded` of them in a row of y; those beyond `columns` become 0. aligned: eight of x may be read in 16-byte pieces.
template <class Y, class X>
__global__ void __launch_bounds__(copy_threads) copy_operand_kernel(Y* y, const X* x, int64_t pieces, int64_t columns, int64_t stride, int64_t padded, bool aligned) {
  const int64_t piece = int64_t{blockIdx.x} * copy_threads + threadIdx.x;
  if (piece >= pieces) return;
  const int64_t in_row = padded / 8, row = piece / in_row, column = piece % in_row * 8;
  const X* from = x + row * stride + column;
  float v[8];
  if (aligned && column + 8 <= columns) {
#pragma unroll
    for (int part = 0; part < 8; part += vector_length<X>) {
      float some[vector_length<X>];
      load_vector_once(some, from + part);
#pragma unroll
      for (int j = 0; j < vector_length<X>; ++j) v[part + j] = some[j];
    }
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = column + j < columns ? to_float(from[j]) : 0.f;
  }
  Y* to = y + row * padded + column;
  if constexpr (sizeof(Y) == 2) {
    store_vector(to, v);
  } else {
    store_vector(to, {v[0], v[1], v[2], v[3]});
    store_vector(to + 4, {v[4], v[5], v[6], v[7]});
  }
}

Operand copy_operand(const Operand& x, DType dtype, int64_t r, int64_t k, int64_t batch) {
  const int64_t rows = x.along_k ? r : k, columns = x.along_k ? k : r, products = x.step ? batch : 1;
  const int64_t padded = ceil_div(columns, 8) * 8;
  Operand y = x;
  y.dtype = dtype;
  y.stride = padded;
  y.step = x.step ? rows * padded : 0;
  y.data = scratch(static_cast<size_t>(products * rows * padded * dtype_bytes[static_cast<int>(dtype)]));
  const bool aligned = reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0;
  auto run = [&](auto to, auto from) {
    using Y = decltype(to);
    using X = decltype(from);
    // The rows of all products follow each other, unless an operand has room between its products.
    const bool together = products == 1 || x.step == rows * x.stride;
    const int64_t parts = together ? 1 : products, part_rows = together ? products * rows : rows;
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t pieces = part_rows * (padded / 8);
      launch(copy_operand_kernel<Y, X>, {dim3(static_cast<unsigned>(ceil_div(pieces, copy_threads))), dim3(copy_threads), 0, "gemm"},
             static_cast<Y*>(const_cast<void*>(y.data)) + i * y.step, static_cast<const X*>(x.data) + i * x.step, pieces, columns, x.stride, padded, aligned && (together || x.step % 8 == 0));
    }
  };
  dispatch_float("gemm", x.dtype, [&](auto from) {
    if (dtype == DType::bf16) run(bf16{}, from);
    else run(float{}, from);
  });
  return y;
}

}  // namespace anneal::cuda
