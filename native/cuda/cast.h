// One number from one dtype to another, by the rules of the CPU's cast.h: floats round to nearest even in one rounding, floats to integers truncate
// toward zero, what does not fit into an integer saturates, and NaN becomes 0. And the storage types that dtypes name.
#pragma once
#include <type_traits>

#include "numeric.h"

namespace anneal::cuda {

// To f32 with the last bit sticky, so that rounding the result again to fewer bits is a single rounding.
ANNEAL_DEVICE float sticky(double x) {
  const float rounded = static_cast<float>(x);
  if (static_cast<double>(rounded) == x || x != x) return rounded;
  const uint32_t bits = __float_as_uint(rounded) - (fabs(static_cast<double>(rounded)) > fabs(x) ? 1 : 0);
  return __uint_as_float(bits | 1);
}
ANNEAL_DEVICE float sticky(float x) { return x; }
ANNEAL_DEVICE float sticky(int64_t x) {
  uint64_t magnitude = x < 0 ? 0 - static_cast<uint64_t>(x) : static_cast<uint64_t>(x);
  if (magnitude >> 53) magnitude = (magnitude & ~uint64_t{0x7ff}) | ((magnitude & 0x7ff) ? 0x800 : 0);
  const double d = static_cast<double>(magnitude);
  return sticky(x < 0 ? -d : d);
}
ANNEAL_DEVICE float sticky(int32_t x) { return sticky(static_cast<double>(x)); }

// An arithmetic value of each storage type: f32 for the 16-bit floats, itself for the others.
template <class T> ANNEAL_DEVICE auto widen(T x) {
  if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>) return to_float(x);
  else if constexpr (std::is_same_v<T, uint8_t>) return static_cast<int32_t>(x);
  else return x;
}

template <class V> ANNEAL_DEVICE int64_t to_integer(V x, int64_t low, int64_t high) {
  if constexpr (std::is_floating_point_v<V>) {
    if (x != x) return 0;
    // As a V, high may round up to the first number that does not fit.
    if (x >= static_cast<V>(high)) return high;
    return x <= static_cast<V>(low) ? low : static_cast<int64_t>(x);
  } else {
    return x > high ? high : x < low ? low : x;
  }
}

template <class T, class V> ANNEAL_DEVICE T narrow(V x) {
  if constexpr (std::is_same_v<T, bf16>) return {to_bf16_bits(sticky(x))};
  else if constexpr (std::is_same_v<T, f16>) return {to_f16_bits(sticky(x))};
  else if constexpr (std::is_floating_point_v<T>) return static_cast<T>(x);
  else if constexpr (sizeof(T) == 8) return to_integer(x, INT64_MIN, INT64_MAX);
  else if constexpr (sizeof(T) == 4) return static_cast<T>(to_integer(x, INT32_MIN, INT32_MAX));
  else return static_cast<T>(to_integer(x, 0, 255));
}

// Calls body(T{}) with the storage type of any dtype.
template <class F> void dispatch_any(DType dtype, F&& body) {
  switch (dtype) {
    case DType::f32: return body(float{});
    case DType::bf16: return body(bf16{});
    case DType::f16: return body(f16{});
    case DType::f64: return body(double{});
    case DType::i32: return body(int32_t{});
    case DType::i64: return body(int64_t{});
    case DType::u8: return body(uint8_t{});
  }
}
// By element size, for kernels that only move elements.
template <class F> void dispatch_size(int64_t bytes, F&& body) {
  switch (bytes) {
    case 1: return body(uint8_t{});
    case 2: return body(uint16_t{});
    case 4: return body(uint32_t{});
    case 8: return body(uint64_t{});
    default: return body(uint4{});
  }
}

}  // namespace anneal::cuda
