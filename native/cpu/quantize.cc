// Rounding numbers to the codes of a quantised format and back. Every block of a weight has a scale of its own, so blocks are independent: threads share
// them out, and a weight quantised in parts has the bits of one quantised whole.
#include "quantize.h"

#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int64_t numbers_per_task = 8192;

// f with a null pointer of the storage type of x: f32, bf16 or f16.
template <class F> void with_storage(const Tensor& x, F&& f) {
  if (x.dtype == DType::f32) f(static_cast<float*>(nullptr));
  else if (x.dtype == DType::bf16) f(static_cast<bf16*>(nullptr));
  else f(static_cast<f16*>(nullptr));
}

}  // namespace

void quantize(Out codes, Out scales, MaybeOut zeros, In x, int64_t format, int64_t block) {
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const int64_t blocks = (x.size + block - 1) / block;
  bool finite = true;
  with_storage(x, [&]<class T>(T*) {
    parallel_for(blocks, numbers_per_task / block + 1, [&](int64_t begin, int64_t end) {
      bool good = true;
      for (int64_t b = begin; b < end; ++b) {
        const int64_t from = b * block, n = smallest(block, x.size - from);
        good &= quantize_block(x.as<const T>() + from, n, kind, codes.as<uint8_t>() + (is_four_bit(kind) ? from / 2 : from),
                               scales.as<float>() + b, zeros ? zeros->as<uint8_t>() + b : nullptr);
      }
      if (!good) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
    });
    if (finite) return;
    for (int64_t i = 0; i < x.size; ++i) {
      const float value = to_float(x.as<const T>()[i]);
      ANNEAL_CHECK(value - value == 0, "quantize: x[%lld] is %g; only finite numbers can be quantised",
                   static_cast<long long>(i), static_cast<double>(value));
    }
  });
}

void dequantize(Out y, In codes, In scales, MaybeIn zeros, int64_t format, int64_t block) {
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const int64_t blocks = (y.size + block - 1) / block;
  with_storage(y, [&]<class T>(T*) {
    parallel_for(blocks, numbers_per_task / block + 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t from = b * block;
        dequantize_block(y.as<T>() + from, smallest(block, y.size - from),
                         codes.as<const uint8_t>() + (is_four_bit(kind) ? from / 2 : from), scales.as<const float>()[b],
                         zeros ? zero_point(kind, zeros->as<const uint8_t>()[b]) : 0, kind, zeros != nullptr);
      }
    });
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
