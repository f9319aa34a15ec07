// What follows a product whose f32 sums are in memory, because whoever computed them cannot do it on the way.
#include "gemm_epilogue.h"
#include "launch.h"

namespace anneal::cuda {

constexpr int finish_threads = 256;

template <int width> __global__ void __launch_bounds__(finish_threads) finish_product_kernel(const float* sums, Output out, int64_t pieces, int64_t n, bool sums_aligned, bool aligned) {
  const int64_t piece = int64_t{blockIdx.x} * finish_threads + threadIdx.x;
  if (piece >= pieces) return;
  const int64_t in_row = (n + width - 1) / width, row = piece / in_row, column = piece % in_row * width;
  const int count = static_cast<int>(n - column < width ? n - column : width);
  float v[width];
  load_numbers(v, sums, DType::f32, row * n + column, count, sums_aligned);
  if (out.bias) {
#pragma unroll
    for (int j = 0; j < width; ++j)
      if (j < count) v[j] += load_number(out.bias, out.bias_type, column + j);
  }
  finish_numbers(v, out, row * out.stride + column, count, aligned);
}

void finish_product(const float* sums, const Product& p) {
  const Output& out = p.out;
  auto is_aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  const bool sums_aligned = p.n % 4 == 0 && is_aligned(sums), aligned = out.stride % 8 == 0 && is_aligned(out.c) && is_aligned(out.pre);
  auto run = [&](auto kernel, int64_t width) {
    const int64_t pieces = p.batch * p.m * ceil_div(p.n, width);
    launch(kernel, {dim3(static_cast<unsigned>(ceil_div(pieces, finish_threads))), dim3(finish_threads), 0, "gemm"}, sums, out, pieces, p.n, sums_aligned, aligned);
  };
  if (out.c_type == DType::f32) run(finish_product_kernel<4>, 4);
  else run(finish_product_kernel<8>, 8);
}

}  // namespace anneal::cuda
