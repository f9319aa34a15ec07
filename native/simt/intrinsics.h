// CUDA's built-in functions: barriers, shuffles, votes, atomics and arithmetic.
#pragma once
#include <bit>
#include <cmath>
#include <type_traits>

#include "core.h"

#define ANNEAL_SIMT_INLINE inline __attribute__((always_inline))

// --- Barriers ---

ANNEAL_SIMT_INLINE void __syncthreads(anneal::simt::Site site = anneal::simt::Site::here()) { anneal::simt::barrier(0, -1, "__syncthreads", site); }
inline int __syncthreads_or(int predicate, anneal::simt::Site site = anneal::simt::Site::here()) {
  return anneal::simt::barrier_vote(predicate, anneal::simt::BlockVote::any, site);
}
inline int __syncthreads_and(int predicate, anneal::simt::Site site = anneal::simt::Site::here()) {
  return anneal::simt::barrier_vote(predicate, anneal::simt::BlockVote::all, site);
}
inline int __syncthreads_count(int predicate, anneal::simt::Site site = anneal::simt::Site::here()) {
  return anneal::simt::barrier_vote(predicate, anneal::simt::BlockVote::count, site);
}
ANNEAL_SIMT_INLINE void __syncwarp(unsigned mask = 0xffffffffu, anneal::simt::Site site = anneal::simt::Site::here()) {
  anneal::simt::collective(anneal::simt::Collective::sync, mask, nullptr, nullptr, "__syncwarp", site);
}
// The emulator's threads see each other's stores at once.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
[[noreturn]] inline void __trap() { anneal::simt::fail("trap", "the kernel called __trap()"); }

// --- Shuffles and votes ---

namespace anneal::simt {

struct Shuffle {
  uint64_t value;
  int from;
  uint64_t result;
};
void apply_shuffle(void** operands, uint32_t mask);
template <class T> ANNEAL_SIMT_INLINE T shuffle(uint32_t mask, T value, int from, const char* name, Site site) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "CUDA shuffles numbers of 4 or 8 bytes");
  Shuffle operand{0, from, 0};
  std::memcpy(&operand.value, &value, sizeof(T));
  collective(Collective::shuffle, mask, &operand, apply_shuffle, name, site);
  T result;
  std::memcpy(&result, &operand.result, sizeof(T));
  return result;
}

struct Vote {
  uint32_t value;
  uint32_t result;
};
uint32_t vote(uint32_t mask, uint32_t value, void (*apply)(void** operands, uint32_t mask), const char* name, Site site);
void apply_ballot(void** operands, uint32_t mask);
void apply_match(void** operands, uint32_t mask);
void apply_reduce_add(void** operands, uint32_t mask);
void apply_reduce_min(void** operands, uint32_t mask);
void apply_reduce_max(void** operands, uint32_t mask);
void apply_reduce_min_signed(void** operands, uint32_t mask);
void apply_reduce_max_signed(void** operands, uint32_t mask);
void apply_reduce_and(void** operands, uint32_t mask);
void apply_reduce_or(void** operands, uint32_t mask);
void apply_reduce_xor(void** operands, uint32_t mask);

}  // namespace anneal::simt

// Lanes outside the segment of `width` lanes give the caller its own value.
template <class T>
ANNEAL_SIMT_INLINE T __shfl_sync(unsigned mask, T value, int from, int width = 32, anneal::simt::Site site = anneal::simt::Site::here()) {
  const int lane = anneal::simt::lane_index();
  return anneal::simt::shuffle(mask, value, (lane & ~(width - 1)) | (from & (width - 1)), "__shfl_sync", site);
}
template <class T>
ANNEAL_SIMT_INLINE T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, anneal::simt::Site site = anneal::simt::Site::here()) {
  const int lane = anneal::simt::lane_index(), from = lane ^ bits;
  const bool above = (from & ~(width - 1)) > (lane & ~(width - 1));
  return anneal::simt::shuffle(mask, value, above ? lane : from, "__shfl_xor_sync", site);
}
template <class T>
ANNEAL_SIMT_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, anneal::simt::Site site = anneal::simt::Site::here()) {
  const int lane = anneal::simt::lane_index();
  const bool inside = (lane & (width - 1)) + static_cast<int>(distance) < width;
  return anneal::simt::shuffle(mask, value, inside ? lane + static_cast<int>(distance) : lane, "__shfl_down_sync", site);
}
template <class T>
ANNEAL_SIMT_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, anneal::simt::Site site = anneal::simt::Site::here()) {
  const int lane = anneal::simt::lane_index();
  const bool inside = (lane & (width - 1)) >= static_cast<int>(distance);
  return anneal::simt::shuffle(mask, value, inside ? lane - static_cast<int>(distance) : lane, "__shfl_up_sync", site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, anneal::simt::Site site = anneal::simt::Site::here()) {
  return anneal::simt::vote(mask, predicate != 0, anneal::simt::apply_ballot, "__ballot_sync", site);
}
inline int __any_sync(unsigned mask, int predicate, anneal::simt::Site site = anneal::simt::Site::here()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, anneal::simt::Site site = anneal::simt::Site::here()) {
  return __ballot_sync(mask, predicate == 0, site) == 0;
}
template <class T> unsigned __match_any_sync(unsigned mask, T value, anneal::simt::Site site = anneal::simt::Site::here()) {
  static_assert(sizeof(T) == 4, "the emulator matches words");
  return anneal::simt::vote(mask, std::bit_cast<uint32_t>(value), anneal::simt::apply_match, "__match_any_sync", site);
}
#define ANNEAL_SIMT_REDUCE(name, type, apply)                                                                         \
  inline type name(unsigned mask, type value, anneal::simt::Site site = anneal::simt::Site::here()) {                 \
    return static_cast<type>(anneal::simt::vote(mask, static_cast<uint32_t>(value), anneal::simt::apply, #name, site)); \
  }
ANNEAL_SIMT_REDUCE(__reduce_add_sync, unsigned, apply_reduce_add)
ANNEAL_SIMT_REDUCE(__reduce_min_sync, unsigned, apply_reduce_min)
ANNEAL_SIMT_REDUCE(__reduce_max_sync, unsigned, apply_reduce_max)
ANNEAL_SIMT_REDUCE(__reduce_and_sync, unsigned, apply_reduce_and)
ANNEAL_SIMT_REDUCE(__reduce_or_sync, unsigned, apply_reduce_or)
ANNEAL_SIMT_REDUCE(__reduce_xor_sync, unsigned, apply_reduce_xor)
ANNEAL_SIMT_REDUCE(__reduce_add_sync, int, apply_reduce_add)
ANNEAL_SIMT_REDUCE(__reduce_min_sync, int, apply_reduce_min_signed)
ANNEAL_SIMT_REDUCE(__reduce_max_sync, int, apply_reduce_max_signed)
#undef ANNEAL_SIMT_REDUCE

// --- Atomics: each returns the old value. CUDA wants value and target to have the same type but converts the value. ---

namespace anneal::simt {

template <class T, class F> ANNEAL_SIMT_INLINE T update_atomically(T* target, F&& change) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  static_assert(sizeof(T) == sizeof(Bits));
  atomic_access(target, sizeof(T));
  Bits* bits = reinterpret_cast<Bits*>(target);
  Bits before = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &before, std::bit_cast<Bits>(static_cast<T>(change(std::bit_cast<T>(before)))), false, __ATOMIC_SEQ_CST,
                                      __ATOMIC_RELAXED)) {
  }
  return std::bit_cast<T>(before);
}

}  // namespace anneal::simt

#define ANNEAL_SIMT_ATOMIC(name, expression)                                                   \
  template <class T> ANNEAL_SIMT_INLINE T name(T* target, std::type_identity_t<T> value) {     \
    return anneal::simt::update_atomically(target, [=](T old) { return (expression); }); \
  }
ANNEAL_SIMT_ATOMIC(atomicAdd, old + value)
ANNEAL_SIMT_ATOMIC(atomicSub, old - value)
ANNEAL_SIMT_ATOMIC(atomicMax, old > value ? old : value)
ANNEAL_SIMT_ATOMIC(atomicMin, old < value ? old : value)
ANNEAL_SIMT_ATOMIC(atomicExch, ((void)old, value))
ANNEAL_SIMT_ATOMIC(atomicAnd, old & value)
ANNEAL_SIMT_ATOMIC(atomicOr, old | value)
ANNEAL_SIMT_ATOMIC(atomicXor, old ^ value)
ANNEAL_SIMT_ATOMIC(atomicInc, old >= value ? 0u : old + 1)
ANNEAL_SIMT_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef ANNEAL_SIMT_ATOMIC
template <class T> ANNEAL_SIMT_INLINE T atomicCAS(T* target, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return anneal::simt::update_atomically(target, [=](T old) { return old == expected ? value : old; });
}

// --- Memory ---

#define ANNEAL_SIMT_LOAD(name) \
  template <class T> ANNEAL_SIMT_INLINE T name(const T* from) { return *from; }
ANNEAL_SIMT_LOAD(__ldg)
ANNEAL_SIMT_LOAD(__ldca)
ANNEAL_SIMT_LOAD(__ldcg)
ANNEAL_SIMT_LOAD(__ldcs)
ANNEAL_SIMT_LOAD(__ldlu)
ANNEAL_SIMT_LOAD(__ldcv)
#undef ANNEAL_SIMT_LOAD
#define ANNEAL_SIMT_STORE(name) \
  template <class T> ANNEAL_SIMT_INLINE void name(T* to, std::type_identity_t<T> value) { *to = value; }
ANNEAL_SIMT_STORE(__stwb)
ANNEAL_SIMT_STORE(__stcg)
ANNEAL_SIMT_STORE(__stcs)
ANNEAL_SIMT_STORE(__stwt)
#undef ANNEAL_SIMT_STORE

// --- Arithmetic ---

// Of mixed types as in C's arithmetic; of floats the one that is a number.
template <class A, class B> requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>) constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(static_cast<T>(a), static_cast<T>(b));
  else return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B> requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>) constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(static_cast<T>(a), static_cast<T>(b));
  else return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __double2hiint(double x) { return static_cast<int>(std::bit_cast<uint64_t>(x) >> 32); }
inline int __double2loint(double x) { return static_cast<int>(std::bit_cast<uint64_t>(x)); }
inline double __hiloint2double(int high, int low) {
  return std::bit_cast<double>(static_cast<uint64_t>(static_cast<uint32_t>(high)) << 32 | static_cast<uint32_t>(low));
}

// The approximations compute exactly here; tests allow for the difference.
inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __log10f(float x) { return std::log10(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __tanf(float x) { return std::tan(x); }
inline void __sincosf(float x, float* sine, float* cosine) { *sine = std::sin(x), *cosine = std::cos(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0 ? std::fmin(x, 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline float sinpif(float x) { return static_cast<float>(std::sin(M_PI * static_cast<double>(x))); }
inline float cospif(float x) { return static_cast<float>(std::cos(M_PI * static_cast<double>(x))); }
inline float normcdff(float x) { return static_cast<float>(0.5 * std::erfc(-static_cast<double>(x) * M_SQRT1_2)); }

// Rounded once each: no part of a fused multiply-add.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

namespace anneal::simt {

// The hardware's conversion to an integer: NaN gives 0, what lies outside is clamped.
template <class I, class F> constexpr I to_integer(F x) {
  if (x != x) return 0;
  constexpr F limit = static_cast<F>(std::is_signed_v<I> ? static_cast<uint64_t>(1) << (sizeof(I) * 8 - 1) : static_cast<uint64_t>(1) << (sizeof(I) * 8 - 1)) *
                      (std::is_signed_v<I> ? 1 : 2);
  if (x >= limit) return static_cast<I>(std::is_signed_v<I> ? (~static_cast<uint64_t>(0) >> (65 - sizeof(I) * 8)) : ~static_cast<uint64_t>(0));
  if (std::is_signed_v<I> ? x < -limit : x <= -1) return static_cast<I>(std::is_signed_v<I> ? static_cast<uint64_t>(1) << (sizeof(I) * 8 - 1) : 0);
  return static_cast<I>(x);
}

}  // namespace anneal::simt
#define ANNEAL_SIMT_CONVERSIONS(to, type)                                                                                   \
  inline type __float2##to##_rn(float x) { return anneal::simt::to_integer<type>(std::nearbyint(x)); }                      \
  inline type __float2##to##_rz(float x) { return anneal::simt::to_integer<type>(std::trunc(x)); }                          \
  inline type __float2##to##_rd(float x) { return anneal::simt::to_integer<type>(std::floor(x)); }                          \
  inline type __float2##to##_ru(float x) { return anneal::simt::to_integer<type>(std::ceil(x)); }                           \
  inline type __double2##to##_rn(double x) { return anneal::simt::to_integer<type>(std::nearbyint(x)); }                    \
  inline type __double2##to##_rz(double x) { return anneal::simt::to_integer<type>(std::trunc(x)); }                        \
  inline type __double2##to##_rd(double x) { return anneal::simt::to_integer<type>(std::floor(x)); }                        \
  inline type __double2##to##_ru(double x) { return anneal::simt::to_integer<type>(std::ceil(x)); }
ANNEAL_SIMT_CONVERSIONS(int, int)
ANNEAL_SIMT_CONVERSIONS(uint, unsigned)
ANNEAL_SIMT_CONVERSIONS(ll, long long)
ANNEAL_SIMT_CONVERSIONS(ull, unsigned long long)
#undef ANNEAL_SIMT_CONVERSIONS
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline double __int2double_rn(int x) { return x; }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= (x >> i & 1) << (31 - i);
  return result;
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 | __brev(static_cast<unsigned>(x >> 32));
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline long long __mul64hi(long long a, long long b) { return static_cast<long long>(static_cast<__int128>(a) * b >> 64); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
// Funnel shifts of (high, low); the plain ones take the count modulo 32, the `c` ones clamp it to 32.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned count) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) << (count & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned count) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (count & 31));
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned count) { return count >= 32 ? low : __funnelshift_l(low, high, count); }
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned count) { return count >= 32 ? high : __funnelshift_r(low, high, count); }
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
}
