// Vectors of the widest f32 registers of the instruction set being compiled, in GCC and Clang's vector extensions. Internal linkage only.
#pragma once
#include <cstdint>
#include <cstring>

#include "../tensor.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
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
ANNEAL_INLINE vi lane_numbers() {
  vi number;
  for (int i = 0; i < lanes; ++i) number[i] = i;
  return number;
}
ANNEAL_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
ANNEAL_INLINE vf load(const bf16* p) {
#if defined(__AVX512F__)
  return (vf)((vu)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))) << 16);
#elif defined(__AVX2__)
  return (vf)((vu)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))) << 16);
#else
  vh half = *reinterpret_cast<const vh_unaligned*>(p);
  return (vf)(__builtin_convertvector(half, vu) << 16);
#endif
}
ANNEAL_INLINE vf load(const f16* p) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
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
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
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
#elif defined(__AVX2__) && !defined(__AVX512F__)
  const __m256i u = (__m256i)v, odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256 is_nan = _mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q);
  const __m256i bits = _mm256_srli_epi32((__m256i)_mm256_blendv_ps((__m256)rounded, (__m256)quiet, is_nan), 16);
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(halves));
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

// a > b ? a : b and a < b ? a : b, so a NaN gives b. (gcc makes two instructions of the plain expressions.)
// a * b + c, rounded once where the instruction set can. Said outright rather than left to the compiler, which contracts a * b + c in one
// copy of a function and not in another, so that paths meant to agree to the bit would not.
ANNEAL_INLINE vf fused_multiply_add(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
ANNEAL_INLINE vf max(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}
ANNEAL_INLINE vf min(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}
ANNEAL_INLINE vf select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
ANNEAL_INLINE vf abs(vf a) { return (vf)((vi)a & 0x7fffffff); }
ANNEAL_INLINE vf sqrt(vf a) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_sqrt_ps(0xffff, (__m512)a);
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
// e^x for x <= 88, meant for softmax: half the steps of exp. The relative error is about 1e-7; 0 below -87.3, NaN for NaN.
ANNEAL_INLINE vf exp_low(vf x) {
  const vf magic = splat(12582912.f);
  vf clamped = max(splat(-87.33f), x);
  vf t = clamped * 1.44269504088896f + magic;
  vf n = t - magic;
#if defined(__FMA__) || defined(__aarch64__)
  vf f = clamped - n * 0.693147180559945f;  // fused: its only error is n times that of the constant, 2e-9
#else
  vf f = clamped - n * 0.693359375f + n * 2.12194440e-4f;
#endif
  vf p = splat(0x1.6a2352p-10f);  // (e^f - 1 - f) / f^2, minimax for |f| <= log(2) / 2
  p = p * f + 0x1.123a6cp-7f;
  p = p * f + 0x1.5558f4p-5f;
  p = p * f + 0x1.55549p-3f;
  p = p * f + 0x1.fffffcp-2f;
  p = p * f + 1.f;
  p = p * f + 1.f;
  vf y = (vf)((vu)p + ((vu)t << 23));  // the low bits of t are n; unsigned, as nonsense above 88 may wrap around
  return x < -87.33f ? splat(0) : y;
}
ANNEAL_INLINE vf sigmoid(vf x) { return 1.f / (1.f + exp_low(min(splat(88.f), -x))); }
// tanh by e^2x, with the odd polynomial near zero where that cancels.
ANNEAL_INLINE vf tanh(vf x) {
  vf a = abs(x);
  vf e = exp_low(2.f * min(a, splat(10.f)));
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

// Natural logarithm with a relative error of about 1e-7; -inf for 0, NaN below.
ANNEAL_INLINE vf log(vf x) {
  vi tiny = (vi)(x < 1.17549435e-38f);
  vi bits = (vi)select(tiny, x * 8388608.f, x);
  vi e = (bits - 0x3f3504f3) >> 23;  // x = 2^e m with m in [sqrt(1/2), sqrt(2))
  vf f = (vf)(bits - (e << 23)) - 1.f;
  vf n = __builtin_convertvector(e - (tiny & 23), vf);
  vf p = splat(-7.6344966888e-2f);
  p = p * f + 1.2761576474e-1f;
  p = p * f + -1.3160182536e-1f;
  p = p * f + 1.4201757312e-1f;
  p = p * f + -1.6623356938e-1f;
  p = p * f + 2.0001226664e-1f;
  p = p * f + -2.5000819564e-1f;
  p = p * f + 3.3333331347e-1f;
  vf s = f * f;
  vf y = n * 0.693359375f + (f + (s * f * p - s * 0.5f - n * 2.12194440e-4f));
  y = select((vi)(x > 0.f), y, select((vi)(x == 0.f), splat(-__builtin_inff()), splat(__builtin_nanf(""))));
  return select((vi)(x == __builtin_inff()), x, y);
}
// Error function with an absolute error of about 1e-7 and a relative one of about 2e-7; fits of our own of erf(x) / x and log(erfc(x)).
ANNEAL_INLINE vf erf(vf x) {
  vf a = min(abs(x), splat(3.95f)), s = x * x;
  vf p = splat(8.4099228843e-5f);
  p = p * s + -8.1526284339e-4f;
  p = p * s + 5.2019604482e-3f;
  p = p * s + -2.6859799400e-2f;
  p = p * s + 1.1283703148e-1f;
  p = p * s + -3.7612634897e-1f;
  p = p * s + 1.1283792257f;
  vf q = splat(-2.0828523702e-5f);
  q = q * a + 4.3139251648e-4f;
  q = q * a + -4.1562500410e-3f;
  q = q * a + 2.5080604479e-2f;
  q = q * a + -1.0822036862e-1f;
  q = q * a + -6.3340085745e-1f;
  q = q * a + -1.1294883490f;
  q = q * a + 1.6920386406e-4f;
  vf sign = (vf)((vi)x & (int32_t)0x80000000);
  vf big = (vf)((vi)(1.f - exp_low(q)) | (vi)sign);
  vf y = select((vi)(abs(x) < 0.92f), x * p, big);
  return select((vi)(x == x), y, x);
}
// sin(2 pi t) and cos(2 pi t) for t in turns, |t| < 2^20.
ANNEAL_INLINE void sin_cos_turns(vf t, vf& sine, vf& cosine) {
  const vf magic = splat(12582912.f);
  vf quarters = t * 4.f, rounded = quarters + magic;
  vi quadrant = (vi)rounded;
  vf f = quarters - (rounded - magic), s = f * f;
  vf a = splat(1.5820673434e-4f);
  a = a * s + -4.6812663786e-3f;
  a = a * s + 7.9692579806e-2f;
  a = a * s + -6.4596408606e-1f;
  a = (a * s + 1.5707963705f) * f;
  vf b = splat(9.0363167692e-4f);
  b = b * s + -2.0860072225e-2f;
  b = b * s + 2.5366920233e-1f;
  b = b * s + -1.2337005138f;
  b = b * s + 1.f;
  vi odd = -(quadrant & 1);
  sine = (vf)((vi)select(odd, b, a) ^ ((quadrant & 2) << 30));
  cosine = (vf)((vi)select(odd, a, b) ^ (((quadrant + 1) & 2) << 30));
}

// --- walking a row: body(i, span) for each vector of elements, the last one possibly a part; load and store take the span ---
struct Whole { static constexpr bool whole = true; };
struct Part {
  static constexpr bool whole = false;
  int64_t n;
};
template <class T> ANNEAL_INLINE vf load(const T* p, Whole) { return load(p); }
template <class T> ANNEAL_INLINE vf load(const T* p, Part part) { return load_part(p, part.n); }
template <class T> ANNEAL_INLINE void store(T* p, vf v, Whole) { store(p, v); }
template <class T> ANNEAL_INLINE void store(T* p, vf v, Part part) { store_part(p, v, part.n); }
// v with zeros in the lanes past the end.
ANNEAL_INLINE vf inside(vf v, Whole) { return v; }
ANNEAL_INLINE vf inside(vf v, Part part) { return (vf)((vi)(lane_numbers() < static_cast<int32_t>(part.n)) & (vi)v); }
template <class F> ANNEAL_INLINE void each_vector(int64_t n, F&& body) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, Whole{});
  if (i < n) body(i, Part{n - i});
}
// The same with k = 0 … 3 in turn, for four independent accumulators; k is 0 in the last vectors.
template <class F> ANNEAL_INLINE void each_vector_by_4(int64_t n, F&& body) {
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    ANNEAL_UNROLL
    for (int k = 0; k < 4; ++k) body(i + k * lanes, Whole{}, k);
  }
  for (; i + lanes <= n; i += lanes) body(i, Whole{}, 0);
  if (i < n) body(i, Part{n - i}, 0);
}

}  // namespace
}  // namespace anneal::cpu
