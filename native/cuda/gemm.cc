// Matrix products: the choice of who computes them.
#include "gemm.h"

#include "../kernels.h"
#include "gemm_library.h"

namespace anneal::cuda {

bool aligned_half(const Operand& x) {
  return x.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0 && x.step % 8 == 0;
}

namespace {

// Up to here a product reads op(b) and does little else, and the kernel for that is as fast as memory.
constexpr int64_t few_rows = 16;

bool multiply_by_library(const Product& p) {
  if (library_fuses(p.out)) return library_multiply(p);
  Product sums = p;
  const bool in_c = p.out.c_type == DType::f32 && !p.out.accumulate && p.out.stride == p.n;
  sums.out = {in_c ? p.out.c : scratch_of<float>(p.batch * p.m * p.n), nullptr, nullptr, DType::f32, DType::f32, DType::f32, p.n, Activation::none, false};
  if (!library_multiply(sums)) return false;
  finish_product(static_cast<const float*>(sums.out.c), p);
  return true;
}

}  // namespace

void multiply(const Product& product, bool half) {
  if (product.m == 0 || product.n == 0 || product.batch == 0) return;
  ScratchFrame frame;
  Product p = product;
  // The product of two bf16 numbers is exact in f32: multiplying them as bf16 loses nothing.
  if (half || (p.a.dtype == DType::bf16 && p.b.dtype == DType::bf16)) {
    if (!aligned_half(p.a)) p.a = copy_operand(p.a, DType::bf16, p.m, p.k, p.batch);
    if (!aligned_half(p.b)) p.b = copy_operand(p.b, DType::bf16, p.n, p.k, p.batch);
    if (p.m > few_rows && multiply_by_library(p)) return;
    return multiply_half(p);
  }
  if (library_usable()) {
    if (p.a.dtype != DType::f32) p.a = copy_operand(p.a, DType::f32, p.m, p.k, p.batch);
    if (p.b.dtype != DType::f32) p.b = copy_operand(p.b, DType::f32, p.n, p.k, p.batch);
    if (multiply_by_library(p)) return;
  }
  multiply_float(p);
}

void gemm(InOut c, MaybeOut pre, In a, In b, MaybeIn bias, bool transpose_a, bool transpose_b, bool accumulate, int64_t activation, bool half) {
  const int64_t m = c.dim(-2), n = c.dim(-1), k = a.dim(transpose_a ? -2 : -1);
  const int64_t batch = c.rank == 3 ? c.dim(0) : 1, a_batch = c.rank == 3 ? a.dim(0) : 1, b_batch = c.rank == 3 ? b.dim(0) : 1;
  // A batch of one b is one product whose rows are all the batches' rows, where the memory allows it.
  const bool joined = b_batch == 1 && a_batch == batch && !transpose_a;
  Product p;
  p.m = joined ? batch * m : m, p.n = n, p.k = k, p.batch = joined ? 1 : batch;
  p.a = {a.data, a.dtype, transpose_a ? m : k, a_batch == 1 || joined ? 0 : m * k, !transpose_a};
  p.b = {b.data, b.dtype, transpose_b ? k : n, b_batch == 1 ? 0 : n * k, transpose_b};
  p.out = {c.data, pre ? pre->data : nullptr, bias ? bias->data : nullptr, c.dtype, pre ? pre->dtype : c.dtype, bias ? bias->dtype : c.dtype,
           n, static_cast<Activation>(activation), accumulate};
  if (c.dtype == DType::f64) multiply_double(p);
  else multiply(p, half);
}

}  // namespace anneal::cuda
