// Primitives that treat each element alone.
#include <cstdint>

#include "../kernels.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int fill_threads = 256;

template <class T> __global__ void __launch_bounds__(fill_threads) fill_kernel(T* y, int64_t size, T value) {
  for (int64_t i = int64_t{blockIdx.x} * fill_threads + threadIdx.x; i < size; i += int64_t{gridDim.x} * fill_threads) y[i] = value;
}

void fill(Out y, double value) {
  auto run = [&](auto number) {
    using T = decltype(number);
    const int64_t blocks = ceil_div(y.size, fill_threads);
    launch(fill_kernel<T>, {dim3(static_cast<unsigned>(blocks < 65536 ? blocks : 65536)), dim3(fill_threads)}, y.as<T>(), y.size, number);
  };
  run(static_cast<float>(value));
}

}  // namespace anneal::cuda
