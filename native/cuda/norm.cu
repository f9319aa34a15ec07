// RMSNorm and LayerNorm over the last axis, with the residual addition in front of them folded in. One template serves both: RMSNorm is LayerNorm with a
// mean of 0. Statistics are taken from the stored (rounded) sum, because that is what the backward will read. A row up to 8192 wide is read once and stays
// in registers, 32 numbers a thread, so that a row of up to 1024 is one warp's; longer ones are read again.
#include "norm.h"

namespace anneal::cuda {

constexpr int norm_threads = 256, norm_numbers = 32, norm_few_numbers = 8, norm_warps = 4;

struct NormArguments {
  void *y, *sum;
  const void *x, *residual;
  float *mean, *rstd;
  ColumnNumbers weight, bias;
  int64_t rows;
  int columns;
  float inverse_columns, eps;
};

// The rows of a block are threadIdx.y's; numbers: how many of a row a thread keeps.
template <class T, bool layer, int numbers, bool aligned> __global__ void __launch_bounds__(norm_threads) norm_kernel(NormArguments a) {
  constexpr int length = vector_length<T>, pieces = numbers / length;
  ANNEAL_SHARED(float, room, 2 * 32);
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= a.rows) return;
  const int n = a.columns, first = threadIdx.x * length, step = blockDim.x * length;
  const T* x = static_cast<const T*>(a.x) + row * n;
  float v[pieces][length];
#pragma unroll
  for (int p = 0; p < pieces; ++p) load_row_piece<aligned>(v[p], x, first + p * step, n);
  if (a.sum) {
    if (a.residual) {
      const T* residual = static_cast<const T*>(a.residual) + row * n;
      float other[pieces][length];
#pragma unroll
      for (int p = 0; p < pieces; ++p) load_row_piece<aligned>(other[p], residual, first + p * step, n);
#pragma unroll
      for (int p = 0; p < pieces; ++p)
#pragma unroll
        for (int i = 0; i < length; ++i) v[p][i] = rounded<T>(v[p][i] + other[p][i]);
    }
    T* sum = static_cast<T*>(a.sum) + row * n;
#pragma unroll
    for (int p = 0; p < pieces; ++p) store_row_piece<aligned>(sum, v[p], first + p * step, n);
  }

  float mean = 0;
  if constexpr (layer) {
    float total[1] = {};
#pragma unroll
    for (int p = 0; p < pieces; ++p)
#pragma unroll
      for (int i = 0; i < length; ++i) total[0] += v[p][i];
    row_sums(total, room);
    mean = total[0] * a.inverse_columns;
  }
  float squares[1] = {};
#pragma unroll
  for (int p = 0; p < pieces; ++p)
#pragma unroll
    for (int i = 0; i < length; ++i) {
      if constexpr (layer) v[p][i] = first + p * step + (aligned ? 0 : i) < n ? v[p][i] - mean : 0.f;
      squares[0] = fmaf(v[p][i], v[p][i], squares[0]);
    }
  row_sums(squares, room + 32);
  const float rstd = rsqrtf(fmaf(squares[0], a.inverse_columns, a.eps));
  if (threadIdx.x == 0) {
    if constexpr (layer) a.mean[row] = mean;
    a.rstd[row] = rstd;
  }

  T* y = static_cast<T*>(a.y) + row * n;
#pragma unroll
  for (int p = 0; p < pieces; ++p) {
    const int at = first + p * step;
    float weight[length];
    load_columns<aligned>(weight, a.weight, at, n);
#pragma unroll
    for (int i = 0; i < length; ++i) v[p][i] *= rstd * weight[i];
    if (layer && a.bias.data) {
      load_columns<aligned>(weight, a.bias, at, n);
#pragma unroll
      for (int i = 0; i < length; ++i) v[p][i] += weight[i];
    }
    store_row_piece<aligned>(y, v[p], at, n);
  }
}

// A block per row of any length.
template <class T, bool layer, bool aligned> __global__ void __launch_bounds__(norm_threads) norm_wide_kernel(NormArguments a) {
  constexpr int length = vector_length<T>;
  ANNEAL_SHARED(float, room, 2 * 32);
  const int64_t row = blockIdx.x;
  const int n = a.columns, first = threadIdx.x * length, step = norm_threads * length;
  const T* x = static_cast<const T*>(a.x) + row * n;
  float total[1] = {};
  if (a.sum) {
    const T* residual = a.residual ? static_cast<const T*>(a.residual) + row * n : nullptr;
    T* sum = static_cast<T*>(a.sum) + row * n;
    for (int at = first; at < n; at += step) {
      float v[length];
      load_row_piece<aligned>(v, x, at, n);
      if (residual) {
        float other[length];
        load_row_piece<aligned>(other, residual, at, n);
#pragma unroll
        for (int i = 0; i < length; ++i) v[i] += other[i];
      }
      store_row_piece<aligned>(sum, v, at, n);
    }
    x = sum;  // each thread reads what it wrote itself
  }
  float mean = 0;
  if constexpr (layer) {
    for (int at = first; at < n; at += step) {
      float v[length];
      load_row_piece<aligned>(v, x, at, n);
#pragma unroll
      for (int i = 0; i < length; ++i) total[0] += v[i];
    }
    row_sums(total, room);
    mean = total[0] * a.inverse_columns;
  }
  float squares[1] = {};
  for (int at = first; at < n; at += step) {
    float v[length];
    load_row_piece<aligned>(v, x, at, n);
#pragma unroll
    for (int i = 0; i < length; ++i) {
      const float centred = at + i < n ? v[i] - mean : 0.f;
      squares[0] = fmaf(centred, centred, squares[0]);
    }
  }
  row_sums(squares, room + 32);
  const float rstd = rsqrtf(fmaf(squares[0], a.inverse_columns, a.eps));
  if (threadIdx.x == 0) {
    if constexpr (layer) a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
  T* y = static_cast<T*>(a.y) + row * n;
  for (int at = first; at < n; at += step) {
    float v[length], weight[length], bias[length] = {};
    load_row_piece<aligned>(v, x, at, n);
    load_columns<aligned>(weight, a.weight, at, n);
    if (layer && a.bias.data) load_columns<aligned>(bias, a.bias, at, n);
#pragma unroll
    for (int i = 0; i < length; ++i) v[i] = fmaf(v[i] - mean, rstd * weight[i], bias[i]);
    store_row_piece<aligned>(y, v, at, n);
  }
}

namespace {

template <class T, bool layer, bool aligned> void run(const char* kernel, const NormArguments& a) {
  const int n = a.columns;
  auto warps = [&](auto function) { launch(function, {dim3(static_cast<unsigned>(ceil_div(a.rows, norm_warps))), dim3(32, norm_warps), 0, kernel}, a); };
  if (n <= 32 * norm_few_numbers) return warps(norm_kernel<T, layer, norm_few_numbers, aligned>);
  if (n <= 32 * norm_numbers) return warps(norm_kernel<T, layer, norm_numbers, aligned>);
  const dim3 rows(static_cast<unsigned>(a.rows));
  if (n > norm_register_width) return launch(norm_wide_kernel<T, layer, aligned>, {rows, dim3(norm_threads), 0, kernel}, a);
  launch(norm_kernel<T, layer, norm_numbers, aligned>, {rows, dim3(static_cast<unsigned>(ceil_div(n, 32 * norm_numbers) * 32)), 0, kernel}, a);
}

template <bool layer>
void forward(const char* kernel, Out y, Tensor* mean, Out rstd, MaybeOut sum, In x, MaybeIn residual, In weight, MaybeIn bias, double eps, double offset) {
  check_x(kernel, x);
  check_like_x(kernel, "y", &y, x);
  check_like_x(kernel, "sum", sum, x);
  check_like_x(kernel, "residual", residual, x);
  ANNEAL_CHECK(!residual || sum, "%s: sum is required where residual is given", kernel);
  check_per_column(kernel, "weight", &weight, x);
  check_per_column(kernel, "bias", bias, x);
  if (mean) check_per_row(kernel, "mean", *mean, x);
  check_per_row(kernel, "rstd", rstd, x);
  if (x.size == 0) return;
  auto data = [](const Tensor* tensor) { return tensor ? tensor->data : nullptr; };
  const NormArguments a = {y.data, data(sum), x.data, data(residual), mean ? mean->as<float>() : nullptr, rstd.as<float>(),
                           {weight.data, weight.dtype == DType::bf16, static_cast<float>(offset)}, {data(bias), bias && bias->dtype == DType::bf16, 0},
                           x.rows(), static_cast<int>(x.columns()), static_cast<float>(1.0 / static_cast<double>(x.columns())), static_cast<float>(eps)};
  dispatch_float(kernel, x.dtype, [&](auto number) {
    using T = decltype(number);
    const bool aligned = a.columns % vector_length<T> == 0 && on_16_bytes(a.y) && on_16_bytes(a.sum) && on_16_bytes(a.x) && on_16_bytes(a.residual) &&
                         on_16_bytes(a.weight.data) && on_16_bytes(a.bias.data);
    if (aligned) run<T, layer, true>(kernel, a);
    else run<T, layer, false>(kernel, a);
  });
}

}  // namespace

void rms_norm(Out y, Out rstd, MaybeOut sum, In x, MaybeIn residual, In weight, double eps, double offset) {
  forward<false>("rms_norm", y, nullptr, rstd, sum, x, residual, weight, nullptr, eps, offset);
}
void layer_norm(Out y, Out mean, Out rstd, MaybeOut sum, In x, MaybeIn residual, In weight, MaybeIn bias, double eps) {
  forward<true>("layer_norm", y, &mean, rstd, sum, x, residual, weight, bias, eps, 0);
}

}  // namespace anneal::cuda
