// Quantised weights back to numbers. Eight numbers a thread; the values of all codes lie in shared memory.
#include <cstdint>

#include "../kernels.h"
#include "../quantization.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int dequantize_threads = 256;

struct CodeValues {
  float value[256];
};

// Numbers 8i … 8i + 7 by thread i. Codes of four bits if `packed`. whole: `block` is a multiple of 8 and the 16-byte (or, from packed codes, 4-byte) accesses
// are aligned; the last numbers may be fewer.
template <class T, bool packed>
__global__ void __launch_bounds__(dequantize_threads) dequantize_kernel(T* y, const uint8_t* codes, const float* scales, const uint8_t* zeros, CodeValues book, int64_t size, int64_t block, bool whole) {
  constexpr int values = packed ? 16 : 256;
  ANNEAL_SHARED(float, value, values);
  if (threadIdx.x < values) value[threadIdx.x] = book.value[threadIdx.x];
  __syncthreads();
  const int64_t first = (int64_t{blockIdx.x} * dequantize_threads + threadIdx.x) * 8;
  if (first >= size) return;
  // Zero points are in the notation of the codes.
  auto zero_of = [&](int64_t at) { return !zeros ? 0.f : packed ? static_cast<float>(zeros[at]) : static_cast<float>(static_cast<int8_t>(zeros[at])); };
  if (whole && first + 8 <= size) {
    const int64_t at = first / block;
    const float scale = scales[at], zero = zero_of(at);
    const uint32_t* words = reinterpret_cast<const uint32_t*>(codes) + first / (packed ? 8 : 4);
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t code = packed ? words[0] >> (i / 2 * 8 + (i % 2 ? 0 : 4)) & 15 : words[i / 4] >> (i % 4 * 8) & 255;
      v[i] = (value[code] - zero) * scale;
    }
    if constexpr (sizeof(T) == 4) {
      store_vector(y + first, {v[0], v[1], v[2], v[3]});
      store_vector(y + first + 4, {v[4], v[5], v[6], v[7]});
    } else {
      uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) word[i] = from_float<T>(v[2 * i]).bits | static_cast<uint32_t>(from_float<T>(v[2 * i + 1]).bits) << 16;
      store_global_16(y + first, make_uint4(word[0], word[1], word[2], word[3]));
    }
    return;
  }
  for (int64_t i = first; i < first + 8 && i < size; ++i) {
    const int64_t at = i / block;
    // A block of four-bit codes has an even number of them, so that pairs never straddle blocks.
    const int code = packed ? (i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4) : codes[i];
    y[i] = from_float<T>((value[code] - zero_of(at)) * scales[at]);
  }
}

namespace {

CodeValues values_of(QuantizedFormat format, bool with_zeros) {
  CodeValues book{};
  for (int i = 0; i < 256; ++i) {
    if (is_four_bit(format)) book.value[i] = four_bit_map(format, with_zeros)[i % 16];
    else if (format == QuantizedFormat::int8) book.value[i] = static_cast<float>(static_cast<int8_t>(i));
    else book.value[i] = (format == QuantizedFormat::dynamic ? dynamic_map : dynamic_unsigned_map)[i];
  }
  return book;
}

}  // namespace

void dequantize(Out y, In codes, In scales, MaybeIn zeros, int64_t format, int64_t block) {
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const bool whole = block % 8 == 0 && reinterpret_cast<uintptr_t>(y.data) % 16 == 0 && reinterpret_cast<uintptr_t>(codes.data) % 4 == 0;
  const CodeValues book = values_of(kind, zeros != nullptr);
  auto run = [&](auto number) {
    using T = decltype(number);
    const auto kernel = is_four_bit(kind) ? dequantize_kernel<T, true> : dequantize_kernel<T, false>;
    launch(kernel, {dim3(static_cast<unsigned>(ceil_div(y.size, 8 * dequantize_threads))), dim3(dequantize_threads)}, y.as<T>(), codes.as<const uint8_t>(), scales.as<const float>(),
           zeros ? zeros->as<const uint8_t>() : nullptr, book, y.size, block, whole);
  };
  if (y.dtype == DType::f16) run(f16{});
  else dispatch_float("dequantize", y.dtype, run);
}

}  // namespace anneal::cuda
