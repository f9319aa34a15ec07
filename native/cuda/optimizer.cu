// The optimizer step: the gradient norm, the clip factor, AdamW and the count of bad values. AdamW is one pass over memory, in the order of operations
// of torch.optim.AdamW; the factor is read from device memory, so nothing waits for the norm. Sums run over blocks of a fixed size, then over those in
// order. Nothing is updated where the factor is NaN or an earlier kernel reported a fault. A model's parameters share a few launches.
#include <cmath>

#include "../kernels.h"
#include "elements.h"
#include "fault.h"
#include "tensor_table.h"

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

template <class T> struct Measured {
  const T* x;
  int64_t size;
  bool aligned;
};
template <class T> using MeasuredTable = TensorTable<Measured<T>, 3840>;

template <class Measure, class T> __global__ void __launch_bounds__(sum_threads) measure_kernel(typename Measure::Total* partial, MeasuredTable<T> table) {
  using Total = typename Measure::Total;
  constexpr int n = elements_per_thread<T>;
  ANNEAL_SHARED(Total, room, 32);
  const int entry = table.of(blockIdx.x);
  const T* x = table.at[entry].x;
  const int64_t size = table.at[entry].size;
  const bool aligned = table.at[entry].aligned;
  const int64_t begin = (blockIdx.x - table.first[entry]) * sum_block, end = begin + sum_block < size ? begin + sum_block : size;
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
  float gradient_weight;  // 1 - beta1
  float beta2, square_weight;
  float correction;  // sqrt(1 - beta2^step)
  float eps;
  const float* factor;  // may be null
};
template <class Gradient> struct AdamTensors {
  float *parameter, *first, *second;
  bf16* half;  // may be null
  const Gradient* gradient;
  int64_t size;
  float decay;      // 1 - learning_rate * weight_decay
  float step_size;  // learning_rate / (1 - beta1^step)
  bool aligned;
};
template <class Gradient> using AdamTable = TensorTable<AdamTensors<Gradient>, 3840>;
// torch.lerp: from the near end, so that a weight of 1 gives exactly the end.
ANNEAL_DEVICE void adam_element(const Adam& a, float decay, float step_size, float& p, float& m, float& v, float gradient, float factor) {
  const float g = gradient * factor;
  m = a.gradient_weight < 0.5f ? m + a.gradient_weight * (g - m) : g - (g - m) * (1 - a.gradient_weight);
  v = v * a.beta2 + a.square_weight * g * g;
  p = p * decay - step_size * m / (sqrtf(v) / a.correction + a.eps);
}
constexpr int adam_numbers = 4, adam_rounds = 4, adam_block = map_threads * adam_numbers * adam_rounds;
template <class Gradient> __global__ void __launch_bounds__(map_threads) adamw_kernel(AdamTable<Gradient> table, Adam a, const Fault* fault) {
  constexpr int n = adam_numbers;
  if (faulted(fault)) return;
  const float factor = a.factor ? *a.factor : 1.f;
  if (factor != factor) return;
  const int entry = table.of(blockIdx.x);
  const AdamTensors<Gradient> t = table.at[entry];
  const int64_t begin = int64_t{blockIdx.x - table.first[entry]} * adam_block, end = begin + adam_block < t.size ? begin + adam_block : t.size;
  for (int64_t first = begin + threadIdx.x * n; first < end; first += map_threads * n) {
    if (t.aligned && first + n <= end) {
      Elements<float, n> p = load_elements<n>(static_cast<const float*>(t.parameter) + first), m = load_elements<n>(static_cast<const float*>(t.first) + first),
                         v = load_elements<n>(static_cast<const float*>(t.second) + first);
      const Elements<Gradient, n> g = load_elements<n>(t.gradient + first);
      Elements<bf16, n> half;
#pragma unroll
      for (int k = 0; k < n; ++k) {
        adam_element(a, t.decay, t.step_size, p.at[k], m.at[k], v.at[k], to_float(g.at[k]), factor);
        half.at[k] = from_float<bf16>(p.at[k]);
      }
      store_elements(t.parameter + first, p);
      store_elements(t.first + first, m);
      store_elements(t.second + first, v);
      if (t.half) store_elements(t.half + first, half);
      continue;
    }
    for (int64_t i = first; i < first + n && i < end; ++i) {
      float p = t.parameter[i], m = t.first[i], v = t.second[i];
      adam_element(a, t.decay, t.step_size, p, m, v, to_float(t.gradient[i]), factor);
      t.parameter[i] = p;
      t.first[i] = m;
      t.second[i] = v;
      if (t.half) t.half[i] = from_float<bf16>(p);
    }
  }
}

namespace {

template <class Measure, class Y> void measure(const char* kernel, Y* y, const Tensors& x, bool accumulate) {
  using Total = typename Measure::Total;
  int64_t all = 0, done = 0;
  for (int64_t i = 0; i < x.count; ++i) all += ceil_div(x[i].size, sum_block);
  Total* partial = scratch_of<Total>(all);
  auto of_dtype = [&]<class T>(DType dtype, T) {
    each_table<MeasuredTable<T>>(
        x.count,
        [&](int64_t i, int64_t& blocks) {
          blocks = x[i].dtype == dtype ? ceil_div(x[i].size, sum_block) : 0;
          return Measured<T>{x[i].as<const T>(), x[i].size, is_aligned_to(16, x[i].data)};
        },
        [&](const MeasuredTable<T>& table) {
          launch(measure_kernel<Measure, T>, {dim3(table.blocks), dim3(sum_threads), 0, kernel}, partial + done, table);
          done += table.blocks;
        });
  };
  of_dtype(DType::f32, float{});
  of_dtype(DType::bf16, bf16{});
  launch(fold_kernel<Y, Total>, {dim3(1), dim3(fold_threads), 0, kernel}, y, partial, all, accumulate);
}

}  // namespace

void sum_squares(InOut y, Ins x, bool accumulate) {
  measure<Squares>("sum_squares", y.as<double>(), x, accumulate);
}

void count_non_finite(InOut y, In x, bool accumulate) {
  Tensor one = x;
  measure<NonFinite>("count_non_finite", y.as<int32_t>(), {&one, 1}, accumulate);
}

void clip_factor(Out y, In sum_squares, double max_norm) {
  launch(clip_factor_kernel, {dim3(1), dim3(1), 0, "clip_factor"}, y.as<float>(), sum_squares.as<const double>(), max_norm);
}

void adamw(InOuts parameter, InOuts first, InOuts second, Outs half_copy, Ins gradient, MaybeIn factor, Numbers learning_rate, double beta1, double beta2, double eps,
           Numbers weight_decay, int64_t step) {
  if (parameter.count == 0) return;
  const double correction1 = 1 - std::pow(beta1, static_cast<double>(step)), correction2 = 1 - std::pow(beta2, static_cast<double>(step));
  const Adam a = {static_cast<float>(1 - beta1), static_cast<float>(beta2), static_cast<float>(1 - beta2), static_cast<float>(std::sqrt(correction2)),
                  static_cast<float>(eps), factor ? factor->as<const float>() : nullptr};
  dispatch_float("adamw", gradient[0].dtype, [&](auto number) {
    using Gradient = decltype(number);
    using Table = AdamTable<Gradient>;
    each_table<Table>(
        parameter.count,
        [&](int64_t i, int64_t& blocks) {
          bf16* half = half_copy.count ? half_copy[i].as<bf16>() : nullptr;
          const bool aligned = is_aligned_to(16, parameter[i].data) && is_aligned_to(16, first[i].data) && is_aligned_to(16, second[i].data) &&
                               is_aligned_to(16, gradient[i].data) && is_aligned_to(8, half);
          blocks = ceil_div(parameter[i].size, adam_block);
          return AdamTensors<Gradient>{parameter[i].as<float>(), first[i].as<float>(), second[i].as<float>(), half, gradient[i].as<const Gradient>(), parameter[i].size,
                                       static_cast<float>(1 - learning_rate[i] * weight_decay[i]), static_cast<float>(learning_rate[i] / correction1), aligned};
        },
        [&](const Table& table) { launch(adamw_kernel<Gradient>, {dim3(table.blocks), dim3(map_threads), 0, "adamw"}, table, a, static_cast<const Fault*>(fault())); });
  });
}

}  // namespace anneal::cuda
