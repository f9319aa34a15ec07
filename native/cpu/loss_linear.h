// The output layer of a language model taken in chunks of tokens, so that logits of all tokens never exist at once.
// Tokens whose label is -100 are left out first, which changes no result; a chunk's logits are f32 and become the
// gradient in place. Internal linkage only.
#pragma once
#include "isa.h"
#include "loss.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

// Logits of a chunk: about this many bytes, unless the vocabulary is so large that too few rows would be left for the
// matrix products.
constexpr int64_t chunk_bytes = 56 << 20, fewest_rows = 104;

struct LinearHead {
  const Tensor& hidden;
  const Tensor& weight;
  const Tensor* bias;
  const Tensor& labels;
  float soft_cap;
  bool half;
  int64_t tokens() const { return hidden.shape[0]; }
  int64_t width() const { return hidden.shape[1]; }
  int64_t vocabulary() const { return weight.shape[0]; }
  float inverse_cap() const { return soft_cap > 0 ? 1 / soft_cap : 0; }
};

struct HeadGradients {
  Tensor* hidden;
  Tensor* weight;
  Tensor* bias;
  bool wanted() const { return hidden || weight || bias; }
};

struct Chunk {
  int64_t count;
  const int64_t* token;  // of each row
  Tensor hidden, logits;
};

static Tensor matrix(void* data, DType dtype, int64_t rows, int64_t columns) {
  return {data, rows * columns, {rows, columns}, dtype, 2};
}

// Rows of a chunk: a multiple of 8, all chunks about equally long.
static int64_t even_chunks(int64_t rows, int64_t most) {
  int64_t chunks = (rows + most - 1) / most;
  return chunks == 0 ? 0 : ((rows + chunks - 1) / chunks + 7) / 8 * 8;
}
static int64_t rows_per_chunk(int64_t rows, int64_t vocabulary) {
  int64_t most = chunk_bytes / (vocabulary * 4) / 8 * 8;
  return even_chunks(rows, most < fewest_rows ? fewest_rows : most);
}

static void soft_cap_row(float* row, int64_t n, float cap, float inverse_cap) {
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes) store(row + j, tanh(load(row + j) * inverse_cap) * cap);
  if (j < n) store_part(row + j, tanh(load_part(row + j, n - j) * inverse_cap) * cap, n - j);
}

static bool follow_each_other(const int64_t* token, int64_t count) { return token[count - 1] - token[0] == count - 1; }

static Tensor rows_of(const Tensor& x, int64_t first, int64_t count) {
  return matrix(x.as<char>() + first * x.shape[1] * bytes_of(x.dtype), x.dtype, count, x.shape[1]);
}

// The rows of x that belong to a chunk's tokens: where they lie, or one after another in `memory`.
static Tensor rows_at(const Tensor& x, const int64_t* token, int64_t count, void* memory) {
  if (follow_each_other(token, count)) return rows_of(x, token[0], count);
  const int64_t row_bytes = x.shape[1] * bytes_of(x.dtype);
  for (int64_t i = 0; i < count; ++i)
    memcpy(static_cast<char*>(memory) + i * row_bytes, x.as<char>() + token[i] * row_bytes,
           static_cast<size_t>(row_bytes));
  return matrix(memory, x.dtype, count, x.shape[1]);
}

// Adds a chunk's part of the gradients, chunk.logits being the gradient of the logits; `spare` has room for the
// gradient of chunk.hidden.
static void add_gradients(const LinearHead& head, const HeadGradients& gradients, Chunk& chunk, void* spare,
                          bool accumulate) {
  const int64_t none = static_cast<int64_t>(Activation::none);
  if (gradients.weight)
    gemm(*gradients.weight, nullptr, chunk.logits, chunk.hidden, nullptr, true, false, accumulate, none, head.half);
  if (gradients.bias) sum_rows(*gradients.bias, chunk.logits, accumulate);
  if (!gradients.hidden) return;
  Tensor& all = *gradients.hidden;
  const bool in_place = follow_each_other(chunk.token, chunk.count);
  Tensor rows =
      in_place ? rows_of(all, chunk.token[0], chunk.count) : matrix(spare, all.dtype, chunk.count, head.width());
  gemm(rows, nullptr, chunk.logits, head.weight, nullptr, false, false, false, none, head.half);
  if (in_place) return;
  const int64_t row_bytes = head.width() * bytes_of(all.dtype);
  for (int64_t i = 0; i < chunk.count; ++i)
    memcpy(all.as<char>() + chunk.token[i] * row_bytes, rows.as<char>() + i * row_bytes,
           static_cast<size_t>(row_bytes));
}

static int64_t count_labels(const LinearHead& head) {
  const int32_t* labels = head.labels.as<int32_t>();
  int64_t valid = 0;
  for (int64_t t = 0; t < head.tokens(); ++t) valid += labels[t] != ignored;
  return valid;
}

// Tokens that count, some at a time, with their hidden states; `spare` has room for a f32 matrix of their shape.
struct Rows {
  int64_t count;
  const int64_t* token;
  Tensor hidden;
  void* spare;
  bool first;
};

// body(rows), for at most `most` tokens that count at a time. Gradients that nothing will be written to are cleared.
template <class F>
static void each_rows(const LinearHead& head, const HeadGradients& gradients, bool accumulate, int64_t valid,
                      int64_t most, F body) {
  const int64_t tokens = head.tokens(), width = head.width();
  const int32_t* labels = head.labels.as<int32_t>();
  auto clear = [](Tensor& x) { memset(x.data, 0, static_cast<size_t>(x.bytes())); };
  if (gradients.hidden && valid < tokens) clear(*gradients.hidden);
  if (valid == 0) {
    if (gradients.weight && !accumulate) clear(*gradients.weight);
    if (gradients.bias && !accumulate) clear(*gradients.bias);
    return;
  }
  const int64_t hidden_bytes = most * width * bytes_of(head.hidden.dtype);
  const int64_t aligned_hidden = (hidden_bytes + 63) / 64 * 64, spare_bytes = most * width * 4;
  char* memory = static_cast<char*>(pool().scratch(5, static_cast<size_t>(aligned_hidden + spare_bytes + most * 8)));
  int64_t* token = reinterpret_cast<int64_t*>(memory + aligned_hidden + spare_bytes);

  int64_t next = 0;
  for (int64_t done = 0; done < valid;) {
    Rows rows = {0, token, {}, memory + aligned_hidden, done == 0};
    for (; rows.count < most && next < tokens; ++next)
      if (labels[next] != ignored) token[rows.count++] = next;
    rows.hidden = rows_at(head.hidden, token, rows.count, memory);
    body(rows);
    done += rows.count;
  }
}

// body(chunk), for at most `most` tokens that count at a time, with their logits, which the call turns into their
// gradient where gradients are wanted.
template <class F>
static void each_chunk(const LinearHead& head, const HeadGradients& gradients, bool accumulate, int64_t valid,
                       int64_t most, F body) {
  const int64_t vocabulary = head.vocabulary();
  each_rows(head, gradients, accumulate, valid, most, [&](const Rows& rows) {
    float* logits = static_cast<float*>(pool().scratch(4, static_cast<size_t>(most * vocabulary * 4)));
    Chunk chunk = {rows.count, rows.token, rows.hidden, matrix(logits, DType::f32, rows.count, vocabulary)};
    gemm(chunk.logits, nullptr, chunk.hidden, head.weight, head.bias, false, true, false,
         static_cast<int64_t>(Activation::none), head.half);
    body(chunk);
    if (gradients.wanted()) add_gradients(head, gradients, chunk, rows.spare, accumulate || !rows.first);
  });
}

// Rows that a thread takes at a time.
static int64_t grain_of(int64_t vocabulary) { return 16384 / vocabulary + 1; }

// row(logits, token) for each token that counts, with its soft-capped logits, which the call turns into
// their gradient where gradients are wanted.
template <class F>
static void each_token(const LinearHead& head, const HeadGradients& gradients, bool accumulate, F row) {
  const int64_t vocabulary = head.vocabulary(), valid = count_labels(head);
  each_chunk(head, gradients, accumulate, valid, rows_per_chunk(valid, vocabulary), [&](const Chunk& chunk) {
    parallel_for(chunk.count, grain_of(vocabulary), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* at = chunk.logits.as<float>() + i * vocabulary;
        if (head.soft_cap > 0) soft_cap_row(at, vocabulary, head.soft_cap, head.inverse_cap());
        row(at, chunk.token[i]);
      }
    });
  });
}

}  // namespace
}  // namespace anneal::cpu::ANNEAL_ISA
