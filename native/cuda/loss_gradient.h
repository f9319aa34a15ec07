// The gradient of a row of logits whose log-sum is known: every logit alone, in 16-byte pieces where both rows are aligned alike, with single numbers before
// the first and after the last piece. It may overwrite the logits.
#pragma once
#include "loss.h"

namespace anneal::cuda {

// The block's row: out[j] = gradient.of(logits[j], j == label).
template <class T, class Gradient> ANNEAL_DEVICE void write_gradient(T* out, const T* logits, int columns, int label, const Gradient& gradient) {
  constexpr int length = vector_length<T>, pieces = 2;
  const int thread = threadIdx.x, threads = blockDim.x;
  const uintptr_t from = reinterpret_cast<uintptr_t>(logits), to = reinterpret_cast<uintptr_t>(out);
  int head = (to - from) % 16 == 0 ? static_cast<int>((16 - from % 16) % 16 / sizeof(T)) : columns;
  if (head > columns) head = columns;
  const int tail = head + (columns - head) / length * length;
  auto single = [&](int j) { out[j] = from_float<T>(gradient.of(to_float(logits[j]), j == label)); };
  for (int j = thread; j < head; j += threads) single(j);
  for (int at = head + thread * length; at < tail; at += pieces * threads * length) {
    float v[pieces][length];
#pragma unroll
    for (int i = 0; i < pieces; ++i)
      if (at + i * threads * length < tail) load_vector(v[i], logits + at + i * threads * length);
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const int first = at + i * threads * length;
      if (first >= tail) break;
#pragma unroll
      for (int k = 0; k < length; ++k) v[i][k] = gradient.of(v[i][k], first + k == label);
      store_vector(out + first, v[i]);
    }
  }
  for (int j = tail + thread; j < columns; j += threads) single(j);
}
template <class T> ANNEAL_DEVICE void write_zeros(T* out, int columns) {
  constexpr int length = vector_length<T>;
  const int thread = threadIdx.x, threads = blockDim.x;
  int head = static_cast<int>((16 - reinterpret_cast<uintptr_t>(out) % 16) % 16 / sizeof(T));
  if (head > columns) head = columns;
  const int tail = head + (columns - head) / length * length;
  const float zeros[length] = {};
  for (int j = thread; j < head; j += threads) out[j] = from_float<T>(0.f);
  for (int at = head + thread * length; at < tail; at += threads * length) store_vector(out + at, zeros);
  for (int j = tail + thread; j < columns; j += threads) out[j] = from_float<T>(0.f);
}

}  // namespace anneal::cuda
