// Rows of an embedding table, and its gradient. For the gradient the tokens are sorted by id, stably, so that each id's rows are added in token order
// without atomics: a radix sort of a few bits at a time, in which a block ranks its tokens by ballots; then a block for each id and slice of columns.
#include "../kernels.h"
#include "gather.h"

namespace anneal::cuda {

constexpr int sort_warps = 8, sort_threads = 32 * sort_warps, sort_rounds = 8;
constexpr int sort_tile = sort_threads * sort_rounds;  // tokens of a block, each warp having neighbouring ones
constexpr int digit_bits = 6, digits = 1 << digit_bits;
constexpr int scan_threads = 1024;
constexpr int add_threads = 128, add_columns = 8, rows_ahead = 4;  // of a thread; rows whose loads are under way together

// What is sorted: ids and the tokens that have them. Null tokens stand for 0, 1, 2, …
struct Sorted {
  int32_t *id, *token;
};

// The tile's place for token number `round` of the calling lane.
ANNEAL_DEVICE int64_t sort_place(int round) { return int64_t{blockIdx.x} * sort_tile + threadIdx.x / 32 * (32 * sort_rounds) + round * 32 + threadIdx.x % 32; }

// An id outside the vocabulary is reported and counts as 0, so that every address stays inside.
__global__ void __launch_bounds__(map_threads) check_ids_kernel(int32_t* checked, const int32_t* id, int64_t tokens, int64_t vocabulary, Fault* fault) {
  const int64_t i = int64_t{blockIdx.x} * map_threads + threadIdx.x;
  if (i >= tokens) return;
  const bool inside = id[i] >= 0 && id[i] < vocabulary;
  if (!inside) report(fault, FaultSite::embedding_backward_id, i, id[i], vocabulary);
  checked[i] = inside ? id[i] : 0;
}

// counts[digit, block] = the block's tokens with that digit.
__global__ void __launch_bounds__(sort_threads) count_digits_kernel(int32_t* counts, const int32_t* id, int64_t tokens, int shift) {
  ANNEAL_SHARED(int32_t, count, digits);
  if (threadIdx.x < digits) count[threadIdx.x] = 0;
  __syncthreads();
  for (int round = 0; round < sort_rounds; ++round) {
    const int64_t i = sort_place(round);
    if (i < tokens) atomicAdd(&count[id[i] >> shift & (digits - 1)], 1);
  }
  __syncthreads();
  if (threadIdx.x < digits) counts[int64_t{threadIdx.x} * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

// Replaces each number by the sum of those before it. One block.
__global__ void __launch_bounds__(scan_threads) scan_kernel(int32_t* x, int64_t size) {
  ANNEAL_SHARED(int32_t, warp_total, 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t share = ceil_div(size, scan_threads), begin = threadIdx.x * share < size ? threadIdx.x * share : size,
                end = begin + share < size ? begin + share : size;
  int32_t total = 0;
  for (int64_t i = begin; i < end; ++i) total += x[i];
  int32_t through = total;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int32_t other = __shfl_up_sync(0xffffffffu, through, distance);
    if (lane >= distance) through += other;
  }
  if (lane == 31) warp_total[warp] = through;
  __syncthreads();
  int32_t before = through - total;
  for (int w = 0; w < warp; ++w) before += warp_total[w];
  for (int64_t i = begin; i < end; ++i) {
    const int32_t own = x[i];
    x[i] = before;
    before += own;
  }
}

// The lanes whose digit is that of the calling lane; those without a token have a digit that no token has.
ANNEAL_DEVICE uint32_t lanes_alike(int digit) {
  uint32_t alike = 0xffffffffu;
#pragma unroll
  for (int bit = 0; bit <= digit_bits; ++bit) {
    const uint32_t set = __ballot_sync(0xffffffffu, digit >> bit & 1);
    alike &= digit >> bit & 1 ? set : ~set;
  }
  return alike;
}
__global__ void __launch_bounds__(sort_threads) place_kernel(Sorted to, Sorted from, const int32_t* starts, int64_t tokens, int shift) {
  // The next place of each digit for each warp.
  ANNEAL_SHARED(int32_t, next, sort_warps * (digits + 1));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t* own = next + warp * (digits + 1);
  for (int i = threadIdx.x; i < sort_warps * (digits + 1); i += sort_threads) next[i] = 0;
  __syncthreads();
  auto digit_at = [&](int64_t i) { return i < tokens ? from.id[i] >> shift & (digits - 1) : digits; };
  for (int round = 0; round < sort_rounds; ++round) atomicAdd(own + digit_at(sort_place(round)), 1);
  __syncthreads();
  if (threadIdx.x < digits) {
    int32_t at = starts[int64_t{threadIdx.x} * gridDim.x + blockIdx.x];
    for (int w = 0; w < sort_warps; ++w) {
      const int32_t count = next[w * (digits + 1) + threadIdx.x];
      next[w * (digits + 1) + threadIdx.x] = at;
      at += count;
    }
  }
  __syncthreads();
  for (int round = 0; round < sort_rounds; ++round) {
    const int64_t i = sort_place(round);
    const int digit = digit_at(i);
    const uint32_t alike = lanes_alike(digit);
    const int32_t place = own[digit] + __popc(alike & ((1u << lane) - 1));
    if (i < tokens) {
      to.id[place] = from.id[i];
      to.token[place] = from.token ? from.token[i] : static_cast<int32_t>(i);
    }
    __syncwarp();
    if (lane == __ffs(static_cast<int>(alike)) - 1) own[digit] += __popc(alike);
    __syncwarp();
  }
}

// Numbers of a row, fewer than all of them (count) or not on 16 bytes one at a time.
template <class T> ANNEAL_DEVICE void load_columns(float (&v)[add_columns], const T* from, int count, bool aligned) {
  if (aligned && count == add_columns) {
#pragma unroll
    for (int i = 0; i < add_columns; i += vector_length<T>) {
      float part[vector_length<T>];
      load_vector(part, from + i);
#pragma unroll
      for (int k = 0; k < vector_length<T>; ++k) v[i + k] = part[k];
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < add_columns; ++i) v[i] = i < count ? to_float(from[i]) : 0.f;
}
ANNEAL_DEVICE void store_columns(float* to, const float (&v)[add_columns], int count, bool aligned) {
  if (aligned && count == add_columns) {
#pragma unroll
    for (int i = 0; i < add_columns; i += 4) {
      const float part[4] = {v[i], v[i + 1], v[i + 2], v[i + 3]};
      store_vector(to + i, part);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < add_columns; ++i)
    if (i < count) to[i] = v[i];
}

// dweight[id] += the rows of dy whose tokens have it, in order. The block of the first of them does it; the others have nothing to do. A warp looks at 31 places
// at once: lane 0 at the one before, which tells whether this is the first.
template <class T>
__global__ void __launch_bounds__(add_threads) add_rows_kernel(float* dweight, const T* dy, Sorted sorted, int64_t tokens, int64_t width, bool aligned) {
  const int lane = threadIdx.x % 32;
  const int64_t begin = blockIdx.x, column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * add_columns;
  auto id_at = [&](int64_t i) { return i >= 0 && i < tokens ? sorted.id[i] : -1; };
  int32_t seen = id_at(begin - 1 + lane);
  const int32_t id = __shfl_sync(0xffffffffu, seen, 1);
  if (__shfl_sync(0xffffffffu, seen, 0) == id) return;
  const int count = width - column >= add_columns ? add_columns : width > column ? static_cast<int>(width - column) : 0;
  float* to = dweight + id * width + column;
  float total[add_columns];
  load_columns(total, to, count, aligned);
  for (int64_t first = begin;; first += 31) {
    const uint32_t others = ~(__ballot_sync(0xffffffffu, lane > 0 && seen == id) >> 1);
    const int run = __ffs(static_cast<int>(others)) - 1;
    const int32_t token = lane > 0 && lane <= run ? sorted.token[first + lane - 1] : 0;
    for (int base = 0; base < run; base += rows_ahead) {
      float row[rows_ahead][add_columns];
#pragma unroll
      for (int r = 0; r < rows_ahead; ++r) {
        const int64_t from = __shfl_sync(0xffffffffu, token, (base + r + 1) % 32);
        if (base + r < run) load_columns(row[r], dy + from * width + column, count, aligned);
      }
#pragma unroll
      for (int r = 0; r < rows_ahead; ++r)
        if (base + r < run)
#pragma unroll
          for (int k = 0; k < add_columns; ++k) total[k] += row[r][k];
    }
    if (run < 31) break;
    seen = id_at(first + 30 + lane);
  }
  store_columns(to, total, count, aligned);
}

namespace {

// The tokens in the order of their ids, those of one id in their own order.
Sorted sort_by_id(const Tensor& id, int64_t vocabulary) {
  const char* kernel = "embedding_backward";
  const int64_t tokens = id.size, tiles = ceil_div(tokens, sort_tile);
  auto room = [&] { return Sorted{scratch_of<int32_t>(tokens), scratch_of<int32_t>(tokens)}; };
  Sorted from = room(), to = room();
  int32_t* counts = scratch_of<int32_t>(digits * tiles);
  launch(check_ids_kernel, {blocks_of(tokens), dim3(map_threads), 0, kernel}, from.id, id.as<const int32_t>(), tokens, vocabulary, fault());
  const dim3 grid(static_cast<unsigned>(tiles));
  // At least one pass, which numbers the tokens.
  for (int shift = 0; shift == 0 || (vocabulary - 1) >> shift != 0; shift += digit_bits) {
    launch(count_digits_kernel, {grid, dim3(sort_threads), 0, kernel}, counts, static_cast<const int32_t*>(from.id), tokens, shift);
    launch(scan_kernel, {dim3(1), dim3(scan_threads), 0, kernel}, counts, digits * tiles);
    launch(place_kernel, {grid, dim3(sort_threads), 0, kernel}, to, shift == 0 ? Sorted{from.id, nullptr} : from, static_cast<const int32_t*>(counts), tokens, shift);
    std::swap(from, to);
  }
  return from;
}

}  // namespace

void embedding(Out y, In weight, In id) {
  gather("embedding", FaultSite::embedding_id, y, weight, id, weight.dim(0), weight.columns() * bytes_of(weight.dtype));
}

void embedding_backward(InOut dweight, In dy, In id, bool accumulate) {
  if (!accumulate) fill(dweight, 0);
  const int64_t width = dweight.columns();
  if (dy.size == 0) return;
  const Sorted sorted = sort_by_id(id, dweight.dim(0));
  dispatch_float("embedding_backward", dy.dtype, [&](auto number) {
    using T = decltype(number);
    const bool aligned = width % vector_length<T> == 0 && is_aligned_to(16, dweight.data) && is_aligned_to(16, dy.data);
    const int64_t wanted = ceil_div(width, 32 * add_columns) * 32, threads = wanted < add_threads ? wanted : add_threads;
    const dim3 grid(static_cast<unsigned>(id.size), static_cast<unsigned>(ceil_div(width, add_columns * threads)));
    launch(add_rows_kernel<T>, {grid, dim3(static_cast<unsigned>(threads)), 0, "embedding_backward"}, dweight.as<float>(), dy.as<const T>(), sorted, id.size, width, aligned);
  });
}

}  // namespace anneal::cuda
