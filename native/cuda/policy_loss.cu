// The policy losses and their gradient: a block per sequence, which walks its tokens once, and before that where the ratio is the sequence's, and after it to
// hand its derivative to all tokens. Sums in f64; a second launch adds those of the sequences in a fixed order.
#include <cmath>

#include "../kernels.h"
#include "../policy.h"
#include "fault.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int policy_threads = 128, policy_fold_threads = 256;
constexpr int policy_sums = policy_statistics + 1;  // the loss, then the statistics

struct PolicyTensors {
  const float *logprob, *old, *reference, *advantage, *weight, *factor;  // old, reference and factor may be null
  const int32_t* starts;
  float *loss, *dlogprob;
  double* partial;  // [sequences, policy_sums]
  int64_t tokens, sequences;
  bool advantage_per_token;
};

// A number kept within the bounds of log-ratios, and whether it was within them.
ANNEAL_DEVICE float bounded_exp(float x) { return expf(clamp_log_ratio(x)); }

template <PolicyObjective objective>
ANNEAL_DEVICE PolicyTerm policy_term(const PolicyOptions& o, float ratio, float phi, float logprob, float advantage) {
  if constexpr (objective == PolicyObjective::clip) return clipped_term(o, ratio, advantage);
  if constexpr (objective == PolicyObjective::cispo) return weighted_term(ratio < o.high ? ratio : o.high, logprob, advantage, ratio > o.high && advantage > 0);
  if constexpr (objective == PolicyObjective::sapo) return sapo_term(o, 1 / (1 + expf(-sapo_tau(o, advantage) * (ratio - 1))), advantage);
  return weighted_term(phi, logprob, advantage, false);
}

template <PolicyObjective objective> __global__ void __launch_bounds__(policy_threads) policy_loss_kernel(PolicyTensors x, PolicyOptions o, Fault* fault) {
  ANNEAL_SHARED(double, room, 32);
  constexpr bool vespo = objective == PolicyObjective::vespo;
  const int64_t sequence = blockIdx.x, begin = x.starts[sequence], end = x.starts[sequence + 1];
  const bool begins = sequence > 0 || begin == 0, ends = sequence + 1 < x.sequences || end == x.tokens;
  if (!(0 <= begin && begin <= end && end <= x.tokens && begins && ends)) {
    if (threadIdx.x == 0) report(fault, FaultSite::policy_loss_starts, sequence, begin, x.tokens);
    return;
  }
  const bool by_token = o.level == RatioLevel::token && !vespo;
  float whole = 0, counted = 0;
  if (!by_token) {
    double total = 0, count = 0;
    for (int64_t t = begin + threadIdx.x; t < end; t += policy_threads) {
      if (x.weight[t] == 0) continue;
      const float difference = x.old ? x.logprob[t] - x.old[t] : 0;
      total += static_cast<double>(vespo ? clamp_log_ratio(difference) : difference);
      count += 1;
    }
    total = block_reduce<Sum>(total, room);
    counted = static_cast<float>(block_reduce<Sum>(count, room));
    if (!vespo && o.level == RatioLevel::sequence_mean) total /= static_cast<double>(counted > 0 ? counted : 1);
    whole = static_cast<float>(total);
  }
  const bool whole_live = fabsf(whole) <= longest_log_ratio;
  const float sequence_ratio = bounded_exp(whole);
  double sums[policy_sums] = {}, by_sequence_ratio = 0;
  for (int64_t t = begin + threadIdx.x; t < end; t += policy_threads) {
    const float weight = x.weight[t];
    if (weight == 0) {
      x.loss[t] = x.dlogprob[t] = 0;
      continue;
    }
    const float logprob = x.logprob[t], log_ratio = x.old ? logprob - x.old[t] : 0, advantage = x.advantage[x.advantage_per_token ? t : sequence];
    const float ratio = by_token ? bounded_exp(log_ratio) : sequence_ratio;
    float phi = 0;
    if constexpr (vespo) {
      const float inside = clamp_log_ratio(whole), least = inside < lowest_vespo_log_ratio ? lowest_vespo_log_ratio : inside;
      phi = expf(vespo_exponent(o, least, expf(least), advantage));
      if (!(phi - phi == 0)) phi = 0;
    }
    const PolicyTerm term = policy_term<objective>(o, ratio, phi, logprob, advantage);
    const float factor = x.factor ? x.factor[t] : 1;
    const bool live = by_token ? fabsf(log_ratio) <= longest_log_ratio : whole_live;
    float loss = factor * term.loss, by_logprob = factor * term.by_logprob, by_ratio = factor * term.by_ratio;
    if (x.reference) {
      const float away = x.reference[t] - logprob, exponent = clamp_log_ratio(away), e = expf(exponent);
      const float kl = e - exponent - 1, by_kl = exponent == away ? 1 - e : 0;
      loss += o.beta * kl * (o.corrected_kl ? ratio : 1);
      by_logprob += o.beta * by_kl * (o.corrected_kl ? ratio : 1);
      if (o.corrected_kl) by_ratio += o.beta * kl;
      sums[6] += static_cast<double>(kl);
    }
    if (by_token) by_logprob += live ? by_ratio * ratio : 0;
    else by_sequence_ratio += static_cast<double>(weight * by_ratio);
    x.loss[t] = weight * loss;
    x.dlogprob[t] = weight * by_logprob;
    sums[0] += static_cast<double>(weight * loss);
    sums[1] += 1;
    sums[2] += term.clipped_low;
    sums[3] += term.clipped_high;
    sums[4] += static_cast<double>(ratio);
    sums[5] = static_cast<double>(ratio) > sums[5] ? static_cast<double>(ratio) : sums[5];
    sums[7] -= static_cast<double>(log_ratio);
  }
#pragma unroll
  for (int i = 0; i < policy_sums; ++i) {
    const double total = i == 5 ? block_reduce<Max>(sums[i], room) : block_reduce<Sum>(sums[i], room);
    if (threadIdx.x == 0) x.partial[sequence * policy_sums + i] = total;
  }
  if (by_token) return;
  by_sequence_ratio = block_reduce<Sum>(by_sequence_ratio, room);
  if (by_sequence_ratio == 0 || !whole_live) return;
  const double share = o.level == RatioLevel::sequence_mean ? 1 / static_cast<double>(counted) : 1;
  const float each = static_cast<float>(by_sequence_ratio * static_cast<double>(sequence_ratio) * share);
  // A thread adds to what it wrote itself.
  for (int64_t t = begin + threadIdx.x; t < end; t += policy_threads)
    if (x.weight[t] != 0) x.dlogprob[t] += each;
}

template <int threads> __global__ void __launch_bounds__(threads) policy_fold_kernel(float* total, double* statistics, const double* partial, int64_t sequences) {
  ANNEAL_SHARED(double, room, 32);
  for (int i = 0; i < policy_sums; ++i) {
    double sum = 0;
    for (int64_t s = threadIdx.x; s < sequences; s += threads) {
      const double part = partial[s * policy_sums + i];
      sum = i == 5 ? (part > sum ? part : sum) : sum + part;
    }
    sum = i == 5 ? block_reduce<Max>(sum, room) : block_reduce<Sum>(sum, room);
    if (threadIdx.x == 0) {
      if (i == 0) *total = static_cast<float>(sum);
      else statistics[i - 1] = sum;
    }
  }
}

void policy_loss(Out total, Out loss, Out dlogprob, Out statistics, In logprob, MaybeIn old, MaybeIn reference, In advantage, In weight, MaybeIn factor, In starts,
                 int64_t objective, int64_t level, double low, double high, double limit, double dual_limit, double beta, bool corrected_kl) {
  const PolicyOptions options = policy_options(objective, level, low, high, limit, dual_limit, beta, corrected_kl);
  const int64_t sequences = starts.size - 1;
  auto data = [](MaybeIn x) { return x ? x->as<const float>() : nullptr; };
  const PolicyTensors tensors = {logprob.as<const float>(), data(old), data(reference), advantage.as<const float>(), weight.as<const float>(), data(factor), starts.as<const int32_t>(),
                                 loss.as<float>(), dlogprob.as<float>(), scratch_of<double>(sequences * policy_sums), logprob.size, sequences, advantage.size == logprob.size};
  auto run = [&](auto kernel) { launch(kernel, {dim3(static_cast<unsigned>(sequences)), dim3(policy_threads)}, tensors, options, fault()); };
  switch (options.objective) {
    case PolicyObjective::clip: run(policy_loss_kernel<PolicyObjective::clip>); break;
    case PolicyObjective::cispo: run(policy_loss_kernel<PolicyObjective::cispo>); break;
    case PolicyObjective::sapo: run(policy_loss_kernel<PolicyObjective::sapo>); break;
    case PolicyObjective::vespo: run(policy_loss_kernel<PolicyObjective::vespo>); break;
  }
  launch(policy_fold_kernel<policy_fold_threads>, {dim3(1), dim3(policy_fold_threads)}, total.as<float>(), statistics.as<double>(), static_cast<const double*>(tensors.partial), sequences);
}

}  // namespace anneal::cuda
