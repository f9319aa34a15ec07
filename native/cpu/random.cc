// Filling a tensor with random numbers. A value depends on seed, stream and element index only, so threads and shapes
// never change it.
#include "random.h"

#include <math.h>

#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

constexpr int64_t elements_per_task = 16384;

// f(begin, end) over pieces that begin at a multiple of 4.
template <class F> void parallel_fours(int64_t size, F&& f) {
  parallel_for((size + 3) / 4, elements_per_task / 4, [&](int64_t begin, int64_t end) {
    f(begin * 4, end * 4 < size ? end * 4 : size);
  });
}

// The largest value of y's dtype below `high`: rounding must not reach it.
float below(float high) { return nextafterf(high, -INFINITY); }
float largest_below(double high, float*) {
  float f = static_cast<float>(high);
  return f < high ? f : below(f);
}
float largest_below(double high, bf16*) {
  uint32_t bits = float_to_bits(largest_below(high, static_cast<float*>(nullptr)));
  // Towards -inf: cutting the low bits lowers a positive number's magnitude; a negative number's must grow.
  if (bits >> 31 && (bits & 0xffff)) bits += 0x10000;
  return bits_to_float(bits & 0xffff0000u);
}

template <class T> void uniform(T* y, int64_t size, double low, double high, int64_t seed, int64_t stream) {
  const float start = static_cast<float>(low), width = static_cast<float>(high - low);
  const vf last = splat(largest_below(high, y));
  parallel_fours(size, [&](int64_t begin, int64_t end) {
    each_random_vector(begin, end, seed, stream, [&](int64_t i, vu words, auto span) {
      vf fraction = __builtin_convertvector((vi)(words >> 8), vf) * 0x1p-24f;
      store(y + i, min(fraction * width + start, last), span);
    });
  });
}

// Box and Muller: words (2j, 2j + 1) give a radius and an angle, whose cosine and sine are elements 2j and 2j + 1.
template <class T> void normal(T* y, int64_t size, double mean, double deviation, int64_t seed, int64_t stream) {
  const float centre = static_cast<float>(mean), spread = static_cast<float>(deviation);
  const vi odd = -(lane_numbers() & 1);
  parallel_fours(size, [&](int64_t begin, int64_t end) {
    each_random_vector(begin, end, seed, stream, [&](int64_t i, vu words, auto span) {
      vw pair = (vw)words;
      vu radius_words = (vu)((pair & 0xffffffffu) | (pair << 32)),
         angle_words = (vu)((pair >> 32) | (pair & ~vw{} << 32));
      // (word + 1) / 2^24 of the upper 24 bits is in (0, 1]; its logarithm is finite.
      vf uniform = __builtin_convertvector((vi)(radius_words >> 8) + 1, vf) * 0x1p-24f;
      vf turns = __builtin_convertvector((vi)(angle_words >> 8), vf) * 0x1p-24f;
      vf sine, cosine;
      sin_cos_turns(turns, sine, cosine);
      vf value = sqrt(-2.f * log(uniform)) * select(odd, sine, cosine);
      store(y + i, value * spread + centre, span);
    });
  });
}

}  // namespace

void random_uniform(Out y, double low, double high, int64_t seed, int64_t stream) {
  if (y.dtype == DType::f32) uniform(y.as<float>(), y.size, low, high, seed, stream);
  else uniform(y.as<bf16>(), y.size, low, high, seed, stream);
}

void random_normal(Out y, double mean, double deviation, int64_t seed, int64_t stream) {
  if (y.dtype == DType::f32) normal(y.as<float>(), y.size, mean, deviation, seed, stream);
  else normal(y.as<bf16>(), y.size, mean, deviation, seed, stream);
}

}  // namespace anneal::cpu::ANNEAL_ISA
