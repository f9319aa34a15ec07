// Copies of whole rows by index: into a cache of keys or values, and out of any tensor. A row is everything after the
// first axis.
#include "isa.h"
#include "simd.h"

namespace anneal::cpu {
namespace {

void check_rows(const char* kernel, In rows, const char* rows_name, In picked, const char* picked_name, In index,
                const char* index_name) {
  ANNEAL_CHECK(rows.rank >= 1 && picked.rank == rows.rank,
               "%s: %s and %s must have the same rank, at least 1, but have %d and %d", kernel, picked_name, rows_name,
               picked.rank, rows.rank);
  ANNEAL_CHECK(rows.dtype == picked.dtype, "%s: %s must be %s like %s, but is %s", kernel, picked_name,
               dtype_names[static_cast<int>(rows.dtype)], rows_name, dtype_names[static_cast<int>(picked.dtype)]);
  for (int i = 1; i < rows.rank; ++i)
    ANNEAL_CHECK(rows.shape[i] == picked.shape[i], "%s: axis %d of %s must have length %lld like %s, but has %lld",
                 kernel, i, picked_name, static_cast<long long>(rows.shape[i]), rows_name,
                 static_cast<long long>(picked.shape[i]));
  ANNEAL_CHECK(index.dtype == DType::i32 && index.rank == 1 && index.size == picked.dim(0),
               "%s: %s must be i32 [%lld], one per row of %s", kernel, index_name,
               static_cast<long long>(picked.dim(0)), picked_name);
  for (int64_t i = 0; i < index.size; ++i) {
    const int32_t row = index.as<int32_t>()[i];
    ANNEAL_CHECK(row >= 0 && row < rows.dim(0), "%s: %s[%lld] is %d, outside the %lld rows of %s", kernel, index_name,
                 static_cast<long long>(i), row, static_cast<long long>(rows.dim(0)), rows_name);
  }
}

size_t row_bytes(In x) { return x.dim(0) == 0 ? 0 : static_cast<size_t>(x.bytes() / x.dim(0)); }
int64_t rows_per_thread(size_t bytes) { return 1 + 65536 / static_cast<int64_t>(bytes + 1); }

}  // namespace

namespace ANNEAL_ISA {

void scatter_rows(InOut y, In x, In slot) {
  check_rows("scatter_rows", y, "y", x, "x", slot, "slot");
  const size_t bytes = row_bytes(x);
  const int32_t* to = slot.as<int32_t>();
  // On one thread, so that of two rows for one slot the later one always wins; new tokens are few.
  for (int64_t i = 0; i < slot.size; ++i)
    memcpy(y.as<char>() + static_cast<size_t>(to[i]) * bytes, x.as<char>() + static_cast<size_t>(i) * bytes, bytes);
}

void gather_rows(Out y, In x, In row) {
  check_rows("gather_rows", x, "x", y, "y", row, "row");
  const size_t bytes = row_bytes(y);
  const int32_t* from = row.as<int32_t>();
  parallel_for(row.size, rows_per_thread(bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      memcpy(y.as<char>() + static_cast<size_t>(i) * bytes, x.as<char>() + static_cast<size_t>(from[i]) * bytes, bytes);
  });
}

}  // namespace ANNEAL_ISA
}  // namespace anneal::cpu
