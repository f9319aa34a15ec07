// Generalised advantage estimation: a warp per sequence walks it from the end, 32 steps at a time. A step maps the advantage after it to its own by a product
// and a sum, and such maps compose: a scan over the warp does 32 of them in five steps.
#include "../kernels.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int gae_threads = 128;

template <class T>
__global__ void __launch_bounds__(gae_threads) gae_kernel(T* advantage, T* returns, const T* reward, const T* value, const T* mask, int64_t sequences, int64_t steps, T gamma, T lambda) {
  constexpr uint32_t all = 0xffffffffu;
  const int lane = threadIdx.x % 32;
  const int64_t sequence = int64_t{blockIdx.x} * (gae_threads / 32) + threadIdx.x / 32;
  if (sequence >= sequences) return;
  const int64_t from = sequence * steps;
  T next = 0, carried = 0;  // value and advantage of the step after this chunk
  for (int64_t end = steps; end > 0; end -= 32) {
    const int64_t t = end - 1 - lane;
    const bool inside = t >= 0, live = inside && (!mask || mask[from + t] != 0);
    const T v = inside ? value[from + t] : T(0), r = live ? reward[from + t] : T(0);
    // The value of the nearest later step that is there.
    const uint32_t there = __ballot_sync(all, live), later = there & ((1u << lane) - 1);
    const T near = __shfl_sync(all, v, later ? 31 - __clz(static_cast<int>(later)) : 0);
    const T after = later ? near : next;
    T factor = live ? gamma * lambda : T(1), sum = live ? r + gamma * after - v : T(0);
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const T other_factor = __shfl_up_sync(all, factor, distance), other_sum = __shfl_up_sync(all, sum, distance);
      if (lane >= distance) {
        sum += factor * other_sum;
        factor *= other_factor;
      }
    }
    const T own = sum + factor * carried;
    if (inside) {
      advantage[from + t] = live ? own : T(0);
      returns[from + t] = live ? own + v : v;
    }
    carried = __shfl_sync(all, own, 31);
    const T last = __shfl_sync(all, v, there ? 31 - __clz(static_cast<int>(there)) : 0);
    if (there) next = last;
  }
}

void gae(Out advantage, Out returns, In reward, In value, MaybeIn mask, double gamma, double lambda) {
  const int64_t sequences = reward.shape[0], steps = reward.shape[1];
  auto run = [&](auto number) {
    using T = decltype(number);
    launch(gae_kernel<T>, {dim3(static_cast<unsigned>(ceil_div(sequences, gae_threads / 32))), dim3(gae_threads)}, advantage.as<T>(), returns.as<T>(), reward.as<const T>(),
           value.as<const T>(), mask ? mask->as<const T>() : nullptr, sequences, steps, static_cast<T>(gamma), static_cast<T>(lambda));
  };
  if (reward.dtype == DType::f64) run(double{});
  else run(float{});
}

}  // namespace anneal::cuda
