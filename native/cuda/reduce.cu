// Sums and maxima over any axes, and the column sums of a bias's gradient. Neighbouring axes that are both kept or both reduced are merged; then
// either the innermost axis is reduced (a warp or a block for each output) or kept (threads walk down columns). Long reductions are cut into segments
// whose results are reduced again. Which thread adds what depends on the shape only, neither on alignment nor on how many outputs there are, so the
// bits of an output are always the same.
#include <cmath>

#include "../kernels.h"
#include "../operations.h"
#include "elements.h"

namespace anneal::cuda {

constexpr int reduce_threads = 256;
constexpr int column_lanes = 32, column_rows = reduce_threads / column_lanes;  // of a block that walks down columns
constexpr int64_t one_warp = 1024;      // elements that one warp reduces
constexpr int64_t run_segment = 32768;  // elements that one block reduces

struct SumOf {
  template <class V> ANNEAL_DEVICE static V start() { return V(0); }
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a + b; }
};
// A NaN anywhere is the result.
struct MaxOf {
  template <class V> ANNEAL_DEVICE static V start() { return V(-INFINITY); }
  template <class V> ANNEAL_DEVICE static V of(V a, V b) { return a > b || a != a ? a : b; }
};

// Merged axes, outermost first, with their strides in x.
struct Group {
  int count = 0;
  int64_t length[max_rank], stride[max_rank], total = 1;
  void add(int64_t n, int64_t step) {
    total *= n;
    length[count] = n;
    stride[count++] = step;
  }
};
ANNEAL_DEVICE int64_t offset_of(const Group& group, int64_t index) {
  if (group.count == 1) return index * group.stride[0];
  // Unrolled, because indexing a kernel's parameter at run time copies it to local memory.
  int64_t at = 0;
#pragma unroll
  for (int i = max_rank - 1; i >= 0; --i)
    if (i < group.count) at += take_axis(index, group.length[i]) * group.stride[i];
  return at;
}

// y[output, segment] = reduction of part of the elements of `reduced` at an index of `kept`. Contiguous elements are taken 16 bytes at a time, with
// one load where aligned.
template <class Operation, class Y, class T, bool by_warp>
__global__ void __launch_bounds__(reduce_threads) reduce_runs_kernel(Y* y, const T* x, Group kept, Group reduced, int64_t segments, bool aligned) {
  using V = Compute<T>;
  constexpr int n = elements_per_thread<T>, group = by_warp ? 32 : reduce_threads;
  ANNEAL_SHARED(V, room, 32);
  int64_t output = int64_t{blockIdx.x} * (reduce_threads / group) + threadIdx.x / group;
  if (output >= kept.total * segments) return;
  const int64_t result = output, part = take_axis(output, segments);
  const T* from = x + offset_of(kept, output);
  const int64_t begin = part * run_segment, end = begin + run_segment < reduced.total ? begin + run_segment : reduced.total;
  const bool contiguous = reduced.count == 1;
  V total[n];
#pragma unroll
  for (int k = 0; k < n; ++k) total[k] = Operation::template start<V>();
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x % group * n; i < end; i += group * n) {
    if (aligned && i + n <= end) {
      const Elements<T, n> v = load_elements<n>(from + i);
#pragma unroll
      for (int k = 0; k < n; ++k) total[k] = Operation::of(total[k], to_float(v.at[k]));
    } else {
#pragma unroll
      for (int k = 0; k < n; ++k)
        if (i + k < end) total[k] = Operation::of(total[k], to_float(from[contiguous ? i + k : offset_of(reduced, i + k)]));
    }
  }
#pragma unroll
  for (int k = 1; k < n; ++k) total[0] = Operation::of(total[0], total[k]);
  const V all = by_warp ? warp_reduce<Operation>(total[0]) : block_reduce<Operation>(total[0], room);
  if (threadIdx.x % group == 0) y[result] = from_float<Y>(all);
}

// y[outer, segment, column] (+)= reduction over the segment's part of `reduced`; columns are contiguous.
template <class Operation, class Y, class T>
__global__ void __launch_bounds__(reduce_threads) reduce_columns_kernel(Y* y, const T* x, Group kept, Group reduced, int64_t columns, int64_t segment, bool aligned, bool accumulate) {
  using V = Compute<T>;
  constexpr int n = elements_per_thread<T>, width = column_lanes * n;
  // A place more for every 128 bytes, so that neither side of the exchange meets in a bank.
  constexpr int line = 128 / sizeof(V), stride = width + width / line;
  ANNEAL_SHARED(V, room, column_rows * stride);
  const int lane = threadIdx.x % column_lanes, row = threadIdx.x / column_lanes;
  int64_t outer = blockIdx.x;
  const int64_t first = take_axis(outer, ceil_div(columns, width)) * width, column = first + lane * n;
  const T* from = x + offset_of(kept, outer) + column;
  const int64_t begin = blockIdx.y * segment, end = begin + segment < reduced.total ? begin + segment : reduced.total;
  V total[n];
#pragma unroll
  for (int k = 0; k < n; ++k) total[k] = Operation::template start<V>();
  if (aligned && column + n <= columns) {
#pragma unroll 4
    for (int64_t r = begin + row; r < end; r += column_rows) {
      const Elements<T, n> v = load_elements<n>(from + offset_of(reduced, r));
#pragma unroll
      for (int k = 0; k < n; ++k) total[k] = Operation::of(total[k], to_float(v.at[k]));
    }
  } else {
    for (int64_t r = begin + row; r < end; r += column_rows) {
      const T* at = from + offset_of(reduced, r);
#pragma unroll
      for (int k = 0; k < n; ++k)
        if (column + k < columns) total[k] = Operation::of(total[k], to_float(at[k]));
    }
  }
#pragma unroll
  for (int k = 0; k < n; ++k) room[row * stride + lane * n / line + lane * n + k] = total[k];
  __syncthreads();
  for (int i = threadIdx.x; i < width && first + i < columns; i += reduce_threads) {
    V all = room[i + i / line];
#pragma unroll
    for (int k = 1; k < column_rows; ++k) all = Operation::of(all, room[k * stride + i + i / line]);
    Y* to = y + (outer * gridDim.y + blockIdx.y) * columns + first + i;
    *to = from_float<Y>(accumulate ? static_cast<V>(to_float(*to)) + all : all);
  }
}

namespace {

// Whether 16 bytes may be loaded at every n-th element from every start.
template <class T> bool in_vectors(const T* x, const Group& group) {
  bool fits = is_aligned_to(16, x);
  for (int i = 0; i < group.count; ++i) fits = fits && group.stride[i] % elements_per_thread<T> == 0;
  return fits;
}

template <class Operation, class Y, class T> void reduce_runs(const char* kernel, Y* y, const T* x, const Group& kept, const Group& reduced) {
  const bool aligned = reduced.count == 1 && in_vectors(x, kept);
  auto start = [&](auto function, auto* to, int64_t segments, int64_t per_block) {
    launch(function, {dim3(static_cast<unsigned>(ceil_div(kept.total * segments, per_block))), dim3(reduce_threads), 0, kernel}, to, x, kept, reduced, segments, aligned);
  };
  const int64_t segments = ceil_div(reduced.total, run_segment);
  if (reduced.total <= one_warp) return start(reduce_runs_kernel<Operation, Y, T, true>, y, 1, reduce_threads / 32);
  if (segments == 1) return start(reduce_runs_kernel<Operation, Y, T, false>, y, 1, 1);
  using V = Compute<T>;
  V* parts = scratch_of<V>(kept.total * segments);
  start(reduce_runs_kernel<Operation, V, T, false>, parts, segments, 1);
  Group outputs, rest;
  outputs.add(kept.total, segments);
  rest.add(segments, 1);
  reduce_runs<Operation, Y, V>(kernel, y, parts, outputs, rest);
}

template <class Operation, class Y, class T>
void reduce_columns(const char* kernel, Y* y, const T* x, const Group& kept, const Group& reduced, int64_t columns, bool accumulate) {
  constexpr int64_t width = column_lanes * elements_per_thread<T>;
  const int64_t across = ceil_div(columns, width) * kept.total;
  const bool aligned = in_vectors(x, kept) && in_vectors(x, reduced);
  // Enough blocks to fill a GPU, yet few segments and no long chains of additions.
  int64_t segment = ceil_div(reduced.total * across, 1024);
  segment = segment < 64 ? 64 : segment > 1024 ? 1024 : segment;
  if (ceil_div(reduced.total, segment) > 32768) segment = ceil_div(reduced.total, 32768);
  const int64_t segments = ceil_div(reduced.total, segment);
  auto start = [&](auto function, auto* to, bool add) {
    launch(function, {dim3(static_cast<unsigned>(across), static_cast<unsigned>(segments)), dim3(reduce_threads), 0, kernel}, to, x, kept, reduced, columns, segment, aligned, add);
  };
  if (segments == 1) return start(reduce_columns_kernel<Operation, Y, T>, y, accumulate);
  using V = Compute<T>;
  V* parts = scratch_of<V>(kept.total * segments * columns);
  start(reduce_columns_kernel<Operation, V, T>, parts, false);
  Group outer, rest;
  outer.add(kept.total, segments * columns);
  rest.add(segments, columns);
  reduce_columns<Operation, Y, V>(kernel, y, parts, outer, rest, columns, accumulate);
}

// Merged axes of x: kept and reduced ones in turn.
struct Plan {
  Group kept, reduced;
  int64_t columns = 0;  // the length of the innermost axis where that is kept; it is in neither group
};
Plan make_plan(const Tensor& y, const Tensor& x) {
  int64_t length[max_rank], stride[max_rank], step = x.size;
  bool kept[max_rank];
  int count = 0;
  for (int i = 0; i < x.rank; ++i) {
    step /= x.shape[i];
    if (x.shape[i] == 1) continue;
    const bool keep = y.shape[i] == x.shape[i];
    if (count > 0 && kept[count - 1] == keep) {
      length[count - 1] *= x.shape[i];
      stride[count - 1] = step;
    } else {
      length[count] = x.shape[i];
      stride[count] = step;
      kept[count++] = keep;
    }
  }
  Plan plan;
  if (count > 0 && kept[count - 1]) plan.columns = length[--count];
  for (int i = 0; i < count; ++i) (kept[i] ? plan.kept : plan.reduced).add(length[i], stride[i]);
  return plan;
}

}  // namespace

void reduce(Out y, In x, int64_t operation) {
  const bool is_sum = static_cast<ReduceOperation>(operation) == ReduceOperation::sum;
  if (y.size == 0) return;
  if (x.size == 0) return fill(y, 0);
  const Plan plan = make_plan(y, x);
  dispatch_float_or_double("reduce", x.dtype, [&](auto number) {
    using T = decltype(number);
    auto run = [&](auto function) {
      using Operation = decltype(function);
      if (plan.columns > 0) reduce_columns<Operation>("reduce", y.as<T>(), x.as<const T>(), plan.kept, plan.reduced, plan.columns, false);
      else reduce_runs<Operation>("reduce", y.as<T>(), x.as<const T>(), plan.kept, plan.reduced);
    };
    if (is_sum) run(SumOf{});
    else run(MaxOf{});
  });
}

void sum_rows(InOut y, In x, bool accumulate) {
  if (x.size == 0) {
    if (!accumulate) fill(y, 0);
    return;
  }
  Group one, rows;
  rows.add(x.rows(), x.columns());
  dispatch_float("sum_rows", x.dtype, [&](auto number) {
    using T = decltype(number);
    reduce_columns<SumOf>("sum_rows", y.as<float>(), x.as<const T>(), one, rows, x.columns(), accumulate);
  });
}

}  // namespace anneal::cuda
