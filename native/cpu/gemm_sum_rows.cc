// Column sums. Blocks of rows_per_block rows are summed first and then the blocks in order, whatever the number of
// threads.
#include "gemm_pack.h"
#include "isa.h"

namespace anneal::cpu {
namespace {

constexpr int64_t rows_per_block = 128, columns_per_task = 512;
constexpr int sums_slot = 2;

// Row after row, four at a time, into sums that stay in the cache.
template <class T> void sum_block(const T* x, int64_t rows, int64_t stride, int64_t columns, float* sums) {
  memset(sums, 0, static_cast<size_t>(columns) * 4);
  for (int64_t i = 0; i < rows; i += 4) {
    const int64_t together = smaller(4, rows - i);
    const T* row = x + i * stride;
    each_vector(columns, [&](int64_t j, auto span) {
      vf total = load(sums + j, span);
      for (int64_t r = 0; r < together; ++r) total += load(row + r * stride + j, span);
      store(sums + j, total, span);
    });
  }
}

template <class T> void sum_rows_of(float* y, const T* x, int64_t rows, int64_t columns, bool accumulate) {
  const int64_t blocks = ceil_divide(rows, rows_per_block), groups = ceil_divide(columns, columns_per_task);
  float* sums = static_cast<float*>(pool().scratch(sums_slot, static_cast<size_t>(larger(1, blocks * columns)) * 4));
  parallel_for(blocks * groups, 2, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / groups * rows_per_block, column = task % groups * columns_per_task;
      sum_block(x + row * columns + column, smaller(rows_per_block, rows - row), columns,
                smaller(columns_per_task, columns - column), sums + task / groups * columns + column);
    }
  });
  parallel_for(columns, larger(1, 40000 / larger(1, blocks)), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      float total = 0;
      for (int64_t block = 0; block < blocks; ++block) total += sums[block * columns + j];
      y[j] = accumulate ? y[j] + total : total;
    }
  });
}

}  // namespace

namespace ANNEAL_ISA {

void sum_rows(InOut y, In x, bool accumulate) {
  if (x.dtype == DType::f32) sum_rows_of(y.as<float>(), x.as<float>(), x.rows(), x.columns(), accumulate);
  else sum_rows_of(y.as<float>(), x.as<bf16>(), x.rows(), x.columns(), accumulate);
}

}  // namespace ANNEAL_ISA
}  // namespace anneal::cpu
