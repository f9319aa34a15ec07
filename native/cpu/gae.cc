// Generalised advantage estimation (Schulman et al., 2016), one backward walk per sequence. A step that the mask leaves out (padding, a tool's output) is
// not there: the step before it looks at the step after it.
#include "../shape.h"
#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int64_t steps_per_task = 8192;

template <class T>
void walk(T* advantage, T* returns, const T* reward, const T* value, const T* mask, int64_t steps, T gamma, T lambda) {
  T next = 0, carried = 0;
  for (int64_t t = steps - 1; t >= 0; --t) {
    if (mask && mask[t] == 0) {
      advantage[t] = 0;
      returns[t] = value[t];
      continue;
    }
    carried = reward[t] + gamma * next - value[t] + gamma * lambda * carried;
    next = value[t];
    advantage[t] = carried;
    returns[t] = carried + value[t];
  }
}

}  // namespace

void gae(Out advantage, Out returns, In reward, In value, MaybeIn mask, double gamma, double lambda) {
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
  const int64_t sequences = reward.shape[0], steps = reward.shape[1];
  auto run = [&]<class T>(T* out) {
    parallel_for(sequences, steps_per_task / (steps + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s)
        walk(out + s * steps, returns.as<T>() + s * steps, reward.as<const T>() + s * steps, value.as<const T>() + s * steps,
             mask ? mask->as<const T>() + s * steps : nullptr, steps, static_cast<T>(gamma), static_cast<T>(lambda));
    });
  };
  if (reward.dtype == DType::f32) run(advantage.as<float>());
  else run(advantage.as<double>());
}

}  // namespace anneal::cpu::ANNEAL_ISA
