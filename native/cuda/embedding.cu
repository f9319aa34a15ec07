// Rows of an embedding table, and its gradient. For the gradient the tokens are sorted by id, stably, so that each id's rows are added in token order
// without atomics: a radix sort of a few bits at a time, in which a block ranks its tokens by ballots; then a block for each id and slice of columns.
#include "../kernels.h"
#include "../shape.h"
#include "gather.h"

namespace anneal::cuda {

constexpr int sort_warps = 8, sort_threads = 32 * sort_warps, sort_rounds = 8;
constexpr int sort_tile = sort_threads * sort_rounds;  // tokens of a block, each warp having neighbouring ones
constexpr int digit_bits = 6, digits = 1 << digit_bits;
constexpr int scan_threads = 1024;
constexpr int add_threads = 128, rows_ahead = 4;  // rows whose loads are under way together

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

// dweight[id] += the rows of dy whose tokens have it, in order. The block of the first of them does it; the others have nothing to do.
template <class T>
__global__ void __launch_bounds__(add_threads) add_rows_kernel(float* dweight, const T* dy, Sorted sorted, int64_t tokens, int64_t width, bool aligned) {
  constexpr int n = 4;
  const int64_t begin = blockIdx.x, column = (int64_t{blockIdx.y} * add_threads + threadIdx.x) * n;
  const int32_t id = sorted.id[begin];
  if (begin > 0 && sorted.id[begin - 1] == id) return;
  if (column >= width) return;
  const bool whole = aligned && column + n <= width;
  const int count = width - column < n ? static_cast<int>(width - column) : n;
  float* to = dweight + id * width + column;
  Elements<float, n> total;
#pragma unroll
  for (int k = 0; k < n; ++k) total.at[k] = k < count ? to[k] : 0;
  for (int64_t first = begin; first < tokens && sorted.id[first] == id; first += rows_ahead) {
    Elements<T, n> row[rows_ahead];
    bool is_own[rows_ahead];
#pragma unroll
    for (int r = 0; r < rows_ahead; ++r) {
      is_own[r] = first + r < tokens && sorted.id[first + r] == id;
      if (!is_own[r]) continue;
      const T* from = dy + sorted.token[first + r] * width + column;
      if (whole) row[r] = load_elements<n>(from);
      else
#pragma unroll
        for (int k = 0; k < n; ++k)
          if (k < count) row[r].at[k] = from[k];
    }
#pragma unroll
    for (int r = 0; r < rows_ahead; ++r)
      if (is_own[r])
#pragma unroll
        for (int k = 0; k < n; ++k)
          if (k < count) total.at[k] += to_float(row[r].at[k]);
  }
  if (whole) return store_elements(to, total);
#pragma unroll
  for (int k = 0; k < n; ++k)
    if (k < count) to[k] = total.at[k];
}

namespace {

// `rows` holds one row of the table's width per id, in any shape.
void check_rows(const char* kernel, const char* name, const Tensor& rows, const char* table_name, const Tensor& table, const Tensor& id) {
  ANNEAL_CHECK(table.rank == 2, "%s: %s must have shape [vocabulary, width], but has %s", kernel, table_name, ShapeText(table).text);
  ANNEAL_CHECK(rows.rank >= 1 && rows.columns() == table.columns() && rows.size == id.size * table.columns(), "%s: %s must have %lld rows of %lld, but has %s", kernel,
               name, static_cast<long long>(id.size), static_cast<long long>(table.columns()), ShapeText(rows).text);
  check_dtype(kernel, "id", id, DType::i32);
}

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
  check_rows("embedding", "y", y, "weight", weight, id);
  check_dtype("embedding", "y", y, weight.dtype);
  gather("embedding", FaultSite::embedding_id, y, weight, id, weight.dim(0), weight.columns() * bytes_of(weight.dtype));
}

void embedding_backward(InOut dweight, In dy, In id, bool accumulate) {
  check_rows("embedding_backward", "dy", dy, "dweight", dweight, id);
  check_dtype("embedding_backward", "dweight", dweight, DType::f32);
  ANNEAL_CHECK(is_float(dy.dtype), "embedding_backward: dy must be f32 or bf16, but is %s", name_of(dy.dtype));
  if (!accumulate) fill(dweight, 0);
  const int64_t width = dweight.columns();
  if (dy.size == 0) return;
  ANNEAL_CHECK(dweight.dim(0) > 0, "embedding_backward: dweight has no rows, but there are %lld ids", static_cast<long long>(id.size));
  const Sorted sorted = sort_by_id(id, dweight.dim(0));
  dispatch_float("embedding_backward", dy.dtype, [&](auto number) {
    using T = decltype(number);
    const bool aligned = width % 4 == 0 && is_aligned_to(16, dweight.data) && is_aligned_to(4 * sizeof(T), dy.data);
    const dim3 grid(static_cast<unsigned>(id.size), static_cast<unsigned>(ceil_div(width, 4 * add_threads)));
    launch(add_rows_kernel<T>, {grid, dim3(add_threads), 0, "embedding_backward"}, dweight.as<float>(), dy.as<const T>(), sorted, id.size, width, aligned);
  });
}

}  // namespace anneal::cuda
