// The emulator's face to a kernel: CUDA's keywords, variables and functions for a C++ compiler. native/cuda/simt.h includes this where nvcc does not compile.
#pragma once
#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "wrappers.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __constant__ static
#define __shared__ use_ANNEAL_SHARED_instead_of_shared
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_assume(condition) ((void)0)

#define threadIdx (::anneal::simt::thread_index())
#define blockIdx (::anneal::simt::block_index())
#define blockDim (::anneal::simt::block_size())
#define gridDim (::anneal::simt::grid_size())
#define warpSize 32

#define ANNEAL_DEVICE inline __attribute__((always_inline))
#define ANNEAL_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::anneal::simt::dynamic_shared())
#define ANNEAL_SHARED(T, name, count) \
  static char name##_tag;             \
  T(&name)[count] = *static_cast<T(*)[count]>(::anneal::simt::static_shared(&name##_tag, sizeof(T) * (count), alignof(T)))

namespace anneal::simt {

// An argument by itself, for the interpreter of PTX.
struct Argument {
  const void* data;
  size_t bytes, alignment;
};
void run(const void* kernel, dim3 grid, dim3 block, size_t shared, void (*call)(void*), void* arguments, size_t argument_bytes, const Argument* list, size_t count);

template <class... P> void launch_fibers(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, P... arguments) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  } call{kernel, {arguments...}};
  const Argument list[] = {{&arguments, sizeof(P), alignof(P)}..., {}};
  run(reinterpret_cast<const void*>(kernel), grid, block, shared, [](void* p) {
    auto& call = *static_cast<Call*>(p);
    std::apply(call.kernel, call.arguments);
  }, &call, sizeof call, list, sizeof...(P));
}

}  // namespace anneal::simt
