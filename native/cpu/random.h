// Philox 4x32-10 (Salmon et al., 2011), a counter-based generator: the four words of counter (index / 4, stream) under
// key seed belong to elements 4 * (index / 4) … + 3. Every instruction set gives the same words. Words are kept one per
// 64-bit lane, which is what pmuludq multiplies.
#pragma once
#include "simd.h"

namespace anneal::cpu {
namespace {

constexpr uint32_t philox_multiplier[2] = {0xd2511f53u, 0xcd9e8d57u};
constexpr uint32_t philox_weyl[2] = {0x9e3779b9u, 0xbb67ae85u};

struct PhiloxWords { uint32_t at[4]; };

ANNEAL_INLINE PhiloxWords philox(uint64_t seed, uint64_t stream, uint64_t counter) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    uint64_t a = static_cast<uint64_t>(c0) * philox_multiplier[0], b = static_cast<uint64_t>(c2) * philox_multiplier[1];
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += philox_weyl[0];
    k1 += philox_weyl[1];
  }
  return {{c0, c1, c2, c3}};
}

constexpr int wide_lanes = lanes / 2;
typedef uint64_t vw __attribute__((vector_size(vector_bytes)));

// The low 32 bits of each 64-bit lane, multiplied to 64 bits. (The plain AVX-512 intrinsics make gcc 12 warn of
// uninitialised values.)
ANNEAL_INLINE vw multiply_low(vw a, vw b) {
#if defined(__AVX512F__)
  return (vw)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vw)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return (vw)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// Lane l of the counters below is counter number l / 2, plus half the lanes where l is odd, so that the final
// 128-bit-wise interleave is in order.
ANNEAL_INLINE vw philox_lane_offsets() {
  vw offset;
  for (int l = 0; l < wide_lanes; ++l) offset[l] = static_cast<uint64_t>(l / 2 + (l % 2) * (wide_lanes / 2));
  return offset;
}
// Pairs of 64-bit lanes: a0 b0 a2 b2 … and a1 b1 a3 b3 ….
ANNEAL_INLINE vw interleave_even(vw a, vw b) {
#if defined(__AVX512F__)
  return (vw)_mm512_maskz_unpacklo_epi64(0xff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vw)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
#else
  return (vw){a[0], b[0]};
#endif
}
ANNEAL_INLINE vw interleave_odd(vw a, vw b) {
#if defined(__AVX512F__)
  return (vw)_mm512_maskz_unpackhi_epi64(0xff, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vw)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b);
#else
  return (vw){a[1], b[1]};
#endif
}

// The words of 2 * lanes consecutive elements, the first of which is element 4 * counter.
struct RandomVectors { vu first, second; };
ANNEAL_INLINE RandomVectors philox_vectors(uint64_t seed, uint64_t stream, uint64_t counter) {
  const vw low = (vw){} + 0xffffffffu;
  const vw m0 = (vw){} + philox_multiplier[0], m1 = (vw){} + philox_multiplier[1];
  vw index = counter + philox_lane_offsets();
  // Upper halves hold rubbish, which multiply_low and the shifts never look at.
  vw c0 = index, c1 = index >> 32, c2 = (vw){} + stream, c3 = (vw){} + (stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  ANNEAL_UNROLL
  for (int round = 0; round < 10; ++round) {
    vw a = multiply_low(c0, m0), b = multiply_low(c2, m1);
    c0 = (b >> 32) ^ c1 ^ (uint64_t)k0;
    c1 = b;
    c2 = (a >> 32) ^ c3 ^ (uint64_t)k1;
    c3 = a;
    k0 += philox_weyl[0];
    k1 += philox_weyl[1];
  }
  vw front = (c0 & low) | (c1 << 32), back = (c2 & low) | (c3 << 32);
  return {(vu)interleave_even(front, back), (vu)interleave_odd(front, back)};
}

// An element is dropped with probability p < 1 where its word is below this: p * 2^32, clamped to what a word can hold.
inline uint32_t drop_threshold(double p) {
  const double scaled = p * 4294967296.0 + 0.5;
  return scaled >= 4294967295.0 ? 4294967295u : static_cast<uint32_t>(scaled);
}

// body(i, words, span) for the elements begin … end - 1 (begin a multiple of 4), a vector at a time.
template <class F>
ANNEAL_INLINE void each_random_vector(int64_t begin, int64_t end, int64_t seed, int64_t stream, F&& body) {
  auto words = [&](int64_t i) {
    return philox_vectors(static_cast<uint64_t>(seed), static_cast<uint64_t>(stream), static_cast<uint64_t>(i) / 4);
  };
  int64_t i = begin;
  for (; i + 2 * lanes <= end; i += 2 * lanes) {
    RandomVectors random = words(i);
    body(i, random.first, Whole{});
    body(i + lanes, random.second, Whole{});
  }
  if (i == end) return;
  RandomVectors random = words(i);
  if (end - i >= lanes) {
    body(i, random.first, Whole{});
    i += lanes;
    random.first = random.second;
  }
  if (i < end) body(i, random.first, Part{end - i});
}

}  // namespace
}  // namespace anneal::cpu
