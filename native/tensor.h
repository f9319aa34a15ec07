// What a kernel receives: a contiguous, row-major view of memory with its shape and dtype.
#pragma once
#include <cstdint>

namespace anneal {

enum class DType : int32_t { f32, bf16, f16, f64, i32, i64, u8 };
constexpr int dtype_count = 7;
constexpr int dtype_bytes[dtype_count] = {4, 2, 2, 8, 4, 8, 1};
constexpr const char* dtype_names[dtype_count] = {"f32", "bf16", "f16", "f64", "i32", "i64", "u8"};
constexpr int bytes_of(DType dtype) { return dtype_bytes[static_cast<int>(dtype)]; }
constexpr bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

// Storage of the 16-bit floats; arithmetic is always done in f32.
struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

constexpr int max_rank = 6;

struct Tensor {
  void* data;
  int64_t size;  // number of elements
  int64_t shape[max_rank];
  DType dtype;
  int32_t rank;

  template <class T> T* as() const { return static_cast<T*>(data); }
  // Length of axis i; negative i counts from the last axis.
  int64_t dim(int i) const { return shape[i < 0 ? rank + i : i]; }
  // Elements per row, a row being the last axis; rows() of them.
  int64_t columns() const { return rank == 0 ? 1 : shape[rank - 1]; }
  int64_t rows() const { return columns() == 0 ? 0 : size / columns(); }
  int64_t bytes() const { return size * bytes_of(dtype); }
};

// A short list of axis numbers, lengths or offsets.
struct Axes {
  int32_t count;
  int64_t at[max_rank];
};

// A list of tensors, and one of numbers that go with them.
struct Tensors {
  Tensor* at;
  int64_t count;
  Tensor& operator[](int64_t i) const { return at[i]; }
};
struct Numbers {
  const double* at;
  int64_t count;
  double operator[](int64_t i) const { return at[i]; }
};

// Parameter kinds of kernels.def. Maybe… is null where the caller passes no tensor.
using In = const Tensor&;
using Out = Tensor&;
using InOut = Tensor&;
using MaybeIn = const Tensor*;
using MaybeOut = Tensor*;
using MaybeInOut = Tensor*;
using Ins = Tensors;
using Outs = Tensors;
using InOuts = Tensors;

}  // namespace anneal
