// Small kernels, right and wrong ones, for the tests of the emulator.
#pragma once
#include "../../native/cuda/numeric.h"

namespace anneal::cuda {

constexpr int tile = 256;

// --- Right ---

// The sum of each row of `tile` floats, the next row on its way while one is summed.
template <int pending> __global__ void sum_rows_kernel(const float* x, float* sums, int rows) {
  ANNEAL_DYNAMIC_SHARED(float, buffers);
  ANNEAL_SHARED(float, room, 32);
  const int thread = threadIdx.x;
  auto fetch = [&](int row) {
    if (thread < tile / 4) cp_async_16(to_shared(buffers + row % 2 * tile + 4 * thread), x + (row < rows ? row : 0) * tile + 4 * thread, row < rows);
    cp_async_commit();
  };
  fetch(0);
  for (int row = 0; row < rows; ++row) {
    fetch(row + 1);
    cp_async_wait<pending>();
    __syncthreads();
    const float sum = block_reduce<Sum>(buffers[row % 2 * tile + thread], room);
    if (thread == 0) sums[row] = sum;
  }
  cp_async_wait<0>();
}

// Each row of `tile` floats reversed, through one buffer.
template <bool second_barrier> __global__ void reverse_rows_kernel(const float* x, float* y, int rows) {
  ANNEAL_SHARED(float, buffer, tile);
  for (int row = 0; row < rows; ++row) {
    buffer[threadIdx.x] = x[row * tile + threadIdx.x];
    __syncthreads();
    y[row * tile + threadIdx.x] = buffer[tile - 1 - threadIdx.x];
    if (second_barrier) __syncthreads();
  }
}

// c (16 × 8) = a (16 × 16) b (16 × 8), all row-major, by one warp. `stride` is that of b's rows in shared memory, in elements.
template <bool transpose> __global__ void product_kernel(const uint16_t* a, const uint16_t* b, float* c) {
  ANNEAL_SHARED(uint16_t, shared_a, 16 * 16);
  ANNEAL_SHARED(uint16_t, shared_b, 16 * 8);
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) shared_a[i] = a[i];
  for (int i = lane; i < 128; i += 32) shared_b[i] = b[i];
  __syncwarp();
  uint32_t fragment_a[4], fragment_b[2];
  ldmatrix_x4(fragment_a, to_shared(shared_a + lane % 16 * 16 + lane / 16 * 8));
  if constexpr (transpose) ldmatrix_x2_trans(fragment_b, to_shared(shared_b + lane % 16 * 8));
  else ldmatrix_x2(fragment_b, to_shared(shared_b + lane % 16 * 8));
  float d[4] = {};
  mma_bf16(d, fragment_a, fragment_b[0], fragment_b[1]);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

// One warp hands its numbers to another through a named barrier, twice.
__global__ void hand_over_kernel(float* y) {
  ANNEAL_SHARED(float, room, 32);
  const int lane = threadIdx.x % 32;
  if (threadIdx.x < 32) {
    room[lane] = static_cast<float>(lane);
    named_barrier(1, 64);
    named_barrier(2, 64);
    room[lane] = static_cast<float>(2 * lane);
    named_barrier(1, 64);
  } else if (threadIdx.x < 64) {
    named_barrier(1, 64);
    const float first = room[31 - lane];
    named_barrier(2, 64);
    named_barrier(1, 64);
    y[lane] = first + room[31 - lane];
  }
}

// Counts the numbers of each kind with atomics in shared and global memory.
__global__ void count_kernel(const int* x, int size, int* counts) {
  ANNEAL_SHARED(int, local, 4);
  if (threadIdx.x < 4) local[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) atomicAdd(&local[x[i] & 3], 1);
  __syncthreads();
  if (threadIdx.x < 4) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}

// Threads that leave early do not stop the others.
__global__ void early_exit_kernel(float* y, int size) {
  ANNEAL_SHARED(float, room, 64);
  if (static_cast<int>(threadIdx.x) >= size) return;
  room[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = room[size - 1 - threadIdx.x];
}

// Each lane's number of mismatches in functions that CUDA has.
__global__ void functions_kernel(int* wrong) {
  const unsigned lane = threadIdx.x;
  int bad = 0;
  auto want = [&](bool right) { bad += !right; };
  want(__shfl_sync(~0u, static_cast<double>(lane), 5) == 5.0);
  want(__shfl_sync(~0u, lane, 3, 8) == lane / 8 * 8 + 3);
  want(__shfl_up_sync(~0u, static_cast<int64_t>(lane) << 40, 1) == static_cast<int64_t>(lane ? lane - 1 : 0) << 40);
  want(__shfl_down_sync(~0u, lane, 2, 16) == (lane % 16 < 14 ? lane + 2 : lane));
  want(__shfl_xor_sync(~0u, static_cast<float>(lane), 16) == static_cast<float>(lane ^ 16));
  want(__ballot_sync(~0u, lane < 7) == 0x7f);
  want(__any_sync(~0u, lane == 9) && !__any_sync(~0u, 0) && __all_sync(~0u, 1) && !__all_sync(~0u, lane != 9));
  want(__match_any_sync(~0u, lane % 2) == (lane % 2 ? 0xaaaaaaaau : 0x55555555u));
  want(__reduce_add_sync(~0u, lane) == 496 && __reduce_max_sync(~0u, static_cast<int>(lane) - 40) == -9 && __reduce_min_sync(~0u, static_cast<int>(lane) - 40) == -40);
  want(__syncthreads_count(lane % 4 == 0) == 8 && __syncthreads_or(lane == 3) && !__syncthreads_and(lane == 3));
  want(__byte_perm(0x33221100u, 0x77665544u, 0x7531u) == 0x77553311u && __byte_perm(0x80u, 0, 0x8888u) == 0x80808080u && prmt(0x80u, 0, 0x8888u) == 0xffffffffu);
  want((lop3<0xea>(0xf0u, 0xccu, 0xaau) == ((0xf0u & 0xccu) | 0xaau)));
  want(__umulhi(0x80000000u, 6) == 3 && __mul64hi(int64_t{1} << 62, 8) == 2 && __brev(1) == 0x80000000u && __popcll(~0ull) == 64 && __clzll(1) == 63 && __ffs(8) == 4);
  want(__float2int_rn(2.5f) == 2 && __float2int_rz(-2.7f) == -2 && __float2int_rn(1e20f) == 2147483647 && __float2int_rn(-1e20f) == -2147483647 - 1 && __float2int_rn(NAN) == 0);
  want(__float2uint_rn(-3.0f) == 0 && __float2uint_rn(5e9f) == 0xffffffffu && __float2ll_rn(-1e30f) == -9223372036854775807ll - 1 && __float2ull_rn(1e30f) == ~0ull);
  want(max(1, 2u) == 2u && min(-1, 1ll) == -1 && max(NAN, 1.0f) == 1.0f && min(2.0f, 3.0) == 2.0);
  want(__funnelshift_l(0x80000000u, 1, 1) == 3 && __funnelshift_r(2, 1, 1) == 0x80000001u && __dp4a(0x01ff0203, 0x01010101, 10) == 15);
  want(to_bf16_bits(1.00390625f) == 0x3f80 && to_bf16_bits(1.01171875f) == 0x3f82 && to_bf16_bits(NAN) == 0x7fff && from_f16_bits(to_f16_bits(0.1f)) == 0.0999755859375f);
  wrong[lane] = bad;
}

// --- Wrong ---

__global__ void missing_barrier_kernel(float* y) {
  ANNEAL_SHARED(float, room, 64);
  room[threadIdx.x] = static_cast<float>(threadIdx.x);
  y[threadIdx.x] = room[63 - threadIdx.x];
}
__global__ void missing_syncwarp_kernel(float* y) {
  ANNEAL_SHARED(float, room, 32);
  room[threadIdx.x] = static_cast<float>(threadIdx.x);
  const float next = __shfl_down_sync(~0u, 0.0f, 1);  // makes all lanes meet, but orders no memory
  y[threadIdx.x] = room[31 - threadIdx.x] + next;
}
__global__ void blocks_race_kernel(float* y) { y[0] = static_cast<float>(blockIdx.x); }
__global__ void read_beyond_kernel(const float* x, float* y, int size) {
  if (static_cast<int>(threadIdx.x) <= size) y[threadIdx.x % size] = x[threadIdx.x];
}
__global__ void write_beyond_kernel(float* y, int size) {
  if (static_cast<int>(threadIdx.x) <= size) y[threadIdx.x] = 1.0f;
}
__global__ void write_beyond_shared_kernel(float* y) {
  ANNEAL_DYNAMIC_SHARED(float, room);
  room[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = room[threadIdx.x];
}
__global__ void uninitialised_kernel(float* y) {
  ANNEAL_SHARED(float, room, 64);
  if (threadIdx.x < 63) room[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = room[threadIdx.x];
}
__global__ void divergent_shuffle_kernel(float* y) {
  float value = static_cast<float>(threadIdx.x);
  if (threadIdx.x < 16) value = __shfl_xor_sync(~0u, value, 1);
  else value = __shfl_xor_sync(~0u, value, 2);
  y[threadIdx.x] = value;
}
__global__ void absent_lane_kernel(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}
__global__ void divergent_barrier_kernel(float* y) {
  if (threadIdx.x < 32) __syncthreads();
  else
    __syncthreads();
  y[threadIdx.x] = 1.0f;
}
__global__ void deadlock_kernel(float* y) {
  if (threadIdx.x < 32) named_barrier(1, 64);
  y[threadIdx.x] = 1.0f;
}
__global__ void misaligned_copy_kernel(const float* x, float* y) {
  ANNEAL_SHARED(float, room, 64);
  cp_async_16(to_shared(room), x + 1);
  cp_async_commit();
  cp_async_wait<0>();
  y[0] = room[0];
}
__global__ void misaligned_load_kernel(const float* x, float* y) { y[0] = __uint_as_float(load_global_16(x + 2).x); }
__global__ void missing_wait_kernel(const float* x, float* y) {
  ANNEAL_SHARED(float, room, 4);
  if (threadIdx.x == 0) cp_async_16(to_shared(room), x);
  cp_async_commit();
  __syncthreads();
  y[threadIdx.x] = room[threadIdx.x % 4];
}
__global__ void wild_pointer_kernel(float* y) { y[int64_t{1} << 40] = 1.0f; }
__global__ void endless_stack_kernel(float* y, int rounds) {
  volatile char large[96 << 10];
  for (int i = 0; i < 96 << 10; i += 64) large[i] = 1;
  y[0] = large[64 * rounds];
}

// --- Right but slow ---

template <int stride> __global__ void transpose_kernel(const float* x, float* y) {
  ANNEAL_SHARED(float, room, 32 * stride);
  for (int row = 0; row < 32; ++row) room[row * stride + threadIdx.x] = x[row * 32 + threadIdx.x];
  __syncwarp();
  for (int column = 0; column < 32; ++column) y[column * 32 + threadIdx.x] = room[threadIdx.x * stride + column];
}
template <int stride> __global__ void scatter_kernel(float* y) { y[threadIdx.x * stride] = 1.0f; }
// ldmatrix over rows of 128 bytes: without a swizzle the eight rows of a matrix lie in the same banks.
template <bool swizzle> __global__ void load_matrix_kernel(const float* x, float* y) {
  ANNEAL_DYNAMIC_SHARED(unsigned char, room);
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) {
    const int row = i / 8, part = i % 8;
    cp_async_16(to_shared(room + row * 128 + (swizzle ? part ^ row % 8 : part) * 16), x + i * 4);
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  uint32_t r[4], sum = 0;
  for (int part = 0; part < 8; ++part) {
    ldmatrix_x4(r, to_shared(room + lane * 128 + (swizzle ? part ^ lane % 8 : part) * 16));
    sum += r[0] + r[1] + r[2] + r[3];
  }
  y[lane] = static_cast<float>(sum);
}

}  // namespace anneal::cuda
