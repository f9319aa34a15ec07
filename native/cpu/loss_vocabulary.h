// The output layer of a language model in blocks of its vocabulary, each for many tokens: the weight is read once for all of them, where chunks of whole rows
// of logits (loss_linear.h) read it for a hundred tokens at a time. For what can do with a part of a token's logits. Internal linkage only.
#pragma once
#include "loss_linear.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

// Columns of a block: as many as row_log_sum folds at a time, so that folding blocks gives its bits.
constexpr int64_t block_columns = logsumexp_piece, most_block_rows = 1024;

struct Block {
  int64_t first, count;  // of the vocabulary
  Tensor weight, logits;
};

// row(logits, i, block) for the i-th of the rows, with its soft-capped logits in the block; then after(block), for each block in order.
template <class F, class G> static void each_block(const LinearHead& head, const Rows& rows, F row, G after) {
  const int64_t vocabulary = head.vocabulary(), columns = vocabulary < block_columns ? vocabulary : block_columns;
  float* memory = static_cast<float*>(pool().scratch(4, static_cast<size_t>(rows.count * columns * 4)));
  for (int64_t first = 0; first < vocabulary; first += columns) {
    const int64_t count = vocabulary - first < columns ? vocabulary - first : columns;
    Block block = {first, count, rows_of(head.weight, first, count), matrix(memory, DType::f32, rows.count, count)};
    Tensor bias;
    if (head.bias) bias = {head.bias->as<char>() + first * bytes_of(head.bias->dtype), count, {count}, head.bias->dtype, 1};
    gemm(block.logits, nullptr, rows.hidden, block.weight, head.bias ? &bias : nullptr, false, true, false,
         static_cast<int64_t>(Activation::none), head.half);
    parallel_for(rows.count, grain_of(count), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* at = memory + i * count;
        if (head.soft_cap > 0) soft_cap_row(at, count, head.soft_cap, head.inverse_cap());
        row(at, i, block);
      }
    });
    after(block);
  }
}

// The sum over blocks that becomes the gradient of the rows' hidden states: in place where it can be.
static Tensor hidden_sum(const HeadGradients& gradients, const Rows& rows) {
  Tensor& all = *gradients.hidden;
  if (all.dtype == DType::f32 && follow_each_other(rows.token, rows.count)) return rows_of(all, rows.token[0], rows.count);
  return matrix(rows.spare, DType::f32, rows.count, all.shape[1]);
}
static void store_hidden_sum(const HeadGradients& gradients, const Rows& rows, const Tensor& sum) {
  Tensor& all = *gradients.hidden;
  const int64_t width = all.shape[1];
  if (sum.data != rows.spare) return;
  for (int64_t i = 0; i < rows.count; ++i) {
    const float* from = sum.as<const float>() + i * width;
    if (all.dtype == DType::f32) {
      memcpy(all.as<float>() + rows.token[i] * width, from, static_cast<size_t>(width) * 4);
      continue;
    }
    bf16* to = all.as<bf16>() + rows.token[i] * width;
    int64_t j = 0;
    for (; j + lanes <= width; j += lanes) store(to + j, load(from + j));
    if (j < width) store_part(to + j, load_part(from + j, width - j), width - j);
  }
}

// Adds a block's part of the gradients, block.logits being the gradient of the logits.
static void add_block_gradients(const LinearHead& head, const HeadGradients& gradients, const Rows& rows, Block& block,
                                Tensor* sum, bool accumulate) {
  const int64_t none = static_cast<int64_t>(Activation::none);
  if (gradients.weight) {
    Tensor part = rows_of(*gradients.weight, block.first, block.count);
    gemm(part, nullptr, block.logits, rows.hidden, nullptr, true, false, accumulate || !rows.first, none, head.half);
  }
  if (gradients.bias) {
    Tensor part = {gradients.bias->as<float>() + block.first, block.count, {block.count}, DType::f32, 1};
    sum_rows(part, block.logits, accumulate || !rows.first);
  }
  if (sum) gemm(*sum, nullptr, block.logits, block.weight, nullptr, false, false, block.first > 0, none, head.half);
}

// A label's place in a block; outside of 0 … count - 1 where it lies in another.
static int64_t place_of(int32_t label, const Block& block) { return label - block.first; }
static bool lies_in(int64_t place, const Block& block) { return place >= 0 && place < block.count; }

}  // namespace
}  // namespace anneal::cpu::ANNEAL_ISA
