// The largest number of a row and the sum of e^(x - largest), in one pass: each thread keeps its own largest and rescales its sum when that rises. NaN
// anywhere makes the sum NaN; numbers that are all -infinity give a sum of 0.
#pragma once
#include <cmath>

#include "numeric.h"

namespace anneal::cuda {

constexpr float log2_e = 1.4426950408889634f;

struct LogSum {
  float max, sum;
  // log(sum(e^x)).
  ANNEAL_DEVICE float log() const { return max + logf(sum); }
};
constexpr LogSum empty_log_sum = {-INFINITY, 0};

// e^(x - base), base not being infinite.
ANNEAL_DEVICE float exp_above(float x, float base) { return exp2_fast((x - base) * log2_e); }

// Commutative, so that lanes that exchange their sums agree to the bit.
ANNEAL_DEVICE LogSum fold(LogSum a, LogSum b) {
  const float max = a.max > b.max ? a.max : b.max, base = max == -INFINITY ? 0.f : max;
  return {max, a.sum * exp_above(a.max, base) + b.sum * exp_above(b.max, base)};
}
// Adds n numbers; -infinity adds nothing.
template <int n> ANNEAL_DEVICE void add_group(LogSum& all, const float (&x)[n]) {
  float max = all.max;
#pragma unroll
  for (int k = 0; k < n; ++k) max = x[k] > max ? x[k] : max;
  const float base = max == -INFINITY ? 0.f : max;
  float sum = all.sum * exp_above(all.max, base);
#pragma unroll
  for (int k = 0; k < n; ++k) sum += exp_above(x[k], base);
  all = {max, sum};
}

// Over the 32 lanes of a warp, and over a block as block_reduce does; `room` is shared memory for 32.
ANNEAL_DEVICE LogSum warp_log_sum(LogSum all) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    all = fold(all, {__shfl_xor_sync(0xffffffffu, all.max, distance), __shfl_xor_sync(0xffffffffu, all.sum, distance)});
  return all;
}
ANNEAL_DEVICE LogSum block_log_sum(LogSum all, LogSum* room) {
  all = warp_log_sum(all);
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  __syncthreads();
  if (lane == 0) room[threadIdx.x / 32] = all;
  __syncthreads();
  return warp_log_sum(lane < warps ? room[lane] : LogSum{-INFINITY, 0});
}

}  // namespace anneal::cuda
