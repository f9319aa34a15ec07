// One product by the schedule that suits it, on one thread or on all. Internal linkage only.
#pragma once
#include "gemm_blocks.h"
#include "gemm_columns.h"

namespace anneal::cpu {
namespace {

enum Slot { left_slot, sums_slot };

// Threads worth starting: together they should have some 8 µs of arithmetic, as a second one costs 4, or 20 of reading op(b).
static int useful_threads(const Product& p) {
  const double operations = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const double read = static_cast<double>(p.n) * static_cast<double>(p.k);
  return operations < 5e4 * lanes && read < 1.3e5 ? 1 : pool().size();
}

template <bool pairs> static void multiply_alone(const Product& p, uint32_t* memory) {
  const Team alone = {1};
  if (p.m <= most_rows_by_columns) {
    multiply_columns<pairs>(p, alone, true, memory, memory + column_left_units<pairs>(p));
  } else {
    const Cut cut = cut_of<pairs>(p, 1);
    multiply_blocks<pairs>(p, cut, alone, memory, nullptr, reinterpret_cast<float*>(memory + block_memory<pairs>(p, cut).own(cut)));
  }
}
template <bool pairs> static size_t alone_bytes(const Product& p) {
  if (p.m <= most_rows_by_columns)
    return static_cast<size_t>(column_left_units<pairs>(p) + column_thread_units<pairs>(p)) * 4;
  const Cut cut = cut_of<pairs>(p, 1);
  const BlockMemory size = block_memory<pairs>(p, cut);
  return static_cast<size_t>(size.own(cut) + size.sums) * 4;
}

template <bool pairs> static void multiply_columns_together(const Product& p, int threads) {
  const bool left_alone = packs_left_alone(p, threads);
  const int64_t left_units = column_left_units<pairs>(p), own_units = column_thread_units<pairs>(p) + (left_alone ? left_units : 0);
  uint32_t* shared = left_alone ? nullptr : static_cast<uint32_t*>(pool().scratch(left_slot, static_cast<size_t>(left_units) * 4));
  pool().reserve_thread_scratch(static_cast<size_t>(own_units) * 4);
  parallel(threads, [&](int thread, int) {
    uint32_t* own = static_cast<uint32_t*>(pool().thread_scratch(thread));
    if (left_alone) multiply_columns<pairs>(p, {threads}, true, own, own + left_units);
    else multiply_columns<pairs>(p, {threads}, false, shared, own);
  });
}
template <bool pairs> static void multiply_blocks_together(const Product& p, int threads) {
  const Cut cut = cut_of<pairs>(p, threads);
  const BlockMemory size = block_memory<pairs>(p, cut);
  uint32_t* shared = cut.shared ? static_cast<uint32_t*>(pool().scratch(left_slot, static_cast<size_t>(size.kept) * 4)) : nullptr;
  float* sums = size.sums ? static_cast<float*>(pool().scratch(sums_slot, static_cast<size_t>(size.sums) * 4)) : nullptr;
  pool().reserve_thread_scratch(static_cast<size_t>(size.own(cut)) * 4);
  parallel(threads, [&](int thread, int) {
    multiply_blocks<pairs>(p, cut, {threads}, static_cast<uint32_t*>(pool().thread_scratch(thread)), shared, sums);
  });
}
template <bool pairs> static void multiply_together(const Product& p) {
  if (p.m <= most_rows_by_columns) multiply_columns_together<pairs>(p, pool().size());
  else multiply_blocks_together<pairs>(p, pool().size());
}

}  // namespace
}  // namespace anneal::cpu
