// Output layer and log-probabilities in one, without logits of all tokens. The backward computes each block's logits
// again.
#include <initializer_list>

#include "loss_vocabulary.h"

namespace anneal::cpu::ANNEAL_ISA {

void linear_logprob(Tensor& logprob, Tensor& entropy, Tensor& lse, const Tensor& hidden, const Tensor& weight,
                    const Tensor* bias, const Tensor& id, double temperature, double soft_cap, bool half) {
  const LinearHead head = {hidden, weight, bias, id, static_cast<float>(soft_cap), half};
  const HeadGradients none = {nullptr, nullptr, nullptr};
  check_labels("linear_logprob", "id", id, head.vocabulary());
  for (Tensor* y : {&logprob, &entropy, &lse}) memset(y->data, 0, static_cast<size_t>(y->bytes()));
  const float scale = static_cast<float>(1 / temperature);
  const int64_t valid = count_labels(head);
  each_rows(head, none, false, valid, even_chunks(valid, most_block_rows), [&](const Rows& rows) {
    struct Seen { LogSum all; float chosen; };
    Seen* seen = static_cast<Seen*>(pool().scratch(6, static_cast<size_t>(rows.count) * sizeof(Seen)));
    for (int64_t i = 0; i < rows.count; ++i) seen[i] = {empty_log_sum, 0};
    auto see = [&](const float* row, int64_t i, const Block& block) {
      const int64_t place = place_of(id.as<const int32_t>()[rows.token[i]], block);
      seen[i].all = fold(seen[i].all, piece_log_sum<true>(row, block.count, scale));
      if (lies_in(place, block)) seen[i].chosen = row[place];
    };
    each_block(head, rows, see, [](Block&) {});
    for (int64_t i = 0; i < rows.count; ++i) {
      const int64_t token = rows.token[i];
      const float all = seen[i].all.log();
      logprob.as<float>()[token] = seen[i].chosen * scale - all;
      entropy.as<float>()[token] = seen[i].all.entropy();
      lse.as<float>()[token] = all;
    }
  });
}

void linear_logprob_backward(Tensor* dhidden, Tensor* dweight, Tensor* dbias, const Tensor& dlogprob,
                             const Tensor* dentropy, const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                             const Tensor& id, const Tensor& entropy,
                             const Tensor& lse, double temperature, double soft_cap, bool accumulate, bool half) {
  const LinearHead head = {hidden, weight, bias, id, static_cast<float>(soft_cap), half};
  const HeadGradients gradients = {dhidden, dweight, dbias};
  check_labels("linear_logprob_backward", "id", id, head.vocabulary());
  if (!gradients.wanted()) return;
  const float scale = static_cast<float>(1 / temperature);
  const int64_t valid = count_labels(head);
  each_rows(head, gradients, accumulate, valid, even_chunks(valid, most_block_rows), [&](const Rows& rows) {
    Tensor sum;
    if (gradients.hidden) sum = hidden_sum(gradients, rows);
    auto to_gradient = [&](float* row, int64_t i, const Block& block) {
      const int64_t t = rows.token[i];
      row_logprob_gradient(row, row, block.count, place_of(id.as<const int32_t>()[t], block),
                           {scale, lse.as<float>()[t], entropy.as<float>()[t], dlogprob.as<float>()[t],
                            dentropy ? dentropy->as<float>()[t] : 0, head.inverse_cap()});
    };
    each_block(head, rows, to_gradient, [&](Block& block) {
      add_block_gradients(head, gradients, rows, block, gradients.hidden ? &sum : nullptr, accumulate);
    });
    if (gradients.hidden) store_hidden_sum(gradients, rows, sum);
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
