// Generalised advantage estimation (Schulman et al., 2016), one backward walk per sequence. A step that the mask leaves out (padding, a tool's output) is
// not there: the step before it looks at the step after it.
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
