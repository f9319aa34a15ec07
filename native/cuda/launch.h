// How a launcher starts a kernel on its device's stream. Included by kernel files and, for its types, by the device layer.
#pragma once
#include "device.h"
#include "simt.h"

namespace anneal::cuda {

// Blocks, threads of a block and bytes of dynamic shared memory; `from` names the launcher in error messages.
struct Launch {
  dim3 grid;
  dim3 threads;
  size_t shared;
  const char* from;
  Launch(dim3 grid, dim3 threads, size_t shared = 0, const char* from = __builtin_FUNCTION()) : grid(grid), threads(threads), shared(shared), from(from) {}
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Runs kernel(arguments…) on the stream of the calling thread's device. A grid without blocks does nothing.
template <class... P, class... A> void launch(void (*kernel)(P...), const Launch& size, A&&... arguments) {
  if (size.grid.x == 0 || size.grid.y == 0 || size.grid.z == 0) return;
  if (size.shared > 48 << 10) allow_shared(reinterpret_cast<const void*>(kernel), size.shared, size.from);
#if defined(__CUDACC__)
  kernel<<<size.grid, size.threads, size.shared, stream()>>>(static_cast<P>(arguments)...);
#else
  simt::launch(kernel, size.grid, size.threads, size.shared, stream(), static_cast<P>(arguments)...);
#endif
  count_launch(size.from);
}

}  // namespace anneal::cuda
