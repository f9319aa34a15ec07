// Primitives that move elements: permute, slice, slice_into, gather_last, scatter_add_last. What moves is bytes: a strided copy takes the widest
// element, up to 16 bytes, that divides runs, strides and addresses. A permutation that changes the innermost axis goes through tiles in shared memory,
// so that both sides are walked in runs.
#include "../kernels.h"
#include "cast.h"
#include "elements.h"
#include "fault.h"

namespace anneal::cuda {

constexpr int tile = 32, tile_rows = 8;  // of a transpose, and the rows its threads move at a time
constexpr int few = 8;                   // up to so many additions to a row are made by one thread

// to[…] = from[…] along axes, whose strides are those of `to` and `from`.
template <class U> __global__ void __launch_bounds__(map_threads) copy_strided_kernel(U* to, const U* from, Strided axes, int64_t items) {
  const int64_t item = int64_t{blockIdx.x} * map_threads + threadIdx.x;
  if (item >= items) return;
  int64_t to_at = 0, from_at = 0;
  locate(axes, axes.count, item, to_at, from_at);
  copy_element(to + to_at, from + from_at);
}

template <class T> __global__ void __launch_bounds__(map_threads) add_strided_kernel(T* to, const T* from, Strided axes, int64_t items) {
  const int64_t item = int64_t{blockIdx.x} * map_threads + threadIdx.x;
  if (item >= items) return;
  int64_t to_at = 0, from_at = 0;
  locate(axes, axes.count, item, to_at, from_at);
  to[to_at] = from_float<T>(to_float(to[to_at]) + to_float(from[from_at]));
}

// `rows` is the innermost axis of y and `columns` that of x, with their strides in the other tensor; outer are the other axes.
struct Transposition {
  int64_t rows, row_stride, columns, column_stride;
  Strided outer;
};
template <class U> __global__ void __launch_bounds__(tile* tile_rows) transpose_kernel(U* y, const U* x, Transposition t) {
  // Rows an odd number of words apart lie in banks of their own.
  constexpr int stride = tile + (sizeof(U) < 4 ? 4 / sizeof(U) : 1);
  ANNEAL_SHARED(U, room, tile * stride);
  const int64_t row_tiles = ceil_div(t.rows, tile), column_tiles = ceil_div(t.columns, tile);
  int64_t rest = blockIdx.x, y_at = 0, x_at = 0;
  const int64_t row = take_axis(rest, row_tiles) * tile, column = take_axis(rest, column_tiles) * tile;
  locate(t.outer, t.outer.count, rest, y_at, x_at);
  const int lane = threadIdx.x % tile, first = threadIdx.x / tile;
#pragma unroll
  for (int i = first; i < tile; i += tile_rows)
    if (row + i < t.rows && column + lane < t.columns) room[i * stride + lane] = x[x_at + (row + i) * t.row_stride + column + lane];
  __syncthreads();
#pragma unroll
  for (int i = first; i < tile; i += tile_rows)
    if (column + i < t.columns && row + lane < t.rows) y[y_at + (column + i) * t.column_stride + row + lane] = room[lane * stride + i];
}

template <class U>
__global__ void __launch_bounds__(map_threads) gather_last_kernel(U* y, const U* x, const int32_t* index, bool shared, int64_t size, int64_t columns, int64_t width, Fault* fault) {
  const int64_t i = int64_t{blockIdx.x} * map_threads + threadIdx.x;
  if (i >= size) return;
  int64_t row = i;
  const int64_t column = take_axis(row, columns), place = shared ? column : i, at = index[place];
  if (at < 0 || at >= width) return report(fault, FaultSite::gather_last_index, place, at, width);
  y[i] = x[row * width + at];
}

// A row whose few numbers one thread adds in order.
template <class T>
__global__ void __launch_bounds__(map_threads) scatter_add_few_kernel(T* y, const T* x, const int32_t* index, int64_t rows, int64_t columns, int64_t width, Fault* fault) {
  const int64_t row = int64_t{blockIdx.x} * map_threads + threadIdx.x;
  if (row >= rows) return;
  for (int64_t i = row * columns; i < (row + 1) * columns; ++i) {
    const int64_t at = index[i];
    if (at < 0 || at >= width) {
      report(fault, FaultSite::scatter_add_last_index, i, at, width);
      continue;
    }
    T* target = y + row * width + at;
    *target = from_float<T>(to_float(*target) + to_float(x[i]));
  }
}
// A row for each warp, which takes 32 numbers at a time: the first lane of those with one index adds them in order, rounding as a thread alone would.
template <class T>
__global__ void __launch_bounds__(map_threads) scatter_add_kernel(T* y, const T* x, const int32_t* index, int64_t rows, int64_t columns, int64_t width, Fault* fault) {
  const int lane = threadIdx.x % 32;
  const int64_t row = (int64_t{blockIdx.x} * map_threads + threadIdx.x) / 32;
  if (row >= rows) return;
  for (int64_t base = 0; base < columns; base += 32) {
    const int64_t i = row * columns + base + lane;
    int32_t at = -1;
    Compute<T> value = 0;
    if (base + lane < columns) {
      at = index[i];
      value = to_float(x[i]);
      if (at < 0 || at >= width) {
        report(fault, FaultSite::scatter_add_last_index, i, at, width);
        at = -1;
      }
    }
    bool is_first = at >= 0;
    for (int other = 0; other < 32; ++other) is_first = (__shfl_sync(0xffffffffu, at, other) != at || other >= lane) && is_first;
    Compute<T> total = is_first ? to_float(y[row * width + at]) : Compute<T>(0);
    for (int other = 0; other < 32; ++other) {
      const int32_t other_at = __shfl_sync(0xffffffffu, at, other);
      const Compute<T> other_value = __shfl_sync(0xffffffffu, value, other);
      if (other_at == at && other >= lane) total = to_float(from_float<T>(total + other_value));
    }
    if (is_first) y[row * width + at] = from_float<T>(total);
    __syncwarp();
  }
}

namespace {

// The most bytes up to 16 that may move as one element, where the innermost axis is contiguous on both sides.
int64_t widest(const Strided& axes, int64_t bytes, const void* to, const void* from) {
  const int inner = axes.count - 1;
  if (axes.first[inner] > 1 || axes.second[inner] > 1) return bytes;
  int64_t wide = 16;
  auto divides = [&] {
    bool all = axes.length[inner] * bytes % wide == 0 && is_aligned_to(wide, to) && is_aligned_to(wide, from);
    for (int i = 0; i < inner; ++i) all = all && axes.first[i] * bytes % wide == 0 && axes.second[i] * bytes % wide == 0;
    return all;
  };
  while (wide > bytes && !divides()) wide /= 2;
  return wide;
}

void copy_strided(const char* from_kernel, Strided axes, int64_t bytes, void* to, int64_t to_begin, const void* from, int64_t from_begin) {
  axes.close();
  to = static_cast<char*>(to) + to_begin * bytes;
  from = static_cast<const char*>(from) + from_begin * bytes;
  const int64_t wide = widest(axes, bytes, to, from), factor = wide / bytes;
  int64_t items = 1;
  for (int i = 0; i < axes.count; ++i) {
    const bool inner = i == axes.count - 1;
    if (inner) axes.length[i] /= factor;
    else axes.first[i] /= factor, axes.second[i] /= factor;
    items *= axes.length[i];
  }
  dispatch_size(wide, [&](auto element) {
    using U = decltype(element);
    launch(copy_strided_kernel<U>, {blocks_of(items), dim3(map_threads), 0, from_kernel}, static_cast<U*>(to), static_cast<const U*>(from), axes, items);
  });
}

void transpose(Tensor& y, const Tensor& x, const Strided& axes) {
  const int inner = axes.count - 1;
  int unit = 0;
  while (axes.second[unit] != 1) ++unit;
  Transposition t{axes.length[inner], axes.second[inner], axes.length[unit], axes.first[unit], {}};
  int64_t tiles = ceil_div(t.rows, tile) * ceil_div(t.columns, tile);
  for (int i = 0; i < inner; ++i)
    if (i != unit) {
      t.outer.add(axes.length[i], axes.first[i], axes.second[i]);
      tiles *= axes.length[i];
    }
  dispatch_size(bytes_of(x.dtype), [&](auto element) {
    using U = decltype(element);
    if constexpr (sizeof(U) <= 8) launch(transpose_kernel<U>, {dim3(static_cast<unsigned>(tiles)), dim3(tile * tile_rows), 0, "permute"}, y.as<U>(), x.as<const U>(), t);
  });
}

// A box inside a larger tensor: the axes with the strides of the part and of the whole.
struct Box {
  Strided axes;
  int64_t begin = 0;
};
Box make_box(const Tensor& part, const Tensor& whole, const Axes& start) {
  Box box;
  if (part.size == 0) return box;
  int64_t part_step = part.size, whole_step = whole.size;
  for (int i = 0; i < whole.rank; ++i) {
    part_step /= part.shape[i];
    whole_step /= whole.shape[i];
    box.begin += start.at[i] * whole_step;
    box.axes.add(part.shape[i], part_step, whole_step);
  }
  return box;
}

}  // namespace

void permute(Out y, In x, Axes order) {
  if (x.size == 0) return;
  int64_t x_stride[max_rank], x_step = 1, y_step = y.size;
  for (int i = x.rank - 1; i >= 0; --i) {
    x_stride[i] = x_step;
    x_step *= x.shape[i];
  }
  Strided axes;
  for (int i = 0; i < y.rank; ++i) {
    y_step /= y.shape[i];
    axes.add(y.shape[i], y_step, x_stride[order.at[i]]);
  }
  if (axes.count > 1 && axes.second[axes.count - 1] != 1) transpose(y, x, axes);
  else copy_strided("permute", axes, bytes_of(x.dtype), y.data, 0, x.data, 0);
}

void slice(Out y, In x, Axes start) {
  Box box = make_box(y, x, start);
  if (y.size > 0) copy_strided("slice", box.axes, bytes_of(x.dtype), y.data, 0, x.data, box.begin);
}

void slice_into(InOut y, In x, Axes start, bool accumulate) {
  Box box = make_box(x, y, start);
  if (x.size == 0) return;
  // The strides of what is written come first.
  Strided axes;
  for (int i = 0; i < box.axes.count; ++i) axes.add(box.axes.length[i], box.axes.second[i], box.axes.first[i]);
  if (!accumulate) return copy_strided("slice_into", axes, bytes_of(x.dtype), y.data, box.begin, x.data, 0);
  axes.close();
  dispatch_float_or_double("slice_into", x.dtype, [&](auto number) {
    using T = decltype(number);
    launch(add_strided_kernel<T>, {blocks_of(x.size), dim3(map_threads), 0, "slice_into"}, y.as<T>() + box.begin, x.as<const T>(), axes, x.size);
  });
}

void gather_last(Out y, In x, In index) {
  const bool shared = index.rank == 1 && y.rank > 1;
  dispatch_size(bytes_of(x.dtype), [&](auto element) {
    using U = decltype(element);
    if constexpr (sizeof(U) <= 8)
      launch(gather_last_kernel<U>, {blocks_of(y.size), dim3(map_threads), 0, "gather_last"}, y.as<U>(), x.as<const U>(), index.as<const int32_t>(), shared, y.size,
             y.columns(), x.columns(), fault());
  });
}

void scatter_add_last(InOut y, In x, In index) {
  dispatch_float_or_double("scatter_add_last", x.dtype, [&](auto number) {
    using T = decltype(number);
    auto start = [&](auto kernel, int64_t threads) {
      launch(kernel, {blocks_of(threads), dim3(map_threads), 0, "scatter_add_last"}, y.as<T>(), x.as<const T>(), index.as<const int32_t>(), x.rows(), x.columns(), y.columns(),
             fault());
    };
    if (x.columns() <= few) start(scatter_add_few_kernel<T>, x.rows());
    else start(scatter_add_kernel<T>, x.rows() * 32);
  });
}

}  // namespace anneal::cuda
