// Rounding numbers to the codes of a quantised format: a warp per block of numbers, which it reads twice (the second time from the cache). The codes are
// the CPU's, bit for bit: nothing but products, quotients and comparisons in f32.
#include "../kernels.h"
#include "quantize.h"

namespace anneal::cuda {

template <QuantizedFormat format, class T>
__global__ void __launch_bounds__(quantize_threads) quantize_kernel(uint8_t* codes, float* scales, uint8_t* zeros, const T* x, int64_t size, int64_t block, QuantizeBook book, Fault* fault) {
  ANNEAL_SHARED(float, map, 256);
  if constexpr (format == QuantizedFormat::dynamic) {
    map[threadIdx.x] = book.value[threadIdx.x];
    __syncthreads();
  }
  const int lane = threadIdx.x % 32;
  const int64_t at = int64_t{blockIdx.x} * (quantize_threads / 32) + threadIdx.x / 32, from = at * block, n = block < size - from ? block : size - from;
  if (n <= 0) return;
  const BlockRounding rounding = rounding_of<format>(x + from, n, zeros != nullptr, lane);
  if (!rounding.finite) {
    for (int64_t i = from + lane; i < from + n; i += 32)
      if ((__float_as_uint(to_float(x[i])) & 0x7f800000u) == 0x7f800000u) report(fault, FaultSite::quantize_finite, i, 0, 0);
    return;
  }
  if (lane == 0) {
    scales[at] = rounding.scale;
    if (zeros) zeros[at] = static_cast<uint8_t>(rounding.zero);
  }
  write_codes<format>(codes + (is_packed(format) ? from / 2 : from), x + from, n, rounding, zeros != nullptr, book, map, lane, [](int64_t, int) {});
}

void quantize(Out codes, Out scales, MaybeOut zeros, In x, int64_t format, int64_t block) {
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const QuantizeBook book = quantize_book(kind, zeros != nullptr);
  const int64_t blocks = ceil_div(ceil_div(x.size, block), quantize_threads / 32);
  dispatch_format(kind, [&](auto chosen) {
    constexpr QuantizedFormat constant = decltype(chosen)::value;
    auto run = [&](auto number) {
      using T = decltype(number);
      launch(quantize_kernel<constant, T>, {dim3(static_cast<unsigned>(blocks)), dim3(quantize_threads)}, codes.as<uint8_t>(), scales.as<float>(),
             zeros ? zeros->as<uint8_t>() : nullptr, x.as<const T>(), x.size, block, book, fault());
    };
    if (x.dtype == DType::f16) run(f16{});
    else dispatch_float("quantize", x.dtype, run);
  });
}

}  // namespace anneal::cuda
