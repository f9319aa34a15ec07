// Conversion between any two dtypes. The pairs among f32, bf16 and f16 run in vectors; the rules for integers are
// cast.h's.
#include "cast.h"
#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int64_t grain = 32768;

template <class T>
constexpr bool has_vectors = std::is_same_v<T, float> || std::is_same_v<T, bf16> || std::is_same_v<T, f16>;

template <class Y, class X> static void convert_range(Y* y, const X* x, int64_t n) {
  if constexpr (std::is_same_v<Y, X>) {
    memcpy(y, x, static_cast<size_t>(n) * sizeof(X));
  } else if constexpr (has_vectors<Y> && has_vectors<X>) {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) store(y + i, load(x + i));
    if (i < n) store_part(y + i, load_part(x + i, n - i), n - i);
  } else {
    for (int64_t i = 0; i < n; ++i) narrow(y + i, widen(x[i]));
  }
}

}  // namespace

void convert(Tensor& y, const Tensor& x) {
  with_any(y.dtype, [&]<class Y>(Y*) {
    with_any(x.dtype, [&]<class X>(X*) {
      Y* out = y.as<Y>();
      const X* in = x.as<X>();
      parallel_for(y.size, grain,
                   [&](int64_t begin, int64_t end) { convert_range(out + begin, in + begin, end - begin); });
    });
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
