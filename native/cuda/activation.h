// The activation functions of operations.h and their slopes, in f32. tanh-GELU is x * sigmoid(2u), the same function as x / 2 * (1 + tanh(u)). GELU
// needs the normal distribution's area and density, which share one exponential; the fit is that of the CPU.
#pragma once
#include "../operations.h"
#include "simt.h"

namespace anneal::cuda {

constexpr int64_t activation_count = 7;

struct ValueAndSlope {
  float value, slope;
};

ANNEAL_DEVICE float exp_fast(float x) { return exp2_fast(x * 1.4426950408889634f); }
ANNEAL_DEVICE float sigmoid(float x) { return __fdividef(1.f, 1.f + exp_fast(-x)); }
// 2 sqrt(2 / pi) (x + 0.044715 x^3)
ANNEAL_DEVICE float gelu_tanh_inner(float x) { return x * (1.5957691216057308f + 0.0713548162726f * (x * x)); }
ANNEAL_DEVICE float bell(float x) { return exp_fast(x * x * -0.5f); }
// The area of the normal distribution below x, given bell(x): within 1e-7, and to 1e-6 of its own size far below zero.
ANNEAL_DEVICE float normal_area(float x, float bell_of_x) {
  const float t = __fdividef(1.f, 1.f + 0.3f * fabsf(x));
  float p = 3.5792499781e-2f;
  p = fmaf(p, t, -1.5731619298e-1f);
  p = fmaf(p, t, 2.0585605502e-1f);
  p = fmaf(p, t, -5.2560750395e-2f);
  p = fmaf(p, t, 1.2761121988e-1f);
  p = fmaf(p, t, 1.0030638427e-1f);
  p = fmaf(p, t, 1.2067550421e-1f);
  p = fmaf(p, t, 1.1963529140e-1f);
  const float tail = p * t * bell_of_x;
  return x < 0 ? tail : 1.f - tail;
}

template <Activation kind> ANNEAL_DEVICE float activate(float x) {
  if constexpr (kind == Activation::gelu) return x * normal_area(x, bell(x));
  else if constexpr (kind == Activation::gelu_tanh) return x * sigmoid(gelu_tanh_inner(x));
  else if constexpr (kind == Activation::silu) return x * sigmoid(x);
  else if constexpr (kind == Activation::relu) return x <= 0 ? 0.f : x;
  else if constexpr (kind == Activation::tanh) return tanhf(x);
  else if constexpr (kind == Activation::quick_gelu) return x * sigmoid(1.702f * x);
  else return x;
}

template <Activation kind> ANNEAL_DEVICE ValueAndSlope activate_with_slope(float x) {
  if constexpr (kind == Activation::gelu) {
    const float e = bell(x), area = normal_area(x, e);
    return {x * area, area + x * 0.3989422804014327f * e};
  } else if constexpr (kind == Activation::gelu_tanh) {
    const float s = sigmoid(gelu_tanh_inner(x));
    return {x * s, s + x * s * (1.f - s) * (1.5957691216057308f + 0.2140644488178f * (x * x))};
  } else if constexpr (kind == Activation::silu) {
    const float s = sigmoid(x);
    return {x * s, s + x * s * (1.f - s)};
  } else if constexpr (kind == Activation::relu) {
    return {activate<kind>(x), x > 0 ? 1.f : 0.f};
  } else if constexpr (kind == Activation::tanh) {
    const float t = tanhf(x);
    return {t, 1.f - t * t};
  } else if constexpr (kind == Activation::quick_gelu) {
    const float s = sigmoid(1.702f * x);
    return {x * s, s + 1.702f * x * s * (1.f - s)};
  } else {
    return {x, 1.f};
  }
}

// x[i] = f(x[i]) with the activation chosen once for all `count` numbers; an unknown number counts as none, so check it before.
template <int count> ANNEAL_DEVICE void activate_all(float (&x)[count], Activation kind) {
#define ANNEAL_CASE(name)                                                     \
  case Activation::name:                                                      \
    _Pragma("unroll") for (int i = 0; i < count; ++i) x[i] = activate<Activation::name>(x[i]); \
    break
  switch (kind) {
    ANNEAL_CASE(gelu);
    ANNEAL_CASE(gelu_tanh);
    ANNEAL_CASE(silu);
    ANNEAL_CASE(relu);
    ANNEAL_CASE(tanh);
    ANNEAL_CASE(quick_gelu);
    default: break;
  }
#undef ANNEAL_CASE
}
// The same, leaving f(x[i]) in x and its slope in `slope`.
template <int count> ANNEAL_DEVICE void activate_all_with_slope(float (&x)[count], float (&slope)[count], Activation kind) {
#define ANNEAL_CASE(name)                                                                      \
  case Activation::name:                                                                       \
    _Pragma("unroll") for (int i = 0; i < count; ++i) {                                        \
      const ValueAndSlope activated = activate_with_slope<Activation::name>(x[i]);             \
      x[i] = activated.value;                                                                  \
      slope[i] = activated.slope;                                                              \
    }                                                                                          \
    break
  switch (kind) {
    ANNEAL_CASE(gelu);
    ANNEAL_CASE(gelu_tanh);
    ANNEAL_CASE(silu);
    ANNEAL_CASE(relu);
    ANNEAL_CASE(tanh);
    ANNEAL_CASE(quick_gelu);
    default: ANNEAL_CASE(none);
  }
#undef ANNEAL_CASE
}

}  // namespace anneal::cuda
