// The optimizer step: the gradient norm, the clip factor, AdamW and the count of bad values. AdamW is one pass over
// memory, in the order of operations of torch.optim.AdamW. Sums run over blocks of a fixed size in order, so the norm
// does not depend on the number of threads.
#include <math.h>

#include "isa.h"
#include "simd.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

constexpr int partial_slot = 6;
constexpr int64_t elements_per_task = 16384;
constexpr int64_t block = 65536;     // one f64 partial sum each
constexpr int64_t sub_block = 1024;  // summed in f32 lanes

template <class T> double block_squares(const T* x, int64_t n) {
  double total = 0;
  for (int64_t base = 0; base < n; base += sub_block) {
    vf lane_sums[4] = {};
    each_vector_by_4(n - base < sub_block ? n - base : sub_block, [&](int64_t i, auto span, int k) {
      vf v = load(x + base + i, span);
      lane_sums[k] += v * v;
    });
    total += static_cast<double>(sum((lane_sums[0] + lane_sums[1]) + (lane_sums[2] + lane_sums[3])));
  }
  return total;
}

template <class T> int64_t block_non_finite(const T* x, int64_t n) {
  vi count[4] = {};
  // A comparison that holds is -1.
  each_vector_by_4(
      n, [&](int64_t i, auto span, int k) { count[k] -= ((vi)load(x + i, span) & 0x7f800000) == 0x7f800000; });
  int64_t total = 0;
  for (int i = 0; i < lanes; ++i) total += count[0][i] + count[1][i] + count[2][i] + count[3][i];
  return total;
}

// The sum of of(first, n) over blocks, in order.
template <class Value, class F> Value sum_blocks(int64_t size, F&& of) {
  const int64_t blocks = (size + block - 1) / block;
  Value* partial = static_cast<Value*>(pool().scratch(partial_slot, static_cast<size_t>(blocks + 1) * sizeof(Value)));
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      partial[b] = of(b * block, size - b * block < block ? size - b * block : block);
  });
  Value total = 0;
  for (int64_t b = 0; b < blocks; ++b) total += partial[b];
  return total;
}

struct Adam {
  float decay;               // 1 - learning_rate * weight_decay
  float step_size;           // learning_rate / (1 - beta1^step)
  float gradient_weight;     // 1 - beta1
  float beta2, square_weight;
  float correction;          // sqrt(1 - beta2^step)
  float eps, factor;
};

// torch.lerp: from the near end, so that a weight of 1 gives exactly the end.
ANNEAL_INLINE vf lerp(vf start, vf end, float weight) {
  return weight < 0.5f ? start + weight * (end - start) : end - (end - start) * (1 - weight);
}

template <class Gradient, bool with_half>
void adam_range(const Adam& a, float* parameter, float* first, float* second, bf16* half, const Gradient* gradient,
                int64_t n) {
  each_vector(n, [&](int64_t i, auto span) {
    vf g = load(gradient + i, span) * a.factor;
    vf p = load(parameter + i, span) * a.decay;
    vf m = lerp(load(first + i, span), g, a.gradient_weight);
    vf v = load(second + i, span) * a.beta2 + a.square_weight * g * g;
    p -= a.step_size * m / (sqrt(v) / a.correction + a.eps);
    store(parameter + i, p, span);
    store(first + i, m, span);
    store(second + i, v, span);
    if constexpr (with_half) store(half + i, p, span);
  });
}


}  // namespace

void sum_squares(InOut y, Ins x, bool accumulate) {
  double total = accumulate ? *y.as<double>() : 0;
  for (int64_t i = 0; i < x.count; ++i) {
    const Tensor& one = x[i];
    total += sum_blocks<double>(one.size, [&](int64_t from, int64_t n) {
      return one.dtype == DType::f32 ? block_squares(one.as<const float>() + from, n)
                                     : block_squares(one.as<const bf16>() + from, n);
    });
  }
  *y.as<double>() = total;
}

void count_non_finite(InOut y, In x, bool accumulate) {
  int64_t total = sum_blocks<int64_t>(x.size, [&](int64_t from, int64_t n) {
    return x.dtype == DType::f32 ? block_non_finite(x.as<const float>() + from, n)
                                 : block_non_finite(x.as<const bf16>() + from, n);
  });
  total += accumulate ? *y.as<int32_t>() : 0;
  *y.as<int32_t>() = total < INT32_MAX ? static_cast<int32_t>(total) : INT32_MAX;
}

void clip_factor(Out y, In sum_squares, double max_norm) {
  const double norm = ::sqrt(*sum_squares.as<const double>());
  double factor = 1;
  if (!isfinite(norm)) factor = NAN;
  else if (max_norm > 0 && max_norm < norm + 1e-6) factor = max_norm / (norm + 1e-6);
  y.as<float>()[0] = static_cast<float>(factor);
  y.as<float>()[1] = static_cast<float>(norm);
}

void adamw(InOuts parameter, InOuts first, InOuts second, Outs half_copy, Ins gradient, MaybeIn factor, Numbers learning_rate, double beta1,
           double beta2, double eps, Numbers weight_decay, int64_t step) {
  const float scale = factor ? factor->as<const float>()[0] : 1;
  if (scale != scale) return;
  const double correction1 = 1 - ::pow(beta1, static_cast<double>(step)),
               correction2 = 1 - ::pow(beta2, static_cast<double>(step));
  for (int64_t i = 0; i < parameter.count; ++i) {
    const Adam a = {static_cast<float>(1 - learning_rate[i] * weight_decay[i]), static_cast<float>(learning_rate[i] / correction1),
                    static_cast<float>(1 - beta1), static_cast<float>(beta2), static_cast<float>(1 - beta2),
                    static_cast<float>(::sqrt(correction2)), static_cast<float>(eps), scale};
    float *p = parameter[i].as<float>(), *m = first[i].as<float>(), *v = second[i].as<float>();
    bf16* half = half_copy.count ? half_copy[i].as<bf16>() : nullptr;
    const int64_t size = parameter[i].size;
    // Pieces are multiples of 64 elements, so threads never share a cache line.
    parallel_for((size + 63) / 64, elements_per_task / 64, [&](int64_t begin, int64_t end) {
      const int64_t from = begin * 64, n = (end * 64 < size ? end * 64 : size) - from;
      auto range = [&]<class Gradient>(const Gradient* g) {
        if (half) adam_range<Gradient, true>(a, p + from, m + from, v + from, half + from, g + from, n);
        else adam_range<Gradient, false>(a, p + from, m + from, v + from, nullptr, g + from, n);
      };
      if (gradient[i].dtype == DType::f32) range(gradient[i].as<const float>());
      else range(gradient[i].as<const bf16>());
    });
  }
}

}  // namespace anneal::cpu::ANNEAL_ISA
