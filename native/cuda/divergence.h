// The divergence of one place of a student's log-probabilities from a teacher's, and its gradient; the mathematics is that of native/cpu/divergence.h.
#pragma once
#include "loss_gradient.h"

namespace anneal::cuda {

// 0: KL(T | S), 1: KL(S | T), 2: both against the mixture.
enum class Side : int { forward, reverse, mixed };

struct Mixture {
  float student, teacher, log_student, log_teacher;  // 1 - beta and beta, and their logarithms
};
// 1 / temperature, and the factors of the two gradients wrt the logits.
struct DivergenceScales {
  float scale, soft, hard;
};

constexpr float lowest_log = -1e4f;
ANNEAL_DEVICE float log_probability(float logit, float scale, float lse) { return fmaxf(lowest_log, fmaf(logit, scale, -lse)); }

struct DivergenceSums {
  float teacher, student;
  template <Side side> ANNEAL_DEVICE float value(const Mixture& mix) const {
    return side == Side::forward ? teacher : side == Side::reverse ? student : mix.teacher * teacher + mix.student * student;
  }
};

ANNEAL_DEVICE float log_mixture(float s, float t, const Mixture& mix) {
  const float a = s + mix.log_student, b = t + mix.log_teacher;
  return fmaxf(a, b) + log1pf(expf(-fabsf(a - b)));
}
// Adds one place to the sums.
template <Side side> ANNEAL_DEVICE void add_place(DivergenceSums& sums, float s, float t, const Mixture& mix) {
  if constexpr (side == Side::forward) {
    sums.teacher = fmaf(expf(t), t - s, sums.teacher);
  } else if constexpr (side == Side::reverse) {
    sums.student = fmaf(expf(s), s - t, sums.student);
  } else {
    const float m = log_mixture(s, t, mix);
    sums.teacher = fmaf(expf(t), t - m, sums.teacher);
    sums.student = fmaf(expf(s), s - m, sums.student);
  }
}
template <Side side> ANNEAL_DEVICE DivergenceSums block_sums(const DivergenceSums& mine, float* room) {
  DivergenceSums all = {0, 0};
  if constexpr (side != Side::reverse) all.teacher = block_reduce<Sum>(mine.teacher, room);
  if constexpr (side != Side::forward) all.student = block_reduce<Sum>(mine.student, room);
  return all;
}
// d divergence / d scaled logit.
template <Side side> ANNEAL_DEVICE float place_gradient(float s, float t, const Mixture& mix, const DivergenceSums& sums) {
  if constexpr (side == Side::forward) return expf(s) - expf(t);
  if constexpr (side == Side::reverse) return expf(s) * ((s - t) - sums.student);
  return expf(s) * ((s - log_mixture(s, t, mix)) - sums.student) * mix.student;
}

}  // namespace anneal::cuda
