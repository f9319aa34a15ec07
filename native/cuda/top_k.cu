// The k largest of each row, in order. A block works on a row: a radix select over the bits finds where the k-th stands, those above it are gathered in the
// order of the row, and a stable radix sort in which warps rank their numbers by ballots orders them. With k the whole row it sorts alone.
#include <cmath>

#include "../kernels.h"
#include "launch.h"
#include "nucleus.h"

namespace anneal::cuda {

constexpr int top_threads = 512, top_warps = top_threads / 32;
constexpr int top_digit_bits = 8, top_digits = 1 << top_digit_bits;

// The select and the sort do not run at the same time.
struct TopRoom {
  TokenBins bins;
  uint32_t count[top_warps][top_digits];  // of a warp's numbers with a digit, then where they go
  uint32_t next[top_digits];
  uint32_t above[top_warps], equal[top_warps];
};

// Unsigned numbers in the order of the floats; + 0 turns -0 into 0.
template <class T> ANNEAL_DEVICE uint32_t top_key(const T* x, int64_t i) {
  const float v = to_float(x[i]) + 0.f;
  return ordered_bits(v == v ? v : -INFINITY);
}

// The key of the k-th largest; `short_by` tells how many numbers of that key belong to the k.
template <class T> ANNEAL_DEVICE uint32_t key_of_kth(const T* x, int64_t size, uint64_t k, TokenBins& bins, uint64_t& short_by) {
  uint64_t above = 0;
  uint32_t prefix = 0;
  for (int level = 0; level < 3; ++level) {
    const int shift = level == 0 ? 21 : level == 1 ? 10 : 0, taken = level == 1 ? 21 : 10;
    __syncthreads();
    for (int i = threadIdx.x; i < token_bins; i += top_threads) bins.low[i] = bins.high[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < size; i += top_threads) {
      const uint32_t key = top_key(x, i);
      if (level == 0 || key >> taken == prefix) atomicAdd(&bins.low[key >> shift & (level == 2 ? 0x3ff : 0x7ff)], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) choose_bin(bins, above, [&](uint64_t) { return k; });
    __syncthreads();
    prefix = prefix << (level == 2 ? 10 : 11) | static_cast<uint32_t>(bins.chosen);
    above = bins.above;
  }
  short_by = k - above;
  return prefix;
}

// Numbers to sort: the larger a key, the smaller its complement.
ANNEAL_DEVICE uint64_t top_item(uint32_t key, int64_t i) { return static_cast<uint64_t>(~key) << 32 | static_cast<uint32_t>(i); }

// Writes the items of the k largest in the order of the row.
template <class T> ANNEAL_DEVICE void gather_largest(uint64_t* to, const T* x, int64_t size, int64_t k, TopRoom& room) {
  uint64_t short_by;
  const uint32_t least = key_of_kth(x, size, static_cast<uint64_t>(k), room.bins, short_by);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t lower = (1u << lane) - 1;
  uint64_t above_before = 0, equal_before = 0;  // in the tiles before
  for (int64_t tile = 0; tile < size; tile += top_threads) {
    const int64_t i = tile + threadIdx.x;
    const uint32_t key = i < size ? top_key(x, i) : 0;
    const uint32_t above = __ballot_sync(0xffffffffu, i < size && key > least), equal = __ballot_sync(0xffffffffu, i < size && key == least);
    __syncthreads();
    if (lane == 0) {
      room.above[warp] = static_cast<uint32_t>(__popc(above));
      room.equal[warp] = static_cast<uint32_t>(__popc(equal));
    }
    __syncthreads();
    uint64_t own_above = above_before + __popc(above & lower), own_equal = equal_before + __popc(equal & lower);
    for (int w = 0; w < top_warps; ++w) {
      own_above += w < warp ? room.above[w] : 0;
      own_equal += w < warp ? room.equal[w] : 0;
      above_before += room.above[w];
      equal_before += room.equal[w];
    }
    const uint64_t kept_equal = own_equal < short_by ? own_equal : short_by;
    if (i < size && (key > least || (key == least && own_equal < short_by))) to[own_above + kept_equal] = top_item(key, i);
  }
}

// The lanes whose digit is that of the calling lane; those without a number have a digit that no number has.
ANNEAL_DEVICE uint32_t lanes_of_digit(uint32_t digit) {
  uint32_t alike = 0xffffffffu;
#pragma unroll
  for (int bit = 0; bit <= top_digit_bits; ++bit) {
    const uint32_t set = __ballot_sync(0xffffffffu, digit >> bit & 1);
    alike &= digit >> bit & 1 ? set : ~set;
  }
  return alike;
}

// to = from, ordered by the digit at `shift`, stably.
ANNEAL_DEVICE void sort_pass(uint64_t* to, const uint64_t* from, int64_t count, int shift, TopRoom& room) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto digit_at = [&](int64_t i) { return i < count ? static_cast<uint32_t>(from[i] >> shift & (top_digits - 1)) : uint32_t{top_digits}; };
  auto clear = [&] {
    for (int i = threadIdx.x; i < top_warps * top_digits; i += top_threads) room.count[i / top_digits][i % top_digits] = 0;
  };
  __syncthreads();
  if (threadIdx.x < top_digits) room.next[threadIdx.x] = 0;
  clear();
  __syncthreads();
  for (int64_t tile = 0; tile < count; tile += top_threads) {
    const uint32_t digit = digit_at(tile + threadIdx.x), alike = lanes_of_digit(digit);
    if (digit < top_digits && (alike & ((1u << lane) - 1)) == 0) atomicAdd(&room.next[digit], static_cast<uint32_t>(__popc(alike)));
  }
  __syncthreads();
  // Counts become where each digit begins.
  if (warp == 0) {
    constexpr int share = top_digits / 32;
    uint32_t own = 0;
    for (int i = 0; i < share; ++i) own += room.next[lane * share + i];
    uint32_t through = own;
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint32_t other = __shfl_up_sync(0xffffffffu, through, distance);
      if (lane >= distance) through += other;
    }
    uint32_t before = through - own;
    for (int i = 0; i < share; ++i) {
      const uint32_t here = room.next[lane * share + i];
      room.next[lane * share + i] = before;
      before += here;
    }
  }
  __syncthreads();
  for (int64_t tile = 0; tile < count; tile += top_threads) {
    const int64_t i = tile + threadIdx.x;
    const uint32_t digit = digit_at(i), alike = lanes_of_digit(digit), rank = static_cast<uint32_t>(__popc(alike & ((1u << lane) - 1)));
    if (digit < top_digits && rank == 0) room.count[warp][digit] = static_cast<uint32_t>(__popc(alike));
    __syncthreads();
    if (threadIdx.x < top_digits) {
      uint32_t at = room.next[threadIdx.x];
      for (int w = 0; w < top_warps; ++w) {
        const uint32_t here = room.count[w][threadIdx.x];
        room.count[w][threadIdx.x] = at;
        at += here;
      }
      room.next[threadIdx.x] = at;
    }
    __syncthreads();
    if (digit < top_digits) to[room.count[warp][digit] + rank] = from[i];
    __syncthreads();
    clear();
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(top_threads) top_k_kernel(T* value, int32_t* index, const T* x, uint64_t* items, int64_t size, int64_t k) {
  ANNEAL_DYNAMIC_SHARED(TopRoom, room);
  const int64_t row = blockIdx.x;
  x += row * size;
  uint64_t *from = items + row * 2 * k, *to = from + k;
  if (k < size) {
    gather_largest(from, x, size, k, *room);
  } else {
    for (int64_t i = threadIdx.x; i < size; i += top_threads) from[i] = top_item(top_key(x, i), i);
  }
  for (int shift = 32; shift < 64; shift += top_digit_bits) {
    sort_pass(to, from, k, shift, *room);
    uint64_t* const other = from;
    from = to;
    to = other;
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < k; i += top_threads) {
    const int32_t at = static_cast<int32_t>(from[i] & 0xffffffffu);
    index[row * k + i] = at;
    value[row * k + i] = x[at];
  }
}

void top_k(Out value, Out index, In x) {
  const int64_t rows = x.dim(0), size = x.dim(1), k = value.dim(1);
  if (rows == 0 || k == 0) return;
  uint64_t* items = scratch_of<uint64_t>(rows * 2 * k);
  dispatch_float("top_k", x.dtype, [&](auto number) {
    using T = decltype(number);
    launch(top_k_kernel<T>, {dim3(static_cast<unsigned>(rows)), dim3(top_threads), sizeof(TopRoom), "top_k"}, value.as<T>(), index.as<int32_t>(), x.as<const T>(), items, size, k);
  });
}

}  // namespace anneal::cuda
