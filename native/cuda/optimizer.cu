// The optimizer step: the gradient norm, the clip factor, AdamW and the count of bad values. AdamW is one pass over memory, in the order of operations
// of torch.optim.AdamW; the factor is read from device memory, so nothing waits for the norm. Sums run over blocks of a fixed size, then over those in
// order. Nothing is updated where the factor is NaN or an earlier kernel reported a fault.
#include <cmath>

#include "../kernels.h"
#include "../shape.h"
#include "elements.h"
#include "fault.h"

namespace anneal::cuda {

constexpr int sum_threads = 256, fold_threads = 1024;
constexpr int64_t sum_block = 65536;  // elements, one partial sum each

// What of an element is summed: in f32 over the elements of a thread, then in Total.
struct Squares {
  using Total = double;
  using Part = float;
  ANNEAL_DEVICE static float of(float x) { return x * x; }
};
struct NonFinite {
  using Total = int64_t;
  using Part = int32_t;
  ANNEAL_DEVICE static int32_t of(float x) { return (__float_as_uint(x) & 0x7f800000u) == 0x7f800000u; }
};

template <class Measure, class T> __global__ void __launch_bounds__(sum_threads) measure_kernel(typename Measure::Total* partial, const T* x, int64_t size, bool aligned) {
  using Total = typename Measure::Total;
  constexpr int n = elements_per_thread<T>;
  ANNEAL_SHARED(Total, room, 32);
  const int64_t begin = blockIdx.x * sum_block, end = begin + sum_block < size ? begin + sum_block : size;
  typename Measure::Part part[n] = {};
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * n; i < end; i += sum_threads * n) {
    if (aligned && i + n <= end) {
      const Elements<T, n> v = load_elements<n>(x + i);
#pragma unroll
      for (int k = 0; k < n; ++k) part[k] += Measure::of(to_float(v.at[k]));
    } else {
#pragma unroll
      for (int k = 0; k < n; ++k)
        if (i + k < end) part[k] += Measure::of(to_float(x[i + k]));
    }
  }
  Total total = 0;
#pragma unroll
  for (int k = 0; k < n; ++k) total += static_cast<Total>(part[k]);
  total = block_reduce<Sum>(total, room);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// y = (accumulate ? y : 0) + the sum of the partials, in an order that depends on their number only; an i32 saturates.
template <class Y, class Total> __global__ void __launch_bounds__(fold_threads) fold_kernel(Y* y, const Total* partial, int64_t count, bool accumulate) {
  ANNEAL_SHARED(Total, room, 32);
  Total total = 0;
  for (int64_t i = threadIdx.x; i < count; i += fold_threads) total += partial[i];
  total = block_reduce<Sum>(total, room);
  if (threadIdx.x != 0) return;
  if (accumulate) total += *y;
  if constexpr (sizeof(Y) == 4) *y = static_cast<Y>(total < INT32_MAX ? total : INT32_MAX);
  else *y = total;
}

__global__ void clip_factor_kernel(float* y, const double* sum_squares, double max_norm) {
  const double norm = sqrt(*sum_squares);
  double factor = 1;
  if (!(norm < INFINITY)) factor = NAN;
  else if (max_norm > 0 && max_norm < norm + 1e-6) factor = max_norm / (norm + 1e-6);
  y[0] = static_cast<float>(factor);
  y[1] = static_cast<float>(norm);
}

struct Adam {
  float decay;            // 1 - learning_rate * weight_decay
  float step_size;        // learning_rate / (1 - beta1^step)
  float gradient_weight;  // 1 - beta1
  float beta2, square_weight;
  float correction;  // sqrt(1 - beta2^step)
  float eps;
};
template <class Gradient> struct AdamTensors {
  float *parameter, *first, *second;
  bf16* half;  // may be null
  const Gradient* gradient;
  const float* factor;  // may be null
  int64_t size;
  bool aligned;
};
// torch.lerp: from the near end, so that a weight of 1 gives exactly the end.
ANNEAL_DEVICE void adam_element(const Adam& a, float& p, float& m, float& v, float gradient, float factor) {
  const float g = gradient * factor;
  m = a.gradient_weight < 0.5f ? m + a.gradient_weight * (g - m) : g - (g - m) * (1 - a.gradient_weight);
  v = v * a.beta2 + a.square_weight * g * g;
  p = p * a.decay - a.step_size * m / (sqrtf(v) / a.correction + a.eps);
}
template <class Gradient> __global__ void __launch_bounds__(map_threads) adamw_kernel(AdamTensors<Gradient> t, Adam a, const Fault* fault) {
  constexpr int n = 4;
  if (faulted(fault)) return;
  const float factor = t.factor ? *t.factor : 1.f;
  if (factor != factor) return;
  const int64_t first = (int64_t{blockIdx.x} * map_threads + threadIdx.x) * n;
  if (t.aligned && first + n <= t.size) {
    Elements<float, n> p = load_elements<n>(static_cast<const float*>(t.parameter) + first), m = load_elements<n>(static_cast<const float*>(t.first) + first),
                       v = load_elements<n>(static_cast<const float*>(t.second) + first);
    const Elements<Gradient, n> g = load_elements<n>(t.gradient + first);
    Elements<bf16, n> half;
#pragma unroll
    for (int k = 0; k < n; ++k) {
      adam_element(a, p.at[k], m.at[k], v.at[k], to_float(g.at[k]), factor);
      half.at[k] = from_float<bf16>(p.at[k]);
    }
    store_elements(t.parameter + first, p);
    store_elements(t.first + first, m);
    store_elements(t.second + first, v);
    if (t.half) store_elements(t.half + first, half);
    return;
  }
  for (int64_t i = first; i < first + n && i < t.size; ++i) {
    float p = t.parameter[i], m = t.first[i], v = t.second[i];
    adam_element(a, p, m, v, to_float(t.gradient[i]), factor);
    t.parameter[i] = p;
    t.first[i] = m;
    t.second[i] = v;
    if (t.half) t.half[i] = from_float<bf16>(p);
  }
}

namespace {

void check_one(const char* kernel, const char* name, const Tensor& tensor, DType dtype) {
  check_dtype(kernel, name, tensor, dtype);
  ANNEAL_CHECK(tensor.size == 1, "%s: %s must have one element, but has shape %s", kernel, name, ShapeText(tensor).text);
}

template <class Measure, class Y> void measure(const char* kernel, Y* y, const Tensor& x, bool accumulate) {
  using Total = typename Measure::Total;
  const int64_t blocks = ceil_div(x.size, sum_block);
  Total* partial = scratch_of<Total>(blocks);
  dispatch_float(kernel, x.dtype, [&](auto number) {
    using T = decltype(number);
    launch(measure_kernel<Measure, T>, {dim3(static_cast<unsigned>(blocks)), dim3(sum_threads), 0, kernel}, partial, x.as<const T>(), x.size, is_aligned_to(16, x.data));
  });
  launch(fold_kernel<Y, Total>, {dim3(1), dim3(fold_threads), 0, kernel}, y, partial, blocks, accumulate);
}

void check_state(const char* name, const Tensor& tensor, const Tensor& parameter, bool is_state) {
  if (is_state) check_dtype("adamw", name, tensor, DType::f32);
  ANNEAL_CHECK(tensor.size == parameter.size, "adamw: %s must have as many elements as parameter, %lld, but has shape %s", name,
               static_cast<long long>(parameter.size), ShapeText(tensor).text);
}

}  // namespace

void sum_squares(InOut y, In x, bool accumulate) {
  check_one("sum_squares", "y", y, DType::f64);
  ANNEAL_CHECK(is_float(x.dtype), "sum_squares: x must be f32 or bf16, but is %s", name_of(x.dtype));
  measure<Squares>("sum_squares", y.as<double>(), x, accumulate);
}

void count_non_finite(InOut y, In x, bool accumulate) {
  check_one("count_non_finite", "y", y, DType::i32);
  ANNEAL_CHECK(is_float(x.dtype), "count_non_finite: x must be f32 or bf16, but is %s", name_of(x.dtype));
  measure<NonFinite>("count_non_finite", y.as<int32_t>(), x, accumulate);
}

void clip_factor(Out y, In sum_squares, double max_norm) {
  check_dtype("clip_factor", "y", y, DType::f32);
  ANNEAL_CHECK(y.size == 2, "clip_factor: y must have two elements, but has shape %s", ShapeText(y).text);
  check_one("clip_factor", "sum_squares", sum_squares, DType::f64);
  launch(clip_factor_kernel, {dim3(1), dim3(1), 0, "clip_factor"}, y.as<float>(), sum_squares.as<const double>(), max_norm);
}

void adamw(InOut parameter, InOut first, InOut second, MaybeOut half_copy, In gradient, MaybeIn factor, double learning_rate, double beta1, double beta2, double eps,
           double weight_decay, int64_t step) {
  check_state("parameter", parameter, parameter, true);
  check_state("first", first, parameter, true);
  check_state("second", second, parameter, true);
  check_state("gradient", gradient, parameter, false);
  ANNEAL_CHECK(is_float(gradient.dtype), "adamw: gradient must be f32 or bf16, but is %s", name_of(gradient.dtype));
  if (half_copy) {
    check_state("half_copy", *half_copy, parameter, false);
    check_dtype("adamw", "half_copy", *half_copy, DType::bf16);
  }
  if (factor) {
    check_dtype("adamw", "factor", *factor, DType::f32);
    ANNEAL_CHECK(factor->size >= 1, "adamw: factor must have at least one element, but has shape %s", ShapeText(*factor).text);
  }
  ANNEAL_CHECK(step >= 1, "adamw: step must count from 1, but is %lld", static_cast<long long>(step));
  const double correction1 = 1 - std::pow(beta1, static_cast<double>(step)), correction2 = 1 - std::pow(beta2, static_cast<double>(step));
  const Adam a = {static_cast<float>(1 - learning_rate * weight_decay), static_cast<float>(learning_rate / correction1), static_cast<float>(1 - beta1),
                  static_cast<float>(beta2), static_cast<float>(1 - beta2), static_cast<float>(std::sqrt(correction2)), static_cast<float>(eps)};
  const bool aligned = is_aligned_to(16, parameter.data) && is_aligned_to(16, first.data) && is_aligned_to(16, second.data) && is_aligned_to(16, gradient.data) &&
                       (!half_copy || is_aligned_to(8, half_copy->data));
  dispatch_float("adamw", gradient.dtype, [&](auto number) {
    using Gradient = decltype(number);
    const AdamTensors<Gradient> tensors = {parameter.as<float>(), first.as<float>(), second.as<float>(), half_copy ? half_copy->as<bf16>() : nullptr,
                                           gradient.as<const Gradient>(), factor ? factor->as<const float>() : nullptr, parameter.size, aligned};
    launch(adamw_kernel<Gradient>, {blocks_of(ceil_div(parameter.size, 4)), dim3(map_threads), 0, "adamw"}, tensors, a, static_cast<const Fault*>(fault()));
  });
}

}  // namespace anneal::cuda
