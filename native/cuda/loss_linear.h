// The output layer of a language model taken in chunks of tokens, so that logits of all tokens never exist at once. A chunk's logits are f32, whatever the
// operands are, and become their gradient in place: in f32, or, where the products run in bf16, in bf16 at the start of the same row, which is what those
// products read. Tokens that do not count stay in their chunk with a gradient of 0, as only the device knows which they are.
#pragma once
#include <functional>

#include "loss_gradient.h"

namespace anneal::cuda {

struct LinearHead {
  const char* kernel;
  const Tensor& hidden;
  const Tensor& weight;
  const Tensor* bias;
  const Tensor& labels;
  float soft_cap;
  bool half;
  int64_t tokens() const { return hidden.shape[0]; }
  int64_t width() const { return hidden.shape[1]; }
  int64_t vocabulary() const { return weight.shape[0]; }
};

struct HeadGradients {
  Tensor* hidden;
  Tensor* weight;
  Tensor* bias;
  bool wanted() const { return hidden || weight || bias; }
};

// The logits of tokens first … first + rows - 1, before the soft cap. Rows start on 16 bytes, `stride` (a multiple of 8) apart.
struct LogitChunk {
  float* logits;
  int64_t first, rows;
  int columns, stride;
  float cap, inverse_cap;  // 0: no cap
};

// Calls rows(chunk), which launches one block per row, for the logits of all tokens; where gradients are wanted it leaves the logits' gradient in the
// chunk's memory, which is then carried on to them.
void each_chunk(const LinearHead& head, const HeadGradients& gradients, bool accumulate, const std::function<void(const LogitChunk&)>& rows);

// The same where only the first `columns` tokens count.
void each_chunk(const LinearHead& head, int64_t columns, const HeadGradients& gradients, bool accumulate, const std::function<void(const LogitChunk&)>& rows);
// The same for two heads over the same tokens, whose logits of a chunk exist at once, in the memory that one head's take elsewhere.
void each_chunk_pair(const LinearHead& head, const LinearHead& other, int64_t columns, const HeadGradients& gradients, bool accumulate,
                     const std::function<void(const LogitChunk&, const LogitChunk&)>& rows);

// Starts kernel(chunk, arguments…) on a chunk.
template <class Kernel, class... A> void launch_rows(const char* name, Kernel kernel, const LogitChunk& chunk, const A&... arguments) {
  launch(kernel, {dim3(static_cast<unsigned>(chunk.rows)), dim3(logit_threads(chunk.columns)), 0, name}, chunk, arguments...);
}

// --- device code ---

// The last rows come first: they are still in cache from the product.
ANNEAL_DEVICE int64_t chunk_row() { return int64_t{gridDim.x} - 1 - blockIdx.x; }

ANNEAL_DEVICE float capped(float logit, const LogitChunk& chunk) { return chunk.cap > 0 ? chunk.cap * tanhf(logit * chunk.inverse_cap) : logit; }

// row_log_sum over capped logits; seen(logit, j) gets each of them.
template <bool with_weighted, class F>
ANNEAL_DEVICE WeightedLogSum capped_log_sum(const float* row, const LogitChunk& chunk, float scale, LogSumRoom* room, F&& seen) {
  constexpr int length = vector_length<float>;
  return row_log_sum<with_weighted>(LogitRow<float>(row, chunk.columns), scale, room, [&](auto& z, int at) {
#pragma unroll
    for (int i = 0; i < logit_pieces * length; ++i) {
      const int j = at + i / length * static_cast<int>(blockDim.x) * length + i % length;
      if (j >= chunk.columns) continue;
      z[i] = capped(z[i], chunk);
      seen(z[i], j);
    }
  });
}

// Turns the row into its gradient, of type G from the row's start on, with zeros up to the stride. In bf16 that overwrites logits further to the left only,
// which the barrier makes sure have been read.
template <class G, class Gradient> ANNEAL_DEVICE void write_row_gradient(float* row, const LogitChunk& chunk, int label, const Gradient& gradient) {
  constexpr int length = 8, pieces = 2;
  const int step = blockDim.x * length;
  for (int start = threadIdx.x * length, first = 0; first < chunk.stride; first += pieces * step, start += pieces * step) {
    float v[pieces][length];
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const int at = start + i * step;
      if (at >= chunk.stride) continue;
      float low[4], high[4];
      load_vector(low, row + at);
      load_vector(high, row + at + 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) v[i][k] = low[k], v[i][k + 4] = high[k];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const int at = start + i * step;
      if (at >= chunk.stride) continue;
#pragma unroll
      for (int k = 0; k < length; ++k) {
        const float z = capped(v[i][k], chunk);
        float result = gradient.of(z, at + k == label);
        if (chunk.cap > 0) {
          const float tanh = z * chunk.inverse_cap;
          result *= fmaf(-tanh, tanh, 1.f);
        }
        v[i][k] = at + k < chunk.columns ? result : 0.f;
      }
      G* out = reinterpret_cast<G*>(row) + at;
      if constexpr (sizeof(G) == 2) {
        store_vector(out, v[i]);
      } else {
        store_vector(out, {v[i][0], v[i][1], v[i][2], v[i][3]});
        store_vector(out + 4, {v[i][4], v[i][5], v[i][6], v[i][7]});
      }
    }
  }
}

}  // namespace anneal::cuda
