// One product by the schedule that suits it, on one thread or on all. Internal linkage only.
#pragma once
#include "gemm_blocks.h"
#include "gemm_columns.h"

namespace anneal::cpu {
namespace {

enum Slot { left_slot, right_slot, sums_slot };

// Threads worth starting: together they should have some 3 µs of arithmetic or 20 of reading op(b).
static int useful_threads(const Product& p) {
  const double operations = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const double read = static_cast<double>(p.n) * static_cast<double>(p.k);
  return operations < 2e5 && read < 1.3e5 ? 1 : pool().size();
}

template <bool pairs> static void multiply_alone(const Product& p, uint32_t* memory) {
  if (p.m <= most_rows_by_columns) {
    multiply_columns<pairs>(p, {true, memory, memory + column_left_units<pairs>(p), nullptr});
  } else {
    const BlockMemory size = block_memory<pairs>(p, 1);
    uint32_t* right = memory + size.left;
    multiply_blocks<pairs>(p, {true, memory, right, reinterpret_cast<float*>(right + size.right)}, 1);
  }
}
template <bool pairs> static size_t alone_bytes(const Product& p) {
  if (p.m <= most_rows_by_columns)
    return static_cast<size_t>(column_left_units<pairs>(p) + column_thread_units<pairs>(p)) * 4;
  const BlockMemory size = block_memory<pairs>(p, 1);
  return static_cast<size_t>(size.left + size.right + size.sums) * 4;
}

template <bool pairs> static void multiply_together(const Product& p) {
  if (p.m <= most_rows_by_columns) {
    uint32_t* left =
        static_cast<uint32_t*>(pool().scratch(left_slot, static_cast<size_t>(column_left_units<pairs>(p)) * 4));
    pool().reserve_thread_scratch(static_cast<size_t>(column_thread_units<pairs>(p)) * 4);
    parallel(pool().size(), [&](int thread, int threads) {
      uint32_t* own = static_cast<uint32_t*>(pool().thread_scratch(thread));
      multiply_columns<pairs>(p, {threads == 1, left, own, nullptr});
    });
    return;
  }
  const BlockMemory size = block_memory<pairs>(p, pool().size());
  uint32_t* right = static_cast<uint32_t*>(pool().scratch(right_slot, static_cast<size_t>(size.right) * 4));
  float* sums =
      size.sums ? static_cast<float*>(pool().scratch(sums_slot, static_cast<size_t>(size.sums) * 4)) : nullptr;
  pool().reserve_thread_scratch(static_cast<size_t>(size.left) * 4);
  parallel(pool().size(), [&](int thread, int threads) {
    multiply_blocks<pairs>(p, {threads == 1, static_cast<uint32_t*>(pool().thread_scratch(thread)), right, sums}, threads);
  });
}

}  // namespace
}  // namespace anneal::cpu
