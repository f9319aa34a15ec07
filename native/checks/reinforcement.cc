// What advantages and policy losses demand.
#include "../checks.h"
#include "../policy.h"
#include "shape.h"

namespace anneal::checks {

void group_advantages(Out advantage, Out without_spread, In rewards, MaybeIn weights, int64_t group, int64_t scaling, double) {
  ANNEAL_CHECK(rewards.dtype == DType::f32 || rewards.dtype == DType::f64, "group_advantages: rewards must be f32 or f64, but is %s", name_of(rewards.dtype));
  ANNEAL_CHECK(rewards.rank == 2, "group_advantages: rewards must have shape [samples, functions], but has %s", ShapeText(rewards).text);
  const int64_t samples = rewards.shape[0], functions = rewards.shape[1];
  ANNEAL_CHECK(group > 0 && samples % group == 0, "group_advantages: group must divide the %lld samples, but is %lld", static_cast<long long>(samples),
               static_cast<long long>(group));
  ANNEAL_CHECK(scaling >= 0 && scaling <= static_cast<int64_t>(AdvantageScaling::leave_one_out), "group_advantages: unknown scaling %lld",
               static_cast<long long>(scaling));
  check_dtype("group_advantages", "advantage", advantage, rewards.dtype);
  ANNEAL_CHECK(advantage.size == samples, "group_advantages: advantage must have %lld elements, but has shape %s", static_cast<long long>(samples),
               ShapeText(advantage).text);
  check_dtype("group_advantages", "without_spread", without_spread, DType::i32);
  ANNEAL_CHECK(without_spread.size == 1, "group_advantages: without_spread must have one element, but has shape %s", ShapeText(without_spread).text);
  if (!weights) return;
  check_dtype("group_advantages", "weights", *weights, rewards.dtype);
  ANNEAL_CHECK(weights->size == functions, "group_advantages: weights must have %lld elements, one per function, but has shape %s",
               static_cast<long long>(functions), ShapeText(*weights).text);
}

void gae(Out advantage, Out returns, In reward, In value, MaybeIn mask, double, double) {
  ANNEAL_CHECK(reward.dtype == DType::f32 || reward.dtype == DType::f64, "gae: reward must be f32 or f64, but is %s", name_of(reward.dtype));
  ANNEAL_CHECK(reward.rank == 2, "gae: reward must have shape [sequences, steps], but has %s", ShapeText(reward).text);
  auto check = [&](const char* name, const Tensor& x) {
    check_dtype("gae", name, x, reward.dtype);
    ANNEAL_CHECK(same_shape(x, reward), "gae: %s must have the shape of reward, %s, but has %s", name, ShapeText(reward).text, ShapeText(x).text);
  };
  check("advantage", advantage);
  check("returns", returns);
  check("value", value);
  if (mask) check("mask", *mask);
}

void policy_loss(Out total, Out loss, Out dlogprob, Out statistics, In logprob, MaybeIn old, MaybeIn reference, In advantage, In weight, MaybeIn factor, In starts,
                 int64_t objective, int64_t level, double, double, double, double, double beta, bool) {
  ANNEAL_CHECK(objective >= 0 && objective <= static_cast<int64_t>(PolicyObjective::vespo), "policy_loss: unknown objective %lld",
               static_cast<long long>(objective));
  ANNEAL_CHECK(level >= 0 && level <= static_cast<int64_t>(RatioLevel::sequence_sum), "policy_loss: unknown level %lld", static_cast<long long>(level));
  ANNEAL_CHECK(logprob.rank == 1, "policy_loss: logprob must have shape [tokens], but has %s", ShapeText(logprob).text);
  const int64_t tokens = logprob.size;
  auto check = [&](const char* name, const Tensor& x, int64_t size, DType dtype) {
    check_dtype("policy_loss", name, x, dtype);
    ANNEAL_CHECK(x.size == size, "policy_loss: %s must have %lld elements, but has shape %s", name, static_cast<long long>(size), ShapeText(x).text);
  };
  check("logprob", logprob, tokens, DType::f32);
  check("loss", loss, tokens, DType::f32);
  check("dlogprob", dlogprob, tokens, DType::f32);
  check("weight", weight, tokens, DType::f32);
  if (old) check("old", *old, tokens, DType::f32);
  if (reference) check("reference", *reference, tokens, DType::f32);
  if (factor) check("factor", *factor, tokens, DType::f32);
  check("total", total, 1, DType::f32);
  check("statistics", statistics, policy_statistics, DType::f64);
  check_dtype("policy_loss", "starts", starts, DType::i32);
  ANNEAL_CHECK(starts.rank == 1 && starts.size >= 1, "policy_loss: starts must have shape [sequences + 1], but has %s", ShapeText(starts).text);
  check_dtype("policy_loss", "advantage", advantage, DType::f32);
  ANNEAL_CHECK(advantage.size == tokens || advantage.size == starts.size - 1,
               "policy_loss: advantage must have %lld elements, one per sequence, or %lld, one per token, but has shape %s",
               static_cast<long long>(starts.size - 1), static_cast<long long>(tokens), ShapeText(advantage).text);
  ANNEAL_CHECK(beta == 0 || reference, "policy_loss: beta is %g, so reference must be given", beta);
}

}  // namespace anneal::checks
