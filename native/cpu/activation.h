// The activation functions of operations.h and their slopes on vectors. tanh-GELU is x * sigmoid(2u), the same function
// as x / 2 * (1 + tanh(u)). GELU needs the normal distribution's area and density, which share one exponential.
#pragma once
#include "../operations.h"
#include "simd.h"

namespace anneal::cpu {
namespace {

struct ValueAndSlope { vf value, slope; };

ANNEAL_INLINE vf gelu_tanh_inner(vf x) {
  return x * (1.5957691216057308f + 0.0713548162726f * (x * x));
}  // 2 sqrt(2 / pi) (x + 0.044715 x^3)

ANNEAL_INLINE vf bell(vf x) { return exp_low(x * x * -0.5f); }
// The area of the normal distribution below x, given bell(x): within 1e-7, and to 1e-6 of its own size far below zero.
// A fit of our own of area(-|x|) / bell(x) by a polynomial in t = 1 / (1 + 0.3 |x|).
ANNEAL_INLINE vf normal_area(vf x, vf bell_of_x) {
  vf t = 1.f / (1.f + 0.3f * abs(x));
  vf p = splat(3.5792499781e-2f);
  p = p * t + -1.5731619298e-1f;
  p = p * t + 2.0585605502e-1f;
  p = p * t + -5.2560750395e-2f;
  p = p * t + 1.2761121988e-1f;
  p = p * t + 1.0030638427e-1f;
  p = p * t + 1.2067550421e-1f;
  p = p * t + 1.1963529140e-1f;
  vf tail = p * t * bell_of_x;
  return select((vi)(x < 0.f), tail, 1.f - tail);
}

template <Activation kind> ANNEAL_INLINE vf activate(vf x) {
  if constexpr (kind == Activation::gelu) return x * normal_area(x, bell(x));
  else if constexpr (kind == Activation::gelu_tanh) return x * sigmoid(gelu_tanh_inner(x));
  else if constexpr (kind == Activation::silu) return x * sigmoid(x);
  else if constexpr (kind == Activation::relu) return select((vi)(x <= 0.f), vf{}, x);
  else if constexpr (kind == Activation::tanh) return tanh(x);
  else if constexpr (kind == Activation::quick_gelu) return x * sigmoid(1.702f * x);
  else return x;
}

template <Activation kind> ANNEAL_INLINE ValueAndSlope activate_with_slope(vf x) {
  if constexpr (kind == Activation::gelu) {
    vf e = bell(x), area = normal_area(x, e);
    return {x * area, area + x * 0.3989422804014327f * e};
  } else if constexpr (kind == Activation::gelu_tanh) {
    vf s = sigmoid(gelu_tanh_inner(x));
    vf inner_slope = 1.5957691216057308f + 0.2140644488178f * (x * x);
    return {x * s, s + x * s * (1.f - s) * inner_slope};
  } else if constexpr (kind == Activation::silu) {
    vf s = sigmoid(x);
    return {x * s, s + x * s * (1.f - s)};
  } else if constexpr (kind == Activation::relu) {
    return {activate<kind>(x), select((vi)(x > 0.f), splat(1), vf{})};
  } else if constexpr (kind == Activation::tanh) {
    vf t = tanh(x);
    return {t, 1.f - t * t};
  } else if constexpr (kind == Activation::quick_gelu) {
    vf s = sigmoid(1.702f * x);
    return {x * s, s + 1.702f * x * s * (1.f - s)};
  } else {
    return {x, splat(1)};
  }
}

template <Activation kind> struct ActivationKind { static constexpr Activation value = kind; };

// f(ActivationKind<activation>{}); an unknown number counts as none, so check it before.
template <class F> ANNEAL_INLINE void with_activation(int64_t activation, F&& f) {
  switch (static_cast<Activation>(activation)) {
    case Activation::gelu: f(ActivationKind<Activation::gelu>{}); break;
    case Activation::gelu_tanh: f(ActivationKind<Activation::gelu_tanh>{}); break;
    case Activation::silu: f(ActivationKind<Activation::silu>{}); break;
    case Activation::relu: f(ActivationKind<Activation::relu>{}); break;
    case Activation::tanh: f(ActivationKind<Activation::tanh>{}); break;
    case Activation::quick_gelu: f(ActivationKind<Activation::quick_gelu>{}); break;
    case Activation::none: f(ActivationKind<Activation::none>{}); break;
  }
}

}  // namespace
}  // namespace anneal::cpu
