// Primitives that move elements: permute, slice, slice_into, gather_last, scatter_add_last. What moves is bytes, so
// kernels are instantiated by element size; only the accumulating ones know dtypes.
#include "cast.h"
#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int64_t grain = 16384;
constexpr int64_t tile = 64;  // of a transpose

// --- permute ---

// The axes of y with their strides in x, neighbours that stay neighbours merged.
struct Permutation {
  int count = 0;
  int64_t length[max_rank], stride[max_rank];
};

static Permutation merge(const Tensor& y, const Tensor& x, const Axes& order) {
  int64_t stride[max_rank], step = 1;
  for (int i = x.rank - 1; i >= 0; --i) {
    stride[i] = step;
    step *= x.shape[i];
  }
  Permutation p;
  for (int i = 0; i < y.rank; ++i) {
    int64_t length = y.shape[i], s = stride[order.at[i]];
    if (length == 1) continue;
    if (p.count > 0 && p.stride[p.count - 1] == s * length) {
      p.length[p.count - 1] *= length;
      p.stride[p.count - 1] = s;
    } else {
      p.length[p.count] = length;
      p.stride[p.count++] = s;
    }
  }
  return p;
}

// y is written in order, x read in runs: the innermost axis stays.
template <class U> static void copy_runs(U* y, const U* x, const Permutation& p, int64_t runs) {
  const int64_t length = p.length[p.count - 1];
  parallel_for(runs, grain / length + 1, [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      int64_t rest = run, at = 0;
      for (int i = p.count - 2; i >= 0; --i) {
        at += rest % p.length[i] * p.stride[i];
        rest /= p.length[i];
      }
      memcpy(y + run * length, x + at, static_cast<size_t>(length) * sizeof(U));
    }
  });
}

// Sixteen bytes of elements. A square block of them is transposed by zipping its two halves log2(count) times.
typedef uint8_t Bytes __attribute__((vector_size(16), may_alias));
typedef Bytes BytesUnaligned __attribute__((aligned(1)));

template <class U> ANNEAL_INLINE void zip(Bytes a, Bytes b, Bytes& low, Bytes& high) {
#if defined(__x86_64__)
  const __m128i x = (__m128i)a, y = (__m128i)b;
  if constexpr (sizeof(U) == 1) low = (Bytes)_mm_unpacklo_epi8(x, y), high = (Bytes)_mm_unpackhi_epi8(x, y);
  else if constexpr (sizeof(U) == 2) low = (Bytes)_mm_unpacklo_epi16(x, y), high = (Bytes)_mm_unpackhi_epi16(x, y);
  else if constexpr (sizeof(U) == 4) low = (Bytes)_mm_unpacklo_epi32(x, y), high = (Bytes)_mm_unpackhi_epi32(x, y);
  else low = (Bytes)_mm_unpacklo_epi64(x, y), high = (Bytes)_mm_unpackhi_epi64(x, y);
#else
  constexpr int size = sizeof(U);
  for (int i = 0; i < 8; ++i) {
    int at = i / size * 2 * size + i % size;
    low[at] = a[i];
    low[at + size] = b[i];
    high[at] = a[8 + i];
    high[at + size] = b[8 + i];
  }
#endif
}

template <class U> ANNEAL_INLINE void transpose_block(U* y, int64_t y_stride, const U* x, int64_t x_stride) {
  constexpr int count = 16 / sizeof(U);
  Bytes rows[count], zipped[count];
  ANNEAL_UNROLL
  for (int i = 0; i < count; ++i) rows[i] = *reinterpret_cast<const BytesUnaligned*>(x + i * x_stride);
  ANNEAL_UNROLL
  for (int width = 1; width < count; width *= 2) {
    ANNEAL_UNROLL
    for (int i = 0; i < count / 2; ++i) zip<U>(rows[i], rows[i + count / 2], zipped[2 * i], zipped[2 * i + 1]);
    ANNEAL_UNROLL
    for (int i = 0; i < count; ++i) rows[i] = zipped[i];
  }
  ANNEAL_UNROLL
  for (int i = 0; i < count; ++i) *reinterpret_cast<BytesUnaligned*>(y + i * y_stride) = rows[i];
}

// y[b * y_stride + a] = x[a * x_stride + b] for a < rows and b < columns, at most a tile. A whole tile is first copied
// close together, because rows a power of two apart would evict each other from the cache.
template <class U>
static void transpose_tile(U* y, int64_t y_stride, const U* x, int64_t x_stride, int64_t rows, int64_t columns) {
  if (rows == tile && columns == tile) {
    constexpr int64_t count = 16 / sizeof(U);
    alignas(64) U near[tile * tile];
    for (int64_t a = 0; a < tile; ++a) memcpy(near + a * tile, x + a * x_stride, tile * sizeof(U));
    for (int64_t b = 0; b < tile; b += count)
      for (int64_t a = 0; a < tile; a += count)
        transpose_block(y + b * y_stride + a, y_stride, near + a * tile + b, tile);
    return;
  }
  for (int64_t b = 0; b < columns; ++b)
    for (int64_t a = 0; a < rows; ++a) y[b * y_stride + a] = x[a * x_stride + b];
}

// The innermost axis of y strides in x; `unit` is the axis of y that is innermost in x.
template <class U> static void transpose(U* y, const U* x, const Permutation& p) {
  int unit = 0;
  while (p.stride[unit] != 1) ++unit;
  const int inner = p.count - 1;
  int64_t y_stride[max_rank], step = 1, outer = 1;
  for (int i = inner; i >= 0; --i) {
    y_stride[i] = step;
    step *= p.length[i];
    if (i != inner && i != unit) outer *= p.length[i];
  }
  const int64_t rows = p.length[inner], columns = p.length[unit];
  const int64_t row_tiles = (rows + tile - 1) / tile, column_tiles = (columns + tile - 1) / tile;
  const int64_t tiles = row_tiles * column_tiles;
  int64_t work = (rows < tile ? rows : tile) * (columns < tile ? columns : tile);
  parallel_for(outer * tiles, grain / work + 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t rest = item / tiles, b = item % tiles / row_tiles * tile, a = item % row_tiles * tile;
      int64_t x_at = a * p.stride[inner] + b, y_at = b * y_stride[unit] + a;
      for (int i = inner - 1; i >= 0; --i) {
        if (i == unit) continue;
        int64_t index = rest % p.length[i];
        rest /= p.length[i];
        x_at += index * p.stride[i];
        y_at += index * y_stride[i];
      }
      transpose_tile(y + y_at, y_stride[unit], x + x_at, p.stride[inner], rows - a < tile ? rows - a : tile,
                     columns - b < tile ? columns - b : tile);
    }
  });
}

// --- slices ---

// A box inside a larger tensor, cut into contiguous runs.
struct Box {
  int outer = 0;  // axes before a run
  int64_t run = 1, runs = 1, begin = 0;
  int64_t length[max_rank], stride[max_rank];
  int64_t offset(int64_t index) const {
    int64_t at = begin;
    for (int i = outer - 1; i >= 0; --i) {
      at += index % length[i] * stride[i];
      index /= length[i];
    }
    return at;
  }
};

static Box make_box(const Tensor& part, const Tensor& whole, const Axes& start) {
  Box box;
  int64_t step = 1;
  box.outer = whole.rank;
  bool inside = true;  // the axes so far are whole, so a run may grow
  for (int i = whole.rank - 1; i >= 0; --i) {
    box.begin += start.at[i] * step;
    box.length[i] = part.shape[i];
    box.stride[i] = step;
    if (inside) {
      box.run *= part.shape[i];
      box.outer = i;
      inside = part.shape[i] == whole.shape[i];
    } else {
      box.runs *= part.shape[i];
    }
    step *= whole.shape[i];
  }
  return box;
}

// f(at, in_whole, n): n elements at `at` of the part lie at in_whole of the whole. Long runs are shared by threads.
template <class F> static void each_run(const Box& box, F f) {
  if (box.run * box.runs == 0) return;
  if (box.runs == 1) {
    parallel_for(box.run, 2 * grain, [&](int64_t begin, int64_t end) { f(begin, box.begin + begin, end - begin); });
    return;
  }
  parallel_for(box.runs, 2 * grain / box.run + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i * box.run, box.offset(i), box.run);
  });
}

template <class T> static void add_run(T* y, const T* x, int64_t n) {
  if constexpr (sizeof(T) == 8) {
    for (int64_t i = 0; i < n; ++i) y[i] += x[i];
  } else {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) store(y + i, load(y + i) + load(x + i));
    for (; i < n; ++i) put(y + i, to_float(y[i]) + to_float(x[i]));
  }
}

// --- by index along the last axis ---

static void check_indices(const char* kernel, const Tensor& indexed, const Tensor& index) {
  const int32_t* at = index.as<int32_t>();
  const int64_t n = indexed.columns();
  for (int64_t i = 0; i < index.size; ++i)
    ANNEAL_CHECK(at[i] >= 0 && at[i] < n,
                 "%s: index element %lld is %d, outside the last axis, which has %lld elements", kernel,
                 static_cast<long long>(i), at[i], static_cast<long long>(n));
}

}  // namespace

void permute(Tensor& y, const Tensor& x, Axes order) {
  if (x.size == 0) return;
  Permutation p = merge(y, x, order);
  if (p.count <= 1) {
    parallel_for(x.bytes(), 8 * grain, [&](int64_t begin, int64_t end) {
      memcpy(y.as<char>() + begin, x.as<char>() + begin, static_cast<size_t>(end - begin));
    });
    return;
  }
  with_size(x.dtype, [&]<class U>(U*) {
    int64_t inner = p.length[p.count - 1];
    if (p.stride[p.count - 1] == 1) copy_runs(y.as<U>(), x.as<U>(), p, x.size / inner);
    else transpose(y.as<U>(), x.as<U>(), p);
  });
}

void slice(Tensor& y, const Tensor& x, Axes start) {
  Box box = make_box(y, x, start);
  with_size(x.dtype, [&]<class U>(U*) {
    each_run(box, [out = y.as<U>(), in = x.as<U>()](int64_t at, int64_t from, int64_t n) {
      memcpy(out + at, in + from, static_cast<size_t>(n) * sizeof(U));
    });
  });
}

void slice_into(Tensor& y, const Tensor& x, Axes start, bool accumulate) {
  Box box = make_box(x, y, start);
  if (accumulate) {
    with_computable(x.dtype, [&]<class T>(T*) {
      each_run(box,
               [out = y.as<T>(), in = x.as<T>()](int64_t at, int64_t to, int64_t n) { add_run(out + to, in + at, n); });
    });
    return;
  }
  with_size(x.dtype, [&]<class U>(U*) {
    each_run(box, [out = y.as<U>(), in = x.as<U>()](int64_t at, int64_t to, int64_t n) {
      memcpy(out + to, in + at, static_cast<size_t>(n) * sizeof(U));
    });
  });
}

void gather_last(Tensor& y, const Tensor& x, const Tensor& index) {
  check_indices("gather_last", x, index);
  const bool shared = index.rank == 1 && y.rank > 1;
  const int64_t n = y.columns(), width = x.columns(), step = shared ? 0 : n;
  with_size(x.dtype, [&]<class U>(U*) {
    parallel_for(y.rows(), grain / (n + 1) + 1,
                 [&, out = y.as<U>(), in = x.as<U>(), at = index.as<int32_t>()](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t j = 0; j < n; ++j) out[r * n + j] = in[r * width + at[r * step + j]];
    });
  });
}

void scatter_add_last(Tensor& y, const Tensor& x, const Tensor& index) {
  check_indices("scatter_add_last", y, index);
  const int64_t n = x.columns(), width = y.columns();
  with_computable(x.dtype, [&]<class T>(T*) {
    parallel_for(x.rows(), grain / (n + 1) + 1,
                 [&, out = y.as<T>(), in = x.as<T>(), at = index.as<int32_t>()](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t j = 0; j < n; ++j) {
          T* target = out + r * width + at[r * n + j];
          if constexpr (sizeof(T) == 8) *target += in[r * n + j];
          else put(target, to_float(*target) + to_float(in[r * n + j]));
        }
    });
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
