// What the kernels of an optimizer step demand.
#include "../checks.h"
#include "shape.h"

namespace anneal::checks {
namespace {

// Numbers of a parameter that share a scale of its moments, in adamw_8bit.
constexpr int64_t numbers_per_scale = 256;

void check_one(const char* kernel, const char* name, const Tensor& x, DType dtype) {
  check_dtype(kernel, name, x, dtype);
  ANNEAL_CHECK(x.size == 1, "%s: %s must have one element, but has shape %s", kernel, name, ShapeText(x).text);
}

void check_count(const char* kernel, const char* name, const Tensors& list, const Tensors& parameter) {
  ANNEAL_CHECK(list.count == parameter.count, "%s: %s must have %lld tensors, one for each parameter, but has %lld", kernel, name,
               static_cast<long long>(parameter.count), static_cast<long long>(list.count));
}
// A tensor for each parameter, of its size and of `dtype`.
void check_list(const char* kernel, const char* name, const Tensors& list, const Tensors& parameter, DType dtype) {
  check_count(kernel, name, list, parameter);
  for (int64_t i = 0; i < list.count; ++i) {
    check_dtype(kernel, name, list[i], dtype);
    ANNEAL_CHECK(list[i].size == parameter[i].size, "%s: %s[%lld] must have as many elements as parameter, %lld, but has shape %s", kernel, name,
                 static_cast<long long>(i), static_cast<long long>(parameter[i].size), ShapeText(list[i]).text);
  }
}
// A scale for each block of each parameter.
void check_scales(const char* name, const Tensors& scales, const Tensors& parameter) {
  check_count("adamw_8bit", name, scales, parameter);
  for (int64_t i = 0; i < scales.count; ++i) {
    const int64_t blocks = (parameter[i].size + numbers_per_scale - 1) / numbers_per_scale;
    check_dtype("adamw_8bit", name, scales[i], DType::f32);
    ANNEAL_CHECK(scales[i].size == blocks, "adamw_8bit: %s[%lld] must have %lld elements, but has shape %s", name, static_cast<long long>(i),
                 static_cast<long long>(blocks), ShapeText(scales[i]).text);
  }
}

// What both AdamW kernels take; a gradient's dtype is its own.
void check_adamw(const char* kernel, const Tensors& parameter, const Tensors& first, const Tensors& second, DType moment, const Tensors& half_copy,
                 const Tensors& gradient, const Tensor* factor, const Numbers& learning_rate, const Numbers& weight_decay, int64_t step) {
  if (gradient.count > 0) ANNEAL_CHECK(is_float(gradient[0].dtype), "%s: gradient must be f32 or bf16, but is %s", kernel, name_of(gradient[0].dtype));
  check_list(kernel, "gradient", gradient, parameter, gradient.count > 0 ? gradient[0].dtype : DType::f32);
  if (half_copy.count > 0) check_list(kernel, "half_copy", half_copy, parameter, DType::bf16);
  check_list(kernel, "first", first, parameter, moment);
  check_list(kernel, "second", second, parameter, moment);
  ANNEAL_CHECK(learning_rate.count == parameter.count && weight_decay.count == parameter.count,
               "%s: learning_rate and weight_decay must have %lld numbers, one for each parameter, but have %lld and %lld", kernel,
               static_cast<long long>(parameter.count), static_cast<long long>(learning_rate.count), static_cast<long long>(weight_decay.count));
  if (factor) {
    check_dtype(kernel, "factor", *factor, DType::f32);
    ANNEAL_CHECK(factor->size >= 1, "%s: factor must have at least one element, but has shape %s", kernel, ShapeText(*factor).text);
  }
  ANNEAL_CHECK(step >= 1, "%s: step must count from 1, but is %lld", kernel, static_cast<long long>(step));
}

}  // namespace

void sum_squares(InOut y, Ins x, bool) {
  check_one("sum_squares", "y", y, DType::f64);
  for (int64_t i = 0; i < x.count; ++i)
    ANNEAL_CHECK(is_float(x[i].dtype), "sum_squares: x[%lld] must be f32 or bf16, but is %s", static_cast<long long>(i), name_of(x[i].dtype));
}

void count_non_finite(InOut y, In x, bool) {
  check_one("count_non_finite", "y", y, DType::i32);
  ANNEAL_CHECK(is_float(x.dtype), "count_non_finite: x must be f32 or bf16, but is %s", name_of(x.dtype));
}

void clip_factor(Out y, In sum_squares, double) {
  check_dtype("clip_factor", "y", y, DType::f32);
  ANNEAL_CHECK(y.size == 2, "clip_factor: y must have two elements, but has shape %s", ShapeText(y).text);
  check_one("clip_factor", "sum_squares", sum_squares, DType::f64);
}

void adamw(InOuts parameter, InOuts first, InOuts second, Outs half_copy, Ins gradient, MaybeIn factor, Numbers learning_rate, double, double, double,
           Numbers weight_decay, int64_t step) {
  for (int64_t i = 0; i < parameter.count; ++i) check_dtype("adamw", "parameter", parameter[i], DType::f32);
  check_adamw("adamw", parameter, first, second, DType::f32, half_copy, gradient, factor, learning_rate, weight_decay, step);
}

void adamw_8bit(InOuts parameter, InOuts first, InOuts second, InOuts first_scale, InOuts second_scale, Outs half_copy, Ins gradient, MaybeIn factor,
                Numbers learning_rate, double, double, double, Numbers weight_decay, int64_t step) {
  for (int64_t i = 0; i < parameter.count; ++i) {
    ANNEAL_CHECK(is_float(parameter[i].dtype), "adamw_8bit: parameter must be f32 or bf16, but is %s", name_of(parameter[i].dtype));
    check_dtype("adamw_8bit", "parameter", parameter[i], parameter[0].dtype);
  }
  check_adamw("adamw_8bit", parameter, first, second, DType::u8, half_copy, gradient, factor, learning_rate, weight_decay, step);
  check_scales("first_scale", first_scale, parameter);
  check_scales("second_scale", second_scale, parameter);
}

}  // namespace anneal::checks
