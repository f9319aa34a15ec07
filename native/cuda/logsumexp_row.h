// log(sum(exp(row))) by one block, for the losses and for sampling: a sampled token's log-probability has the bits of the teacher-forced one. A thread holds
// every blockDim.x-th piece of 16 bytes of the row, counted from the row's start. Where that start is not on 16 bytes (an odd vocabulary), a piece is cut out
// of the two aligned ones that it touches: reads stay wide, and the bits do not depend on where the row lies.
#pragma once
#include "launch.h"
#include "logsumexp.h"

namespace anneal::cuda {

// A row of logits and the number of bytes, the same for all its pieces, by which it misses 16.
template <class T> struct LogitRow {
  const T* data;
  int columns, shift;
  ANNEAL_DEVICE LogitRow(const T* data, int columns) : data(data), columns(columns), shift(static_cast<int>(reinterpret_cast<uintptr_t>(data) % 16)) {}
};

// Bytes shift … shift + 15 of the 32 of low and high.
ANNEAL_DEVICE uint4 cut_out(uint4 low, uint4 high, int shift) {
  uint32_t word[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  if (shift & 8) {
#pragma unroll
    for (int i = 0; i < 6; ++i) word[i] = word[i + 2];
  }
  if (shift & 4) {
#pragma unroll
    for (int i = 0; i < 5; ++i) word[i] = word[i + 1];
  }
  if (shift & 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) word[i] = prmt(word[i], word[i + 1], 0x5432);
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

// Numbers at … of the row, `otherwise` past its end. aligned: shift is 0.
template <bool aligned, class T> ANNEAL_DEVICE void load_logits(float (&v)[vector_length<T>], const LogitRow<T>& row, int at, float otherwise) {
  constexpr int length = vector_length<T>;
  const T* p = row.data + at;
  if constexpr (aligned) {
    if (at + length <= row.columns) {
      load_vector_once(v, p);
      return;
    }
  } else {
    const int before = row.shift / static_cast<int>(sizeof(T));
    if (at >= before && at - before + 2 * length <= row.columns) {
      const char* low = reinterpret_cast<const char*>(p) - row.shift;
      unpack(v, cut_out(load_global_16(low), load_global_16(low + 16), row.shift), T{});
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < length; ++i) v[i] = at + i < row.columns ? to_float(p[i]) : otherwise;
}

// Of a thread or of a block, over z: largest z, sum of e^(z - max), and, where asked for, sum of (z - max) e^(z - max).
struct WeightedLogSum {
  LogSum all;
  float weighted;
  // The entropy of softmax(z) in nats.
  ANNEAL_DEVICE float entropy() const { return logf(all.sum) - weighted / all.sum; }
};
constexpr WeightedLogSum empty_weighted_log_sum = {{-INFINITY, 0}, 0};

// Adds z[0 … n - 1]; max and sum get the same bits with and without `weighted`. Clamps keep 0 * -infinity away where the factor is 0.
template <bool with_weighted, int n> ANNEAL_DEVICE void add_group(WeightedLogSum& w, const float (&z)[n]) {
  float max = w.all.max;
#pragma unroll
  for (int i = 0; i < n; ++i) max = z[i] > max ? z[i] : max;
  const float base = max == -INFINITY ? 0.f : max, factor = exp_above(w.all.max, base);
  if constexpr (with_weighted) w.weighted = factor * fmaf(fmaxf(w.all.max - base, -1e30f), w.all.sum, w.weighted);
  float sum = w.all.sum * factor;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const float e = exp_above(z[i], base);
    sum += e;
    if constexpr (with_weighted) w.weighted = fmaf(fmaxf(z[i] - base, -100.f), e, w.weighted);
  }
  w.all = {max, sum};
}

// Of the block, in every thread.
struct LogSumRoom {
  LogSum all[32];
  float numbers[32];
};
template <bool with_weighted> ANNEAL_DEVICE WeightedLogSum block_log_sum(const WeightedLogSum& mine, LogSumRoom* room) {
  WeightedLogSum block = {block_log_sum(mine.all, room->all), 0};
  if constexpr (with_weighted) {
    const float base = block.all.max == -INFINITY ? 0.f : block.all.max;
    const float moved = exp_above(mine.all.max, base) * fmaf(fmaxf(mine.all.max - base, -1e30f), mine.all.sum, mine.weighted);
    block.weighted = block_reduce<Sum>(moved, room->numbers);
  }
  return block;
}

// Pieces that a thread loads before it works on them.
constexpr int logit_pieces = 4;

// Calls f(z, at) for the calling thread's pieces, logit_pieces at a time: z[i * length + k] is the number at + i * step + k, -infinity past the row's end.
template <bool aligned, class T, class F> ANNEAL_DEVICE void each_logits(const LogitRow<T>& row, F&& f) {
  constexpr int length = vector_length<T>;
  const int step = blockDim.x * length;
  for (int at = threadIdx.x * length; at < row.columns; at += step * logit_pieces) {
    float z[logit_pieces * length];
    auto load = [&](auto inside) {
#pragma unroll
      for (int i = 0; i < logit_pieces; ++i) {
        float part[length];
        if constexpr (inside.value) load_vector_once(part, row.data + at + i * step);
        else load_logits<aligned>(part, row, at + i * step, -INFINITY);
#pragma unroll
        for (int k = 0; k < length; ++k) z[i * length + k] = part[k];
      }
    };
    // One test for all pieces, so that their loads go out together.
    if (aligned && at + (logit_pieces - 1) * step + length <= row.columns) load(std::true_type{});
    else load(std::false_type{});
    f(z, at);
  }
}

// log-sum of row * scale; scale = 1 / temperature. each(z, at) sees the pieces of each_logits before they are scaled and may change them.
template <bool with_weighted, class T, class F> ANNEAL_DEVICE WeightedLogSum row_log_sum(const LogitRow<T>& row, float scale, LogSumRoom* room, F&& each) {
  WeightedLogSum mine = empty_weighted_log_sum;
  auto add = [&](auto& z, int at) {
    each(z, at);
#pragma unroll
    for (float& number : z) number *= scale;
    add_group<with_weighted>(mine, z);
  };
  if (row.shift == 0) each_logits<true>(row, add);
  else each_logits<false>(row, add);
  return block_log_sum<with_weighted>(mine, room);
}

// The block that a row of so many logits is given: part of what its sums' bits depend on.
inline unsigned logit_threads(int64_t columns) {
  const int64_t wanted = ceil_div(columns, 32) > 512 ? 512 : ceil_div(columns, 32);
  return static_cast<unsigned>(ceil_div(wanted, 32) * 32);
}
constexpr int most_logit_threads = 512;

}  // namespace anneal::cuda
