// 16-bit floats and roundings, apart from the emulator's own so that an error in one shows against the other.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace anneal::simt::ptx {

inline float from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
// To nearest, ties to even; every NaN becomes 0x7fff.
inline uint16_t to_bf16(float value) {
  if (std::isnan(value)) return 0x7fff;
  uint32_t bits = std::bit_cast<uint32_t>(value), low = bits & 0xffff, high = bits >> 16;
  return static_cast<uint16_t>(high + (low > 0x8000 || (low == 0x8000 && (high & 1))));
}
inline float from_f16(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? std::ldexp(static_cast<float>(fraction + 1024), exponent - 25) : std::ldexp(static_cast<float>(fraction), -24);
  return bits >> 15 ? -magnitude : magnitude;
}
inline uint16_t to_f16(float value) {
  if (std::isnan(value)) return 0x7fff;
  uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  int exponent = magnitude == 0 ? -24 : std::max(std::ilogb(magnitude), -14);
  float scaled = std::nearbyint(std::ldexp(magnitude, 10 - exponent));  // 1024 … 2048, less below 2^-14
  if (magnitude < 6.103515625e-05f) return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
  return static_cast<uint16_t>(sign | ((exponent + 15) << 10)) + static_cast<uint16_t>(static_cast<int>(scaled) - 1024);
}
// The float next to the value towards zero, its last bit set where bits were lost: a second rounding to fewer bits is then exact.
inline float round_to_odd(double value) {
  float near = static_cast<float>(value);
  if (std::isnan(value) || static_cast<double>(near) == value) return near;
  if (std::fabs(static_cast<double>(near)) > std::fabs(value)) near = std::nextafter(near, 0.0f);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(near) | 1);
}
inline float saturate(float value) { return value > 0 ? (value < 1 ? value : 1.0f) : 0.0f; }

}  // namespace anneal::simt::ptx
