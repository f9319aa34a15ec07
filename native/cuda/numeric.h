// Numbers on the device: storage types to float and back, 16-byte vectors of them, and sums over a warp or a block in a fixed order.
#pragma once
#include "../check.h"
#include "../tensor.h"
#include "simt.h"

namespace anneal::cuda {

// double computes in double, everything else in float.
template <class T> struct ComputeOf { using type = float; };
template <> struct ComputeOf<double> { using type = double; };
template <class T> using Compute = typename ComputeOf<T>::type;

ANNEAL_DEVICE float to_float(float x) { return x; }
ANNEAL_DEVICE double to_float(double x) { return x; }
ANNEAL_DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
ANNEAL_DEVICE float to_float(f16 x) { return from_f16_bits(x.bits); }

template <class T> ANNEAL_DEVICE T from_float(Compute<T> x) {
  if constexpr (sizeof(T) >= 4) return x;
}
template <> ANNEAL_DEVICE bf16 from_float<bf16>(float x) { return {to_bf16_bits(x)}; }
template <> ANNEAL_DEVICE f16 from_float<f16>(float x) { return {to_f16_bits(x)}; }

// 16 bytes of T as floats: 8 of bf16, 4 of float. p must be aligned to 16 bytes.
template <class T> constexpr int vector_length = 16 / sizeof(T);

ANNEAL_DEVICE void unpack(float (&v)[4], uint4 raw, float) {
  v[0] = __uint_as_float(raw.x);
  v[1] = __uint_as_float(raw.y);
  v[2] = __uint_as_float(raw.z);
  v[3] = __uint_as_float(raw.w);
}
ANNEAL_DEVICE void unpack(float (&v)[8], uint4 raw, bf16) {
  const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = __uint_as_float(word[i] << 16);
    v[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
  }
}
template <class T> ANNEAL_DEVICE void load_vector(float (&v)[vector_length<T>], const T* p) { unpack(v, load_global_16(p), T{}); }
// For data read once that no thread of the launch writes.
template <class T> ANNEAL_DEVICE void load_vector_once(float (&v)[vector_length<T>], const T* p) { unpack(v, load_global_once_16(p), T{}); }
ANNEAL_DEVICE void store_vector(float* p, const float (&v)[4]) {
  store_global_16(p, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3])));
}
ANNEAL_DEVICE void store_vector(bf16* p, const float (&v)[8]) {
  store_global_16(p, make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])));
}

struct Sum {
  template <class T> ANNEAL_DEVICE static T of(T a, T b) { return a + b; }
  template <class T> ANNEAL_DEVICE static T start() { return T(0); }
};
struct Max {
  template <class T> ANNEAL_DEVICE static T of(T a, T b) { return a > b ? a : b; }
  template <class T> ANNEAL_DEVICE static T start() { return T(-INFINITY); }
};

// The result in every lane. All 32 lanes take part.
template <class Operation, class T> ANNEAL_DEVICE T warp_reduce(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = Operation::of(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}
// The result in every thread; blockDim.x is a multiple of 32 and all threads take part. `room` is shared memory for 32 numbers, free to use again
// after the next barrier (calls one after the other need none between: each begins with one).
template <class Operation, class T> ANNEAL_DEVICE T block_reduce(T x, T* room) {
  x = warp_reduce<Operation>(x);
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  __syncthreads();
  if (lane == 0) room[threadIdx.x / 32] = x;
  __syncthreads();
  x = lane < warps ? room[lane] : Operation::template start<T>();
  return warp_reduce<Operation>(x);
}

// Calls body(T{}) with the storage type of a float dtype.
template <class F> void dispatch_float(const char* kernel, DType dtype, F&& body) {
  switch (dtype) {
    case DType::f32: return body(float{});
    case DType::bf16: return body(bf16{});
    default: fail("%s: dtype %s is not supported, only f32 and bf16", kernel, dtype_names[static_cast<int>(dtype)]);
  }
}
template <class F> void dispatch_float_or_double(const char* kernel, DType dtype, F&& body) {
  if (dtype == DType::f64) return body(double{});
  dispatch_float(kernel, dtype, body);
}

}  // namespace anneal::cuda
