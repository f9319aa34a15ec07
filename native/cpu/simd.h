// Vectors of the widest f32 registers of the instruction set being compiled, in GCC and Clang's vector extensions. Internal linkage only.
#pragma once
#include <cstdint>
#include <cstring>

#include "../tensor.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define ANNEAL_INLINE static inline __attribute__((always_inline))
#define ANNEAL_UNROLL _Pragma("GCC unroll 16")

namespace anneal::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
constexpr int lanes = vector_bytes / 4;  // f32 lanes of a vector

typedef float vf __attribute__((vector_size(vector_bytes)));
typedef int32_t vi __attribute__((vector_size(vector_bytes)));
typedef uint32_t vu __attribute__((vector_size(vector_bytes)));
typedef uint16_t vh __attribute__((vector_size(vector_bytes / 2)));
typedef vf vf_unaligned __attribute__((aligned(4), may_alias));
typedef vu vu_unaligned __attribute__((aligned(2), may_alias));
typedef vh vh_unaligned __attribute__((aligned(2), may_alias));

// --- scalar conversions ---
ANNEAL_INLINE float bits_to_float(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
ANNEAL_INLINE uint32_t float_to_bits(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }
ANNEAL_INLINE float to_float(float x) { return x; }
ANNEAL_INLINE float to_float(bf16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
// Rounds to nearest even; a NaN stays a NaN.
ANNEAL_INLINE bf16 to_bf16(float f) {
  uint32_t u = float_to_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40)};
  return {static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}
ANNEAL_INLINE float to_float(f16 x) {
  uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000u | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000u : 0u));
  // A subnormal is rest * 2^-24, exact in f32; the others only move their exponent.
  if (rest < 0x400) return bits_to_float(sign | float_to_bits(static_cast<float>(rest) * 5.9604644775390625e-8f));
  return bits_to_float(sign | ((rest << 13) + (112u << 23)));
}
// Rounds to nearest even, 65520 and above to infinity; a NaN stays a NaN.
ANNEAL_INLINE f16 to_f16(float f) {
  uint32_t u = float_to_bits(f), sign = (u >> 16) & 0x8000, rest = u & 0x7fffffffu, bits;
  if (rest > 0x7f800000u) bits = 0x7e00 | ((rest >> 13) & 0x3ff);
  else if (rest >= 0x477ff000u) bits = 0x7c00;
  else if (rest < 0x38800000u) bits = float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000u;  // the addition rounds at 2^-24
  else bits = (rest - (112u << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;
  return {static_cast<uint16_t>(sign | bits)};
}
ANNEAL_INLINE void put(float* p, float x) { *p = x; }
ANNEAL_INLINE void put(bf16* p, float x) { *p = to_bf16(x); }

// --- vectors ---
ANNEAL_INLINE vf splat(float x) { return x - (vf){}; }
ANNEAL_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
ANNEAL_INLINE vf load(const bf16* p) {
  vh half = *reinterpret_cast<const vh_unaligned*>(p);
  return (vf)(__builtin_convertvector(half, vu) << 16);
}
ANNEAL_INLINE vf load(const f16* p) {
#if defined(__AVX512F__)
  return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  vf v;
  for (int i = 0; i < lanes; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}
ANNEAL_INLINE void store(f16* p, vf v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < lanes; ++i) p[i] = to_f16(v[i]);
#endif
}
ANNEAL_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
ANNEAL_INLINE void store(bf16* p, vf v) {
#if defined(__AVX512BF16__)
  __m256bh half = _mm512_cvtneps_pbh((__m512)v);
  memcpy(p, &half, 32);
#else
  vu u = (vu)v;
  vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  vu nan = (vu)((vi)(u & 0x7fffffffu) > 0x7f800000);
  rounded = (nan & ((u >> 16) | 0x40)) | (~nan & rounded);
  *reinterpret_cast<vh_unaligned*>(p) = __builtin_convertvector(rounded, vh);
#endif
}
// The first n < lanes elements; the others read as zero and are not written.
template <class T> ANNEAL_INLINE vf load_part(const T* p, int64_t n) {
  T part[lanes];
  memset(part, 0, sizeof part);
  memcpy(part, p, static_cast<size_t>(n) * sizeof(T));
  return load(part);
}
template <class T> ANNEAL_INLINE void store_part(T* p, vf v, int64_t n) {
  T part[lanes];
  store(part, v);
  memcpy(p, part, static_cast<size_t>(n) * sizeof(T));
}

ANNEAL_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
ANNEAL_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
ANNEAL_INLINE vf select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
ANNEAL_INLINE vf abs(vf a) { return (vf)((vi)a & 0x7fffffff); }
ANNEAL_INLINE vf sqrt(vf a) {
#if defined(__AVX512F__)
  return (vf)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)a);
#elif defined(__x86_64__)
  return (vf)_mm_sqrt_ps((__m128)a);
#else
  for (int i = 0; i < lanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}
ANNEAL_INLINE float sum(vf v) {
  float part[lanes];
  store(part, v);
  for (int width = lanes / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}
ANNEAL_INLINE float max(vf v) {
  float part[lanes];
  store(part, v);
  float m = part[0];
  for (int i = 1; i < lanes; ++i) m = part[i] > m ? part[i] : m;
  return m;
}

// e^x with a relative error of about 1e-7; 0 below -87.3, capped at 3.4e38 above 88.7, NaN for NaN.
ANNEAL_INLINE vf exp(vf x) {
  vf clamped = min(max(x, splat(-87.33f)), splat(88.72f));
  const vf magic = splat(12582912.f);
  vf t = clamped * 1.44269504088896f + magic;
  vf n = t - magic;
  vf f = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  vf p = splat(1.9875691500e-4f);
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.f;
  vi half = ((vi)t - (vi)magic) >> 1, rest = ((vi)t - (vi)magic) - half;  // two steps, so that 2^128 does not overflow early
  p = p * (vf)((half + 127) << 23) * (vf)((rest + 127) << 23);
  p = select((vi)(x < -87.33f), splat(0), p);
  return select((vi)(x == x), p, x);
}
ANNEAL_INLINE vf sigmoid(vf x) { return 1.f / (1.f + exp(-x)); }
// tanh by e^2x, with the odd polynomial near zero where that cancels.
ANNEAL_INLINE vf tanh(vf x) {
  vf a = abs(x);
  vf e = exp(2.f * min(a, splat(10.f)));
  vf big = 1.f - 2.f / (e + 1.f);
  vf s = x * x;
  vf p = splat(-5.70498872745e-3f);
  p = p * s + 2.06390887954e-2f;
  p = p * s + -5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s + -3.33332819422e-1f;
  vf small = x + x * s * p;
  vf sign = (vf)((vi)x & (int32_t)0x80000000);
  vf y = select((vi)(a < 0.625f), small, (vf)((vi)big | (vi)sign));
  return select((vi)(x == x), y, x);
}

}  // namespace
}  // namespace anneal::cpu
