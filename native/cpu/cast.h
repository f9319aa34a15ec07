// One number from one dtype to another: floats round to nearest even (in one rounding), floats to integers truncate
// toward zero, what does not fit into an integer saturates, and NaN becomes 0. Internal linkage only.
#pragma once
#include <type_traits>

#include "simd.h"

namespace anneal::cpu {
namespace {

ANNEAL_INLINE uint64_t double_to_bits(double d) { uint64_t bits; memcpy(&bits, &d, 8); return bits; }

// To f32 with the last bit sticky, so that rounding the result again to fewer bits is a single rounding.
ANNEAL_INLINE float sticky_float(double d) {
  float f = static_cast<float>(d);
  if (static_cast<double>(f) == d || d != d) return f;
  uint32_t bits = float_to_bits(f);
  if (__builtin_fabs(static_cast<double>(f)) > __builtin_fabs(d)) bits -= 1;
  return bits_to_float(bits | 1);
}
ANNEAL_INLINE double sticky_double(int64_t i) {
  uint64_t magnitude = i < 0 ? 0 - static_cast<uint64_t>(i) : static_cast<uint64_t>(i);
  if (magnitude >> 53) magnitude = (magnitude & ~uint64_t{0x7ff}) | ((magnitude & 0x7ff) ? 0x800 : 0);
  double d = static_cast<double>(magnitude);
  return i < 0 ? -d : d;
}

// An arithmetic value of each storage type: f32 for the 16-bit floats, itself for the others.
ANNEAL_INLINE float widen(float x) { return x; }
ANNEAL_INLINE float widen(bf16 x) { return to_float(x); }
ANNEAL_INLINE float widen(f16 x) { return to_float(x); }
ANNEAL_INLINE double widen(double x) { return x; }
ANNEAL_INLINE int32_t widen(int32_t x) { return x; }
ANNEAL_INLINE int64_t widen(int64_t x) { return x; }
ANNEAL_INLINE int32_t widen(uint8_t x) { return x; }

template <class V> ANNEAL_INLINE int64_t to_integer(V x, int64_t low, int64_t high) {
  if constexpr (std::is_floating_point_v<V>) {
    if (x != x) return 0;
    // As a V, high may round up to the first number that does not fit.
    if (x >= static_cast<V>(high)) return high;
    return x <= static_cast<V>(low) ? low : static_cast<int64_t>(x);
  } else {
    return x > high ? high : x < low ? low : x;
  }
}

template <class V> ANNEAL_INLINE float sticky(V x) {
  if constexpr (std::is_same_v<V, float>) return x;
  else if constexpr (std::is_floating_point_v<V>) return sticky_float(x);
  else return sticky_float(sticky_double(x));
}

template <class V> ANNEAL_INLINE void narrow(float* p, V x) { *p = static_cast<float>(x); }
template <class V> ANNEAL_INLINE void narrow(double* p, V x) { *p = static_cast<double>(x); }
template <class V> ANNEAL_INLINE void narrow(bf16* p, V x) { *p = to_bf16(sticky(x)); }
template <class V> ANNEAL_INLINE void narrow(f16* p, V x) { *p = to_f16(sticky(x)); }
template <class V> ANNEAL_INLINE void narrow(int32_t* p, V x) {
  *p = static_cast<int32_t>(to_integer(x, INT32_MIN, INT32_MAX));
}
template <class V> ANNEAL_INLINE void narrow(int64_t* p, V x) { *p = to_integer(x, INT64_MIN, INT64_MAX); }
template <class V> ANNEAL_INLINE void narrow(uint8_t* p, V x) { *p = static_cast<uint8_t>(to_integer(x, 0, 255)); }

// f with a null pointer of the storage type that dtype names.
template <class F> ANNEAL_INLINE void with_any(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: f(static_cast<float*>(nullptr)); break;
    case DType::bf16: f(static_cast<bf16*>(nullptr)); break;
    case DType::f16: f(static_cast<f16*>(nullptr)); break;
    case DType::f64: f(static_cast<double*>(nullptr)); break;
    case DType::i32: f(static_cast<int32_t*>(nullptr)); break;
    case DType::i64: f(static_cast<int64_t*>(nullptr)); break;
    case DType::u8: f(static_cast<uint8_t*>(nullptr)); break;
  }
}
// The same for the dtypes that arithmetic is done in; checked at the call.
template <class F> ANNEAL_INLINE void with_computable(DType dtype, F&& f) {
  if (dtype == DType::f32) f(static_cast<float*>(nullptr));
  else if (dtype == DType::bf16) f(static_cast<bf16*>(nullptr));
  else f(static_cast<double*>(nullptr));
}
// By element size, for kernels that only move elements.
template <class F> ANNEAL_INLINE void with_size(DType dtype, F&& f) {
  switch (dtype_bytes[static_cast<int>(dtype)]) {
    case 1: f(static_cast<uint8_t*>(nullptr)); break;
    case 2: f(static_cast<uint16_t*>(nullptr)); break;
    case 4: f(static_cast<uint32_t*>(nullptr)); break;
    default: f(static_cast<uint64_t*>(nullptr)); break;
  }
}

}  // namespace
}  // namespace anneal::cpu
