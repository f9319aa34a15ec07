// The policy losses and their gradient in one pass over the tokens of each sequence; a ratio taken over the sequence needs a pass before, and one after
// that hands its derivative to all tokens. Sums in f64, the sequences' in order.
#include "../policy.h"
#include "isa.h"
#include "simd.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int sums_slot = 6;
constexpr int64_t tokens_per_task = 1024, stretch = 64;

struct Sequence {
  int64_t begin, end;
  const float *logprob, *old, *reference, *weight, *factor, *advantage;
  bool advantage_per_token;
  int64_t number;
  float *loss, *dlogprob;
};

struct Sums {
  double loss;
  double statistics[policy_statistics];
};

float exp_of(float x) { return exp(splat(x))[0]; }
float log_ratio_at(const Sequence& s, int64_t t) { return s.old ? s.logprob[t] - s.old[t] : 0; }

// The log-ratio of the whole sequence and the number of its tokens that count.
struct WholeRatio {
  float log_ratio;
  int64_t counted;
};
WholeRatio whole_ratio(const PolicyOptions& o, const Sequence& s) {
  double total = 0;
  int64_t counted = 0;
  const bool vespo = o.objective == PolicyObjective::vespo;
  for (int64_t t = s.begin; t < s.end; ++t) {
    if (s.weight[t] == 0) continue;
    ++counted;
    const float difference = log_ratio_at(s, t);
    total += static_cast<double>(vespo ? clamp_log_ratio(difference) : difference);
  }
  if (!vespo && o.level == RatioLevel::sequence_mean) total /= static_cast<double>(counted > 0 ? counted : 1);
  return {static_cast<float>(total), counted};
}

// out[i] = e^(a - b) for a stretch, the exponent kept within bounds; 1 where b is not given.
void exp_differences(float* out, const float* a, const float* b, int64_t n) {
  each_vector(n, [&](int64_t i, auto span) {
    const vf difference = load(a + i, span) - load(b + i, span);
    store(out + i, exp(min(max(difference, splat(-longest_log_ratio)), splat(longest_log_ratio))));
  });
}

Sums run_sequence(const PolicyOptions& o, const Sequence& s) {
  Sums sums = {};
  const bool by_token = o.level == RatioLevel::token && o.objective != PolicyObjective::vespo;
  const WholeRatio whole = by_token ? WholeRatio{} : whole_ratio(o, s);
  const bool whole_live = __builtin_fabsf(whole.log_ratio) <= longest_log_ratio;
  const float sequence_ratio = exp_of(clamp_log_ratio(whole.log_ratio));
  double by_sequence_ratio = 0;
  for (int64_t from = s.begin; from < s.end; from += stretch) {
    const int64_t n = s.end - from < stretch ? s.end - from : stretch;
    float ratios[stretch], references[stretch];
    if (by_token && s.old) exp_differences(ratios, s.logprob + from, s.old + from, n);
    if (s.reference) exp_differences(references, s.reference + from, s.logprob + from, n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t t = from + i;
      const float weight = s.weight[t];
      s.loss[t] = s.dlogprob[t] = 0;
      if (weight == 0) continue;
      const float logprob = s.logprob[t], advantage = s.advantage[s.advantage_per_token ? t : s.number];
      const float log_ratio = log_ratio_at(s, t);
      float ratio = by_token ? (s.old ? ratios[i] : 1) : sequence_ratio;
      PolicyTerm term = {};
      switch (o.objective) {
        case PolicyObjective::clip: term = clipped_term(o, ratio, advantage); break;
        case PolicyObjective::cispo: term = weighted_term(ratio < o.high ? ratio : o.high, logprob, advantage, ratio > o.high && advantage > 0); break;
        case PolicyObjective::sapo: term = sapo_term(o, 1 / (1 + exp_of(-sapo_tau(o, advantage) * (ratio - 1))), advantage); break;
        case PolicyObjective::vespo: {
          const float bounded = clamp_log_ratio(whole.log_ratio) < lowest_vespo_log_ratio ? lowest_vespo_log_ratio : clamp_log_ratio(whole.log_ratio);
          const float phi = exp_of(vespo_exponent(o, bounded, exp_of(bounded), advantage));
          term = weighted_term(phi - phi == 0 ? phi : 0, logprob, advantage, false);
          break;
        }
      }
      const float factor = s.factor ? s.factor[t] : 1;
      const bool live = by_token ? __builtin_fabsf(log_ratio) <= longest_log_ratio : whole_live;
      float loss = factor * term.loss, by_logprob = factor * term.by_logprob, by_ratio = factor * term.by_ratio;
      if (s.reference) {
        const float away = s.reference[t] - logprob, exponent = clamp_log_ratio(away);
        const float kl = references[i] - exponent - 1, by_kl = exponent == away ? 1 - references[i] : 0;
        loss += o.beta * kl * (o.corrected_kl ? ratio : 1);
        by_logprob += o.beta * by_kl * (o.corrected_kl ? ratio : 1);
        if (o.corrected_kl) by_ratio += o.beta * kl;
        sums.statistics[5] += static_cast<double>(kl);
      }
      if (by_token) by_logprob += live ? by_ratio * ratio : 0;
      else by_sequence_ratio += static_cast<double>(weight * by_ratio);
      s.loss[t] = weight * loss;
      s.dlogprob[t] = weight * by_logprob;
      sums.loss += static_cast<double>(s.loss[t]);
      sums.statistics[0] += 1;
      sums.statistics[1] += term.clipped_low;
      sums.statistics[2] += term.clipped_high;
      sums.statistics[3] += static_cast<double>(ratio);
      sums.statistics[4] = static_cast<double>(ratio) > sums.statistics[4] ? static_cast<double>(ratio) : sums.statistics[4];
      sums.statistics[6] -= static_cast<double>(log_ratio);
    }
  }
  if (by_token || by_sequence_ratio == 0 || !whole_live) return sums;
  const double share = o.level == RatioLevel::sequence_mean ? 1 / static_cast<double>(whole.counted) : 1;
  const float each = static_cast<float>(by_sequence_ratio * static_cast<double>(sequence_ratio) * share);
  for (int64_t t = s.begin; t < s.end; ++t)
    if (s.weight[t] != 0) s.dlogprob[t] += each;
  return sums;
}

}  // namespace

void policy_loss(Out total, Out loss, Out dlogprob, Out statistics, In logprob, MaybeIn old, MaybeIn reference, In advantage, In weight,
                 MaybeIn factor, In starts, int64_t objective, int64_t level, double low, double high, double limit, double dual_limit,
                 double beta, bool corrected_kl) {
  const PolicyOptions options = policy_options(objective, level, low, high, limit, dual_limit, beta, corrected_kl);
  const int64_t sequences = starts.size - 1, tokens = logprob.size;
  const int32_t* start = starts.as<const int32_t>();
  ANNEAL_CHECK(start[0] == 0 && start[sequences] == tokens, "policy_loss: starts must go from 0 to the %lld tokens, but goes from %d to %d",
               static_cast<long long>(tokens), start[0], start[sequences]);
  for (int64_t s = 0; s < sequences; ++s)
    ANNEAL_CHECK(start[s] <= start[s + 1], "policy_loss: starts must not decrease, but goes from %d to %d at %lld", start[s], start[s + 1],
                 static_cast<long long>(s + 1));
  const auto data = [](MaybeIn x) { return x ? x->as<const float>() : nullptr; };
  Sums* parts = static_cast<Sums*>(pool().scratch(sums_slot, static_cast<size_t>(sequences + 1) * sizeof(Sums)));
  const int64_t mean_length = sequences > 0 ? tokens / sequences : 0;
  parallel_for(sequences, tokens_per_task / (mean_length + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      parts[s] = run_sequence(options, {start[s], start[s + 1], logprob.as<const float>(), data(old), data(reference), weight.as<const float>(),
                                        data(factor), advantage.as<const float>(), advantage.size == tokens, s, loss.as<float>(), dlogprob.as<float>()});
  });
  Sums all = {};
  for (int64_t s = 0; s < sequences; ++s) {
    all.loss += parts[s].loss;
    for (int i = 0; i < policy_statistics; ++i)
      all.statistics[i] = i != 4 ? all.statistics[i] + parts[s].statistics[i]
                          : all.statistics[i] < parts[s].statistics[i] ? parts[s].statistics[i] : all.statistics[i];
  }
  total.as<float>()[0] = static_cast<float>(all.loss);
  for (int i = 0; i < policy_statistics; ++i) statistics.as<double>()[i] = all.statistics[i];
}

}  // namespace anneal::cpu::ANNEAL_ISA
