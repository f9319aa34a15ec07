// Rewards to advantages, as TRL's GRPO and RLOO trainers compute them. A reward of NaN is one that was not given: means and deviations leave it out, and
// a sample without any reward has advantage 0. Computed in f64; the batch's sums are taken in order by one thread, so threads change nothing.
#include <cmath>
#include <cstring>

#include "isa.h"
#include "simd.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int reward_slot = 6;
// A spread that only rounding made, as TRL's isclose has it.
constexpr double no_spread = 1e-8;

// sum + x², with one rounding wherever the machine can: of c·c + d·d the compiler chooses which product it rounds.
inline double plus_square(double sum, double x) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fma(x, x, sum);
#else
  return sum + x * x;
#endif
}

// Mean and unbiased deviation of those of n numbers, stride apart, that are not NaN.
struct Spread {
  double mean, deviation;
  int64_t count;
};
// Four sums in turn, so that additions do not wait for each other.
template <class T> Spread spread_of(const T* x, int64_t n, int64_t stride) {
  double total[4] = {}, count[4] = {}, squares[4] = {};
  int64_t i = 0;
  auto add = [&](int k, double v) {
    total[k] += v == v ? v : 0;
    count[k] += v == v ? 1 : 0;
  };
  for (; i + 4 <= n; i += 4)
    for (int k = 0; k < 4; ++k) add(k, static_cast<double>(x[(i + k) * stride]));
  for (; i < n; ++i) add(0, static_cast<double>(x[i * stride]));
  const double given = (count[0] + count[1]) + (count[2] + count[3]), mean = ((total[0] + total[1]) + (total[2] + total[3])) / given;
  auto add_square = [&](int k, double v) {
    squares[k] = plus_square(squares[k], v == v ? v - mean : 0);
  };
  for (i = 0; i + 4 <= n; i += 4)
    for (int k = 0; k < 4; ++k) add_square(k, static_cast<double>(x[(i + k) * stride]));
  for (; i < n; ++i) add_square(0, static_cast<double>(x[i * stride]));
  return {mean, ::sqrt(((squares[0] + squares[1]) + (squares[2] + squares[3])) / (given - 1)), static_cast<int64_t>(given)};
}

double or_zero(double x) { return x == x ? x : 0; }

using Four = double __attribute__((vector_size(32)));
using FourMasks = int64_t __attribute__((vector_size(32)));
template <class T> struct FourOf;
template <> struct FourOf<float> { using Type = float __attribute__((vector_size(16))); };
template <> struct FourOf<double> { using Type = Four; };

// The commonest case, one function and groups of 8, all given: the sums of spread_of side by side, with its bits. Returns the number of groups without spread, or -1,
// having written nothing that stays, where a reward is not given.
template <class T> int32_t advantages_of_eight(T* advantage, const T* rewards, int64_t groups, double weight, bool leave_one_out, bool scaled, double eps) {
  int32_t flat = 0;
  FourMasks missing = {};
  for (int64_t g = 0; g < groups; ++g) {
    const T* x = rewards + 8 * g;
    const Four a = Four{static_cast<double>(x[0]), static_cast<double>(x[1]), static_cast<double>(x[2]), static_cast<double>(x[3])} * weight + 0.0;
    const Four b = Four{static_cast<double>(x[4]), static_cast<double>(x[5]), static_cast<double>(x[6]), static_cast<double>(x[7])} * weight + 0.0;
    const Four total = a + b;
    const double mean = ((total[0] + total[1]) + (total[2] + total[3])) / 8;
    const Four c = a - mean, d = b - mean;
    // Not given, or not finite.
    missing |= (c != c) | (d != d);
    Four squares = c * c;
    for (int k = 0; k < 4; ++k) squares[k] = plus_square(squares[k], d[k]);
    const double deviation = ::sqrt(((squares[0] + squares[1]) + (squares[2] + squares[3])) / 7);
    flat += !(deviation > no_spread);
    const double factor = scaled ? 1 / (deviation + eps) : leave_one_out ? 8.0 / 7.0 : 1;
    const Four e = c * factor, f = d * factor;
    // Infinity times 0 counts as 0.
    const Four kept[2] = {(Four)((FourMasks)e & (e == e)), (Four)((FourMasks)f & (f == f))};
    for (int half = 0; half < 2; ++half) {
      using Out = typename FourOf<T>::Type;
      const Out out = __builtin_convertvector(kept[half], Out);
      memcpy(advantage + 8 * g + 4 * half, &out, sizeof out);
    }
  }
  return (missing[0] | missing[1] | missing[2] | missing[3]) ? -1 : flat;
}

// The weighted sum of those of a sample's rewards that are given; NaN where none is. With `spreads`, of the rewards less their mean over deviation + eps.
template <class T>
double combined(const T* reward, const T* weight, int64_t functions, const Spread* spreads, double eps) {
  double total = 0;
  bool any = false;
  for (int64_t f = 0; f < functions; ++f) {
    double r = static_cast<double>(reward[f]);
    if (r != r) continue;
    any = true;
    if (spreads) r = or_zero((r - spreads[f].mean) / (spreads[f].deviation + eps));
    total += (weight ? static_cast<double>(weight[f]) : 1) * r;
  }
  return any ? total : NAN;
}

template <class T>
void advantages(T* advantage, int32_t* without_spread, const T* rewards, const T* weight, int64_t samples, int64_t functions,
                int64_t group, AdvantageScaling scaling, double eps) {
  const int64_t groups = samples / group;
  if (functions == 1 && group == 8 && (scaling == AdvantageScaling::group || scaling == AdvantageScaling::none || scaling == AdvantageScaling::leave_one_out)) {
    const int32_t flat = advantages_of_eight(advantage, rewards, groups, weight ? static_cast<double>(weight[0]) : 1.0, scaling == AdvantageScaling::leave_one_out,
                                             scaling == AdvantageScaling::group, eps);
    if (flat >= 0) {
      *without_spread = flat;
      return;
    }
  }
  double* reward = static_cast<double*>(
      pool().scratch(reward_slot, static_cast<size_t>(samples) * 8 + static_cast<size_t>(functions) * sizeof(Spread) + 64));
  Spread* spreads = reinterpret_cast<Spread*>(reward + samples);
  int32_t flat = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const T* rows = rewards + g * group * functions;
    const bool by_function = scaling == AdvantageScaling::normalize_then_sum;
    bool spread = false;
    if (by_function)
      for (int64_t f = 0; f < functions; ++f) {
        spreads[f] = spread_of(rows + f, group, functions);
        spread = spread || spreads[f].deviation > no_spread;
      }
    double* own = reward + g * group;
    for (int64_t i = 0; i < group; ++i)
      own[i] = combined(rows + i * functions, weight, functions, by_function ? spreads : nullptr, eps);
    if (!by_function) {
      const Spread s = spread_of(own, group, 1);
      spread = s.deviation > no_spread;
      double factor = 1;
      if (scaling == AdvantageScaling::group) factor = 1 / (s.deviation + eps);
      if (scaling == AdvantageScaling::leave_one_out) factor = static_cast<double>(s.count) / static_cast<double>(s.count - 1);
      for (int64_t i = 0; i < group; ++i) own[i] = (own[i] - s.mean) * factor;
      if (scaling != AdvantageScaling::batch)
        for (int64_t i = 0; i < group; ++i) advantage[g * group + i] = static_cast<T>(or_zero(own[i]));
    }
    flat += !spread;
  }
  *without_spread = flat;
  if (scaling == AdvantageScaling::normalize_then_sum) {
    const Spread s = spread_of(reward, samples, 1);
    for (int64_t i = 0; i < samples; ++i) advantage[i] = static_cast<T>(or_zero((reward[i] - s.mean) / (s.deviation + eps)));
  } else if (scaling == AdvantageScaling::batch) {
    // The deviation is that of the rewards themselves, not of their distances from the groups' means.
    double* raw = static_cast<double*>(pool().scratch(reward_slot + 1, static_cast<size_t>(samples) * 8 + 64));
    for (int64_t i = 0; i < samples; ++i) raw[i] = combined(rewards + i * functions, weight, functions, static_cast<const Spread*>(nullptr), eps);
    const double factor = 1 / (spread_of(raw, samples, 1).deviation + eps);
    for (int64_t i = 0; i < samples; ++i) advantage[i] = static_cast<T>(or_zero(reward[i] * factor));
  }
}

}  // namespace

void group_advantages(Out advantage, Out without_spread, In rewards, MaybeIn weights, int64_t group, int64_t scaling, double eps) {
  const int64_t samples = rewards.shape[0], functions = rewards.shape[1];
  auto run = [&]<class T>(T* out) {
    advantages(out, without_spread.as<int32_t>(), rewards.as<const T>(), weights ? weights->as<const T>() : nullptr, samples, functions,
               group, static_cast<AdvantageScaling>(scaling), eps);
  };
  if (rewards.dtype == DType::f32) run(advantage.as<float>());
  else run(advantage.as<double>());
}

}  // namespace anneal::cpu::ANNEAL_ISA
