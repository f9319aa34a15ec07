// The chunks of an output layer: their products, and where the logits' gradients go.
#include "loss_linear.h"

#include "../kernels.h"
#include "column_sums.h"
#include "gemm.h"

namespace anneal::cuda {

// Kernels of other files.
void fill(Out y, double value);
void convert(Out y, In x);

namespace {

// Logits of a chunk: at most so many bytes, and whole tiles of the matrix products. The weight's gradient is read and written once per chunk, which for large
// vocabularies hides behind its product from about a thousand rows on: 1024 rows of 128256.
constexpr int64_t chunk_bytes = int64_t{512} << 20, tile_rows = 128;

int64_t even_chunks(int64_t tokens, int64_t most, int64_t multiple) {
  const int64_t even = ceil_div(ceil_div(tokens, ceil_div(tokens, most)), multiple) * multiple;
  return even < tokens ? even : tokens;
}
int64_t rows_per_chunk(int64_t tokens, int64_t stride) {
  const int64_t fitting = chunk_bytes / (stride * 4) / tile_rows * tile_rows;
  return even_chunks(tokens, fitting < tile_rows ? tile_rows : fitting, tile_rows);
}

const void* at_row(const Tensor& x, int64_t row) { return x.as<char>() + row * x.shape[1] * bytes_of(x.dtype); }

// What the products can read without converting it again in each chunk.
Operand prepared(const Operand& x, int64_t rows, int64_t columns, bool half) {
  return half && !aligned_half(x) ? copy_operand(x, DType::bf16, rows, columns, 1) : x;
}
// The output layer's weight with rows of zeros up to the stride of the logits: cuBLASLt takes several times as long where a side is not a multiple of 8.
Operand padded_weight(const LinearHead& head, int64_t stride) {
  const int64_t vocabulary = head.vocabulary(), width = head.width();
  if (stride == vocabulary) return prepared({head.weight.data, head.weight.dtype, width, 0, true}, vocabulary, width, head.half);
  Tensor padded = head.weight;
  padded.dtype = head.half ? DType::bf16 : head.weight.dtype;
  char* rows = scratch_of<char>(stride * width * bytes_of(padded.dtype));
  padded.data = rows;
  convert(padded, head.weight);
  ANNEAL_CHECK(cudaMemsetAsync(rows + padded.bytes(), 0, static_cast<size_t>((stride - vocabulary) * width * bytes_of(padded.dtype)), stream()) == cudaSuccess,
               "%s: the padding of the weight could not be set", head.kernel);
  return {rows, padded.dtype, width, 0, true};
}
Operand transposed(Operand x) {
  x.along_k = !x.along_k;
  return x;
}
Output plain_output(void* data, DType dtype, int64_t stride, bool accumulate) {
  return {data, nullptr, nullptr, dtype, dtype, dtype, stride, Activation::none, accumulate};
}

void add_gradients(const LinearHead& head, const HeadGradients& gradients, const LogitChunk& chunk, const Operand& hidden, const Operand& weight,
                   bool accumulate) {
  const int64_t width = head.width();
  // In bf16 a row of gradients takes the first half of its row of logits.
  const Operand dlogits = {chunk.logits, head.half ? DType::bf16 : DType::f32, int64_t{chunk.stride} * (head.half ? 2 : 1), 0, true};
  if (gradients.weight) {
    const Output out = plain_output(gradients.weight->data, DType::f32, width, accumulate);
    multiply({head.vocabulary(), width, chunk.rows, 1, transposed(dlogits), transposed(hidden), out}, head.half);
  }
  if (gradients.bias) {
    auto sum = [&](auto number) {
      using T = decltype(number);
      const T* rows = static_cast<const T*>(dlogits.data);
      sum_columns<T>(head.kernel, {{gradients.bias->as<float>()}, {rows}, chunk.rows, dlogits.stride, static_cast<int>(head.vocabulary()), accumulate}, 1);
    };
    if (head.half) sum(bf16{});
    else sum(float{});
  }
  if (gradients.hidden) {
    const Output out = plain_output(const_cast<void*>(at_row(*gradients.hidden, chunk.first)), gradients.hidden->dtype, width, false);
    multiply({chunk.rows, width, int64_t{chunk.stride}, 1, dlogits, transposed(weight), out}, head.half);
  }
}

// What the products of all chunks of a head share.
struct PreparedHead {
  const LinearHead& head;
  int64_t columns, stride;
  float* logits;
  Operand weight;
  const void* bias;
};

int64_t stride_of(const LinearHead& head) { return ceil_div(head.vocabulary(), 8) * 8; }

// `columns`: so many tokens count; `most`: rows of a chunk.
PreparedHead prepare(const LinearHead& head, int64_t columns, int64_t most) {
  const int64_t vocabulary = head.vocabulary(), stride = stride_of(head);
  check_vocabulary(head.kernel, vocabulary);
  float* logits = scratch_of<float>(most * stride);
  const Operand weight = padded_weight(head, stride);
  Tensor bias = {};
  if (head.bias) {
    bias = *head.bias;
    if (bias.dtype != DType::f32 || stride != vocabulary) {
      float* numbers = scratch_of<float>(stride);
      bias.dtype = DType::f32;
      bias.data = numbers;
      convert(bias, *head.bias);
      ANNEAL_CHECK(cudaMemsetAsync(numbers + vocabulary, 0, static_cast<size_t>(stride - vocabulary) * sizeof(float), stream()) == cudaSuccess,
                   "%s: the padding of the bias could not be set", head.kernel);
    }
  }
  return {head, columns, stride, logits, weight, bias.data};
}

struct FilledChunk {
  LogitChunk chunk;
  Operand hidden;
};
// The logits of tokens first … first + rows - 1.
FilledChunk fill_chunk(const PreparedHead& p, int64_t first, int64_t rows) {
  const LinearHead& head = p.head;
  const int64_t width = head.width();
  const LogitChunk chunk = {p.logits, first, rows, static_cast<int>(p.columns), static_cast<int>(p.stride),
                            head.soft_cap, head.soft_cap > 0 ? 1 / head.soft_cap : 0.f};
  const Operand hidden = prepared({at_row(head.hidden, first), head.hidden.dtype, width, 0, true}, rows, width, head.half);
  const Output out = {p.logits, nullptr, p.bias, DType::f32, DType::f32, DType::f32, p.stride, Activation::none, false};
  multiply({rows, p.stride, width, 1, hidden, p.weight, out}, head.half);
  return {chunk, hidden};
}

// Calls rows(chunk) with `most` tokens at a time, and carries their gradients on.
template <class F> void chunks_of(const LinearHead& head, int64_t columns, int64_t most, const HeadGradients& gradients, bool accumulate, F&& rows) {
  const int64_t tokens = head.tokens();
  const PreparedHead p = prepare(head, columns, most);
  for (int64_t first = 0; first < tokens; first += most) {
    ScratchFrame frame;
    const FilledChunk filled = fill_chunk(p, first, tokens - first < most ? tokens - first : most);
    rows(filled.chunk);
    if (gradients.wanted()) add_gradients(head, gradients, filled.chunk, filled.hidden, p.weight, accumulate || first > 0);
  }
}

// Without tokens the sums are 0.
bool nothing_to_do(const LinearHead& head, const HeadGradients& gradients, bool accumulate) {
  if (head.tokens() > 0) return false;
  if (gradients.weight && !accumulate) fill(*gradients.weight, 0);
  if (gradients.bias && !accumulate) fill(*gradients.bias, 0);
  return true;
}

}  // namespace

void each_chunk(const LinearHead& head, int64_t columns, const HeadGradients& gradients, bool accumulate, const std::function<void(const LogitChunk&)>& rows) {
  if (nothing_to_do(head, gradients, accumulate)) return;
  chunks_of(head, columns, rows_per_chunk(head.tokens(), stride_of(head)), gradients, accumulate, rows);
}
void each_chunk(const LinearHead& head, const HeadGradients& gradients, bool accumulate, const std::function<void(const LogitChunk&)>& rows) {
  each_chunk(head, head.vocabulary(), gradients, accumulate, rows);
}

void each_chunk_pair(const LinearHead& head, const LinearHead& other, int64_t columns, const HeadGradients& gradients, bool accumulate,
                     const std::function<void(const LogitChunk&, const LogitChunk&)>& rows) {
  if (nothing_to_do(head, gradients, accumulate)) return;
  const int64_t most = rows_per_chunk(head.tokens(), stride_of(head) + stride_of(other));
  const PreparedHead beside = prepare(other, columns, most);
  chunks_of(head, columns, most, gradients, accumulate, [&](const LogitChunk& chunk) { rows(chunk, fill_chunk(beside, chunk.first, chunk.rows).chunk); });
}

}  // namespace anneal::cuda
