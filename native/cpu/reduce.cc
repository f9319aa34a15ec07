// Sums and maxima over any axes. Neighbouring axes that are both kept or both reduced are merged; then either the
// innermost axis is reduced (contiguous runs are summed) or kept (columns are summed down). Runs are cut into fixed
// segments and rows into fixed blocks, each summed in f32 and folded in f64 in order, so the bits do not depend on the
// number of threads and long sums stay accurate.
#include <math.h>

#include "cast.h"
#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int64_t piece = 1024;      // elements of a run that are summed in f32
constexpr int64_t segment = 65536;   // elements of a run that one thread takes at a time
constexpr int64_t row_block = 64;    // rows of a column that are summed in f32
constexpr int64_t column_block = 512;
constexpr int64_t grain = 32768;

struct Sum {
  static constexpr double start = 0;
  ANNEAL_INLINE vf combine(vf a, vf b) { return a + b; }
  ANNEAL_INLINE double combine(double a, double b) { return a + b; }
  ANNEAL_INLINE double finish(vf v) { return sum(v); }
};
// A NaN anywhere is the result.
struct Max {
  static constexpr double start = -INFINITY;
  ANNEAL_INLINE vf combine(vf a, vf b) { return select((vi)(a > b) | (vi)(a != a), a, b); }
  ANNEAL_INLINE double combine(double a, double b) { return a > b || a != a ? a : b; }
  ANNEAL_INLINE double finish(vf v) {
    double m = v[0];
    for (int i = 1; i < lanes; ++i) m = combine(m, static_cast<double>(v[i]));
    return m;
  }
};

// One contiguous run.
template <class R, class T> static double reduce_run(const T* x, int64_t n) {
  double total = R::start;
  if constexpr (sizeof(T) == 8) {
    double part[4] = {R::start, R::start, R::start, R::start};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
      for (int k = 0; k < 4; ++k) part[k] = R::combine(part[k], x[i + k]);
    for (; i < n; ++i) part[0] = R::combine(part[0], x[i]);
    total = R::combine(R::combine(part[0], part[1]), R::combine(part[2], part[3]));
  } else {
    constexpr int step = 4 * lanes;
    const vf start = splat(static_cast<float>(R::start));
    for (int64_t from = 0; from < n; from += piece) {
      const T* at = x + from;
      int64_t length = n - from < piece ? n - from : piece, i = 0;
      vf part[4] = {start, start, start, start};
      for (; i + step <= length; i += step)
        for (int k = 0; k < 4; ++k) part[k] = R::combine(part[k], load(at + i + k * lanes));
      for (; i + lanes <= length; i += lanes) part[0] = R::combine(part[0], load(at + i));
      double rest = R::start;
      for (; i < length; ++i) rest = R::combine(rest, static_cast<double>(to_float(at[i])));
      double folded = R::finish(R::combine(R::combine(part[0], part[1]), R::combine(part[2], part[3])));
      total = R::combine(total, R::combine(folded, rest));
    }
  }
  return total;
}

// total[j] = combined with x[r * stride + j] over the rows r.
template <class R, class T>
static void reduce_columns(double* total, const T* x, int64_t rows, int64_t stride, int64_t n) {
  if constexpr (sizeof(T) == 8) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < n; ++j) total[j] = R::combine(total[j], x[r * stride + j]);
  } else {
    const vf start = splat(static_cast<float>(R::start));
    vf part[column_block / lanes];
    const int64_t vectors = n / lanes;
    for (int64_t first = 0; first < rows; first += row_block) {
      int64_t last = first + row_block < rows ? first + row_block : rows;
      for (int64_t v = 0; v < vectors; ++v) part[v] = start;
      for (int64_t r = first; r < last; ++r)
        for (int64_t v = 0; v < vectors; ++v) part[v] = R::combine(part[v], load(x + r * stride + v * lanes));
      for (int64_t v = 0; v < vectors; ++v)
        for (int k = 0; k < lanes; ++k)
          total[v * lanes + k] = R::combine(total[v * lanes + k], static_cast<double>(part[v][k]));
      for (int64_t j = vectors * lanes; j < n; ++j)
        for (int64_t r = first; r < last; ++r)
          total[j] = R::combine(total[j], static_cast<double>(to_float(x[r * stride + j])));
    }
  }
}

// Merged axes with their strides in x.
struct Group {
  int count = 0;
  int64_t length[max_rank], stride[max_rank], total = 1;
  void add(int64_t n, int64_t step) {
    total *= n;
    length[count] = n;
    stride[count++] = step;
  }
  int64_t offset(int64_t index) const {
    int64_t at = 0;
    for (int i = count - 1; i >= 0; --i) {
      at += index % length[i] * stride[i];
      index /= length[i];
    }
    return at;
  }
};

struct Plan {
  Group kept, reduced;  // the outer axes of each kind
  int64_t rows = 1, row_stride = 0, inner = 1;
  bool columns = false;  // the innermost axis is kept
};

static Plan make_plan(const Tensor& y, const Tensor& x) {
  int64_t length[max_rank], stride[max_rank], step = x.size;
  bool kept[max_rank];
  int count = 0;
  for (int i = 0; i < x.rank; ++i) {
    step /= x.shape[i];
    if (x.shape[i] == 1) continue;
    bool keep = y.shape[i] == x.shape[i];
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
  if (count == 0) return plan;
  plan.columns = kept[count - 1];
  plan.inner = length[--count];
  if (plan.columns && count > 0) {
    plan.rows = length[--count];
    plan.row_stride = stride[count];
  }
  for (int i = 0; i < count; ++i) (kept[i] ? plan.kept : plan.reduced).add(length[i], stride[i]);
  return plan;
}

template <class R, class T> static void reduce_rows(const Plan& plan, T* y, const T* x) {
  const int64_t segments = (plan.inner + segment - 1) / segment, outputs = plan.kept.total;
  auto partial = [&](int64_t output, int64_t part) {
    int64_t base = plan.kept.offset(output) + part * segment;
    int64_t n = plan.inner - part * segment < segment ? plan.inner - part * segment : segment;
    double total = R::start;
    for (int64_t i = 0; i < plan.reduced.total; ++i)
      total = R::combine(total, reduce_run<R>(x + base + plan.reduced.offset(i), n));
    return total;
  };
  int64_t work = plan.inner * plan.reduced.total;
  if (segments == 1) {
    parallel_for(outputs, (grain + work - 1) / work, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) narrow(y + i, partial(i, 0));
    });
    return;
  }
  double* parts = static_cast<double*>(pool().scratch(6, static_cast<size_t>(outputs * segments) * sizeof(double)));
  parallel_for(outputs * segments, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) parts[i] = partial(i / segments, i % segments);
  });
  for (int64_t i = 0; i < outputs; ++i) {
    double total = R::start;
    for (int64_t part = 0; part < segments; ++part) total = R::combine(total, parts[i * segments + part]);
    narrow(y + i, total);
  }
}

template <class R, class T> static void reduce_down(const Plan& plan, T* y, const T* x) {
  const int64_t blocks = (plan.inner + column_block - 1) / column_block;
  int64_t work = plan.rows * plan.reduced.total * (plan.inner < column_block ? plan.inner : column_block);
  parallel_for(plan.kept.total * blocks, (grain + work - 1) / work, [&](int64_t begin, int64_t end) {
    double total[column_block];
    for (int64_t item = begin; item < end; ++item) {
      int64_t output = item / blocks, first = item % blocks * column_block;
      int64_t n = plan.inner - first < column_block ? plan.inner - first : column_block;
      const T* base = x + plan.kept.offset(output) + first;
      for (int64_t j = 0; j < n; ++j) total[j] = R::start;
      for (int64_t i = 0; i < plan.reduced.total; ++i)
        reduce_columns<R>(total, base + plan.reduced.offset(i), plan.rows, plan.row_stride, n);
      for (int64_t j = 0; j < n; ++j) narrow(y + output * plan.inner + first + j, total[j]);
    }
  });
}

}  // namespace

void reduce(Tensor& y, const Tensor& x, int64_t operation) {
  const bool is_sum = static_cast<ReduceOperation>(operation) == ReduceOperation::sum;
  if (y.size == 0) return;
  if (x.size == 0) {
    memset(y.data, 0, static_cast<size_t>(y.bytes()));
    return;
  }
  Plan plan = make_plan(y, x);
  with_computable(x.dtype, [&]<class T>(T*) {
    auto run = [&]<class R>(R) {
      if (plan.columns) reduce_down<R>(plan, y.as<T>(), x.as<T>());
      else reduce_rows<R>(plan, y.as<T>(), x.as<T>());
    };
    if (is_sum) run(Sum{});
    else run(Max{});
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
