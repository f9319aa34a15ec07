// Gradients of RMSNorm and LayerNorm. With g = dy * weight and xhat = (x - mean) * rstd: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) + dsum, without
// mean(g) for RMSNorm. A block walks over consecutive rows, several at a time where they are short, keeps the weights, and sums its part of dweight and dbias in
// registers, always the same columns in the same thread; the last blocks to end add the parts in order. How rows are shared out depends on the shape only, so
// that the sums have the same bits on every GPU.
#include "last_block.h"
#include "norm.h"

namespace anneal::cuda {

constexpr int gradient_threads = 512, gradient_numbers = 16, gradient_few_numbers = 8, gradient_block = 256;
// Threads at once: what an A100 holds of them. More would not be faster, and each block's part has to be written and read.
constexpr int64_t gradient_all_threads = 108 * 512;

struct NormGradient {
  void* dx;
  const void *dy, *dsum, *x;
  const float *mean, *rstd;
  ColumnNumbers weight;
  float *dweight, *dbias;  // the parts, [blocks, columns], or null
  float *dweight_sum, *dbias_sum;  // the results
  bool accumulate;
  uint32_t* counters;
  int64_t rows, rows_per_block;
  int columns;
  float inverse_columns;
};

// Adds the parts of all blocks up, from the second level on of what the last blocks of groups have added.
template <bool aligned, int unrolled = 4> ANNEAL_DEVICE void fold_gradients(const NormGradient& a) {
  if (!a.dweight && !a.dbias) return;
  ANNEAL_SHARED(uint32_t, arrived, 1);
  constexpr int n = aligned ? 4 : 1;
  const int first = (threadIdx.y * blockDim.x + threadIdx.x) * n, across = blockDim.x * blockDim.y * n;
  // y[columns] = x[columns] of the members' rows, added up in order, and of y itself where kept.
  auto add = [&](float* y, const float* x, int64_t stride, int members, bool kept) {
    for (int at = first; at < a.columns; at += across) {
      float total[n] = {};
      auto add_row = [&](const float* row) {
        float part[n];
        if constexpr (aligned) load_vector(part, row);
        else part[0] = *row;
#pragma unroll
        for (int k = 0; k < n; ++k) total[k] += part[k];
      };
#pragma unroll unrolled
      for (int i = 0; i < members; ++i) add_row(x + i * stride + at);
      if (kept) add_row(y + at);
      if constexpr (aligned) store_vector(y + at, total);
      else y[at] = total[0];
    }
  };
  const bool whole = fold_blocks(a.counters, arrived, [&](uint32_t place, uint32_t step, int members) {
    const int64_t offset = int64_t{place} * a.columns, stride = int64_t{step} * a.columns;
    if (a.dweight) add(a.dweight + offset, a.dweight + offset, stride, members, false);
    if (a.dbias) add(a.dbias + offset, a.dbias + offset, stride, members, false);
  });
  if (!whole) return;
  if (a.dweight) add(a.dweight_sum, a.dweight, 0, 1, a.accumulate);
  if (a.dbias) add(a.dbias_sum, a.dbias, 0, 1, a.accumulate);
}

// A block's sum of x over its rows at a time, in their order, into its row of the parts.
template <class T, int numbers, bool aligned> ANNEAL_DEVICE void store_part(float* parts, const float (&x)[numbers / vector_length<T>][vector_length<T>], Shared room, int n) {
  constexpr int length = vector_length<T>;
  const int together = blockDim.y, fours = numbers / 4 * together;
  auto at = [&](int four) { return column_room(room, four); };
  __syncthreads();  // nobody reads any more what is there
#pragma unroll
  for (int four = 0; four < numbers / 4; ++four) store_four(at(four * together + threadIdx.y), x[four * 4 / length] + four * 4 % length);
  __syncthreads();
  for (int four = threadIdx.y * together; four < fours; four += together * together) {
    float total[4];
    load_four(total, at(four));
    for (int y = 1; y < together; ++y) {
      float part[4];
      load_four(part, at(four + y));
#pragma unroll
      for (int i = 0; i < 4; ++i) total[i] += part[i];
    }
    // The parts lie in scratch, but their rows are aligned only where n is a multiple of 4.
    const int number = four / together * 4, column = (threadIdx.x + number / length * blockDim.x) * length + number % length;
    store_row_piece<aligned>(parts, total, column, n);
  }
}

// Rows up to blockDim.x * numbers long, held in registers.
template <class T, bool layer, int numbers, bool aligned>
__global__ void __launch_bounds__(numbers == gradient_few_numbers ? gradient_block : gradient_threads) norm_backward_kernel(NormGradient a) {
  constexpr int length = vector_length<T>, pieces = numbers / length, sums = layer ? 2 : 1;
  ANNEAL_SHARED(float, room, 2 * sums * 32);
  ANNEAL_DYNAMIC_SHARED(unsigned char, columns);
  const Shared weights = to_shared(columns);
  const int first = threadIdx.x * length, step = blockDim.x * length;
  const int64_t begin = blockIdx.x * a.rows_per_block, end = min(begin + a.rows_per_block, a.rows);
  keep_columns<T, numbers, aligned>(weights, a.weight, a.columns);
  if (blockDim.y > 1) __syncthreads();
  float dweight[pieces][length] = {}, dbias[pieces][length] = {};
  // All threads of a block do as many rounds; those without a row have one of no numbers.
  int round = 0;
  for (int64_t base = begin; base < end; base += blockDim.y, round ^= 1) {
    const int64_t row = base + threadIdx.y, start = row * a.columns;
    const int n = row < end ? a.columns : 0;
    float d[pieces][length], xhat[pieces][length];
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      load_row_piece<aligned>(d[p], static_cast<const T*>(a.dy) + start, first + p * step, n);
      load_row_piece<aligned>(xhat[p], static_cast<const T*>(a.x) + start, first + p * step, n);
    }
    // dsum comes along with the rest, except where single numbers are read: their addresses need the registers.
    const T* dsum = a.dsum ? static_cast<const T*>(a.dsum) + start : nullptr;
    float other[pieces][length] = {};
    if (aligned && dsum) {
#pragma unroll
      for (int p = 0; p < pieces; ++p) load_row_piece<aligned>(other[p], dsum, first + p * step, n);
    }
    // A warp's first lane reads them for all.
    auto of_row = [&](const float* statistic) { return __shfl_sync(0xffffffffu, n > 0 && threadIdx.x % 32 == 0 ? statistic[row] : 0.f, 0); };
    const float rstd = of_row(a.rstd), mean = layer ? of_row(a.mean) : 0.f;
    float total[sums] = {};
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      float weight[length];
      load_piece_columns(weight, weights, p);
#pragma unroll
      for (int i = 0; i < length; ++i) {
        xhat[p][i] = (xhat[p][i] - mean) * rstd;
        dweight[p][i] = fmaf(d[p][i], xhat[p][i], dweight[p][i]);
        if constexpr (layer) dbias[p][i] += d[p][i];
        d[p][i] *= weight[i];
        total[0] = fmaf(d[p][i], xhat[p][i], total[0]);
        if constexpr (layer) total[1] += d[p][i];
      }
    }
    row_sums(total, room + round * sums * 32);
    const float along = total[0] * a.inverse_columns, level = layer ? total[sums - 1] * a.inverse_columns : 0.f;
    T* dx = static_cast<T*>(a.dx) + start;
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      if (!aligned && dsum) load_row_piece<aligned>(other[p], dsum, first + p * step, n);
#pragma unroll
      for (int i = 0; i < length; ++i) d[p][i] = fmaf(rstd, d[p][i] - level - xhat[p][i] * along, other[p][i]);
      store_row_piece<aligned>(dx, d[p], first + p * step, n);
    }
  }
  const int64_t part = int64_t{blockIdx.x} * a.columns;
  if (a.dweight) store_part<T, numbers, aligned>(a.dweight + part, dweight, weights, a.columns);
  if constexpr (layer) {
    if (a.dbias) store_part<T, numbers, aligned>(a.dbias + part, dbias, weights, a.columns);
  }
  fold_gradients<aligned>(a);
}

// Rows of any length, read twice; the block's parts are summed in scratch.
template <class T, bool layer, bool aligned> __global__ void __launch_bounds__(gradient_threads, 1) norm_wide_backward_kernel(NormGradient a) {
  constexpr int length = vector_length<T>, sums = layer ? 2 : 1;
  ANNEAL_SHARED(float, room, 2 * sums * 32);
  const int n = a.columns, first = threadIdx.x * length, step = gradient_threads * length;
  const int64_t begin = blockIdx.x * a.rows_per_block, end = begin + a.rows_per_block < a.rows ? begin + a.rows_per_block : a.rows;
  float* dweight = a.dweight ? a.dweight + int64_t{blockIdx.x} * n : nullptr;
  float* dbias = a.dbias ? a.dbias + int64_t{blockIdx.x} * n : nullptr;
  for (int64_t row = begin; row < end; ++row) {
    const T* dy = static_cast<const T*>(a.dy) + row * n;
    const T* x = static_cast<const T*>(a.x) + row * n;
    const float rstd = a.rstd[row], mean = layer ? a.mean[row] : 0.f;
    float total[sums] = {};
    for (int at = first; at < n; at += step) {
      float d[length], v[length], weight[length];
      load_row_piece<aligned>(d, dy, at, n);
      load_row_piece<aligned>(v, x, at, n);
      load_columns<aligned>(weight, a.weight, at, n);
#pragma unroll
      for (int i = 0; i < length; ++i) {
        const float g = d[i] * weight[i];
        total[0] = fmaf(g, (v[i] - mean) * rstd, total[0]);
        if constexpr (layer) total[1] += g;
      }
    }
    row_sums(total, room + (row & 1) * sums * 32);
    const float along = total[0] * a.inverse_columns, level = layer ? total[sums - 1] * a.inverse_columns : 0.f;
    const T* dsum = a.dsum ? static_cast<const T*>(a.dsum) + row * n : nullptr;
    T* dx = static_cast<T*>(a.dx) + row * n;
    for (int at = first; at < n; at += step) {
      float d[length], v[length], weight[length], other[length] = {};
      load_row_piece<aligned>(d, dy, at, n);
      load_row_piece<aligned>(v, x, at, n);
      load_columns<aligned>(weight, a.weight, at, n);
      if (dsum) load_row_piece<aligned>(other, dsum, at, n);
#pragma unroll
      for (int i = 0; i < length; ++i) {
        const float xhat = (v[i] - mean) * rstd;
        if (at + i < n) {
          if (dweight) dweight[at + i] = fmaf(d[i], xhat, row == begin ? 0.f : dweight[at + i]);
          if (dbias) dbias[at + i] = d[i] + (row == begin ? 0.f : dbias[at + i]);
        }
        v[i] = fmaf(rstd, d[i] * weight[i] - level - xhat * along, other[i]);
      }
      store_row_piece<aligned>(dx, v, at, n);
    }
  }
  fold_gradients<aligned, 1>(a);  // unrolled it would spill
}

namespace {

// A block: threads of a row, rows at a time, and rows in all.
struct GradientBlock {
  int64_t across, together, rows;
};
// Blocks are at least 4 rounds long, so that the parts stay small beside the rows.
GradientBlock block_of(int64_t rows, int columns, bool has_parts) {
  const int numbers = columns <= 32 * gradient_few_numbers ? gradient_few_numbers : gradient_numbers;
  GradientBlock block = {columns > norm_register_width ? gradient_threads : ceil_div(columns, 32 * numbers) * 32, 1, 1};
  while (2 * block.together * block.across <= gradient_block) block.together *= 2;
  const int64_t least = (has_parts ? 4 : 1) * block.together, even = ceil_div(rows, gradient_all_threads / (block.across * block.together));
  block.rows = ceil_div(even < least ? least : even, block.together) * block.together;
  return block;
}

template <class T, bool layer, bool aligned> void run(const char* kernel, const NormGradient& a, const GradientBlock& block, int64_t blocks) {
  const Launch size = {dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(block.across), static_cast<unsigned>(block.together)), 0, kernel};
  if (a.columns > norm_register_width) return launch(norm_wide_backward_kernel<T, layer, aligned>, size, a);
  auto start = [&](auto function, int numbers) {
    Launch with_room = size;
    with_room.shared = static_cast<size_t>(block.across * numbers * (a.dweight || a.dbias ? block.together : 1)) * sizeof(float);
    launch(function, with_room, a);
  };
  if (a.columns <= 32 * gradient_few_numbers) start(norm_backward_kernel<T, layer, gradient_few_numbers, aligned>, gradient_few_numbers);
  else start(norm_backward_kernel<T, layer, gradient_numbers, aligned>, gradient_numbers);
}

template <bool layer>
void backward(const char* kernel, Out dx, MaybeInOut dweight, MaybeInOut dbias, In dy, MaybeIn dsum, In x, In weight, const Tensor* mean, In rstd,
              double offset, bool accumulate) {
  check_length(kernel, x);
  if (x.columns() == 0) return;
  if (x.rows() == 0 && !accumulate) {
    for (Tensor* gradient : {dweight, dbias})
      if (gradient) cudaMemsetAsync(gradient->data, 0, static_cast<size_t>(gradient->bytes()), stream());
  }
  const int columns = static_cast<int>(x.columns());
  const int64_t rows = x.rows();
  const GradientBlock block = block_of(rows, columns, dweight || dbias);
  const int64_t blocks = ceil_div(rows, block.rows);
  NormGradient a = {dx.data, dy.data, dsum ? dsum->data : nullptr, x.data, mean ? mean->as<const float>() : nullptr, rstd.as<const float>(),
                    {weight.data, weight.dtype == DType::bf16, static_cast<float>(offset)}, nullptr, nullptr, nullptr, nullptr, accumulate,
                    arrivals(dweight || dbias ? fold_counters(blocks) : 0), rows, block.rows, columns, static_cast<float>(1.0 / columns)};
  auto add = [&](float*& parts, float*& sum, Tensor* gradient) {
    if (!gradient) return;
    sum = gradient->as<float>();
    parts = scratch_of<float>(blocks * columns);
  };
  add(a.dweight, a.dweight_sum, dweight);
  add(a.dbias, a.dbias_sum, dbias);
  dispatch_float(kernel, x.dtype, [&](auto number) {
    using T = decltype(number);
    const bool aligned = columns % vector_length<T> == 0 && on_16_bytes(a.dx) && on_16_bytes(a.dy) && on_16_bytes(a.dsum) && on_16_bytes(a.x) &&
                         on_16_bytes(a.weight.data) && on_16_bytes(a.dweight_sum) && on_16_bytes(a.dbias_sum);
    if (aligned) run<T, layer, true>(kernel, a, block, blocks);
    else run<T, layer, false>(kernel, a, block, blocks);
  });
}

}  // namespace

void rms_norm_backward(Out dx, MaybeInOut dweight, In dy, MaybeIn dsum, In x, In weight, In rstd, double offset, bool accumulate) {
  backward<false>("rms_norm_backward", dx, dweight, nullptr, dy, dsum, x, weight, nullptr, rstd, offset, accumulate);
}
void layer_norm_backward(Out dx, MaybeInOut dweight, MaybeInOut dbias, In dy, MaybeIn dsum, In x, In weight, In mean, In rstd, bool accumulate) {
  backward<true>("layer_norm_backward", dx, dweight, dbias, dy, dsum, x, weight, &mean, rstd, 0, accumulate);
}

}  // namespace anneal::cuda
