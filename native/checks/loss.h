// What several losses demand of their arguments. Internal linkage only.
#pragma once
#include <cmath>

#include "shape.h"

namespace anneal::checks {
namespace {

// One number per token.
[[maybe_unused]] static void check_per_token(const char* kernel, const char* name, const Tensor& x, int64_t tokens, DType dtype = DType::f32) {
  check_dtype(kernel, name, x, dtype);
  ANNEAL_CHECK(x.rank == 1 && x.size == tokens, "%s: %s must have shape [%lld], but has %s", kernel, name, static_cast<long long>(tokens), ShapeText(x).text);
}
[[maybe_unused]] static void check_temperature(const char* kernel, double temperature) {
  ANNEAL_CHECK(temperature > 0 && temperature < INFINITY, "%s: temperature must be positive, but is %g", kernel, temperature);
}

// An output layer: logits [tokens, vocabulary] = hidden · weightᵀ + bias.
struct Head {
  const char* kernel;
  const Tensor& hidden;
  const Tensor& weight;
  const Tensor* bias;
  int64_t tokens() const { return hidden.shape[0]; }
  int64_t vocabulary() const { return weight.shape[0]; }
};

[[maybe_unused]] static void check_head_bias(const Head& head, const char* name, const Tensor& bias) {
  ANNEAL_CHECK(bias.rank == 1 && bias.size == head.vocabulary(), "%s: %s must have shape [%lld], but has %s", head.kernel, name,
               static_cast<long long>(head.vocabulary()), ShapeText(bias).text);
}
[[maybe_unused]] static void check_head(const Head& head) {
  const auto& [kernel, hidden, weight, bias] = head;
  ANNEAL_CHECK(is_float(hidden.dtype) && is_float(weight.dtype), "%s: hidden and weight must be f32 or bf16, but are %s and %s", kernel, name_of(hidden.dtype),
               name_of(weight.dtype));
  ANNEAL_CHECK(hidden.rank == 2, "%s: hidden must have shape [tokens, width], but has %s", kernel, ShapeText(hidden).text);
  ANNEAL_CHECK(weight.rank == 2 && weight.shape[0] > 0 && weight.shape[1] == hidden.shape[1],
               "%s: weight must have shape [vocabulary, %lld], the width of hidden, but has %s", kernel, static_cast<long long>(hidden.shape[1]),
               ShapeText(weight).text);
  if (!bias) return;
  ANNEAL_CHECK(is_float(bias->dtype), "%s: bias must be f32 or bf16, but is %s", kernel, name_of(bias->dtype));
  check_head_bias(head, "bias", *bias);
}

// What a kernel writes a head's gradients to, each null where it is not wanted.
[[maybe_unused]] static void check_head_gradients(const Head& head, const Tensor* dhidden, const Tensor* dweight, const Tensor* dbias) {
  auto check_shape = [&](const char* name, const Tensor& gradient, const char* of_name, const Tensor& of) {
    ANNEAL_CHECK(same_shape(gradient, of), "%s: %s must have the shape of %s, %s, but has %s", head.kernel, name, of_name, ShapeText(of).text,
                 ShapeText(gradient).text);
  };
  if (dhidden) {
    ANNEAL_CHECK(is_float(dhidden->dtype), "%s: dhidden must be f32 or bf16, but is %s", head.kernel, name_of(dhidden->dtype));
    check_shape("dhidden", *dhidden, "hidden", head.hidden);
  }
  if (dweight) {
    check_dtype(head.kernel, "dweight", *dweight, DType::f32);
    check_shape("dweight", *dweight, "weight", head.weight);
  }
  if (dbias) {
    check_dtype(head.kernel, "dbias", *dbias, DType::f32);
    check_head_bias(head, "dbias", *dbias);
  }
}

}  // namespace
}  // namespace anneal::checks
