// Matrix products: checks, the choice of schedule, and batches.
#include "gemm_double.h"
#include "gemm_product.h"
#include "isa.h"

namespace anneal::cpu {
namespace {

bool is_float(DType type) { return type == DType::f32 || type == DType::bf16; }
const char* name_of(DType type) { return dtype_names[static_cast<int>(type)]; }

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
  ANNEAL_CHECK(c.rank == 2 || c.rank == 3, "gemm: c must have rank 2 or 3, but has %d", c.rank);
  ANNEAL_CHECK(a.rank == c.rank && b.rank == c.rank, "gemm: a, b and c must have the same rank, but have %d, %d and %d",
               a.rank, b.rank, c.rank);
  const int64_t m = c.dim(-2), n = c.dim(-1), k = a.dim(transpose_a ? -2 : -1);
  ANNEAL_CHECK(a.dim(transpose_a ? -1 : -2) == m, "gemm: op(a) must have %lld rows, those of c, but has %lld",
               static_cast<long long>(m), static_cast<long long>(a.dim(transpose_a ? -1 : -2)));
  ANNEAL_CHECK(b.dim(transpose_b ? -1 : -2) == k, "gemm: op(b) must have %lld rows, the columns of op(a), but has %lld",
               static_cast<long long>(k), static_cast<long long>(b.dim(transpose_b ? -1 : -2)));
  ANNEAL_CHECK(b.dim(transpose_b ? -2 : -1) == n, "gemm: op(b) must have %lld columns, those of c, but has %lld",
               static_cast<long long>(n), static_cast<long long>(b.dim(transpose_b ? -2 : -1)));
  const int64_t batch = c.rank == 3 ? c.dim(0) : 1, a_batch = c.rank == 3 ? a.dim(0) : 1,
                b_batch = c.rank == 3 ? b.dim(0) : 1;
  ANNEAL_CHECK((a_batch == batch || a_batch == 1) && (b_batch == batch || b_batch == 1),
               "gemm: the first axes of a and b must have length 1 or %lld, that of c, but have %lld and %lld",
               static_cast<long long>(batch), static_cast<long long>(a_batch), static_cast<long long>(b_batch));
  const bool is_double = c.dtype == DType::f64 && a.dtype == DType::f64 && b.dtype == DType::f64;
  ANNEAL_CHECK(is_double || (is_float(c.dtype) && is_float(a.dtype) && is_float(b.dtype)),
               "gemm: a, b and c must be f32 or bf16, or all f64, but are %s, %s and %s", name_of(a.dtype),
               name_of(b.dtype), name_of(c.dtype));
  ANNEAL_CHECK(activation >= 0 && activation < activation_count, "gemm: unknown activation %lld",
               static_cast<long long>(activation));
  if (bias) {
    ANNEAL_CHECK(bias->rank == 1 && bias->size == n,
                 "gemm: bias must have shape [%lld], but has rank %d and %lld elements", static_cast<long long>(n),
                 bias->rank, static_cast<long long>(bias->size));
    ANNEAL_CHECK(is_double ? bias->dtype == DType::f64 : is_float(bias->dtype), "gemm: bias must be %s, but is %s",
                 is_double ? "f64" : "f32 or bf16", name_of(bias->dtype));
  }
  if (pre) {
    bool same = pre->rank == c.rank;
    for (int i = 0; same && i < c.rank; ++i) same = pre->shape[i] == c.shape[i];
    ANNEAL_CHECK(same, "gemm: pre must have the shape of c");
    ANNEAL_CHECK(is_double ? pre->dtype == DType::f64 : is_float(pre->dtype), "gemm: pre must be %s, but is %s",
                 is_double ? "f64" : "f32 or bf16", name_of(pre->dtype));
  }
  if (c.size == 0) return;
  if (is_double) {
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
