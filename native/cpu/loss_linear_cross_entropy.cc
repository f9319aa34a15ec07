// Output layer and cross-entropy in one: loss and gradients without logits of all tokens. Where the weight wants a gradient there are three matrix
// products per chunk of tokens, and the loss, the gradient and the argmax are taken of each row of logits while it is in cache. Where it does not (its
// adapters are trained, or nothing is), blocks of the vocabulary are enough.
#include "loss_vocabulary.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

struct Targets {
  float* nll;
  float* correct;
  const int32_t* labels;
  float smoothing, factor;
};

// Whether the label has the largest logit; of equal ones the first counts.
bool is_largest(const float* row, int32_t label, float largest) {
  if (row[label] != largest) return false;
  for (int32_t j = 0; j < label; ++j)
    if (row[j] == largest) return false;
  return true;
}

void by_chunks(const LinearHead& head, const HeadGradients& gradients, const Targets& target, bool accumulate) {
  const int64_t vocabulary = head.vocabulary();
  each_token(head, gradients, accumulate, [&](float* row, int64_t token) {
    const int32_t label = target.labels[token];
    const LogSum all = row_log_sum(row, vocabulary);
    const float lse = all.log();
    target.nll[token] = row_nll(row, vocabulary, lse, label, target.smoothing);
    target.correct[token] = is_largest(row, label, all.max) ? 1 : 0;
    if (gradients.wanted())
      row_nll_gradient(row, row, vocabulary, lse, label, target.smoothing, target.factor, head.inverse_cap());
  });
}

// What the blocks so far say of a token.
struct Seen {
  LogSum all;
  float chosen;     // the label's logit
  int64_t largest;  // the first of the largest logits
  double total;     // of all logits
};

void see(Seen& seen, const float* row, const Block& block, int64_t label, bool with_total) {
  const LogSum piece = piece_log_sum<false>(row, block.count, 1);
  if (piece.max > seen.all.max) {
    int64_t j = 0;
    while (row[j] != piece.max) ++j;
    seen.largest = block.first + j;
  }
  seen.all = fold(seen.all, piece);
  if (lies_in(label, block)) seen.chosen = row[label];
  if (with_total) seen.total += row_sum(row, block.count);
}

// row = e^(logit - max), times the slope of the cap.
void to_weights(float* row, int64_t n, float max, float inverse_cap) {
  if (inverse_cap == 0) map_probabilities(row, row, n, 1, max, [](vf, vf, vf e) { return e; });
  else map_probabilities(row, row, n, 1, max, [&](vf z, vf, vf e) { return e * cap_slope(z, inverse_cap); });
}

void scale_row(float* row, int64_t n, float factor) {
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes) store(row + j, load(row + j) * factor);
  if (j < n) store_part(row + j, load_part(row + j, n - j) * factor, n - j);
}

// row = row * scale + weight * slope.
template <class T> void finish_row(float* row, const T* weight, int64_t n, float scale, float slope) {
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes) store(row + j, load(row + j) * scale + load(weight + j) * slope);
  if (j < n) store_part(row + j, load_part(row + j, n - j) * scale + load_part(weight + j, n - j) * slope, n - j);
}

// The gradient of the hidden states is factor * (sum of p W - W[label]). As in attention the sum is taken of e^(logit - the largest so far) W, and scaled
// when a larger logit comes, so the logits of a block are needed only once.
void by_blocks(const LinearHead& head, const HeadGradients& gradients, const Targets& target) {
  const int64_t valid = count_labels(head), width = head.width();
  const float inverse_cap = head.inverse_cap();
  each_rows(head, gradients, false, valid, even_chunks(valid, most_block_rows), [&](const Rows& rows) {
    Seen* seen = static_cast<Seen*>(pool().scratch(6, static_cast<size_t>(rows.count) * sizeof(Seen)));
    for (int64_t i = 0; i < rows.count; ++i) seen[i] = {empty_log_sum, 0, -1, 0};
    Tensor sum;
    if (gradients.hidden) sum = hidden_sum(gradients, rows);
    auto row_of = [&](int64_t i) { return sum.as<float>() + i * width; };
    auto take = [&](float* row, int64_t i, const Block& block) {
      const float before = seen[i].all.max;
      const int64_t place = place_of(target.labels[rows.token[i]], block);
      see(seen[i], row, block, place, target.smoothing > 0);
      if (!gradients.hidden) return;
      const float now = seen[i].all.max;
      if (seen[i].all.sum == 0) {  // a bias of -inf has suppressed all of them
        memset(row, 0, static_cast<size_t>(block.count) * 4);
        return;
      }
      to_weights(row, block.count, now, inverse_cap);
      if (lies_in(place, block)) row[place] = 0;  // p - 1 comes at the end, in float32: its parts would be rounded apart where products run in bfloat16
      if (block.first > 0 && now != before) scale_row(row_of(i), width, scalar_exp(before - now));
    };
    each_block(head, rows, take, [&](Block& block) {
      add_block_gradients(head, gradients, rows, block, gradients.hidden ? &sum : nullptr, false);
    });
    parallel_for(rows.count, gradients.hidden ? 16384 / (width + 1) + 1 : rows.count, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Seen& s = seen[i];
        const int64_t token = rows.token[i];
        const float lse = s.all.log(), nll = lse - s.chosen;
        const float mean = static_cast<float>(s.total / static_cast<double>(head.vocabulary()));
        target.nll[token] = target.smoothing == 0 ? nll : (1 - target.smoothing) * nll + target.smoothing * (lse - mean);
        target.correct[token] = s.largest == target.labels[token] ? 1 : 0;
        if (!gradients.hidden) continue;
        const float scale = target.factor / s.all.sum, at_label = target.factor * (scalar_exp(s.chosen - lse) - 1),
                    slope = inverse_cap == 0 ? at_label : at_label * cap_slope(splat(s.chosen), inverse_cap)[0];
        const int64_t label = target.labels[token] * width;
        if (head.weight.dtype == DType::f32) finish_row(row_of(i), head.weight.as<const float>() + label, width, scale, slope);
        else finish_row(row_of(i), head.weight.as<const bf16>() + label, width, scale, slope);
      }
    });
    if (gradients.hidden) store_hidden_sum(gradients, rows, sum);
  });
}

}  // namespace

void linear_cross_entropy(Tensor& nll, Tensor& correct, Tensor* dhidden, Tensor* dweight, Tensor* dbias,
                          const Tensor& hidden, const Tensor& weight, const Tensor* bias, const Tensor& labels,
                          double smoothing, double soft_cap, double gradient_scale, bool accumulate, bool half) {
  const LinearHead head = {hidden, weight, bias, labels, static_cast<float>(soft_cap), half};
  const HeadGradients gradients = {dhidden, dweight, dbias};
  check_labels("linear_cross_entropy", "labels", labels, head.vocabulary());
  memset(nll.data, 0, static_cast<size_t>(nll.bytes()));
  memset(correct.data, 0, static_cast<size_t>(correct.bytes()));
  const Targets target = {nll.as<float>(), correct.as<float>(), labels.as<const int32_t>(), static_cast<float>(smoothing),
                          static_cast<float>(gradient_scale)};
  if (dweight || dbias || (dhidden && smoothing > 0)) by_chunks(head, gradients, target, accumulate);
  else by_blocks(head, gradients, target);
}

}  // namespace anneal::cpu::ANNEAL_ISA
