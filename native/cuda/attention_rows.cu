// Copies of whole rows by index: into a cache of keys or values, and out of any tensor. A row is everything after the first axis. Of two rows for one
// slot the later one wins, as on the CPU.
#include "../kernels.h"
#include "gather.h"

namespace anneal::cuda {

constexpr int64_t few_slots = 1024;  // up to so many, a block looks itself for a later row of its slot

// last[slot] = the last row for it.
__global__ void __launch_bounds__(map_threads) last_row_kernel(int32_t* last, const int32_t* slot, int64_t count, int64_t rows) {
  const int64_t i = int64_t{blockIdx.x} * map_threads + threadIdx.x;
  if (i < count && slot[i] >= 0 && slot[i] < rows) atomicMax(last + slot[i], static_cast<int32_t>(i));
}
// y[slot[i]] = x[i], a block for each row, unless a later one has the same slot. `last` may be null where rows are few.
template <class U>
__global__ void __launch_bounds__(map_threads) scatter_rows_kernel(U* y, const U* x, const int32_t* slot, const int32_t* last, int64_t width, int64_t count, int64_t rows, Fault* fault) {
  const int64_t i = blockIdx.x;
  const int32_t to = slot[i];
  if (to < 0 || to >= rows) {
    if (threadIdx.x == 0) report(fault, FaultSite::scatter_rows_slot, i, to, rows);
    return;
  }
  bool later = last && last[to] != i;
  if (!last)
    for (int64_t j = i + 1 + threadIdx.x; j < count; j += map_threads) later = later || slot[j] == to;
  if (__syncthreads_or(later)) return;
  for (int64_t column = threadIdx.x; column < width; column += map_threads) copy_element(y + to * width + column, x + i * width + column);
}

void scatter_rows(InOut y, In x, In slot) {
  if (x.size == 0) return;
  const int64_t row_bytes = x.bytes() / x.dim(0), wide = widest_of_rows(row_bytes, y.data, x.data);
  int32_t* last = nullptr;
  if (slot.size > few_slots) {
    Tensor none = {scratch(static_cast<size_t>(y.dim(0)) * 4), y.dim(0), {y.dim(0)}, DType::i32, 1};
    fill(none, -1);
    last = none.as<int32_t>();
    launch(last_row_kernel, {blocks_of(slot.size), dim3(map_threads), 0, "scatter_rows"}, last, slot.as<const int32_t>(), slot.size, y.dim(0));
  }
  dispatch_size(wide, [&](auto element) {
    using U = decltype(element);
    launch(scatter_rows_kernel<U>, {dim3(static_cast<unsigned>(slot.size)), dim3(map_threads), 0, "scatter_rows"}, y.as<U>(), x.as<const U>(), slot.as<const int32_t>(),
           static_cast<const int32_t*>(last), row_bytes / wide, slot.size, y.dim(0), fault());
  });
}

void gather_rows(Out y, In x, In row) {
  gather("gather_rows", FaultSite::gather_rows_row, y, x, row, x.dim(0), y.dim(0) == 0 ? 0 : y.bytes() / y.dim(0));
}

}  // namespace anneal::cuda
