// The per-token terms of the policy losses, for the launchers of every backend. constexpr, so that device code may call them too: what needs an
// exponential is handed in. Functions have internal linkage; types do not, as a kernel that takes one is found by its name.
#pragma once
#include <cstdint>

#include "operations.h"

namespace anneal {

struct PolicyOptions {
  PolicyObjective objective;
  RatioLevel level;
  float low, high, limit, dual_limit, beta;
  bool corrected_kl;
};

// A token's loss, its derivatives by the ratio and by the log-probability itself, and whether it was clipped from below or above.
struct PolicyTerm {
  float loss, by_ratio, by_logprob;
  bool clipped_low, clipped_high;
};

namespace {

// Beyond this a log-ratio counts as this, without a gradient: e^20 is past every use, and its square still fits.
constexpr float longest_log_ratio = 20;
constexpr int policy_statistics = 7;

// -min(min(r, limit) A, clip(r, 1 - low, 1 + high) A), where A < 0 no more than -dual_limit A (PPO, GRPO, DAPO, GSPO, RLOO; dual clip: Ye et al., 2020).
constexpr PolicyTerm clipped_term(const PolicyOptions& o, float ratio, float advantage) {
  const float floor = 1 - o.low, ceiling = 1 + o.high, limited = ratio < o.limit ? ratio : o.limit,
              inside = ratio < floor ? floor : ratio > ceiling ? ceiling : ratio;
  const float free = limited * advantage, held = inside * advantage;
  const float by_free = ratio <= o.limit ? advantage : 0, by_held = ratio >= floor && ratio <= ceiling ? advantage : 0;
  PolicyTerm term = {-(free < held ? free : held), -(free < held ? by_free : held < free ? by_held : (by_free + by_held) / 2), 0,
                     ratio < floor && advantage < 0, limited > ceiling && advantage > 0};
  if (advantage < 0 && term.loss > -o.dual_limit * advantage) term = {-o.dual_limit * advantage, 0, 0, term.clipped_low, term.clipped_high};
  return term;
}
// sigmoid: that of tau (r - 1), tau being high where A > 0 and low elsewhere (SAPO).
constexpr float sapo_tau(const PolicyOptions& o, float advantage) { return advantage > 0 ? o.high : o.low; }
constexpr PolicyTerm sapo_term(const PolicyOptions& o, float sigmoid, float advantage) {
  return {-4 / sapo_tau(o, advantage) * sigmoid * advantage, -4 * sigmoid * (1 - sigmoid) * advantage, 0, false, false};
}
// A constant times -A log p: CISPO's min(r, high), VESPO's phi.
constexpr PolicyTerm weighted_term(float constant, float logprob, float advantage, bool clipped) {
  return {-constant * advantage * logprob, 0, -constant * advantage, false, clipped};
}
// VESPO's log phi at a sequence's log-ratio: (low, high) are its k and lambda where A >= 0, (limit, dual_limit) where A < 0; ratio = e^log_ratio.
constexpr float vespo_exponent(const PolicyOptions& o, float log_ratio, float ratio, float advantage) {
  const float k = advantage >= 0 ? o.low : o.limit, wanted = advantage >= 0 ? o.high : o.dual_limit, lambda = wanted > 1e-4f ? wanted : 1e-4f;
  return lambda + k * log_ratio - lambda * ratio;
}
constexpr float lowest_vespo_log_ratio = -18.420680743952367f;  // log 1e-8

constexpr float clamp_log_ratio(float x) { return x < -longest_log_ratio ? -longest_log_ratio : x > longest_log_ratio ? longest_log_ratio : x; }

[[maybe_unused]] static PolicyOptions policy_options(int64_t objective, int64_t level, double low, double high, double limit, double dual_limit, double beta,
                                                    bool corrected_kl) {
  return {static_cast<PolicyObjective>(objective), static_cast<RatioLevel>(level), static_cast<float>(low), static_cast<float>(high),
          static_cast<float>(limit), static_cast<float>(dual_limit), static_cast<float>(beta), corrected_kl};
}

}  // namespace
}  // namespace anneal
