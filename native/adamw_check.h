// What the two AdamW kernels demand of their lists; for the launchers of every backend. Internal linkage only.
#pragma once
#include "shape.h"

namespace anneal {
namespace {

// A tensor for each parameter, of its size and of `dtype`.
[[maybe_unused]] static void check_list(const char* kernel, const char* name, const Tensors& list, const Tensors& parameter, DType dtype) {
  ANNEAL_CHECK(list.count == parameter.count, "%s: %s must have %lld tensors, one for each parameter, but has %lld", kernel, name,
               static_cast<long long>(parameter.count), static_cast<long long>(list.count));
  for (int64_t i = 0; i < list.count; ++i) {
    check_dtype(kernel, name, list[i], dtype);
    ANNEAL_CHECK(list[i].size == parameter[i].size, "%s: %s[%lld] must have as many elements as parameter, %lld, but has shape %s", kernel, name,
                 static_cast<long long>(i), static_cast<long long>(parameter[i].size), ShapeText(list[i]).text);
  }
}

[[maybe_unused]] static void check_adamw(const char* kernel, const Tensors& parameter, const Tensors& gradient, const Tensors& half_copy, const Tensor* factor,
                                         const Numbers& learning_rate, const Numbers& weight_decay, int64_t step) {
  if (parameter.count > 0) {
    ANNEAL_CHECK(is_float(parameter[0].dtype), "%s: parameter must be f32 or bf16, but is %s", kernel, name_of(parameter[0].dtype));
    for (int64_t i = 1; i < parameter.count; ++i) check_dtype(kernel, "parameter", parameter[i], parameter[0].dtype);
  }
  if (gradient.count > 0) {
    ANNEAL_CHECK(is_float(gradient[0].dtype), "%s: gradient must be f32 or bf16, but is %s", kernel, name_of(gradient[0].dtype));
    check_list(kernel, "gradient", gradient, parameter, gradient[0].dtype);
  }
  ANNEAL_CHECK(gradient.count == parameter.count, "%s: gradient must have %lld tensors, one for each parameter, but has %lld", kernel,
               static_cast<long long>(parameter.count), static_cast<long long>(gradient.count));
  if (half_copy.count > 0) check_list(kernel, "half_copy", half_copy, parameter, DType::bf16);
  ANNEAL_CHECK(learning_rate.count == parameter.count && weight_decay.count == parameter.count,
               "%s: learning_rate and weight_decay must have %lld numbers, one for each parameter, but have %lld and %lld", kernel,
               static_cast<long long>(parameter.count), static_cast<long long>(learning_rate.count), static_cast<long long>(weight_decay.count));
  if (factor) {
    check_dtype(kernel, "factor", *factor, DType::f32);
    ANNEAL_CHECK(factor->size >= 1, "%s: factor must have at least one element, but has shape %s", kernel, ShapeText(*factor).text);
  }
  ANNEAL_CHECK(step >= 1, "%s: step must count from 1, but is %lld", kernel, static_cast<long long>(step));
}

// adamw_8bit's scales: one for each `block` numbers of a parameter.
[[maybe_unused]] static void check_scales(const char* name, const Tensors& scales, const Tensors& parameter, int64_t block) {
  ANNEAL_CHECK(scales.count == parameter.count, "adamw_8bit: %s must have %lld tensors, one for each parameter, but has %lld", name,
               static_cast<long long>(parameter.count), static_cast<long long>(scales.count));
  for (int64_t i = 0; i < scales.count; ++i) {
    const int64_t blocks = (parameter[i].size + block - 1) / block;
    check_dtype("adamw_8bit", name, scales[i], DType::f32);
    ANNEAL_CHECK(scales[i].size == blocks, "adamw_8bit: %s[%lld] must have %lld elements, but has shape %s", name, static_cast<long long>(i),
                 static_cast<long long>(blocks), ShapeText(scales[i]).text);
  }
}

}  // namespace
}  // namespace anneal
