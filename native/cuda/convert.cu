// Conversion between any two dtypes by the rules of cast.h; between equal ones the elements only move.
#include "../kernels.h"
#include "cast.h"
#include "elements.h"

namespace anneal::cuda {

template <class Y, class X> struct Convert {
  ANNEAL_DEVICE Y operator()(X x) const { return narrow<Y>(widen(x)); }
};
template <class U> struct Same {
  ANNEAL_DEVICE U operator()(U x) const { return x; }
};

void convert(Out y, In x) {
  if (y.dtype == x.dtype) {
    dispatch_size(bytes_of(x.dtype), [&](auto element) {
      using U = decltype(element);
      if constexpr (sizeof(U) <= 8) map("convert", y.as<U>(), y.size, Same<U>{}, x.as<const U>());
    });
    return;
  }
  dispatch_any(y.dtype, [&](auto to) {
    dispatch_any(x.dtype, [&](auto from) {
      using Y = decltype(to);
      using X = decltype(from);
      if constexpr (!std::is_same_v<Y, X>) map("convert", y.as<Y>(), y.size, Convert<Y, X>{}, x.as<const X>());
    });
  });
}

}  // namespace anneal::cuda
