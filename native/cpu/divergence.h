// The divergence of one row of a student's log-probabilities from a teacher's, and its gradient. s, t:
// log-probabilities at the temperature. With m the logarithm of the mixture (1 - beta) e^s + beta e^t the divergence is
//   beta * sum(e^t (t - m)) + (1 - beta) * sum(e^s (s - m)); sum(e^t (t - s)) for beta 0, sum(e^s (s - t)) for beta 1.
// Its gradient wrt the student's scaled logits is (1 - beta) e^s ((s - m) - sum(e^s (s - m))), for beta 0 e^s - e^t,
// and for beta 1 e^s ((s - t) - divergence). Internal linkage only.
#pragma once
#include "loss.h"

namespace anneal::cpu {
namespace {

enum class Side { forward, reverse, mixed };

struct Mixture {
  Side side;
  float student, teacher, log_student, log_teacher;  // 1 - beta and beta, and their logarithms
};
static Mixture mixture_of(double beta) {
  const Side side = beta == 0 ? Side::forward : beta == 1 ? Side::reverse : Side::mixed;
  return {side, static_cast<float>(1 - beta), static_cast<float>(beta), static_cast<float>(log1p(-beta)),
          static_cast<float>(::log(beta))};
}

// A probability this low is 0, and its product with a logarithm too; the bound keeps 0 * infinity away.
constexpr float lowest_log = -1e4f;

// Of one place: what the sums take, and the logarithm that the gradient compares s with.
struct DivergenceTerms { vf teacher, student, reference; };
template <Side side> ANNEAL_INLINE DivergenceTerms divergence_terms(vf s, vf t, const Mixture& mix) {
  const vf none = {};
  if constexpr (side == Side::forward) return {exp_low(t) * (t - s), none, none};
  if constexpr (side == Side::reverse) return {none, exp_low(s) * (s - t), t};
  const vf a = s + mix.log_student, b = t + mix.log_teacher;
  const vf m = max(a, b) + log(1.f + exp_low(-abs(a - b)));
  return {exp_low(t) * (t - m), exp_low(s) * (s - m), m};
}

// The sums over a row.
struct DivergenceSums {
  double teacher = 0, student = 0;
  float value(const Mixture& mix) const {
    if (mix.side == Side::forward) return static_cast<float>(teacher);
    if (mix.side == Side::reverse) return static_cast<float>(student);
    return static_cast<float>(mix.teacher * teacher + mix.student * student);
  }
};

// d divergence / d scaled logit of one place.
template <Side side>
ANNEAL_INLINE vf divergence_gradient(vf s, vf t, const Mixture& mix, const DivergenceSums& sums) {
  if constexpr (side == Side::forward) return exp_low(s) - exp_low(t);
  const vf reference = divergence_terms<side>(s, t, mix).reference;
  const vf gradient = exp_low(s) * ((s - reference) - static_cast<float>(sums.student));
  return side == Side::reverse ? gradient : gradient * mix.student;
}

// f with the side as a constant.
template <Side side> struct SideOf { static constexpr Side value = side; };
template <class F> ANNEAL_INLINE auto with_side(Side side, F f) {
  if (side == Side::forward) return f(SideOf<Side::forward>{});
  if (side == Side::reverse) return f(SideOf<Side::reverse>{});
  return f(SideOf<Side::mixed>{});
}

// What a row is weighed with: 1 / temperature, and the factors of the two gradients wrt the logits.
struct DivergenceScales {
  float scale, soft, hard;
};

// Log-probabilities of scaled logits.
ANNEAL_INLINE vf log_probability(vf logit, float scale, float lse) {
  return max(splat(lowest_log), logit * scale - lse);
}

// The sums over two whole rows of logits whose log-sums are known; pieces of vectors folded in f64 in order.
template <Side side>
static DivergenceSums row_divergence(const float* student, const float* teacher, int64_t n, float scale, float lse,
                                     float teacher_lse, const Mixture& mix) {
  constexpr int64_t piece = 1024;
  DivergenceSums sums;
  for (int64_t from = 0; from < n; from += piece) {
    const int64_t end = n - from < piece ? n : from + piece;
    vf of_teacher = {}, of_student = {};
    int64_t j = from;
    auto add = [&](vf a, vf b, vf keep) {
      const DivergenceTerms terms =
          divergence_terms<side>(log_probability(a, scale, lse), log_probability(b, scale, teacher_lse), mix);
      of_teacher += terms.teacher * keep;
      of_student += terms.student * keep;
    };
    const vf one = splat(1.f);
    for (; j + lanes <= end; j += lanes) add(load(student + j), load(teacher + j), one);
    if (j < end) {
      const vf keep = select((vi)(lane_numbers() < static_cast<int32_t>(end - j)), one, vf{});
      add(load_part(student + j, end - j), load_part(teacher + j, end - j), keep);
    }
    sums.teacher += static_cast<double>(sum(of_teacher));
    sums.student += static_cast<double>(sum(of_student));
  }
  return sums;
}

}  // namespace
}  // namespace anneal::cpu
