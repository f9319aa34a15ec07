// Matrix products: the choice of schedule, and batches.
#include "gemm_double.h"
#include "gemm_product.h"
#include "isa.h"

namespace anneal::cpu {
namespace {

// item(i) gives the i-th product of a batch; all have the same lengths.
template <bool pairs, class F> void multiply_batch(int64_t batch, F&& item) {
  const Product first = item(0);
  const int threads = useful_threads(first);
  if (threads > 1) {
    for (int64_t i = 0; i < batch; ++i) multiply_together<pairs>(item(i));
    return;
  }
  const size_t bytes = alone_bytes<pairs>(first);
  const double operations =
      2.0 * static_cast<double>(first.m * first.n) * static_cast<double>(first.k) * static_cast<double>(batch);
  if (batch == 1 || operations < 1e6) {
    uint32_t* memory = static_cast<uint32_t*>(pool().scratch(left_slot, bytes));
    for (int64_t i = 0; i < batch; ++i) multiply_alone<pairs>(item(i), memory);
    return;
  }
  pool().reserve_thread_scratch(bytes);
  // Several in a row, of some 3 µs together.
  const int64_t in_a_row = larger(1, static_cast<int64_t>(2e5 * static_cast<double>(batch) / operations));
  parallel(pool().size(), [&](int thread, int) {
    uint32_t* memory = static_cast<uint32_t*>(pool().thread_scratch(thread));
    take_tickets(ceil_divide(batch, in_a_row), [&](int64_t ticket) {
      for (int64_t i = ticket * in_a_row; i < smaller(batch, (ticket + 1) * in_a_row); ++i) multiply_alone<pairs>(item(i), memory);
    });
  });
}

}  // namespace

namespace ANNEAL_ISA {

void gemm(InOut c, MaybeOut pre, In a, In b, MaybeIn bias, bool transpose_a, bool transpose_b, bool accumulate,
          int64_t activation, bool half) {
  const int64_t m = c.dim(-2), n = c.dim(-1), k = a.dim(transpose_a ? -2 : -1);
  const int64_t batch = c.rank == 3 ? c.dim(0) : 1, a_batch = c.rank == 3 ? a.dim(0) : 1,
                b_batch = c.rank == 3 ? b.dim(0) : 1;
  if (c.size == 0) return;
  if (c.dtype == DType::f64) {
    multiply_double(c, pre, a, b, bias, transpose_a, transpose_b, accumulate, static_cast<Activation>(activation));
    return;
  }
  // A batch of one b is one product whose rows are all the batches' rows, where the memory allows it.
  const bool joined = b_batch == 1 && a_batch == batch && !transpose_a;
  const int64_t items = joined ? 1 : batch, rows = joined ? batch * m : m;
  auto advance = [](const void* data, DType type, int64_t elements) {
    return static_cast<const char*>(data) + elements * dtype_bytes[static_cast<int>(type)];
  };
  auto item = [&](int64_t i) {
    Product p;
    p.m = rows, p.n = n, p.k = k;
    p.a = {advance(a.data, a.dtype, a_batch == 1 ? 0 : i * m * k), a.dtype, transpose_a ? m : k, !transpose_a};
    p.b = {advance(b.data, b.dtype, b_batch == 1 ? 0 : i * n * k), b.dtype, transpose_b ? k : n, transpose_b};
    p.out = {const_cast<char*>(advance(c.data, c.dtype, i * m * n)),
             pre ? const_cast<char*>(advance(pre->data, pre->dtype, i * m * n)) : nullptr,
             bias ? bias->data : nullptr,
             c.dtype,
             pre ? pre->dtype : DType::f32,
             bias ? bias->dtype : DType::f32,
             n,
             static_cast<Activation>(activation),
             accumulate};
    return p;
  };
  if constexpr (has_pairs) {
    if (half) return multiply_batch<true>(items, item);
  }
  static_cast<void>(half);
  multiply_batch<false>(items, item);
}

}  // namespace ANNEAL_ISA
}  // namespace anneal::cpu
