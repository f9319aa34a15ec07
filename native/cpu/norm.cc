// RMSNorm and LayerNorm over the last axis, with the residual addition in front of them folded in, and their backwards.
// One template serves both: RMSNorm is LayerNorm with a mean of 0. Statistics are taken from the stored (rounded) sum,
// because that is what the backward will read. dweight and dbias are summed over blocks of rows whose size depends on
// the number of rows only, then over the blocks in order.
#include <math.h>

#include "isa.h"
#include "simd.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

constexpr int weight_slot = 6, partial_slot = 7;
constexpr int64_t elements_per_task = 8192;

int64_t row_grain(int64_t columns) {
  return columns >= elements_per_task ? 1 : elements_per_task / (columns > 0 ? columns : 1);
}

// weight + offset (and bias behind it, where given) as f32; the tensor's own memory where that is what it holds.
struct Affine {
  const float* weight;
  const float* bias;
};
void widen(float* to, const Tensor& from, float offset) {
  auto copy = [&](const auto* source) {
    each_vector(from.size, [&](int64_t i, auto span) { store(to + i, load(source + i, span) + offset, span); });
  };
  if (from.dtype == DType::f32) copy(from.as<const float>());
  else copy(from.as<const bf16>());
}
Affine affine(const Tensor& weight, const Tensor* bias, double offset) {
  float* widened =
      static_cast<float*>(pool().scratch(weight_slot, static_cast<size_t>(2 * weight.size + 1) * sizeof(float)));
  Affine result = {weight.as<const float>(), bias ? bias->as<const float>() : nullptr};
  if (weight.dtype != DType::f32 || offset != 0) {
    widen(widened, weight, static_cast<float>(offset));
    result.weight = widened;
  }
  if (bias && bias->dtype != DType::f32) {
    widen(widened + weight.size, *bias, 0);
    result.bias = widened + weight.size;
  }
  return result;
}

template <class Term> ANNEAL_INLINE float row_sum(int64_t n, Term&& term) {
  vf total[4] = {};
  each_vector_by_4(n, [&](int64_t i, auto span, int k) { total[k] += term(i, span); });
  return sum((total[0] + total[1]) + (total[2] + total[3]));
}

struct Forward {
  void *y, *sum;
  const void *x, *residual;
  float *mean, *rstd;
  Affine affine;
  int64_t columns;
  float eps;
};

template <class T, bool layer> void forward_row(const Forward& a, int64_t row) {
  const int64_t n = a.columns;
  const T* x = static_cast<const T*>(a.x) + row * n;
  T* y = static_cast<T*>(a.y) + row * n;
  if (a.residual) {
    const T* residual = static_cast<const T*>(a.residual) + row * n;
    T* total = static_cast<T*>(a.sum) + row * n;
    each_vector(n, [&](int64_t i, auto span) { store(total + i, load(x + i, span) + load(residual + i, span), span); });
    x = total;
  } else if (a.sum) {
    memcpy(static_cast<T*>(a.sum) + row * n, x, static_cast<size_t>(n) * sizeof(T));
  }
  float mean = 0;
  if constexpr (layer) {
    mean = row_sum(n, [&](int64_t i, auto span) { return load(x + i, span); }) / static_cast<float>(n);
    a.mean[row] = mean;
  }
  float squares = row_sum(n, [&](int64_t i, auto span) {
    vf d = inside(load(x + i, span) - mean, span);
    return d * d;
  });
  float rstd = 1 / sqrtf(squares / static_cast<float>(n) + a.eps);
  a.rstd[row] = rstd;
  const float* weight = a.affine.weight;
  const float* bias = a.affine.bias;
  if (layer && bias) {
    each_vector(n, [&](int64_t i, auto span) {
      store(y + i, (load(x + i, span) - mean) * rstd * load(weight + i, span) + load(bias + i, span), span);
    });
  } else {
    each_vector(n, [&](int64_t i, auto span) {
      store(y + i, (load(x + i, span) - mean) * rstd * load(weight + i, span), span);
    });
  }
}

template <bool v> struct Flag { static constexpr bool value = v; };
using Yes = Flag<true>;
using No = Flag<false>;

struct Backward {
  void* dx;
  const void *dy, *dsum, *x;
  const float *mean, *rstd;
  Affine affine;
  float *dweight, *dbias;  // this block's sums, or null
  int64_t columns;
};

template <class T, bool layer> void backward_row(const Backward& a, int64_t row) {
  const int64_t n = a.columns;
  const T* x = static_cast<const T*>(a.x) + row * n;
  const T* dy = static_cast<const T*>(a.dy) + row * n;
  const T* dsum = a.dsum ? static_cast<const T*>(a.dsum) + row * n : nullptr;
  T* dx = static_cast<T*>(a.dx) + row * n;
  const float* weight = a.affine.weight;
  float *const dweight = a.dweight, *const dbias = a.dbias;
  const float rstd = a.rstd[row], mean = layer ? a.mean[row] : 0;

  // With g = dy * weight and xhat = (x - mean) * rstd: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)), without
  // mean(g) for RMSNorm.
  vf products[4] = {}, plain[4] = {};
  each_vector_by_4(n, [&](int64_t i, auto span, int k) {
    vf g = load(dy + i, span) * load(weight + i, span);
    products[k] += g * (load(x + i, span) - mean);
    if constexpr (layer) plain[k] += g;
  });
  const float scale = 1 / static_cast<float>(n);
  const float along = sum((products[0] + products[1]) + (products[2] + products[3])) * rstd * scale;
  const float level = layer ? sum((plain[0] + plain[1]) + (plain[2] + plain[3])) * scale : 0;

  auto finish = [&](auto with_dweight, auto with_dbias, auto with_dsum) {
    each_vector(n, [&](int64_t i, auto span) {
      vf d = load(dy + i, span), xhat = (load(x + i, span) - mean) * rstd;
      vf result = rstd * (d * load(weight + i, span) - level - xhat * along);
      if constexpr (with_dsum.value) result += load(dsum + i, span);
      if constexpr (with_dweight.value) store(dweight + i, load(dweight + i, span) + d * xhat, span);
      if constexpr (with_dbias.value) store(dbias + i, load(dbias + i, span) + d, span);
      store(dx + i, result, span);
    });
  };
  auto with_dsum = [&](auto with_dweight, auto with_dbias) {
    if (dsum) finish(with_dweight, with_dbias, Yes{});
    else finish(with_dweight, with_dbias, No{});
  };
  if (dweight && layer && dbias) {
    if constexpr (layer) with_dsum(Yes{}, Yes{});
  } else if (dweight) {
    with_dsum(Yes{}, No{});
  } else if (layer && dbias) {
    if constexpr (layer) with_dsum(No{}, Yes{});
  } else {
    with_dsum(No{}, No{});
  }
}

// Rows are summed in at most 128 blocks of at least 32.
int64_t rows_per_block(int64_t rows) { return rows > 128 * 32 ? (rows + 127) / 128 : 32; }

// y = (accumulate ? y : 0) + the sum of `blocks` rows of `from`, in order; the rows are `stride` apart.
void sum_blocks(float* y, const float* from, int64_t blocks, int64_t stride, int64_t columns, bool accumulate) {
  parallel_for((columns + lanes - 1) / lanes, elements_per_task / lanes / (blocks > 0 ? blocks : 1) + 1,
               [&](int64_t begin, int64_t end) {
                 int64_t first = begin * lanes, last = end * lanes < columns ? end * lanes : columns;
                 each_vector(last - first, [&](int64_t i, auto span) {
                   vf total = accumulate ? load(y + first + i, span) : vf{};
                   for (int64_t b = 0; b < blocks; ++b) total += load(from + b * stride + first + i, span);
                   store(y + first + i, total, span);
                 });
               });
}

template <class T, bool layer>
void backward_rows(const Backward& shared, int64_t rows, float* dweight, float* dbias, bool accumulate) {
  const int64_t n = shared.columns;
  if (!dweight && !dbias) {
    parallel_for(rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) backward_row<T, layer>(shared, row);
    });
    return;
  }
  // A block's sums are padded to whole vectors, dbias behind dweight.
  const int64_t block = rows_per_block(rows), blocks = (rows + block - 1) / block;
  const int64_t width = (n + lanes - 1) / lanes * lanes, stride = width * 2;
  float* partial =
      static_cast<float*>(pool().scratch(partial_slot, static_cast<size_t>(blocks * stride + 1) * sizeof(float)));
  parallel_for(blocks, row_grain(n) / block + 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      Backward own = shared;
      if (dweight) own.dweight = partial + b * stride;
      if (dbias) own.dbias = partial + b * stride + width;
      memset(partial + b * stride, 0, static_cast<size_t>(stride) * sizeof(float));
      for (int64_t row = b * block; row < (b + 1) * block && row < rows; ++row) backward_row<T, layer>(own, row);
    }
  });
  if (dweight) sum_blocks(dweight, partial, blocks, stride, n, accumulate);
  if (dbias) sum_blocks(dbias, partial + width, blocks, stride, n, accumulate);
}

template <bool layer>
void forward(Out y, Tensor* mean, Out rstd, MaybeOut sum, In x, MaybeIn residual, In weight, MaybeIn bias, double eps,
             double offset) {
  if (x.size == 0) return;
  const Forward a = {y.data,
                     sum ? sum->data : nullptr,
                     x.data,
                     residual ? residual->data : nullptr,
                     mean ? mean->as<float>() : nullptr,
                     rstd.as<float>(),
                     affine(weight, bias, offset),
                     x.columns(),
                     static_cast<float>(eps)};
  parallel_for(x.rows(), row_grain(x.columns()), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (x.dtype == DType::f32) forward_row<float, layer>(a, row);
      else forward_row<bf16, layer>(a, row);
    }
  });
}

template <bool layer>
void backward(Out dx, MaybeInOut dweight, MaybeInOut dbias, In dy, MaybeIn dsum, In x, In weight, const Tensor* mean,
              In rstd, double offset, bool accumulate) {
  if (x.columns() == 0) return;
  const Backward a = {dx.data,
                      dy.data,
                      dsum ? dsum->data : nullptr,
                      x.data,
                      mean ? mean->as<const float>() : nullptr,
                      rstd.as<const float>(),
                      affine(weight, nullptr, offset),
                      nullptr,
                      nullptr,
                      x.columns()};
  float* weight_sums = dweight ? dweight->as<float>() : nullptr;
  float* bias_sums = dbias ? dbias->as<float>() : nullptr;
  if (x.dtype == DType::f32) backward_rows<float, layer>(a, x.rows(), weight_sums, bias_sums, accumulate);
  else backward_rows<bf16, layer>(a, x.rows(), weight_sums, bias_sums, accumulate);
}

}  // namespace

void rms_norm(Out y, Out rstd, MaybeOut sum, In x, MaybeIn residual, In weight, double eps, double offset) {
  forward<false>(y, nullptr, rstd, sum, x, residual, weight, nullptr, eps, offset);
}
void rms_norm_backward(Out dx, MaybeInOut dweight, In dy, MaybeIn dsum, In x, In weight, In rstd, double offset,
                       bool accumulate) {
  backward<false>(dx, dweight, nullptr, dy, dsum, x, weight, nullptr, rstd, offset, accumulate);
}
void layer_norm(Out y, Out mean, Out rstd, MaybeOut sum, In x, MaybeIn residual, In weight, MaybeIn bias, double eps) {
  forward<true>(y, &mean, rstd, sum, x, residual, weight, bias, eps, 0);
}
void layer_norm_backward(Out dx, MaybeInOut dweight, MaybeInOut dbias, In dy, MaybeIn dsum, In x, In weight, In mean,
                         In rstd, bool accumulate) {
  backward<true>(dx, dweight, dbias, dy, dsum, x, weight, &mean, rstd, 0, accumulate);
}

}  // namespace anneal::cpu::ANNEAL_ISA
