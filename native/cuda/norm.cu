// RMSNorm and LayerNorm over the last axis, with the residual addition in front of them folded in. One template serves both: RMSNorm is LayerNorm with a
// mean of 0. Statistics are taken from the stored (rounded) sum, because that is what the backward will read. A row up to 8192 wide is read once and stays
// in registers, 32 numbers a thread, so that a row of up to 1024 is one warp's; longer ones are read again. A block walks over many rows, so that weights are
// read once for all of them, and has the next row under way while it works on one.
#include "norm.h"

namespace anneal::cuda {

constexpr int norm_threads = 256, norm_numbers = 32, norm_few_numbers = 8, norm_block = 128;
// As many threads as read rows at the speed of memory; what more there were would read the weights again.
constexpr int64_t norm_all_threads = 65536;

struct NormArguments {
  void *y, *sum;
  const void *x, *residual;
  float *mean, *rstd;
  ColumnNumbers weight, bias;
  int64_t rows;
  int columns;
  float inverse_columns, eps;
};

// A row on its way to registers. Numbers of rows that are not aligned are read only when they are taken: their addresses need the registers.
template <class T, int pieces, bool aligned> struct RowAhead {
  uint4 raw[aligned ? pieces : 1];
  const T* row = nullptr;
  int n = 0;
  ANNEAL_DEVICE void fetch(const T* from, int count) {
    row = from, n = count;
    if constexpr (aligned) {
#pragma unroll
      for (int p = 0; p < pieces; ++p) {
        const int at = (threadIdx.x + p * blockDim.x) * vector_length<T>;
        raw[p] = at < n ? load_global_16(row + at) : make_uint4(0, 0, 0, 0);
      }
    }
  }
  ANNEAL_DEVICE void take(float (&v)[pieces][vector_length<T>]) const {
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      if constexpr (aligned) unpack(v[p], raw[p], T{});
      else load_row_piece<false>(v[p], row, (threadIdx.x + p * blockDim.x) * vector_length<T>, n);
    }
  }
};

// numbers: how many of a row a thread keeps.
template <class T, bool layer, int numbers, bool aligned> __global__ void __launch_bounds__(norm_threads) norm_kernel(NormArguments a) {
  constexpr int length = vector_length<T>, pieces = numbers / length;
  ANNEAL_SHARED(float, room, 2 * 32);
  ANNEAL_DYNAMIC_SHARED(unsigned char, columns);
  const Shared weights = to_shared(columns), biases = weights + blockDim.x * numbers * 4;
  const int first = threadIdx.x * length, step = blockDim.x * length;
  const int64_t stride = int64_t{gridDim.x} * blockDim.y, begin = int64_t{blockIdx.x} * blockDim.y;
  RowAhead<T, pieces, aligned> x, residual;
  auto fetch = [&](int64_t base) {
    const int64_t row = base + threadIdx.y;
    const int n = row < a.rows ? a.columns : 0;
    x.fetch(static_cast<const T*>(a.x) + row * a.columns, n);
    if (a.residual) residual.fetch(static_cast<const T*>(a.residual) + row * a.columns, n);
  };
  fetch(begin);
  keep_columns<T, numbers, aligned>(weights, a.weight, a.columns);
  if (layer && a.bias.data) keep_columns<T, numbers, aligned>(biases, a.bias, a.columns);
  if (blockDim.y > 1) __syncthreads();
  // All threads of a block do as many rounds; those without a row have one of no numbers.
  int round = 0;
  for (int64_t base = begin; base < a.rows; base += stride, round ^= 1) {
    const int64_t row = base + threadIdx.y;
    const int n = row < a.rows ? a.columns : 0;
    float v[pieces][length];
    x.take(v);
    if (a.sum) {
      if (a.residual) {
        float other[pieces][length];
        residual.take(other);
#pragma unroll
        for (int p = 0; p < pieces; ++p)
#pragma unroll
          for (int i = 0; i < length; ++i) v[p][i] = rounded<T>(v[p][i] + other[p][i]);
      }
      T* sum = static_cast<T*>(a.sum) + row * a.columns;
#pragma unroll
      for (int p = 0; p < pieces; ++p) store_row_piece<aligned>(sum, v[p], first + p * step, n);
    }
    if (base + stride < a.rows) fetch(base + stride);

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
    row_sums(squares, room + (layer || round ? 32 : 0));
    const float rstd = rsqrtf(fmaf(squares[0], a.inverse_columns, a.eps));
    if (threadIdx.x == 0 && n > 0) {
      if constexpr (layer) a.mean[row] = mean;
      a.rstd[row] = rstd;
    }

    T* y = static_cast<T*>(a.y) + row * a.columns;
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      float weight[length];
      load_piece_columns(weight, weights, p);
#pragma unroll
      for (int i = 0; i < length; ++i) v[p][i] *= rstd * weight[i];
      if (layer && a.bias.data) {
        load_piece_columns(weight, biases, p);
#pragma unroll
        for (int i = 0; i < length; ++i) v[p][i] += weight[i];
      }
      store_row_piece<aligned>(y, v[p], first + p * step, n);
    }
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
  if (n > norm_register_width) return launch(norm_wide_kernel<T, layer, aligned>, {dim3(static_cast<unsigned>(a.rows)), dim3(norm_threads), 0, kernel}, a);
  auto start = [&](auto function, int numbers) {
    const int64_t across = ceil_div(n, 32 * numbers) * 32, together = across > norm_block / 2 ? 1 : norm_block / across;
    const int64_t wanted = ceil_div(a.rows, together), most = norm_all_threads / (across * together), blocks = wanted < most ? wanted : most;
    const size_t room = static_cast<size_t>(across * numbers) * sizeof(float) * (a.bias.data ? 2 : 1);
    launch(function, {dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(across), static_cast<unsigned>(together)), room, kernel}, a);
  };
  if (n <= 32 * norm_few_numbers) start(norm_kernel<T, layer, norm_few_numbers, aligned>, norm_few_numbers);
  else start(norm_kernel<T, layer, norm_numbers, aligned>, norm_numbers);
}

template <bool layer>
void forward(const char* kernel, Out y, Tensor* mean, Out rstd, MaybeOut sum, In x, MaybeIn residual, In weight, MaybeIn bias, double eps, double offset) {
  check_length(kernel, x);
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
