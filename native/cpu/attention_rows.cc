// Copies of whole rows by index: into a cache of keys or values, and out of any tensor. A row is everything after the
// first axis.
#include "isa.h"
#include "simd.h"

namespace anneal::cpu {
namespace {

void check_inside(const char* kernel, In rows, const char* rows_name, In index, const char* index_name) {
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
  check_inside("scatter_rows", y, "y", slot, "slot");
  const size_t bytes = row_bytes(x);
  const int32_t* to = slot.as<int32_t>();
  // On one thread, so that of two rows for one slot the later one always wins; new tokens are few.
  for (int64_t i = 0; i < slot.size; ++i)
    memcpy(y.as<char>() + static_cast<size_t>(to[i]) * bytes, x.as<char>() + static_cast<size_t>(i) * bytes, bytes);
}

void gather_rows(Out y, In x, In row) {
  check_inside("gather_rows", x, "x", row, "row");
  const size_t bytes = row_bytes(y);
  const int32_t* from = row.as<int32_t>();
  parallel_for(row.size, rows_per_thread(bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      memcpy(y.as<char>() + static_cast<size_t>(i) * bytes, x.as<char>() + static_cast<size_t>(from[i]) * bytes, bytes);
  });
}

}  // namespace ANNEAL_ISA
}  // namespace anneal::cpu
