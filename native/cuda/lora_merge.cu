// A low-rank update added to a weight in place. The product is the matrix product's own, which adds to its output in f32 and rounds once; a quantised weight
// goes through panels of rows in f32 scratch memory. Launches: two; quantised, four for each panel of 2^22 numbers.
#include "../kernels.h"
#include "elements.h"
#include "quantize.h"

namespace anneal::cuda {

void gemm(InOut c, MaybeOut pre, In a, In b, MaybeIn bias, bool transpose_a, bool transpose_b, bool accumulate, int64_t activation, bool half);
void dequantize(Out y, In codes, In scales, MaybeIn zeros, int64_t format, int64_t block);

constexpr int64_t panel_numbers = int64_t{1} << 22;
constexpr int blocks_per_warp = 8, fold_energy_threads = 256;

// float(x) * factor.
struct Scaled {
  float factor;
  template <class T> ANNEAL_DEVICE float operator()(T x) const { return to_float(x) * factor; }
};

// Rounds blocks of x again; partial[2 * CUDA block]: the sum of squares of what rounding changed, and of x. A block that is not finite stays as it was.
template <QuantizedFormat format>
__global__ void __launch_bounds__(quantize_threads) requantize_kernel(uint8_t* codes, float* scales, uint8_t* zeros, double* partial, const float* x, int64_t blocks, int64_t block, QuantizeBook book, Fault* fault) {
  constexpr int values = is_packed(format) ? 16 : 256;
  ANNEAL_SHARED(float, value, values);
  ANNEAL_SHARED(double, room, 32);
  if (threadIdx.x < values) value[threadIdx.x] = book.value[threadIdx.x];
  __syncthreads();
  const int lane = threadIdx.x % 32;
  const int64_t first = (int64_t{blockIdx.x} * (quantize_threads / 32) + threadIdx.x / 32) * blocks_per_warp;
  double error = 0, exact = 0;
  for (int64_t at = first; at < first + blocks_per_warp && at < blocks; ++at) {
    const float* own = x + at * block;
    const BlockRounding rounding = rounding_of<format>(own, block, zeros != nullptr, lane);
    if (!rounding.finite) {
      if (lane == 0) report(fault, FaultSite::lora_merge_finite, at, 0, 0);
      continue;
    }
    if (lane == 0) {
      scales[at] = rounding.scale;
      if (zeros) zeros[at] = static_cast<uint8_t>(rounding.zero);
    }
    const float shift = zeros ? static_cast<float>(rounding.zero) : 0.f;
    float part[2] = {};
    write_codes<format>(codes + (is_packed(format) ? at * block / 2 : at * block), own, block, rounding, zeros != nullptr, book, value, lane, [&](int64_t i, int code) {
      const float rounded = (value[code] - shift) * rounding.scale, difference = rounded - own[i];
      part[0] += difference * difference;
      part[1] += own[i] * own[i];
    });
    error += static_cast<double>(part[0]);
    exact += static_cast<double>(part[1]);
  }
  error = block_reduce<Sum>(error, room);
  exact = block_reduce<Sum>(exact, room);
  if (threadIdx.x != 0) return;
  partial[2 * blockIdx.x] = error;
  partial[2 * blockIdx.x + 1] = exact;
}

// energy [2] = (accumulate ? energy : 0) + the partials, in an order that depends on their number only.
template <int threads> __global__ void __launch_bounds__(threads) fold_energy_kernel(double* energy, const double* partial, int64_t count, bool accumulate) {
  ANNEAL_SHARED(double, room, 32);
  double sums[2] = {};
  for (int64_t i = threadIdx.x; i < count; i += threads) {
    sums[0] += partial[2 * i];
    sums[1] += partial[2 * i + 1];
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const double total = block_reduce<Sum>(sums[k], room);
    if (threadIdx.x == 0) energy[k] = (accumulate ? energy[k] : 0) + total;
  }
}

namespace {

Tensor matrix(void* data, int64_t rows, int64_t columns, DType dtype) { return {data, rows * columns, {rows, columns}, dtype, 2}; }

// scale * b in f32.
Tensor scaled(const char* kernel, const Tensor& b, double factor) {
  Tensor product = matrix(scratch_of<float>(b.size), b.shape[0], b.shape[1], DType::f32);
  dispatch_float(kernel, b.dtype, [&](auto number) {
    using T = decltype(number);
    map(kernel, product.as<float>(), b.size, Scaled{static_cast<float>(factor)}, b.as<const T>());
  });
  return product;
}

}  // namespace

void lora_merge(InOut weight, In b, In a, double scale, bool transposed) {
  if (b.shape[1] == 0) return;
  const Tensor left = scaled("lora_merge", b, scale);
  if (transposed) gemm(weight, nullptr, a, left, nullptr, true, true, true, 0, false);
  else gemm(weight, nullptr, left, a, nullptr, false, false, true, 0, false);
}

void lora_merge_quantized(InOut codes, InOut scales, MaybeInOut zeros, Out error, In b, In a, double scale, int64_t format) {
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const QuantizedShape shape = weight_shape(b.shape[0], a.shape[1], scales);
  const Tensor left = scaled("lora_merge_quantized", b, scale);
  const int64_t wanted = shape.columns > 0 ? panel_numbers / shape.columns + 1 : 1, rows_each = wanted < shape.rows ? wanted : shape.rows,
                code_bytes = is_four_bit(kind) ? shape.columns / 2 : shape.columns, blocks = scales.shape[1];
  float* panel = scratch_of<float>(rows_each * shape.columns);
  double* partial = scratch_of<double>(2 * ceil_div(rows_each * blocks, quantize_threads / 32 * blocks_per_warp));
  const QuantizeBook book = quantize_book(kind, zeros != nullptr);
  // Without rows there is nothing but an error of zero.
  int64_t first = 0;
  do {
    const int64_t rows = rows_each < shape.rows - first ? rows_each : shape.rows - first, count = rows * blocks;
    Tensor own_codes = matrix(codes.as<uint8_t>() + first * code_bytes, rows, code_bytes, DType::u8),
           own_scales = matrix(scales.as<float>() + first * blocks, rows, blocks, DType::f32);
    Tensor own_zeros = zeros ? matrix(zeros->as<uint8_t>() + first * blocks, rows, blocks, DType::u8) : Tensor{};
    Tensor sums = matrix(panel, rows, shape.columns, DType::f32);
    dequantize(sums, own_codes, own_scales, zeros ? &own_zeros : nullptr, format, shape.block);
    if (b.shape[1] > 0)
      gemm(sums, nullptr, matrix(left.as<float>() + first * b.shape[1], rows, b.shape[1], DType::f32), a, nullptr, false, false, true, 0, false);
    const int64_t parts = ceil_div(count, quantize_threads / 32 * blocks_per_warp);
    dispatch_format(kind, [&](auto chosen) {
      launch(requantize_kernel<decltype(chosen)::value>, {dim3(static_cast<unsigned>(parts)), dim3(quantize_threads), 0, "lora_merge_quantized"}, own_codes.as<uint8_t>(),
             own_scales.as<float>(), zeros ? own_zeros.as<uint8_t>() : nullptr, partial, static_cast<const float*>(panel), count, shape.block, book, fault());
    });
    launch(fold_energy_kernel<fold_energy_threads>, {dim3(1), dim3(fold_energy_threads), 0, "lora_merge_quantized"}, error.as<double>(), static_cast<const double*>(partial), parts, first > 0);
    first += rows_each;
  } while (first < shape.rows);
}

}  // namespace anneal::cuda
