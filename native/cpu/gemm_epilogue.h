// What happens to a finished f32 tile of a matrix product: bias, the value before the activation, activation,
// accumulation, one rounding.
#pragma once
#include "activation.h"
#include "gemm_micro.h"

namespace anneal::cpu {
namespace {

// The row-major [m, n] result; stride is its row length n. c and pre are f32 or bf16.
struct Output {
  void* c;
  void* pre;         // null: not wanted
  const void* bias;  // [n], null: none
  DType c_type, pre_type, bias_type;
  int64_t stride;
  Activation activation;
  bool accumulate;

  // c = product [+ c], in f32: c itself holds the running sum over the blocks of k.
  bool plain() const { return direct() && !bias; }
  // The micro-kernel itself stores c.
  bool direct() const { return c_type == DType::f32 && !pre && activation == Activation::none && (!bias || (bias_type == DType::f32 && !accumulate)); }
  // c may hold the running sum until the last block.
  bool sums_in_c() const { return plain() || (c_type == DType::f32 && !accumulate); }
  float* c_at(int64_t row, int64_t column) const { return static_cast<float*>(c) + row * stride + column; }
  // Asks for the memory that finish_tile will write.
  void expect_tile(int64_t rows, int64_t columns, int64_t row, int64_t column) const {
    expect(c, c_type, rows, columns, row, column);
    if (pre) expect(pre, pre_type, rows, columns, row, column);
  }

 private:
  void expect(const void* data, DType type, int64_t rows, int64_t columns, int64_t row, int64_t column) const {
    const int64_t size = bytes_of(type);
    const char* at = static_cast<const char*>(data) + (row * stride + column) * size;
    for (int64_t i = 0; i < rows; ++i, at += stride * size) {
      __builtin_prefetch(at, 1);
      __builtin_prefetch(at + columns * size - 1, 1);
    }
  }
};

template <class Span> ANNEAL_INLINE vf load_float(const void* p, DType type, int64_t index, Span span) {
  return type == DType::f32 ? load(static_cast<const float*>(p) + index, span)
                            : load(static_cast<const bf16*>(p) + index, span);
}
template <class Span> ANNEAL_INLINE void store_float(void* p, DType type, int64_t index, vf v, Span span) {
  if (type == DType::f32) store(static_cast<float*>(p) + index, v, span);
  else store(static_cast<bf16*>(p) + index, v, span);
}

// c (+)= tile for the tiles at the right edge, which the micro-kernel cannot store itself.
[[maybe_unused]] static void store_tile(const float* tile, int64_t rows, int64_t columns, float* c, int64_t stride, bool add) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      c[i * stride + j] = add ? c[i * stride + j] + tile[i * panel_columns + j] : tile[i * panel_columns + j];
}

// The last step of a tile. The k blocks but the last are summed in `previous` (null: there was one block only).
static void finish_tile(const float* tile, int64_t rows, int64_t columns, int64_t row, int64_t column, const float* previous,
                        int64_t previous_stride, const Output& out) {
  with_activation(static_cast<int64_t>(out.activation), [&](auto kind) {
    for (int64_t i = 0; i < rows; ++i) {
      each_vector(columns, [&](int64_t j, auto span) {
        const int64_t index = (row + i) * out.stride + column + j;
        vf v = load(tile + i * panel_columns + j);
        if (previous) v = load(previous + i * previous_stride + j, span) + v;
        if (out.bias) v += load_float(out.bias, out.bias_type, column + j, span);
        if (out.pre) store_float(out.pre, out.pre_type, index, v, span);
        v = activate<decltype(kind)::value>(v);
        if (out.accumulate) v = load_float(out.c, out.c_type, index, span) + v;
        store_float(out.c, out.c_type, index, v, span);
      });
    }
  });
}

}  // namespace
}  // namespace anneal::cpu
