// The activation functions of operations.h and their slopes on vectors. tanh-GELU is x * sigmoid(2u), the same function as x / 2 * (1 + tanh(u)).
#pragma once
#include "../operations.h"
#include "simd.h"

namespace anneal::cpu {
namespace {

struct ValueAndSlope { vf value, slope; };

ANNEAL_INLINE vf gelu_tanh_inner(vf x) { return x * (1.5957691216057308f + 0.0713548162726f * (x * x)); }  // 2 sqrt(2 / pi) (x + 0.044715 x^3)

template <Activation kind> ANNEAL_INLINE vf activate(vf x) {
  if constexpr (kind == Activation::gelu) return 0.5f * x * (1.f + erf(x * 0.70710678118654752f));
  else if constexpr (kind == Activation::gelu_tanh) return x * sigmoid(gelu_tanh_inner(x));
  else if constexpr (kind == Activation::silu) return x * sigmoid(x);
  else if constexpr (kind == Activation::relu) return select((vi)(x <= 0.f), vf{}, x);
  else if constexpr (kind == Activation::tanh) return tanh(x);
  else if constexpr (kind == Activation::quick_gelu) return x * sigmoid(1.702f * x);
  else return x;
}

template <Activation kind> ANNEAL_INLINE ValueAndSlope activate_with_slope(vf x) {
  if constexpr (kind == Activation::gelu) {
    vf area = 0.5f * (1.f + erf(x * 0.70710678118654752f));
    vf density = 0.3989422804014327f * exp_low(x * x * -0.5f);
    return {x * area, area + x * density};
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
constexpr int64_t activation_count = 7;

}  // namespace
}  // namespace anneal::cpu
