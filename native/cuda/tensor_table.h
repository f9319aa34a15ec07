// Several tensors in one launch: their blocks follow one another, and a block finds its tensor in a table that is an argument of the kernel.
#pragma once
#include <bit>

#include "launch.h"

namespace anneal::cuda {

// `bytes` leaves the kernel's other arguments room below the 4 KB that every driver takes.
template <class Entry, int bytes> struct TensorTable {
  static constexpr int most = bytes / static_cast<int>(sizeof(Entry) + sizeof(uint32_t));
  Entry at[most];
  uint32_t first[most];  // the entry's first block
  int count;
  uint32_t blocks;

  // The entry to which a block belongs.
  ANNEAL_DEVICE int of(uint32_t block) const {
    int found = 0;
#pragma unroll
    for (int step = static_cast<int>(std::bit_floor(static_cast<unsigned>(most))); step > 0; step /= 2)
      if (found + step < count && first[found + step] <= block) found += step;
    return found;
  }
};

// Calls run(table) until every of `count` entries was in a table. entry(i, blocks) gives the i-th and sets how many blocks it needs; 0 leaves it out.
template <class Table, class F, class G> void each_table(int64_t count, F&& entry, G&& run) {
  constexpr int64_t most_blocks = INT32_MAX;
  Table table{};
  for (int64_t i = 0; i < count; ++i) {
    int64_t blocks = 0;
    const auto one = entry(i, blocks);
    ANNEAL_CHECK(blocks <= most_blocks, "a tensor has more than 2^31 blocks of work");
    if (blocks == 0) continue;
    if (table.count == Table::most || table.blocks + blocks > most_blocks) {
      run(table);
      table.count = 0, table.blocks = 0;
    }
    table.at[table.count] = one;
    table.first[table.count++] = table.blocks;
    table.blocks += static_cast<uint32_t>(blocks);
  }
  if (table.count > 0) run(table);
}

}  // namespace anneal::cuda
