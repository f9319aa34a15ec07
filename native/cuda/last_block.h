// Sums over blocks within one launch: of some blocks the last to arrive goes on with what all of them have written.
#pragma once
#include "launch.h"

namespace anneal::cuda {

#if defined(__CUDACC__)
// Counts a block's arrival: the number before, which starts again at 0 after `count` of them. The emulator has its own, which tells its race detector.
ANNEAL_DEVICE uint32_t arrive(uint32_t* counter, uint32_t count) { return atomicInc(counter, count - 1); }
#endif

// Whether this is the last of `count` blocks to call it with this counter (of arrivals()), which is 0 again then; what the others wrote before is there for
// all of its threads. All threads call it; room: a word of shared memory.
ANNEAL_DEVICE bool last_of_blocks(uint32_t* counter, uint32_t count, uint32_t* room) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) *room = arrive(counter, count);
  __syncthreads();
  const bool last = *room == count - 1;
  if (last) __threadfence();
  return last;
}

// The blocks of a group, whose parts the last of them adds up; then groups of groups, and so on.
constexpr int fold_width = 16;
// Counters that fold_blocks() needs.
constexpr int64_t fold_counters(int64_t blocks) {
  int64_t all = 0;
  while (blocks > 1) all += blocks = ceil_div(blocks, fold_width);
  return all;
}

// Calls add(first, step, members) in the last block of each group: it adds up the parts of blocks first, first + step, … in order and leaves the sum in the first's
// place. True in the one block that then has the sum of all in the place of block 0. The order depends on the number of blocks only.
template <class F> ANNEAL_DEVICE bool fold_blocks(uint32_t* counters, uint32_t* room, F&& add) {
  uint32_t place = blockIdx.x, step = 1;
  if (gridDim.x == 1) __syncthreads();  // what other threads of the block wrote is read
  for (uint32_t count = gridDim.x; count > 1;) {
    const uint32_t groups = (count + fold_width - 1) / fold_width, group = place / fold_width;
    const uint32_t members = min(static_cast<uint32_t>(fold_width), count - group * fold_width);
    if (members > 1) {
      if (!last_of_blocks(counters + group, members, room)) return false;
      add(group * fold_width * step, step, static_cast<int>(members));
    }
    counters += groups, place = group, count = groups, step *= fold_width;
  }
  return true;
}

}  // namespace anneal::cuda
