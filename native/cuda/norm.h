// What RMSNorm and LayerNorm share on the device: how a row lies in the registers of the threads that normalise it, its sums, weights that a block keeps,
// and the longest row. A block works on blockDim.y rows at a time. Thread i of a row's blockDim.x threads holds pieces i, i + threads, … of vector_length<T>
// numbers, also where the row is not aligned to 16 bytes and each number is accessed alone: a row's bits do not depend on where it lies.
#pragma once
#include "../check.h"
#include "../kernels.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

// Rows longer than this are not kept in registers.
constexpr int norm_register_width = 8192;

// Numbers at … of a row of n, 0 past its end. aligned: rows start on 16 bytes and n is a multiple of vector_length<T>.
template <bool aligned, class T> ANNEAL_DEVICE void load_row_piece(float (&v)[vector_length<T>], const T* row, int at, int n) {
  if constexpr (aligned) {
    if (at < n) {
      load_vector(v, row + at);
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < vector_length<T>; ++i) v[i] = !aligned && at + i < n ? to_float(row[at + i]) : 0.f;
}
template <bool aligned, class T> ANNEAL_DEVICE void store_row_piece(T* row, const float (&v)[vector_length<T>], int at, int n) {
  if constexpr (aligned) {
    if (at < n) store_vector(row + at, v);
  } else {
#pragma unroll
    for (int i = 0; i < vector_length<T>; ++i)
      if (at + i < n) row[at + i] = from_float<T>(v[i]);
  }
}

// A weight or bias: f32 or bf16 whatever x is, plus an offset.
struct ColumnNumbers {
  const void* data;
  bool half;
  float offset;
};
template <bool aligned, int length> ANNEAL_DEVICE void load_columns(float (&v)[length], const ColumnNumbers& from, int at, int n) {
  const float* numbers = static_cast<const float*>(from.data) + at;
  const bf16* halves = static_cast<const bf16*>(from.data) + at;
  if (aligned && at < n) {
    if (!from.half) {
#pragma unroll
      for (int i = 0; i < length; i += 4) {
        float part[4];
        load_vector(part, numbers + i);
#pragma unroll
        for (int k = 0; k < 4; ++k) v[i + k] = part[k];
      }
    } else if constexpr (length == 8) {
      load_vector(v, halves);
    } else {
#pragma unroll
      for (int i = 0; i < length; ++i) v[i] = to_float(halves[i]);
    }
#pragma unroll
    for (int i = 0; i < length; ++i) v[i] += from.offset;
    return;
  }
#pragma unroll
  for (int i = 0; i < length; ++i) {
    v[i] = 0;
    if (aligned || at + i >= n) continue;
    if (from.half) v[i] = to_float(halves[i]);
    else v[i] = numbers[i];
    v[i] += from.offset;
  }
}

// Numbers for each column in shared memory, as float in fours: the four number k of the thread that holds them is 16 bytes at k * blockDim.x + thread, so that no
// banks collide.
ANNEAL_DEVICE Shared column_room(Shared room, int four) { return room + (four * blockDim.x + threadIdx.x) * 16; }
ANNEAL_DEVICE void store_four(Shared to, const float* v) {
  store_shared_16(to, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3])));
}
ANNEAL_DEVICE void load_four(float* v, Shared from) {
  float part[4];
  unpack(part, load_shared_16(from), 0.f);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = part[i];
}
template <int length> ANNEAL_DEVICE void load_piece_columns(float (&v)[length], Shared room, int piece) {
#pragma unroll
  for (int i = 0; i < length; i += 4) load_four(v + i, column_room(room, (piece * length + i) / 4));
}

// A block reads its weights once for all of its rows; threads of several rows (a power of two) share them, so that a barrier must follow where blockDim.y > 1.
template <class T, int numbers, bool aligned> ANNEAL_DEVICE void keep_columns(Shared room, const ColumnNumbers& from, int n) {
  constexpr int length = vector_length<T>, pieces = numbers / length;
  float v[pieces][length];
  auto is_own = [&](int p) { return (p & (blockDim.y - 1)) == threadIdx.y; };
#pragma unroll
  for (int p = 0; p < pieces; ++p)
    if (is_own(p)) load_columns<aligned>(v[p], from, (threadIdx.x + p * blockDim.x) * length, n);
#pragma unroll
  for (int p = 0; p < pieces; ++p) {
    if (!is_own(p)) continue;
#pragma unroll
    for (int i = 0; i < length; i += 4) store_four(column_room(room, (p * length + i) / 4), v[p] + i);
  }
}

// The number as T would hold it.
template <class T> ANNEAL_DEVICE float rounded(float x) { return to_float(from_float<T>(x)); }

// Sums over a row's threads, in every one of them: a warp, or (blockDim.x > 32) several, when all threads of the block must call it. `room` holds 32 numbers of
// each sum; successive calls alternate between two rooms, so that one barrier separates a call from the one before the last.
template <int count> ANNEAL_DEVICE void row_sums(float (&x)[count], float* room) {
#pragma unroll
  for (int i = 0; i < count; ++i) x[i] = warp_reduce<Sum>(x[i]);
  const int warps = blockDim.x / 32;
  if (warps == 1) return;
  const int lane = threadIdx.x % 32, first = threadIdx.y * warps;
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < count; ++i) room[i * 32 + first + threadIdx.x / 32] = x[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) x[i] = warp_reduce<Sum>(lane < warps ? room[i * 32 + first + lane] : 0.f);
}

namespace {

[[maybe_unused]] bool on_16_bytes(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Columns are counted in an int.
[[maybe_unused]] void check_length(const char* kernel, const Tensor& x) {
  ANNEAL_CHECK(x.columns() <= 1 << 30, "%s: rows of %lld numbers are too long", kernel, static_cast<long long>(x.columns()));
}

}  // namespace
}  // namespace anneal::cuda
