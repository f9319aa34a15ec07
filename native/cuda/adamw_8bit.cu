// AdamW whose moments are kept in eight bits. A warp updates a block of 256 numbers, eight a lane: the moments are looked up in shared memory, updated as adamw
// does it, and rounded to the nearest codes by bisection once the warp knows the new scales. Thread blocks stay for many blocks of numbers, so that the
// code books are copied seldom.
#include <cmath>

#include "../dynamic_maps.h"
#include "../kernels.h"
#include "elements.h"
#include "fault.h"
#include "tensor_table.h"

namespace anneal::cuda {

constexpr int adam_threads = 256, adam_block = 256, adam_numbers = adam_block / 32, adam_blocks_per_multiprocessor = 8;

struct AdamBooks {
  float first[256], second[256];
};
struct Adam8 {
  float gradient_weight, beta2, square_weight, correction, eps;
  const float* factor;  // may be null
};
template <class Parameter, class Gradient> struct Adam8Tensors {
  Parameter* parameter;
  uint8_t *first, *second;
  float *first_scale, *second_scale;
  bf16* half;  // may be null
  const Gradient* gradient;
  int64_t size;
  float decay, step_size;
  bool aligned;
};
// The code books are arguments too. Here a block of the table is one of numbers.
template <class Parameter, class Gradient> using Adam8Table = TensorTable<Adam8Tensors<Parameter, Gradient>, 1900>;

// An ascending code book, and the bounds between its codes as a search tree, level by level: node i has 2i and 2i + 1 below it. The bounds of one level lie
// side by side, so that the lanes of a warp rarely meet in a bank; in ascending order those of a level would share a few banks.
struct SearchedBook {
  float value[256], bound[256];
};
// By the block: the values, then behind a barrier the bounds, then another barrier.
ANNEAL_DEVICE void fill_bounds(SearchedBook& book) {
  const int node = threadIdx.x;
  if (node == 0) return;
  const int level = 31 - __clz(node), above = (2 * (node - (1 << level)) + 1) << (7 - level);  // the code above the bound
  book.bound[node] = (book.value[above - 1] + book.value[above]) / 2;
}
// The code whose value is nearest, the lower one on a tie.
ANNEAL_DEVICE int nearest_code(const SearchedBook& book, float x) {
  int node = 1;
#pragma unroll
  for (int level = 0; level < 8; ++level) node = 2 * node + (x > book.bound[node] ? 1 : 0);
  return node - 256;
}

// Eight numbers from p on, of which `count` exist; the others are those of `otherwise`.
template <class T> ANNEAL_DEVICE void load_eight(T (&v)[adam_numbers], const T* p, int count, bool aligned, T otherwise) {
  constexpr int n = 16 / sizeof(T) < adam_numbers ? 16 / sizeof(T) : adam_numbers;
  if (aligned && count == adam_numbers) {
#pragma unroll
    for (int i = 0; i < adam_numbers; i += n) {
      const Elements<T, n> part = load_elements<n>(p + i);
#pragma unroll
      for (int k = 0; k < n; ++k) v[i + k] = part.at[k];
    }
  } else {
#pragma unroll
    for (int i = 0; i < adam_numbers; ++i) v[i] = i < count ? p[i] : otherwise;
  }
}
template <class T> ANNEAL_DEVICE void store_eight(T* p, const T (&v)[adam_numbers], int count, bool aligned) {
  constexpr int n = 16 / sizeof(T) < adam_numbers ? 16 / sizeof(T) : adam_numbers;
  if (aligned && count == adam_numbers) {
#pragma unroll
    for (int i = 0; i < adam_numbers; i += n) {
      Elements<T, n> part;
#pragma unroll
      for (int k = 0; k < n; ++k) part.at[k] = v[i + k];
      store_elements(p + i, part);
    }
  } else {
#pragma unroll
    for (int i = 0; i < adam_numbers; ++i)
      if (i < count) p[i] = v[i];
  }
}

// The largest magnitude of the warp's numbers; NaN where there is one, as bits order like that.
ANNEAL_DEVICE float largest_of_warp(const float (&x)[adam_numbers]) {
  uint32_t top = 0;
#pragma unroll
  for (int i = 0; i < adam_numbers; ++i) {
    const uint32_t size = __float_as_uint(x[i]) & 0x7fffffffu;
    top = top > size ? top : size;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, top, distance);
    top = top > other ? top : other;
  }
  return __uint_as_float(top);
}

template <class Parameter, class Gradient>
__global__ void __launch_bounds__(adam_threads) adamw_8bit_kernel(Adam8Table<Parameter, Gradient> table, Adam8 a, AdamBooks books, const Fault* fault) {
  static_assert(adam_threads == 256, "a thread for each code");
  ANNEAL_SHARED(SearchedBook, searched, 2);
  SearchedBook &first_book = searched[0], &second_book = searched[1];
  if (faulted(fault)) return;
  const float factor = a.factor ? *a.factor : 1.f;
  if (factor != factor) return;
  first_book.value[threadIdx.x] = books.first[threadIdx.x];
  second_book.value[threadIdx.x] = books.second[threadIdx.x];
  __syncthreads();
  fill_bounds(first_book);
  fill_bounds(second_book);
  __syncthreads();
  const int lane = threadIdx.x % 32, warps = adam_threads / 32;
  for (int64_t number = int64_t{blockIdx.x} * warps + threadIdx.x / 32; number < table.blocks; number += int64_t{gridDim.x} * warps) {
    const int entry = table.of(static_cast<uint32_t>(number));
    const Adam8Tensors<Parameter, Gradient> t = table.at[entry];
    const int64_t b = number - table.first[entry];
    const int64_t from = b * adam_block + lane * adam_numbers, left = t.size - from;
    const int count = static_cast<int>(left < 0 ? 0 : left < adam_numbers ? left : adam_numbers);
    uint8_t first_code[adam_numbers], second_code[adam_numbers];
    Parameter parameter[adam_numbers];
    Gradient gradient[adam_numbers];
    load_eight(first_code, t.first + from, count, t.aligned, uint8_t{127});
    load_eight(second_code, t.second + from, count, t.aligned, uint8_t{0});
    load_eight(parameter, static_cast<const Parameter*>(t.parameter) + from, count, t.aligned, Parameter{});
    load_eight(gradient, t.gradient + from, count, t.aligned, Gradient{});
    const float old_first = t.first_scale[b], old_second = t.second_scale[b];
    float first[adam_numbers], second[adam_numbers];
#pragma unroll
    for (int i = 0; i < adam_numbers; ++i) {
      const float g = to_float(gradient[i]) * factor, m = first_book.value[first_code[i]] * old_first, v = second_book.value[second_code[i]] * old_second;
      first[i] = m + a.gradient_weight * (g - m);
      second[i] = v * a.beta2 + a.square_weight * g * g;
      parameter[i] = from_float<Parameter>(to_float(parameter[i]) * t.decay - t.step_size * first[i] / (sqrtf(second[i]) / a.correction + a.eps));
    }
    store_eight(t.parameter + from, parameter, count, t.aligned);
    if (t.half) {
      bf16 half[adam_numbers];
#pragma unroll
      for (int i = 0; i < adam_numbers; ++i) half[i] = from_float<bf16>(to_float(parameter[i]));
      store_eight(t.half + from, half, count, t.aligned);
    }
    const float first_scale = largest_of_warp(first), second_scale = largest_of_warp(second);
    const float first_factor = first_scale > 0 ? 1 / first_scale : 0, second_factor = second_scale > 0 ? 1 / second_scale : 0;
#pragma unroll
    for (int i = 0; i < adam_numbers; ++i) {
      first_code[i] = static_cast<uint8_t>(nearest_code(first_book, first[i] * first_factor));
      second_code[i] = static_cast<uint8_t>(nearest_code(second_book, second[i] * second_factor));
    }
    store_eight(t.first + from, first_code, count, t.aligned);
    store_eight(t.second + from, second_code, count, t.aligned);
    __syncwarp();  // all lanes have read the old scales
    if (lane == 0) {
      t.first_scale[b] = first_scale;
      t.second_scale[b] = second_scale;
    }
  }
}

void adamw_8bit(InOuts parameter, InOuts first, InOuts second, InOuts first_scale, InOuts second_scale, Outs half_copy, Ins gradient, MaybeIn factor, Numbers learning_rate,
                double beta1, double beta2, double eps, Numbers weight_decay, int64_t step) {
  if (parameter.count == 0) return;
  const double correction1 = 1 - std::pow(beta1, static_cast<double>(step)), correction2 = 1 - std::pow(beta2, static_cast<double>(step));
  const Adam8 a = {static_cast<float>(1 - beta1), static_cast<float>(beta2), static_cast<float>(1 - beta2), static_cast<float>(std::sqrt(correction2)),
                   static_cast<float>(eps), factor ? factor->as<const float>() : nullptr};
  AdamBooks books;
  for (int i = 0; i < 256; ++i) {
    books.first[i] = dynamic_map[i];
    books.second[i] = dynamic_unsigned_map[i];
  }
  const int64_t most = int64_t{traits().multiprocessors} * adam_blocks_per_multiprocessor;
  dispatch_float("adamw_8bit", parameter[0].dtype, [&](auto p) {
    dispatch_float("adamw_8bit", gradient[0].dtype, [&](auto g) {
      using P = decltype(p);
      using G = decltype(g);
      using Table = Adam8Table<P, G>;
      each_table<Table>(
          parameter.count,
          [&](int64_t i, int64_t& blocks) {
            bf16* half = half_copy.count ? half_copy[i].as<bf16>() : nullptr;
            const bool aligned = is_aligned_to(16, parameter[i].data) && is_aligned_to(16, gradient[i].data) && is_aligned_to(8, first[i].data) &&
                                 is_aligned_to(8, second[i].data) && is_aligned_to(16, half);
            blocks = ceil_div(parameter[i].size, adam_block);
            return Adam8Tensors<P, G>{parameter[i].as<P>(), first[i].as<uint8_t>(), second[i].as<uint8_t>(), first_scale[i].as<float>(), second_scale[i].as<float>(), half,
                                      gradient[i].as<const G>(), parameter[i].size, static_cast<float>(1 - learning_rate[i] * weight_decay[i]),
                                      static_cast<float>(learning_rate[i] / correction1), aligned};
          },
          [&](const Table& table) {
            const int64_t wanted = ceil_div(table.blocks, adam_threads / 32);
            launch(adamw_8bit_kernel<P, G>, {dim3(static_cast<unsigned>(wanted < most ? wanted : most)), dim3(adam_threads), 0, "adamw_8bit"}, table, a, books, fault());
          });
    });
  });
}

}  // namespace anneal::cuda
