// Dropout whose mask is a function of (seed, stream, element index): nothing is stored, and the backward is the same
// call on dy.
#include "isa.h"
#include "random.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

constexpr int64_t elements_per_task = 16384;

template <class T> void drop(T* y, const T* x, int64_t size, double p, int64_t seed, int64_t stream) {
  const uint32_t threshold = drop_threshold(p);
  const float scale = static_cast<float>(1 / (1 - p));
  parallel_for((size + 3) / 4, elements_per_task / 4, [&](int64_t begin, int64_t end) {
    each_random_vector(begin * 4, end * 4 < size ? end * 4 : size, seed, stream, [&](int64_t i, vu words, auto span) {
      vf kept = (vf)((vi)(words >= threshold) & (vi)(load(x + i, span) * scale));
      store(y + i, kept, span);
    });
  });
}

}  // namespace

void dropout(Out y, In x, double p, int64_t seed, int64_t stream) {
  if (p == 1) memset(y.data, 0, static_cast<size_t>(y.bytes()));
  else if (x.dtype == DType::f32) drop(y.as<float>(), x.as<float>(), x.size, p, seed, stream);
  else drop(y.as<bf16>(), x.as<bf16>(), x.size, p, seed, stream);
}

}  // namespace anneal::cpu::ANNEAL_ISA
