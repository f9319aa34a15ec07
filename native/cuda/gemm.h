// The matrix product after its arguments are checked, and who computes it: cuBLASLt where it is there and the product is large, else the kernels of
// gemm_half.cu (bf16 on tensor cores), gemm_float.cu (f32) and gemm_double.cu. Each output of those is one sum in the order of k, whatever the tile,
// so that it depends on its own row of op(a) and on op(b) only.
#pragma once
#include "../operations.h"
#include "device.h"

namespace anneal::cuda {

// op(a) seen by its rows, or op(b) by its columns: element (r, k) of product i of the batch is data[i * step + r * stride + k] where along_k, else
// data[i * step + k * stride + r]. A step of 0 repeats it. All counted in elements.
struct Operand {
  const void* data;
  DType dtype;
  int64_t stride, step;
  bool along_k;
};

// The row-major [batch, m, n] results, rows `stride` apart and products m * stride apart. A row of c is activation(product + bias), plus what it was
// where accumulate; pre receives product + bias. c, pre and bias are f32 or bf16, or all f64.
struct Output {
  void* c;
  void* pre;         // null: not wanted
  const void* bias;  // [n], null: none
  DType c_type, pre_type, bias_type;
  int64_t stride;
  Activation activation;
  bool accumulate;

  bool plain() const { return !pre && !bias && activation == Activation::none; }
};

struct Product {
  int64_t m, n, k, batch;
  Operand a, b;
  Output out;
};

// Chooses among the functions below. half: multiply in bf16. Uses scratch for operands that need another dtype or alignment.
void multiply(const Product& product, bool half);

// Both operands bf16 whose data, strides and steps are multiples of 16 bytes, and zero between the end of a row and its stride.
void multiply_half(const Product& product);
// f32 or bf16 operands, multiplied in f32.
void multiply_float(const Product& product);
void multiply_double(const Product& product);

// Does to the sums (f32, rows n long) what product.out says.
void finish_product(const float* sums, const Product& product);

// Whether multiply_half can read the operand as it is.
bool aligned_half(const Operand& x);
// The operand in scratch, in `dtype` (f32 or bf16), each row padded with zeros to a multiple of 16 bytes. r and k are its lengths.
Operand copy_operand(const Operand& x, DType dtype, int64_t r, int64_t k, int64_t batch);

}  // namespace anneal::cuda
