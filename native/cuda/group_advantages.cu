// Rewards to advantages in two launches: a warp per group, then one block for what concerns the whole batch. In f64; sums in orders that depend on lengths only.
#include "../kernels.h"
#include "../operations.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int group_threads = 128, batch_threads = 256;
// A spread that only rounding made, as TRL's isclose has it.
constexpr double no_spread = 1e-8;

// Mean and unbiased deviation of those of a group's numbers that are not NaN.
struct GroupSpread {
  double mean, deviation, count;
};
ANNEAL_DEVICE double or_zero(double x) { return x == x ? x : 0; }

// at(i): the i-th of n numbers. All lanes of the warp take part.
template <class F> ANNEAL_DEVICE GroupSpread group_spread(int64_t n, int lane, F&& at) {
  double total = 0, count = 0, squares = 0;
  for (int64_t i = lane; i < n; i += 32) {
    const double v = at(i);
    if (v == v) {
      total += v;
      count += 1;
    }
  }
  total = warp_reduce<Sum>(total);
  count = warp_reduce<Sum>(count);
  const double mean = total / count;
  for (int64_t i = lane; i < n; i += 32) squares += or_zero((at(i) - mean) * (at(i) - mean));
  return {mean, sqrt(warp_reduce<Sum>(squares) / (count - 1)), count};
}

// raw [samples]: each sample's reward (by_function: of rewards scaled within the group). centred [samples]: its distance from the group's mean, scaled as far
// as the group decides. flat [groups]: 1 where all are alike.
template <class T>
__global__ void __launch_bounds__(group_threads) group_advantages_kernel(T* advantage, double* raw, double* centred, int32_t* flat, const T* rewards, const T* weights, int64_t groups, int64_t functions, int64_t group, AdvantageScaling scaling, double eps) {
  const int lane = threadIdx.x % 32;
  const int64_t number = int64_t{blockIdx.x} * (group_threads / 32) + threadIdx.x / 32;
  if (number >= groups) return;
  const T* rows = rewards + number * group * functions;
  double* own = raw + number * group;
  const bool by_function = scaling == AdvantageScaling::normalize_then_sum;
  bool spread = false;
  for (int64_t i = lane; i < group; i += 32) own[i] = NAN;
  // Each lane reads and writes its own samples only, until the barrier of the warp.
  for (int64_t f = 0; f < functions; ++f) {
    GroupSpread s = {0, 1, 0};
    if (by_function) {
      s = group_spread(group, lane, [&](int64_t i) { return static_cast<double>(rows[i * functions + f]); });
      spread = spread || s.deviation > no_spread;
    }
    for (int64_t i = lane; i < group; i += 32) {
      const double r = static_cast<double>(rows[i * functions + f]);
      if (r != r) continue;
      const double part = by_function ? or_zero((r - s.mean) / (s.deviation + eps)) : r;
      own[i] = or_zero(own[i]) + (weights ? static_cast<double>(weights[f]) : 1) * part;
    }
  }
  if (!by_function) {
    const GroupSpread s = group_spread(group, lane, [&](int64_t i) { return own[i]; });
    spread = s.deviation > no_spread;
    const double factor = scaling == AdvantageScaling::group ? 1 / (s.deviation + eps) : scaling == AdvantageScaling::leave_one_out ? s.count / (s.count - 1) : 1;
    for (int64_t i = lane; i < group; i += 32) {
      const double away = (own[i] - s.mean) * factor;
      centred[number * group + i] = away;
      if (scaling != AdvantageScaling::batch) advantage[number * group + i] = static_cast<T>(or_zero(away));
    }
  }
  if (lane == 0) flat[number] = !spread;
}

template <class T>
__global__ void __launch_bounds__(batch_threads) batch_advantages_kernel(T* advantage, int32_t* without_spread, const double* raw, const double* centred, const int32_t* flat, int64_t groups, int64_t samples, AdvantageScaling scaling, double eps) {
  ANNEAL_SHARED(double, room, 32);
  double alike = 0;
  for (int64_t i = threadIdx.x; i < groups; i += batch_threads) alike += flat[i];
  alike = block_reduce<Sum>(alike, room);
  if (threadIdx.x == 0) *without_spread = static_cast<int32_t>(alike);
  const bool by_function = scaling == AdvantageScaling::normalize_then_sum;
  if (!by_function && scaling != AdvantageScaling::batch) return;
  double total = 0, count = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < samples; i += batch_threads) {
    total += or_zero(raw[i]);
    count += raw[i] == raw[i];
  }
  total = block_reduce<Sum>(total, room);
  count = block_reduce<Sum>(count, room);
  const double mean = total / count;
  for (int64_t i = threadIdx.x; i < samples; i += batch_threads) squares += or_zero((raw[i] - mean) * (raw[i] - mean));
  const double deviation = sqrt(block_reduce<Sum>(squares, room) / (count - 1));
  for (int64_t i = threadIdx.x; i < samples; i += batch_threads) {
    const double away = by_function ? raw[i] - mean : centred[i];
    advantage[i] = static_cast<T>(or_zero(away / (deviation + eps)));
  }
}

void group_advantages(Out advantage, Out without_spread, In rewards, MaybeIn weights, int64_t group, int64_t scaling, double eps) {
  const int64_t samples = rewards.shape[0], functions = rewards.shape[1];
  const int64_t groups = samples / group;
  double *raw = scratch_of<double>(samples), *centred = scratch_of<double>(samples);
  int32_t* flat = scratch_of<int32_t>(groups);
  auto run = [&](auto number) {
    using T = decltype(number);
    launch(group_advantages_kernel<T>, {dim3(static_cast<unsigned>(ceil_div(groups, group_threads / 32))), dim3(group_threads)}, advantage.as<T>(), raw, centred, flat,
           rewards.as<const T>(), weights ? weights->as<const T>() : nullptr, groups, functions, group, static_cast<AdvantageScaling>(scaling), eps);
    launch(batch_advantages_kernel<T>, {dim3(1), dim3(batch_threads)}, advantage.as<T>(), without_spread.as<int32_t>(), static_cast<const double*>(raw), static_cast<const double*>(centred),
           static_cast<const int32_t*>(flat), groups, samples, static_cast<AdvantageScaling>(scaling), eps);
  };
  if (rewards.dtype == DType::f64) run(double{});
  else run(float{});
}

}  // namespace anneal::cuda
